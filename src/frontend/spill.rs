//! How many reads may run on the primary for want of a replica (`consistency.spill_limit`).
//!
//! Each (database, user) has a pool of the primary's connections of its own, and its own share of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::limits::SPILL_SHARES;

/// The shares of all pools of one cluster.
#[derive(Debug, Default)]
pub struct SpillShares(Mutex<HashMap<Key, Share>>);

/// Database and user.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Share {
    limit: usize,
    places: Arc<Semaphore>,
}

impl SpillShares {
    /// The places of this pool. Whoever waits for one waits in the order of coming. With another
    /// `limit` than before there are new places; those taken before are not counted.
    pub fn places(&self, database: &Arc<str>, user: &Arc<str>, limit: usize) -> Arc<Semaphore> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (Arc::clone(database), Arc::clone(user));
        if shares.len() >= SPILL_SHARES && !shares.contains_key(&key) {
            shares.retain(|_, share| Arc::strong_count(&share.places) > 1);
            if shares.len() >= SPILL_SHARES {
                key = (Arc::from(""), Arc::from(""));
            }
        }
        let share = shares.entry(key).or_insert_with(|| Share::of(limit));
        if share.limit != limit {
            *share = Share::of(limit);
        }
        Arc::clone(&share.places)
    }
}

impl Share {
    fn of(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn each_pool_has_places_of_its_own() {
        let shares = SpillShares::default();
        let (app, web) = (name("app"), name("web"));
        let taken = shares.places(&app, &app, 1).try_acquire_owned();
        assert!(taken.is_ok());
        assert!(shares.places(&app, &app, 1).try_acquire_owned().is_err());
        assert!(shares.places(&app, &web, 1).try_acquire_owned().is_ok());
        drop(taken);
        assert!(shares.places(&app, &app, 1).try_acquire_owned().is_ok());
    }

    #[test]
    fn another_limit_makes_other_places() {
        let shares = SpillShares::default();
        let app = name("app");
        let taken = shares.places(&app, &app, 1).try_acquire_owned();
        let places = shares.places(&app, &app, 2);
        assert_eq!(places.available_permits(), 2);
        drop(taken);
        assert_eq!(places.available_permits(), 2);
    }

    #[test]
    fn pools_without_end_take_no_memory_without_end() {
        let shares = SpillShares::default();
        let app = name("app");
        let held: Vec<_> = (0..SPILL_SHARES)
            .map(|at| shares.places(&name(&at.to_string()), &app, 1))
            .collect();
        let first = shares.places(&name("one more"), &app, 1);
        let second = shares.places(&name("another"), &app, 1);
        assert!(Arc::ptr_eq(&first, &second), "they share");
        drop((held, first, second));
        shares.places(&name("again"), &app, 1);
        assert!(shares.0.lock().unwrap().len() < SPILL_SHARES);
    }
}
