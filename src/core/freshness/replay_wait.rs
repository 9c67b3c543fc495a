//! Whether a replica's server is to wait by itself for the position that somebody needs before it is
//! probed (`WAIT FOR LSN`, PostgreSQL 19), instead of being probed again and again.
//!
//! Invariants:
//! * It only times the next probe. What the server says of the wait proves nothing: it compares numbers
//!   and knows no timelines (`src/backend/access/transam/xlogwait.c`).
//! * It is for replicas of the elected primary only, at positions that it had on the replica's timeline.
//! * A wait is never without end, and never long: whatever else is asked of the node stands behind it.

use std::time::Duration;

use crate::core::lsn::Lsn;

/// How long a server waits at most.
///
/// At least 1 ms, since the server takes what it rounds to 0 for no limit, and a whole number of them.
/// One value for all waits: `pg_stat_statements` takes the position out of the text, not the limit.
pub const REPLAY_WAIT: Duration = Duration::from_millis(20);

/// How long after a session has crossed from a replica the server is not made to wait: the next
/// question of one that crosses would stand behind that.
pub const CROSSING_PERIOD: Duration = Duration::from_secs(1);

/// What the server of a connection can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// It is older than PostgreSQL 19, or of a service that hides its positions.
    Missing,
    /// It should know the command.
    Present,
    /// It has refused it, or answered something else.
    Refused,
}

impl Ability {
    /// By `server_version_num`.
    pub const fn of_server(version_num: i32) -> Self {
        if version_num >= 190_000 {
            Self::Present
        } else {
            Self::Missing
        }
    }
}

/// `pg_get_wal_replay_pause_state()` of the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// `not paused`.
    Running,
    /// `paused` or `pause requested`.
    Paused,
}

/// What is known of a replica when it is about to be asked.
#[derive(Debug, Clone, Copy)]
pub struct Occasion {
    /// What its server can do.
    pub ability: Ability,
    /// Whether it replays.
    pub replay: ReplayState,
    /// For how long at least somebody has been waiting for it; `None` if nobody does.
    pub wanted: Option<Duration>,
    /// The oldest position of the primary that it had not replayed when it answered last
    /// ([`super::observer::ClusterObserver::missing`]).
    pub missing: Option<Lsn>,
    /// How long ago a session crossed from it; `None` if none ever did.
    pub crossed: Option<Duration>,
}

/// The position that its server is to wait for, for at most [`REPLAY_WAIT`]; `None` if it is to be
/// asked at once.
///
/// That is the oldest that it lacks, not the newest: whoever waits for less goes on first. A position
/// that is newer than its last answer is asked for first: most replicas have it by then, and a server
/// that waits costs a process switch more.
pub fn target(occasion: &Occasion) -> Option<Lsn> {
    let able = match (occasion.ability, occasion.replay) {
        (Ability::Present, ReplayState::Running) => true,
        (Ability::Missing | Ability::Refused, _) | (_, ReplayState::Paused) => false,
    };
    let crossing = occasion.crossed.is_some_and(|ago| ago < CROSSING_PERIOD);
    if !able || crossing || occasion.wanted.is_none() {
        return None;
    }
    occasion.missing
}

/// What the server said of a wait: the label `outcome` of `pgweir_replay_waits_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitOutcome {
    /// `success`.
    Reached,
    /// `timeout`.
    TimedOut,
    /// `not in recovery`.
    NotInRecovery,
    /// An error, or something that it does not say.
    Refused,
}

impl WaitOutcome {
    /// Every outcome, for metric tables.
    pub const ALL: [Self; 4] = [
        Self::Reached,
        Self::TimedOut,
        Self::NotInRecovery,
        Self::Refused,
    ];

    /// By the column `status` of the answer; `None` is no answer of one row.
    pub fn of_status(status: Option<&str>) -> Self {
        match status {
            Some("success") => Self::Reached,
            Some("timeout") => Self::TimedOut,
            Some("not in recovery") => Self::NotInRecovery,
            Some(_) | None => Self::Refused,
        }
    }

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::TimedOut => "timed_out",
            Self::NotInRecovery => "not_in_recovery",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const WAITING: Occasion = Occasion {
        ability: Ability::Present,
        replay: ReplayState::Running,
        wanted: Some(ms(3)),
        missing: Some(Lsn(0x51)),
        crossed: None,
    };

    #[test]
    fn a_server_waits_only_while_it_can_and_somebody_waits_for_what_it_lacks() {
        let but = |change: fn(&mut Occasion)| {
            let mut occasion = WAITING;
            change(&mut occasion);
            target(&occasion)
        };
        let yes = Some(Lsn(0x51));
        for (what, found, expected) in [
            ("it is wanted", but(|_| {}), yes),
            ("since just now", but(|o| o.wanted = Some(ms(0))), yes),
            (
                "it crossed long ago",
                but(|o| o.crossed = Some(ms(1000))),
                yes,
            ),
            ("nobody waits", but(|o| o.wanted = None), None),
            ("it lacks nothing", but(|o| o.missing = None), None),
            ("too old", but(|o| o.ability = Ability::Missing), None),
            ("refused", but(|o| o.ability = Ability::Refused), None),
            ("paused", but(|o| o.replay = ReplayState::Paused), None),
            (
                "it crossed just now",
                but(|o| o.crossed = Some(ms(999))),
                None,
            ),
        ] {
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn only_servers_from_19_on_are_taken_to_know_the_command() {
        for (version_num, ability) in [
            (150_000, Ability::Missing),
            (180_099, Ability::Missing),
            (190_000, Ability::Present),
            (200_001, Ability::Present),
            (0, Ability::Missing),
            (-1, Ability::Missing),
        ] {
            assert_eq!(Ability::of_server(version_num), ability, "{version_num}");
        }
    }

    #[test]
    fn the_limit_of_a_wait_is_a_whole_number_of_milliseconds_that_the_server_does_not_take_for_none()
     {
        assert!(REPLAY_WAIT >= ms(1) && REPLAY_WAIT <= ms(50));
        assert_eq!(REPLAY_WAIT.subsec_nanos() % 1_000_000, 0);
    }

    #[test]
    fn an_answer_that_the_command_does_not_give_is_a_refusal() {
        for (status, outcome) in [
            (Some("success"), WaitOutcome::Reached),
            (Some("timeout"), WaitOutcome::TimedOut),
            (Some("not in recovery"), WaitOutcome::NotInRecovery),
            (Some("SUCCESS"), WaitOutcome::Refused),
            (Some(""), WaitOutcome::Refused),
            (None, WaitOutcome::Refused),
        ] {
            assert_eq!(WaitOutcome::of_status(status), outcome, "{status:?}");
        }
    }
}
