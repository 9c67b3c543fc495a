//! One simulated server.

use super::log::{BEGINNING, BLOCK, Log, bit, reported_insert};
use super::{Commits, Micros};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Primary,
    Replica,
    Down,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) kind: Kind,
    /// Its timeline, as a place in [`Log::branches`].
    pub(super) branch: usize,
    /// What the control file says of the timeline: behind while there is no receiver.
    pub(super) control_timeline: u32,
    /// Grows with every start and every crash of a backend; connections end with it.
    pub(super) life: u32,
    /// `pg_postmaster_start_time()`: a crash of a backend does not change it.
    pub(super) started_at: i64,
    pub(super) system: i64,
    /// The end of the last record that it wrote as a primary.
    pub(super) insert: u64,
    pub(super) flush: u64,
    pub(super) received: u64,
    /// What a reader sees runs ahead of what is reported as replayed (V1).
    pub(super) visible: u64,
    pub(super) replay: u64,
    /// How many records of its branch are visible.
    pub(super) applied: usize,
    /// The commits that a reader sees.
    pub(super) shown: Commits,
    /// Where replay resumes after a crash (V5).
    pub(super) restart_point: u64,
    pub(super) upstream: usize,
    pub(super) paused_until: Micros,
    pub(super) cut_until: Micros,
    /// `recovery_min_apply_delay`.
    pub(super) apply_delay: Micros,
    pub(super) shipping: bool,
    pub(super) applying: bool,
}

/// What a replica can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It has applied something.
    Applied,
    /// Nothing before this instant.
    At(Micros),
    /// Nothing before more has come.
    Nothing,
}

impl Server {
    pub(super) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            branch: 0,
            control_timeline: 1,
            life: 1,
            started_at: 1,
            system: 1,
            insert: BEGINNING,
            flush: BEGINNING,
            received: BEGINNING,
            visible: BEGINNING,
            replay: BEGINNING,
            applied: 0,
            shown: 0,
            restart_point: BEGINNING,
            upstream: 0,
            paused_until: 0,
            cut_until: 0,
            apply_delay: 0,
            shipping: false,
            applying: false,
        }
    }

    pub(super) const fn reported_insert(&self) -> u64 {
        reported_insert(self.insert)
    }

    /// How far what it can send to others goes.
    pub(super) const fn sendable(&self) -> Option<u64> {
        match self.kind {
            Kind::Primary => Some(self.flush),
            Kind::Replica => Some(self.received),
            Kind::Down => None,
        }
    }

    /// Flushes up to `position`, or only up to the page in which it lies.
    pub(super) fn flush_to(&mut self, position: u64) {
        self.flush = self.flush.max(position.min(self.insert));
    }

    pub(super) fn flush_full_pages(&mut self) {
        self.flush_to(self.insert - self.insert % BLOCK);
    }

    /// Counts what was visible as replayed and makes up to `most` further records visible.
    pub(super) fn apply(&mut self, log: &Log, most: usize, now: Micros) -> Next {
        self.replay = self.visible;
        if self.paused_until > now {
            return Next::At(self.paused_until);
        }
        let records = &log.branches[self.branch].records;
        let mut next = Next::Nothing;
        for record in records[self.applied..].iter().take(most) {
            if record.end > self.received {
                break;
            }
            if let Some(commit) = record.commit {
                let due = record.at + self.apply_delay;
                if due > now {
                    return if next == Next::Nothing {
                        Next::At(due)
                    } else {
                        next
                    };
                }
                self.shown |= bit(commit);
            }
            self.visible = record.end;
            self.applied += 1;
            next = Next::Applied;
        }
        next
    }

    /// Stands at `position` of `branch`, with nothing more received.
    pub(super) fn stand_at(&mut self, log: &Log, branch: usize, position: u64) {
        self.branch = branch;
        self.applied = log.records_until(branch, position);
        self.shown = log.commits_until(branch, self.applied);
        self.visible = position;
        self.replay = position;
        self.received = position;
    }

    /// Its process has ended; everything that was connected to it is.
    pub(super) const fn end_life(&mut self) {
        self.kind = Kind::Down;
        self.life += 1;
        self.applying = false;
        self.shipping = false;
    }
}
