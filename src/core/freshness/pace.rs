//! How often nodes are worth asking.
//!
//! Invariants:
//! * What asking costs stays a small part of what the nodes do: a node that takes longer to answer, because
//!   it is busy or far away, is asked less often.
//! * Nothing here is about correctness: what is asked too rarely proves less.

use std::time::Duration;

/// The least time between two questions to one node.
pub const LEAST: Duration = Duration::from_millis(1);

/// The longest time between two questions to a node that somebody waits for.
pub const LONGEST_WAITED_FOR: Duration = Duration::from_millis(5);

/// Times the last answer took, between two questions to a node that somebody waits for.
const ROUND_TRIPS: u32 = 2;

/// How far behind a replica is for which it does not help to wait: the default of `consistency.wait`
/// less what two questions take.
const FAR: Duration = Duration::from_millis(8);

/// Into so many parts the distance of a replica is cut: a session finds it proved that much later, at most,
/// than it could be.
const PARTS: u32 = 8;

/// The least and the longest time between two questions that nobody waits for yet.
const AHEAD: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// After which time a node is asked again that somebody waits for, if its last answer took `round_trip`.
pub fn waited_for(round_trip: Duration) -> Duration {
    round_trip
        .saturating_mul(ROUND_TRIPS)
        .clamp(LEAST, LONGEST_WAITED_FOR)
}

/// Whether a replica that is `behind` cannot be waited for, so that positions must be known before a session
/// asks.
pub fn is_far(behind: Duration) -> bool {
    behind >= FAR
}

/// After which time a node is asked again for sessions to come, if replicas are `behind`.
pub fn ahead(behind: Duration) -> Duration {
    let (least, longest) = AHEAD;
    if is_far(behind) {
        (behind / PARTS).clamp(least, longest)
    } else {
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_slow_to_answer_is_asked_less_often() {
        let cases = [
            (0, 1000),
            (200, 1000),
            (800, 1600),
            (2000, 4000),
            (30_000, 5000),
        ];
        for (round_trip, expected) in cases {
            let interval = waited_for(Duration::from_micros(round_trip));
            assert_eq!(interval, Duration::from_micros(expected), "{round_trip}");
        }
    }

    #[test]
    fn the_farther_behind_replicas_are_the_less_often_nodes_are_asked_ahead() {
        for (behind, expected) in [(0, 100), (7, 100), (8, 5), (50, 6), (400, 50), (5000, 100)] {
            let interval = ahead(Duration::from_millis(behind));
            assert_eq!(interval.as_millis(), expected, "{behind}");
        }
    }
}
