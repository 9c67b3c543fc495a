//! When a session that has read on a replica may go on on the primary
//! (`consistency.monotonic_reads: strict`).
//!
//! The primary shows a commit when its transaction has left the array of those that run, which is
//! after the log was flushed and after the wait for synchronous standbys (`RecordTransactionCommit` and
//! `ProcArrayEndTransaction`, called in `src/backend/access/transam/xact.c`). Replicas get the log when
//! it is flushed, so one that nobody waits for may show the commit first. What a session may have seen
//! there and would miss on the primary is therefore exactly what runs on the primary and is committed
//! on the replica. It is over when none of these transactions runs any more: transaction ids are never
//! used twice.
//!
//! Invariants:
//! * Only a listing that was sent after the session had asked counts, and only an answer about one.
//! * An answer counts only from a replica that has all that the session has been shown: the one it read
//!   last, in the same life, or one that is fresh as of then.
//! * Without such an answer, everything that ran is waited for.

use std::time::Instant;

use super::guarantee::Floor;
use super::snapshot::{Incarnation, NodeId};

/// Transactions that ran on a primary at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The primary.
    pub node: NodeId,
    /// The instant before it was asked.
    pub sent: Instant,
    /// Every transaction id from this one on counts as running (`pg_snapshot_xmax`).
    beyond: u64,
    /// Lower ones that ran, in order.
    running: Vec<u64>,
    /// All that ran and had an id, in order; empty unless [`Scope::Every`] was asked for.
    every: Option<Vec<u64>>,
}

impl Listing {
    /// What the primary `node` has answered to a question that was sent at `sent`: the end of its
    /// snapshot and the transactions below it.
    pub fn new(node: NodeId, sent: Instant, beyond: u64, mut running: Vec<u64>) -> Self {
        running.sort_unstable();
        Self {
            node,
            sent,
            beyond,
            running,
            every: None,
        }
    }

    /// With the ids of all that ran, as they are shown: without their epoch.
    #[must_use]
    pub fn with_every(mut self, ids: &[u32]) -> Self {
        let mut every: Vec<u64> = ids.iter().map(|id| near(self.beyond, *id)).collect();
        every.sort_unstable();
        self.every = Some(every);
        self
    }

    /// Every transaction id from this one on counts as running.
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The lower ones that ran.
    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// Whether all that ran is known by its id.
    pub const fn has_every(&self) -> bool {
        self.every.is_some()
    }

    fn runs(&self, id: u64) -> bool {
        id >= self.beyond || self.running.binary_search(&id).is_ok()
    }
}

/// The full id nearest to `full` that ends with `id`: ids in use are less than 2^31 apart (manual,
/// "Transactions and Identifiers").
fn near(full: u64, id: u32) -> u64 {
    let low = u32::try_from(full & u64::from(u32::MAX)).unwrap_or(0);
    let ahead = id.wrapping_sub(low).cast_signed();
    full.saturating_add_signed(i64::from(ahead))
}

/// What a replica has answered about a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The replica.
    pub node: NodeId,
    /// The life it had.
    pub incarnation: Option<Incarnation>,
    /// It had everything that was acknowledged before this instant.
    pub fresh_as_of: Option<Instant>,
    /// The primary of the listing.
    pub primary: NodeId,
    /// When the listing was asked for.
    pub listed: Instant,
    /// Which of the listing's transactions were committed there; `None` if that could not be told.
    pub committed: Option<Vec<u64>>,
}

/// How much a listing has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A snapshot, which costs the primary next to nothing.
    Snapshot,
    /// The id of each transaction that runs as well.
    Every,
}

/// What is known of a cluster for sessions that cross.
#[derive(Debug, Default)]
pub struct Known {
    /// The newest listing.
    pub listing: Option<Listing>,
    /// The newest answer of each replica.
    pub shown: Vec<Shown>,
}

/// What came of a crossing: the label `outcome` of `pgweir_primary_barriers_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossingOutcome {
    /// There was nothing to wait for.
    Passed,
    /// The primary was asked again until it showed all that the session has seen.
    Waited,
    /// It did not in time.
    NotReached,
}

