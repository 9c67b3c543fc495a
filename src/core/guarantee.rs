//! What one session must see.
//!
//! Invariants:
//! * A floor never moves back: what the session wrote or saw once stays part of every later floor.
//! * All instants are the proxy's own; no server clock is looked at.
//! * An instant after the fact is safe, one before it is not: callers note the moment at which they
//!   *received* the acknowledgement or the end of the result.

use std::time::{Duration, Instant};

use super::policy::{ConsistencyPolicy, ReadAfterWrite};
use super::snapshot::{Evidence, Incarnation, NodeId, NodeRole};
use super::statement::Consistency;

/// What a read must see, as instants on the proxy's own clock.
///
/// A replica qualifies if it is fresh as of `everywhere`, and also fresh as of `elsewhere` unless it
/// is `home`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The bound for every replica: own writes, bounded staleness, `latest`.
    pub everywhere: Option<Instant>,
    /// The bound for a replica other than the one the session read last (monotonic reads).
    pub elsewhere: Option<Instant>,
    /// The replica the session read last, in the life it had then.
    pub home: Option<(NodeId, Incarnation)>,
    /// Window mode: only the primary may serve before this instant.
    pub primary_until: Option<Instant>,
    /// What counts for the freshness of a replica.
    pub evidence: Evidence,
}

impl Floor {
    /// The instant as of which `node` in its life `incarnation` must be fresh to serve the read.
    pub fn bound_for(&self, node: NodeId, incarnation: Option<Incarnation>) -> Option<Instant> {
        let at_home = matches!(self.home, Some((home, life))
            if home == node && Some(life) == incarnation);
        if at_home {
            self.everywhere
        } else {
            self.everywhere.max(self.elsewhere)
        }
    }

    /// What a read must see that both bind.
    ///
    /// Two homes cannot both be free of each other's bound: the other's becomes one for every node.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let everywhere = self.everywhere.max(other.everywhere);
        let primary_until = self.primary_until.max(other.primary_until);
        let evidence = match (self.evidence, other.evidence) {
            (Evidence::Stated, Evidence::Stated) => Evidence::Stated,
            (Evidence::Proved, _) | (_, Evidence::Proved) => Evidence::Proved,
        };
        let (everywhere, elsewhere, home) = match (self.home, other.home) {
            (Some(one), Some(two)) if one != two => {
                (everywhere.max(self.elsewhere), other.elsewhere, other.home)
            }
            (one, two) => (everywhere, self.elsewhere.max(other.elsewhere), one.or(two)),
        };
        Self {
            everywhere,
            elsewhere,
            home,
            primary_until,
            evidence,
        }
    }
}

/// What one session has written and seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionGuarantee {
    /// When the last write was acknowledged.
    written: Option<Instant>,
    /// Everything the session saw outside `home` was acknowledged or visible before this instant.
    seen: Option<Instant>,
    home: Option<Home>,
    last_read: LastRead,
}

/// Where a session has read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LastRead {
    /// On the primary, or nowhere.
    #[default]
    Primary,
    /// On a replica, which its home may not tell: its life was not known.
    Replica,
}

/// The replica a session read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Home {
    node: NodeId,
    incarnation: Incarnation,
    read_at: Instant,
}

impl SessionGuarantee {
    /// A session that has neither written nor read.
    pub const fn new() -> Self {
        Self {
            written: None,
            seen: None,
            home: None,
            last_read: LastRead::Primary,
        }
    }

    /// A session of somebody who may know what happened before `at`.
    pub fn after(at: Option<Instant>) -> Self {
        Self {
            seen: at,
            ..Self::new()
        }
    }

    /// Notes that something which may have written ended at `at`: acknowledged, or with an outcome
    /// that is not known. `at` is no earlier than the receipt of the node's answer.
    pub fn on_write_acknowledged(&mut self, at: Instant) {
        self.written = self.written.max(Some(at));
    }

    /// Notes that a read on `node` was answered completely at `at`.
    ///
    /// A replica shows nothing that the primary had not flushed before, even where a commit is
    /// visible before the replay position reaches its end (`xact_redo_commit` in
    /// `src/backend/access/transam/xact.c` runs before `lastReplayedEndRecPtr` moves). So a primary
    /// position sampled after `at` covers all that the read can have shown.
    pub fn on_read_completed(
        &mut self,
        node: NodeId,
        role: NodeRole,
        incarnation: Option<Incarnation>,
        at: Instant,
    ) {
        self.last_read = match role {
            NodeRole::Replica => LastRead::Replica,
            NodeRole::Primary | NodeRole::Unknown => LastRead::Primary,
        };
        let next = match (role, incarnation) {
            (NodeRole::Replica, Some(incarnation)) => Some(Home {
                node,
                incarnation,
                read_at: at,
            }),
            (NodeRole::Replica, None) | (NodeRole::Primary | NodeRole::Unknown, _) => {
                self.seen = self.seen.max(Some(at));
                None
            }
        };
        self.move_home(next);
    }

