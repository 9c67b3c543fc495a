//! Counters, gauges and histograms that are written without a lock.
//!
//! The histogram of `prometheus-client` takes a lock for every observation, so it has no place on
//! the way of a query.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the histogram's buckets, in nanoseconds; one more bucket has no bound.
///
/// A query on a warm cache takes some 100 us, a wait for freshness some milliseconds, and the
/// longest statement worth telling apart 10 s.
const BUCKET_BOUNDS_NANOS: [u64; BOUNDED_BUCKETS] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

const BOUNDED_BUCKETS: usize = 16;

/// A distribution of times in fixed buckets from 50 us to 10 s.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDED_BUCKETS],
    above_all: AtomicU64,
    sum_nanos: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Debug, PartialEq)]
pub(super) struct Distribution {
    /// The sum of all observations, in seconds.
    pub(super) sum_seconds: f64,
    /// How many observations there were.
    pub(super) count: u64,
    /// Upper bound in seconds, and observations in that bucket alone.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(super) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let place = BUCKET_BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        let bucket = self.buckets.get(place).unwrap_or(&self.above_all);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn distribution(&self) -> Distribution {
        let mut buckets: Vec<(f64, u64)> = BUCKET_BOUNDS_NANOS
            .iter()
            .zip(&self.buckets)
            .map(|(bound, count)| (seconds(*bound), count.load(Ordering::Relaxed)))
            .collect();
        buckets.push((f64::INFINITY, self.above_all.load(Ordering::Relaxed)));
        Distribution {
            sum_seconds: seconds(self.sum_nanos.load(Ordering::Relaxed)),
            // The sum of the buckets, so that both always agree.
            count: buckets.iter().map(|(_, count)| *count).sum(),
            buckets,
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// Counters with one label, at most `N`; a label that was never counted is not printed.
#[derive(Debug)]
pub(super) struct LabelledCounters<const N: usize> {
    slots: [Slot; N],
}

#[derive(Debug, Default)]
struct Slot {
    label: OnceLock<&'static str>,
    count: AtomicU64,
}

impl<const N: usize> Default for LabelledCounters<N> {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }
}

impl<const N: usize> LabelledCounters<N> {
    /// Counts one; `place` is the label's own place, below `N`.
    pub(super) fn count(&self, place: usize, label: &'static str) {
        if let Some(slot) = self.slots.get(place) {
            slot.label.get_or_init(|| label);
            slot.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every label counted so far.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.slots.iter().filter_map(|slot| {
            let label = slot.label.get()?;
            Some((*label, slot.count.load(Ordering::Relaxed)))
        })
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge {
    value: AtomicI64,
}

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.value.fetch_sub(1, Ordering::Relaxed);
    }

    /// Exactly this many, for a number that is counted elsewhere.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [1, 50, 51, 20_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let found = histogram.distribution();
        assert_eq!(found.count, 4);
        assert_eq!(found.buckets[0], (0.000_05, 2));
        assert_eq!(found.buckets[1], (0.000_1, 1));
        assert_eq!(found.buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!((found.sum_seconds - 20.000_102).abs() < 1e-9);
    }

    #[test]
    fn bounds_grow() {
        assert!(BUCKET_BOUNDS_NANOS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn only_counted_labels_are_shown_and_places_beyond_the_end_are_dropped() {
        let counters = LabelledCounters::<2>::default();
        counters.count(1, "one");
        counters.count(1, "one");
        counters.count(2, "two");
        assert_eq!(counters.counted().collect::<Vec<_>>(), [("one", 2)]);
    }
}
