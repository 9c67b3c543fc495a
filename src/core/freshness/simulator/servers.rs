//! The truth: which commit is where.

use super::super::WalGeometry;

pub(super) const BLOCK: u64 = 256;
pub(super) const SEGMENT: u64 = 1024;

pub(super) fn geometry() -> WalGeometry {
    WalGeometry::new(BLOCK, SEGMENT).unwrap()
}

/// A small generator with a good spread (splitmix64).
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Commit {
    pub(super) timeline: u32,
    pub(super) end: u64,
    /// When the proxy had the acknowledgement, in microseconds.
    pub(super) acknowledged: Option<u64>,
    pub(super) visible_on_primary: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Primary,
    Replica,
    Down,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) timeline: u32,
    /// Grows with every start.
    pub(super) life: i64,
    pub(super) insert: u64,
    pub(super) flush: u64,
    pub(super) received: u64,
    /// What a reader sees; runs ahead of `replay` while one record is being applied.
    pub(super) visible: u64,
    pub(super) replay: u64,
    /// Where replay resumes after a crash.
    pub(super) restart_point: u64,
    pub(super) paused_until: u64,
    pub(super) cut_until: u64,
}

impl Server {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            timeline: 1,
            life: 1,
            insert: SEGMENT,
            flush: SEGMENT,
            received: SEGMENT,
            visible: SEGMENT,
            replay: SEGMENT,
            restart_point: SEGMENT,
            paused_until: 0,
            cut_until: 0,
        }
    }

    /// `pg_current_wal_insert_lsn()`: past the header where the last record ends a page.
    pub(super) fn reported_insert(&self) -> u64 {
        match self.insert {
            end if end % SEGMENT == 0 => end + 40,
            end if end % BLOCK == 0 => end + 24,
            end => end,
        }
    }
}

/// The write-ahead log of both timelines and where they part.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) commits: Vec<Commit>,
    /// Ends of records by timeline, growing.
    pub(super) records: [Vec<u64>; 2],
    /// Where timeline 2 left timeline 1.
    pub(super) switch: Option<u64>,
}

impl Log {
    /// Appends a record on the primary and returns its end.
    pub(super) fn append(&mut self, server: &mut Server, random: &mut Random) -> u64 {
        let mut end = server.reported_insert() + random.between(30, 200);
        if random.one_in(5) {
            end = end.next_multiple_of(BLOCK);
        }
        // No record ends inside a header.
        while (1..=40).contains(&(end % SEGMENT)) || (1..=24).contains(&(end % BLOCK)) {
            end += 1;
        }
        server.insert = end;
        self.records[server.timeline as usize - 1].push(end);
        end
    }

    /// The end of the first record after `position` that a server on `timeline` replays.
    pub(super) fn next_record(&self, timeline: u32, position: u64) -> Option<u64> {
        let first_after = |records: &[u64], limit: u64| {
            let place = records.partition_point(|end| *end <= position);
            records.get(place).copied().filter(|end| *end <= limit)
        };
        match (timeline, self.switch) {
            (1, _) => first_after(&self.records[0], u64::MAX),
            (_, Some(switch)) if position < switch => first_after(&self.records[0], switch),
            (_, _) => first_after(&self.records[1], u64::MAX),
        }
    }

    /// Whether failover has lost the commit: nobody can promise it any more.
    pub(super) fn is_lost(&self, commit: &Commit) -> bool {
        commit.timeline == 1 && self.switch.is_some_and(|switch| commit.end > switch)
    }

    pub(super) fn is_visible(&self, commit: &Commit, server: &Server) -> bool {
        let survives_here =
            server.timeline == commit.timeline || (server.timeline == 2 && !self.is_lost(commit));
        let applied = match server.kind {
            Kind::Replica => commit.end <= server.visible,
            Kind::Primary if commit.timeline == server.timeline => commit.visible_on_primary,
            Kind::Primary => true,
            Kind::Down => false,
        };
        survives_here && applied
    }
}

/// A set of commits by their place in [`Log::commits`].
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommitSet(Vec<u64>);

impl CommitSet {
    pub(super) fn insert(&mut self, id: usize) {
        if self.0.len() <= id / 64 {
            self.0.resize(id / 64 + 1, 0);
        }
        self.0[id / 64] |= 1 << (id % 64);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    pub(super) fn contains(&self, id: usize) -> bool {
        self.0
            .get(id / 64)
            .is_some_and(|word| word & 1 << (id % 64) != 0)
    }
}
