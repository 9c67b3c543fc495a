//! When a node counts as reachable, and when a replica may serve reads.
//!
//! Invariants:
//! * A replica leaves the rotation at the first measurement beyond a bound.
//! * It comes back with the first measurement that is well within the bounds or shows nothing
//!   missing, so a replica at the edge does not flap.
//! * Unknown is never within a bound.

use std::time::{Duration, Instant};

use super::policy::RoutingPolicy;
use super::snapshot::{Eligibility, ReplayLag};
use crate::limits::SAMPLE_EXPIRY;

/// Failed probes in a row after which a node is given up.
pub const PROBE_FAILURES: u32 = 2;

/// Whether the last probes of a node were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reachability {
    /// No probe has ended yet.
    #[default]
    NotAsked,
    /// The last probe was answered.
    Answering,
    /// So many probes in a row failed, fewer than it takes to give the node up.
    Doubtful(u32),
    /// Given up until it answers again.
    Unreachable,
}

impl Reachability {
    /// After a probe that was answered.
    #[must_use]
    pub const fn answered(self) -> Self {
        Self::Answering
    }

    /// After the server ended the connection on which it was asked: it says nothing of the server, but
    /// that the next failure may be the second of a row.
    #[must_use]
    pub const fn ended(self) -> Self {
        match self {
            Self::NotAsked | Self::Answering => Self::Doubtful(1),
            Self::Doubtful(_) | Self::Unreachable => self,
        }
    }

    /// After the server had no room for the one who asks: it is alive.
    #[must_use]
    pub const fn busy(self) -> Self {
        match self {
            Self::NotAsked => Self::Doubtful(1),
            Self::Answering | Self::Doubtful(_) | Self::Unreachable => self,
        }
    }

    /// After a probe that failed.
    #[must_use]
    pub const fn failed(self) -> Self {
        let failures = match self {
            Self::NotAsked | Self::Answering => 1,
            Self::Doubtful(failures) => failures.saturating_add(1),
            Self::Unreachable => return Self::Unreachable,
        };
        if failures >= PROBE_FAILURES {
            Self::Unreachable
        } else {
            Self::Doubtful(failures)
        }
    }
}

/// How far behind a replica may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationBounds {
    /// In time.
    pub max_staleness: Duration,
    /// In WAL bytes.
    pub max_lag_bytes: u64,
}