    /// Notes that something was seen, on whichever node, that was acknowledged or visible before `at`.
    pub fn on_seen(&mut self, at: Instant) {
        self.seen = self.seen.max(Some(at));
    }

    /// What the home has shown binds every node from now on.
    pub fn leave_home(&mut self) {
        self.move_home(None);
    }

    /// What a replica must have to have all that the session has been shown; `None` if what it has read
    /// last was on the primary, or it has read nothing.
    pub fn shown_on_replica(&self) -> Option<Floor> {
        match self.last_read {
            LastRead::Primary => None,
            LastRead::Replica => Some(Floor {
                everywhere: self.written.max(self.seen),
                elsewhere: self.home.map(|home| home.read_at),
                home: self.home.map(|home| (home.node, home.incarnation)),
                primary_until: None,
                evidence: Evidence::Proved,
            }),
        }
    }

    /// Everything that was written or seen was acknowledged or visible before this instant; `None` if
    /// that is nothing.
    pub fn covered_by(&self) -> Option<Instant> {
        let home = self.home.map(|home| home.read_at);
        self.written.max(self.seen).max(home)
    }

    /// Leaving a home turns its bound into one for every node. It costs nothing when the new home
    /// was chosen by [`Self::floor`], and keeps the session monotonic when it was not (a single
    /// `eventual` read in between).
    fn move_home(&mut self, next: Option<Home>) {
        if let Some(left) = self.home {
            let stays =
                next.is_some_and(|to| to.node == left.node && to.incarnation == left.incarnation);
            if !stays {
                self.seen = self.seen.max(Some(left.read_at));
            }
        }
        self.home = next;
    }

    /// What a read in `mode` that arrived at `arrived` must see.
    ///
    /// `max_staleness` is the bound of the session or of the statement's comment; the stricter of it
    /// and the policy's holds. For [`Consistency::Primary`] the caller asks for the primary; the
    /// floor returned for it is that of [`Consistency::Latest`].
    pub fn floor(
        &self,
        policy: &ConsistencyPolicy,
        mode: Consistency,
        max_staleness: Option<Duration>,
        arrived: Instant,
    ) -> Floor {
        let bound = stricter(policy.max_staleness, max_staleness);
        // An instant before the clock's own beginning cannot be named; the arrival is stricter.
        let bounded = bound.map(|bound| arrived.checked_sub(bound).unwrap_or(arrived));
        match mode {
            Consistency::Eventual => Floor {
                everywhere: bounded,
                evidence: evidence(policy.read_after_write, bounded),
                ..Floor::default()
            },
            Consistency::Session => self.session_floor(policy.read_after_write, bounded),
            Consistency::Latest | Consistency::Primary => Floor {
                // In a pipeline what the session did may be later than the arrival.
                everywhere: Some(arrived).max(self.covered_by()),
                ..Floor::default()
            },
        }
    }

    fn session_floor(&self, guard: ReadAfterWrite, bounded: Option<Instant>) -> Floor {
        let (own_writes, primary_until) = match guard {
            ReadAfterWrite::Position => (self.written, None),
            ReadAfterWrite::Window(window) => after(self.written, window),
        };
        Floor {
            everywhere: bounded.max(own_writes).max(self.seen),
            elsewhere: self.home.map(|home| home.read_at),
            home: self.home.map(|home| (home.node, home.incarnation)),
            primary_until,
            evidence: evidence(guard, bounded.max(own_writes)),
        }
    }
}

/// Who guards writes by time has chosen to rely on the time that replicas are said to be behind. A bound
/// of staleness, and a write that only its position can tell of, need a proof.
const fn evidence(guard: ReadAfterWrite, to_prove: Option<Instant>) -> Evidence {
    match (guard, to_prove) {
        (ReadAfterWrite::Window(_), None) => Evidence::Stated,
        (ReadAfterWrite::Window(_), Some(_)) | (ReadAfterWrite::Position, _) => Evidence::Proved,
    }
}

/// The end of the window after `written`; a window beyond the clock's range falls back to the
/// position of the write.
fn after(written: Option<Instant>, window: Duration) -> (Option<Instant>, Option<Instant>) {
    match written.map(|at| (at, at.checked_add(window))) {
        None => (None, None),
        Some((_, Some(until))) => (None, Some(until)),
        Some((at, None)) => (Some(at), None),
    }
}

fn stricter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests;
