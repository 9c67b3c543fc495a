//! Whether a read waits for the catalog.

use std::time::Duration;

/// Whether a read that may wait for so long is likely to see the end of a load, when the last one took
/// `load_takes`. Without a load before it nobody knows.
pub fn is_worth_waiting(load_takes: Option<Duration>, wait: Duration) -> bool {
    load_takes.is_some_and(|takes| takes <= wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_waits_for_no_load_that_takes_longer_than_it_may_wait() {
        let wait = Duration::from_millis(10);
        for (takes, worth) in [
            (None, false),
            (Some(9), true),
            (Some(10), true),
            (Some(11), false),
        ] {
            let takes = takes.map(Duration::from_millis);
            assert_eq!(is_worth_waiting(takes, wait), worth, "{takes:?}");
        }
        assert!(!is_worth_waiting(Some(wait), Duration::ZERO));
    }
}
