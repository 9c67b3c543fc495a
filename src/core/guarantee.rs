//! What one session must see.
//!
//! Invariants:
//! * A floor never moves back: what the session wrote or saw once stays part of every later floor.
//! * All instants are the proxy's own; no server clock is looked at.
//! * An instant after the fact is safe, one before it is not: callers note the moment at which they
//!   *received* the acknowledgement or the end of the result.

use std::time::{Duration, Instant};

use super::policy::{ConsistencyPolicy, ReadAfterWrite};
use super::snapshot::{Incarnation, NodeId, NodeRole};
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
                ..Floor::default()
            },
            Consistency::Session => self.session_floor(policy.read_after_write, bounded),
            Consistency::Latest | Consistency::Primary => Floor {
                everywhere: Some(arrived),
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
        }
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
mod tests {
    #![expect(
        clippy::unchecked_time_subtraction,
        reason = "the clock of a running machine is far from its beginning"
    )]

    use super::*;
    use crate::core::policy::OnNoReplica;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const LIFE: Incarnation = Incarnation {
        started_at_unix_micros: 1,
        timeline: 1,
        connection: 1,
    };

    fn policy(read_after_write: ReadAfterWrite) -> ConsistencyPolicy {
        ConsistencyPolicy {
            default: Consistency::Session,
            read_after_write,
            max_staleness: None,
            wait: Duration::from_millis(10),
            max_wait: Duration::from_secs(1),
            on_no_replica: OnNoReplica::Primary,
        }
    }

    fn session_floor(session: &SessionGuarantee, at: Instant) -> Floor {
        session.floor(
            &policy(ReadAfterWrite::Position),
            Consistency::Session,
            None,
            at,
        )
    }

    #[test]
    fn a_session_that_did_nothing_has_no_floor() {
        let now = Instant::now();
        assert_eq!(
            session_floor(&SessionGuarantee::new(), now),
            Floor::default()
        );
    }

    #[test]
    fn two_floors_with_different_homes_leave_neither_free_of_the_other() {
        let t0 = Instant::now();
        let t1 = t0 + Duration::from_millis(1);
        let at_home = |home, at| Floor {
            elsewhere: Some(at),
            home: Some((home, LIFE)),
            ..Floor::default()
        };
        let both = at_home(A, t0).and(at_home(B, t1));
        assert_eq!(both.bound_for(A, Some(LIFE)), Some(t1));
        assert_eq!(both.bound_for(B, Some(LIFE)), Some(t0));
        let same = at_home(A, t0).and(at_home(A, t1));
        assert_eq!(same.bound_for(A, Some(LIFE)), None);
        assert_eq!(same.bound_for(B, Some(LIFE)), Some(t1));
        let one = at_home(A, t0).and(Floor {
            everywhere: Some(t1),
            ..Floor::default()
        });
        assert_eq!(one.bound_for(A, Some(LIFE)), Some(t1));
        assert_eq!(one.bound_for(B, Some(LIFE)), Some(t1));
    }

    #[test]
    fn own_writes_bind_every_replica_even_the_home() {
        let t0 = Instant::now();
        let mut session = SessionGuarantee::new();
        session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
        let t1 = t0 + Duration::from_millis(1);
        session.on_write_acknowledged(t1);
        let floor = session_floor(&session, t1);
        assert_eq!(floor.bound_for(A, Some(LIFE)), Some(t1));
        assert_eq!(floor.bound_for(B, Some(LIFE)), Some(t1));
    }

    #[test]
    fn a_home_is_free_in_its_own_life_only() {
        let t0 = Instant::now();
        let mut session = SessionGuarantee::new();
        session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
        let floor = session_floor(&session, t0);
        let restarted = Incarnation {
            connection: 2,
            ..LIFE
        };
        for (node, life, bound) in [
            (A, Some(LIFE), None),
            (A, Some(restarted), Some(t0)),
            (A, None, Some(t0)),
            (B, Some(LIFE), Some(t0)),
        ] {
            assert_eq!(floor.bound_for(node, life), bound, "{node:?} {life:?}");
        }
    }

    #[test]
    fn a_read_on_the_primary_binds_every_replica() {
        let t0 = Instant::now();
        let mut session = SessionGuarantee::new();
        session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
        let t1 = t0 + Duration::from_millis(1);
        session.on_read_completed(NodeId(0), NodeRole::Primary, Some(LIFE), t1);
        assert_eq!(
            session_floor(&session, t1).bound_for(A, Some(LIFE)),
            Some(t1)
        );
    }

    #[test]
    fn an_eventual_read_on_an_older_replica_does_not_loosen_the_session() {
        let t0 = Instant::now();
        let t1 = t0 + Duration::from_millis(1);
        let mut session = SessionGuarantee::new();
        session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
        session.on_read_completed(B, NodeRole::Replica, Some(LIFE), t1);
        let floor = session_floor(&session, t1);
        assert_eq!(
            floor.bound_for(B, Some(LIFE)),
            Some(t0),
            "what A showed binds B"
        );
        assert_eq!(
            floor.bound_for(A, Some(LIFE)),
            Some(t1),
            "what B showed binds A"
        );
    }

    #[test]
    fn a_read_of_an_unknown_life_leaves_no_home() {
        let t0 = Instant::now();
        let mut session = SessionGuarantee::new();
        session.on_read_completed(A, NodeRole::Replica, None, t0);
        assert_eq!(session_floor(&session, t0).bound_for(A, None), Some(t0));
    }

    #[test]
    fn a_window_keeps_reads_on_the_primary_and_still_counts_what_was_seen() {
        let t0 = Instant::now();
        let window = Duration::from_secs(15);
        let mut session = SessionGuarantee::new();
        session.on_write_acknowledged(t0);
        let policy = policy(ReadAfterWrite::Window(window));
        let floor = session.floor(&policy, Consistency::Session, None, t0);
        assert_eq!(floor.primary_until, Some(t0 + window));
        assert_eq!(floor.everywhere, None);
        session.on_read_completed(NodeId(0), NodeRole::Primary, None, t0);
        let floor = session.floor(&policy, Consistency::Session, None, t0);
        assert_eq!(floor.everywhere, Some(t0));
    }

    #[test]
    fn the_stricter_staleness_bound_holds_in_every_mode() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut policy = policy(ReadAfterWrite::Position);
        for (configured, asked, effective) in [
            (None, None, None),
            (Some(ms(50)), None, Some(ms(50))),
            (None, Some(ms(20)), Some(ms(20))),
            (Some(ms(50)), Some(ms(20)), Some(ms(20))),
            (Some(ms(10)), Some(ms(20)), Some(ms(10))),
        ] {
            policy.max_staleness = configured;
            for mode in [Consistency::Eventual, Consistency::Session] {
                let floor = SessionGuarantee::new().floor(&policy, mode, asked, now);
                assert_eq!(floor.everywhere, effective.map(|bound| now - bound));
            }
        }
        let latest = SessionGuarantee::new().floor(&policy, Consistency::Latest, Some(ms(5)), now);
        assert_eq!(latest.everywhere, Some(now));
    }
}
