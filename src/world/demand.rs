//! How fresh sessions need replicas to be: written by sessions, read by the monitor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::core::freshness::pace::is_far;

/// The freshest floors that sessions wait for, or will soon have.
#[derive(Debug)]
pub struct FreshnessDemand {
    epoch: Instant,
    waited: Newest,
    wished: Newest,
    /// How far the nearest replica is behind, in nanoseconds.
    distance_nanos: AtomicU64,
}

/// The newest of the instants that were named, as nanoseconds after the epoch; grows only.
#[derive(Debug, Default)]
struct Newest {
    nanos: AtomicU64,
    named: Notify,
}

impl FreshnessDemand {
    /// A demand that nobody has made yet.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            waited: Newest::default(),
            wished: Newest::default(),
            distance_nanos: AtomicU64::new(0),
        }
    }

    /// Asks the samplers for replicas that are fresh as of `floor`, and wakes them.
    pub fn ask(&self, floor: Instant) {
        self.waited
            .name(nanos(floor.saturating_duration_since(self.epoch)));
    }

    /// Tells the samplers that a session will soon read with `floor`, if replicas keep such a distance that it is
    /// too late to ask when it does.
    pub fn wish(&self, floor: Instant) {
        if is_far(self.distance()) {
            self.wished
                .name(nanos(floor.saturating_duration_since(self.epoch)));
        }
    }

    /// How far the nearest replica is behind.
    pub fn distance(&self) -> Duration {
        Duration::from_nanos(self.distance_nanos.load(Ordering::Relaxed))
    }

    /// Notes how far the nearest replica is behind.
    pub fn set_distance(&self, distance: Duration) {
        self.distance_nanos
            .store(nanos(distance), Ordering::Relaxed);
    }

    /// The freshest floor asked for so far.
    pub fn newest_floor(&self) -> Instant {
        self.instant(&self.waited)
    }

    /// The freshest floor that a session will have.
    pub fn newest_wish(&self) -> Instant {
        self.instant(&self.wished)
    }

    /// Resolves when somebody has asked for a floor later than `satisfied`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn asked_beyond(&self, satisfied: Instant) -> Instant {
        self.named_beyond(&self.waited, satisfied).await
    }

    /// Resolves when a session will have a floor later than `satisfied`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wished_beyond(&self, satisfied: Instant) -> Instant {
        self.named_beyond(&self.wished, satisfied).await
    }

    async fn named_beyond(&self, newest: &Newest, satisfied: Instant) -> Instant {
        loop {
            let mut named = std::pin::pin!(newest.named.notified());
            named.as_mut().enable();
            let floor = self.instant(newest);
            if floor > satisfied {
                return floor;
            }
            named.await;
        }
    }

    fn instant(&self, newest: &Newest) -> Instant {
        let nanos = newest.nanos.load(Ordering::Acquire);
        self.epoch
            .checked_add(Duration::from_nanos(nanos))
            .unwrap_or(self.epoch)
    }
}

impl Newest {
    fn name(&self, nanos: u64) {
        self.nanos.fetch_max(nanos, Ordering::AcqRel);
        self.named.notify_waiters();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_far_away_is_wished_for_ahead() {
        let epoch = Instant::now();
        let demand = FreshnessDemand::new(epoch);
        let floor = epoch + Duration::from_secs(1);
        demand.wish(floor);
        assert_eq!(demand.newest_wish(), epoch);
        demand.set_distance(Duration::from_millis(50));
        demand.wish(floor);
        assert_eq!(demand.newest_wish(), floor);
        assert_eq!(demand.newest_floor(), epoch);
    }
}