impl RotationBounds {
    /// The loosest bounds of several policies: the router applies each user's own on top.
    pub fn loosest<'a>(policies: impl Iterator<Item = &'a RoutingPolicy>) -> Self {
        let none = Self {
            max_staleness: Duration::ZERO,
            max_lag_bytes: 0,
        };
        policies.fold(none, |bounds, policy| Self {
            max_staleness: bounds.max_staleness.max(policy.max_staleness),
            max_lag_bytes: bounds.max_lag_bytes.max(policy.max_lag_bytes),
        })
    }

    /// Whether a reachable replica on the primary's timeline may serve reads, given whether it
    /// `was` allowed to before.
    pub fn judge(self, was: Eligibility, lag: ReplayLag, now: Instant) -> Eligibility {
        let (bytes, fresh_as_of, measured_at) = match lag {
            ReplayLag::Unknown => return Eligibility::Unmeasured,
            ReplayLag::Known {
                bytes,
                fresh_as_of,
                measured_at,
                ..
            } => (Some(bytes), fresh_as_of, measured_at),
            ReplayLag::Stated {
                fresh_as_of,
                measured_at,
            } => (None, fresh_as_of, measured_at),
        };
        if now.saturating_duration_since(measured_at) > SAMPLE_EXPIRY {
            return Eligibility::Unmeasured;
        }
        let staleness = now.saturating_duration_since(fresh_as_of);
        if staleness > self.max_staleness || bytes.is_some_and(|bytes| bytes > self.max_lag_bytes) {
            return Eligibility::Lagging;
        }
        let well_within = staleness <= self.max_staleness / 2
            && bytes.is_none_or(|bytes| bytes <= self.max_lag_bytes / 2);
        if was == Eligibility::Lagging && !well_within && bytes != Some(0) {
            return Eligibility::Lagging;
        }
        Eligibility::Eligible
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unchecked_time_subtraction,
        reason = "the clock of a running machine is far from its beginning"
    )]

    use super::*;
    use crate::core::lsn::Lsn;

    const BOUNDS: RotationBounds = RotationBounds {
        max_staleness: Duration::from_secs(10),
        max_lag_bytes: 1000,
    };

    fn lag(now: Instant, staleness: Duration, bytes: u64) -> ReplayLag {
        ReplayLag::Known {
            bytes,
            fresh_as_of: now - staleness,
            replay: Lsn(1),
            behind: Duration::ZERO,
            measured_at: now,
        }
    }

    #[test]
    fn a_replica_leaves_over_a_bound_and_returns_well_below_it() {
        use Eligibility::{Eligible, Lagging, Unmeasured};
        let now = Instant::now();
        let s = Duration::from_secs;
        for (was, staleness, bytes, expected) in [
            (Eligible, s(10), 1000, Eligible),
            (Eligible, s(11), 1, Lagging),
            (Eligible, s(1), 1001, Lagging),
            (Lagging, s(9), 1, Lagging),
            (Lagging, s(1), 600, Lagging),
            (Lagging, s(5), 500, Eligible),
            (Lagging, s(9), 0, Eligible),
            (Lagging, s(11), 0, Lagging),
            (Unmeasured, s(9), 900, Eligible),
        ] {
            let judged = BOUNDS.judge(was, lag(now, staleness, bytes), now);
            assert_eq!(judged, expected, "{was:?} {staleness:?} {bytes}");
        }
    }

    #[test]
    fn a_replica_whose_staleness_is_stated_leaves_over_the_bound_and_returns_well_below_it() {
        use Eligibility::{Eligible, Lagging, Unmeasured};
        let now = Instant::now();
        for (was, staleness, age, expected) in [
            (Eligible, 10_000, 0, Eligible),
            (Eligible, 10_001, 0, Lagging),
            (Lagging, 5001, 0, Lagging),
            (Lagging, 5000, 0, Eligible),
            (Unmeasured, 9000, 0, Eligible),
            (Eligible, 0, 1001, Unmeasured),
        ] {
            let ms = Duration::from_millis;
            let stated = ReplayLag::Stated {
                fresh_as_of: now - ms(staleness),
                measured_at: now - ms(age),
            };
            let judged = BOUNDS.judge(was, stated, now);
            assert_eq!(judged, expected, "{was:?} {staleness} {age}");
        }
    }

    #[test]
    fn unknown_and_expired_measurements_are_never_eligible() {
        let now = Instant::now();
        for was in [Eligibility::Eligible, Eligibility::Lagging] {
            assert_eq!(
                BOUNDS.judge(was, ReplayLag::Unknown, now),
                Eligibility::Unmeasured
            );
            let later = now + SAMPLE_EXPIRY + Duration::from_millis(1);
            assert_eq!(
                BOUNDS.judge(was, lag(now, Duration::ZERO, 0), later),
                Eligibility::Unmeasured
            );
        }
    }

    #[test]
    fn one_failed_probe_is_doubt_and_the_next_gives_the_node_up() {
        let doubtful = Reachability::Answering.failed();
        assert_eq!(doubtful, Reachability::Doubtful(1));
        assert_eq!(doubtful.answered(), Reachability::Answering);
        assert_eq!(doubtful.failed(), Reachability::Unreachable);
        assert_eq!(Reachability::Answering.ended(), doubtful);
        assert_eq!(doubtful.ended(), doubtful);
        assert_eq!(Reachability::Unreachable.ended(), Reachability::Unreachable);
        assert_eq!(doubtful.failed().answered(), Reachability::Answering);
    }
}