impl CrossingOutcome {
    /// Every outcome, for metric tables.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Waited, Self::NotReached];

    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Waited => "waited",
            Self::NotReached => "not_reached",
        }
    }
}

/// What a look at what is known led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The session may go on on the primary.
    Over(CrossingOutcome),
    /// A newer listing is needed, for this time at least the second.
    Again,
    /// The first newer listing is needed.
    Once,
}

/// One session on its way from replicas to the primary.
#[derive(Debug)]
pub struct Crossing {
    to: NodeId,
    shown: Floor,
    asked: Instant,
    awaited: Awaited,
    /// How many listings were looked at without an end.
    looks: u32,
}

#[derive(Debug)]
enum Awaited {
    /// It is not known yet.
    Unknown,
    /// As long as no replica tells better: the end of all that ran.
    Every(Ends),
    /// The end of what a replica shows.
    Shown(Ends),
}

/// The end of these transactions, which ran by a listing that was sent at this instant.
#[derive(Debug)]
struct Ends {
    of: Vec<u64>,
    seen: Instant,
}

impl Crossing {
    /// A session that goes to the primary `to`, asks at `asked`, and has been shown on replicas what one
    /// of them has that reaches the floor `shown`.
    pub const fn new(to: NodeId, shown: Floor, asked: Instant) -> Self {
        Self {
            to,
            shown,
            asked,
            awaited: Awaited::Unknown,
            looks: 0,
        }
    }

    /// Whether no replica has told yet what is to be waited for.
    pub const fn is_blind(&self) -> bool {
        matches!(self.awaited, Awaited::Unknown | Awaited::Every(_))
    }

    /// Looks at what is known; `None` if that has nothing new for it.
    pub fn look(&mut self, known: &Known) -> Option<Progress> {
        let newest = known
            .listing
            .as_ref()
            .filter(|listing| listing.node == self.to);
        let is_new = self.is_blind() && self.learn(known, newest);
        let before = self.looks;
        match self.strike(newest) {
            Some(end) => Some(end),
            None if is_new => Some(Progress::Once),
            None if self.looks > before => Some(Progress::Again),
            None => None,
        }
    }

    /// Learns what is to be waited for: by the answer of a replica that has what the session was shown,
    /// also if that comes late; without one, all that ran.
    fn learn(&mut self, known: &Known, newest: Option<&Listing>) -> bool {
        let mut answers = known.shown.iter().filter(|shown| self.counts(shown));
        let answer = answers.find_map(|shown| Some((shown.committed.clone()?, shown.listed)));
        if let Some((of, seen)) = answer {
            self.awaited = Awaited::Shown(Ends { of, seen });
            return true;
        }
        let first = newest.filter(|listing| listing.sent >= self.asked);
        match (&self.awaited, first) {
            (Awaited::Unknown, Some(listing)) => match &listing.every {
                Some(of) => {
                    let (of, seen) = (of.clone(), listing.sent);
                    self.awaited = Awaited::Every(Ends { of, seen });
                    true
                }
                None => false,
            },
            (Awaited::Unknown | Awaited::Every(_) | Awaited::Shown(_), _) => false,
        }
    }

    fn counts(&self, shown: &Shown) -> bool {
        let bound = self.shown.bound_for(shown.node, shown.incarnation);
        shown.primary == self.to
            && shown.listed >= self.asked
            && bound.is_none_or(|bound| shown.fresh_as_of.is_some_and(|fresh| fresh >= bound))
    }

    /// Strikes off what has ended by a listing that was not looked at yet.
    fn strike(&mut self, newest: Option<&Listing>) -> Option<Progress> {
        let Ends { of, seen } = match &mut self.awaited {
            Awaited::Unknown => return None,
            Awaited::Every(ends) | Awaited::Shown(ends) => ends,
        };
        if let Some(listing) = newest.filter(|listing| listing.sent > *seen) {
            of.retain(|id| listing.runs(*id));
            *seen = listing.sent;
            self.looks += 1;
        }
        let outcome = match self.looks {
            0 | 1 => CrossingOutcome::Passed,
            _ => CrossingOutcome::Waited,
        };
        of.is_empty().then_some(Progress::Over(outcome))
    }
}

#[cfg(test)]
mod tests;
