//! Pauses between attempts to reach a node.

use std::time::Duration;

use super::limits::MONITOR_BACKOFF;

/// Pauses between attempts: none first, then doubling up to a limit.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// An attempt has succeeded.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }

    /// Whether no attempt has failed since the last that did not.
    pub(super) fn is_first(&self) -> bool {
        self.last.is_none()
    }

    /// For how long to pause before the next attempt.
    pub(super) fn next_pause(&mut self) -> Duration {
        let (first, longest) = MONITOR_BACKOFF;
        let pause = match self.last {
            None => Duration::ZERO,
            Some(Duration::ZERO) => first,
            Some(last) => last.saturating_mul(2).min(longest),
        };
        self.last = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_made_at_once_and_the_pauses_are_bounded() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 500, 500]);
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::ZERO);
    }
}
