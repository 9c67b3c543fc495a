//! The truth about the write-ahead log: which record ends where on which timeline.

use crate::core::freshness::WalGeometry;

use super::random::Random;
use super::{Commits, Micros};

/// Small pages and segments, so that records meet their boundaries often.
pub(super) const BLOCK: u64 = 256;
pub(super) const SEGMENT: u64 = 1024;
/// Where the log of every schedule begins.
pub(super) const BEGINNING: u64 = SEGMENT;
/// Most commits of one schedule: what fits into [`Commits`].
pub(super) const MOST_COMMITS: usize = 64;

pub(super) fn geometry() -> WalGeometry {
    WalGeometry::new(BLOCK, SEGMENT).unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) end: u64,
    /// The commit whose record it is.
    pub(super) commit: Option<u8>,
    pub(super) at: Micros,
}

/// One timeline: its own records behind those of its parent up to the switch.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) timeline: u32,
    pub(super) records: Vec<Record>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Commit {
    pub(super) end: u64,
    /// From when on everybody must see it: acknowledged to somebody, on a timeline of which the
    /// proxy has heard or beside which no old primary goes on.
    pub(super) binding: Option<Micros>,
    pub(super) acknowledged: bool,
    pub(super) timeline: u32,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) branches: Vec<Branch>,
    pub(super) commits: Vec<Commit>,
    /// What a crash or a failover has taken back: nobody can promise it any more.
    pub(super) lost: Commits,
    /// Written and perhaps flushed, but not visible on the primary yet.
    pub(super) in_flight: Commits,
}

pub(super) const fn bit(commit: u8) -> Commits {
    1 << commit
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            branches: vec![Branch {
                timeline: 1,
                records: Vec::with_capacity(64),
            }],
            commits: Vec::with_capacity(MOST_COMMITS),
            lost: 0,
            in_flight: 0,
        }
    }

    pub(super) fn newest(&self) -> usize {
        self.branches.len() - 1
    }

    /// Appends a record behind `insert` and returns its end.
    pub(super) fn append(
        &mut self,
        branch: usize,
        insert: u64,
        (commit, at): (Option<u8>, Micros),
        random: &mut Random,
    ) -> u64 {
        let mut end = reported_insert(insert) + random.between(30, 200);
        if random.one_in(5) {
            end = end.next_multiple_of(BLOCK);
        }
        // No record ends inside a header.
        if (1..=40).contains(&(end % SEGMENT)) {
            end += 41;
        } else if (1..=24).contains(&(end % BLOCK)) {
            end += 25;
        }
        self.branches[branch]
            .records
            .push(Record { end, commit, at });
        end
    }

    /// A commit whose record is to be appended on `branch`; `None` when there are enough.
    pub(super) fn begin_commit(&mut self, branch: usize) -> Option<u8> {
        if self.commits.len() >= MOST_COMMITS {
            return None;
        }
        let id = u8::try_from(self.commits.len()).unwrap();
        self.commits.push(Commit {
            end: 0,
            binding: None,
            acknowledged: false,
            timeline: self.branches[branch].timeline,
        });
        self.in_flight |= bit(id);
        if branch != self.newest() {
            self.lost |= bit(id);
        }
        Some(id)
    }

    /// How many records of `branch` end at or before `position`.
    pub(super) fn records_until(&self, branch: usize, position: u64) -> usize {
        self.branches[branch]
            .records
            .partition_point(|record| record.end <= position)
    }

    /// The commits among the first `records` records of `branch`.
    pub(super) fn commits_until(&self, branch: usize, records: usize) -> Commits {
        self.branches[branch].records[..records]
            .iter()
            .filter_map(|record| record.commit)
            .fold(0, |commits, commit| commits | bit(commit))
    }

    /// How far two timelines are the same.
    pub(super) fn parting(&self, one: usize, other: usize) -> u64 {
        let (one, other) = (&self.branches[one], &self.branches[other]);
        let pairs = one.records.iter().zip(&other.records);
        let same = pairs.take_while(|(a, b)| (a.end, a.at) == (b.end, b.at));
        same.last().map_or(BEGINNING, |(a, _)| a.end)
    }

    /// Takes back every commit but `kept`.
    pub(super) fn lose_all_but(&mut self, kept: Commits) {
        let all = (0..self.commits.len()).fold(0, |all, id| all | 1 << id);
        self.lost |= all & !kept;
    }

    /// What was acknowledged to somebody at or before `since`.
    pub(super) fn acknowledged_by(&self, since: Micros) -> Commits {
        let mut commits = 0;
        for (id, commit) in self.commits.iter().enumerate() {
            if commit.binding.is_some_and(|at| at <= since) {
                commits |= 1 << id;
            }
        }
        commits
    }
}

/// `pg_current_wal_insert_lsn()` when the last record ends at `end`: past the header where that is
/// the end of a page.
pub(super) const fn reported_insert(end: u64) -> u64 {
    if end.is_multiple_of(SEGMENT) {
        end + 40
    } else if end.is_multiple_of(BLOCK) {
        end + 24
    } else {
        end
    }
}
