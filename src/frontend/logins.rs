//! How often the logins of roles have changed: whoever comes later gets connections of their own.
//!
//! A pooled connection is what its role's name meant when it was opened. Behind DROP ROLE, ALTER ROLE and
//! the like the name may be another role's (`InitializeSessionUserId`, `src/backend/utils/init/miscinit.c`,
//! looks it up once), or one that may not log in any more. Sessions that were there before keep what they have,
//! as directly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::startup::LoginEra;

/// Counts the changes of one cluster.
#[derive(Debug, Default)]
pub struct Logins {
    era: AtomicU64,
    /// The last change, until every replica that reads may go to must have replayed it.
    replaying: Mutex<Option<Instant>>,
}

impl Logins {
    /// The same count under another list of nodes.
    #[must_use]
    pub fn following(old: &Self) -> Self {
        let era = old.era.load(Ordering::Relaxed);
        Self {
            // Changes that a replica may not have replayed yet count as seen by none.
            era: AtomicU64::new(era.wrapping_add(1)),
            ..Self::default()
        }
    }

    /// How often they have changed.
    pub fn era(&self) -> LoginEra {
        LoginEra(self.era.load(Ordering::Relaxed))
    }

    /// They may have changed on the primary. A connection that is opened to a replica too early is still the old
    /// role's, so it counts as another change when replicas that are behind serve no reads any more, which
    /// is after `staleness`.
    pub fn change(self: &Arc<Self>, staleness: Duration) {
        self.begin_era();
        if self.replaying().replace(Instant::now()).is_none() {
            let logins = Arc::clone(self);
            tokio::spawn(async move { logins.change_again(staleness).await });
        }
    }

    async fn change_again(&self, staleness: Duration) {
        loop {
            let left = {
                let mut replaying = self.replaying();
                let since = replaying.map_or(staleness, |changed| changed.elapsed());
                let left = staleness.saturating_sub(since);
                if left.is_zero() {
                    *replaying = None;
                }
                left
            };
            if left.is_zero() {
                return self.begin_era();
            }
            tokio::time::sleep(left).await;
        }
    }

    fn begin_era(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    fn replaying(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.replaying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_counts_at_once_and_once_more_when_replicas_must_have_it() {
        let logins = Arc::new(Logins::default());
        let staleness = Duration::from_millis(50);
        logins.change(staleness);
        logins.change(staleness);
        assert_eq!(logins.era(), LoginEra(2));
        let deadline = Instant::now() + Duration::from_secs(10);
        while logins.era() != LoginEra(3) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        logins.change(staleness);
        assert_eq!(logins.era(), LoginEra(4));
        assert_eq!(Logins::following(&logins).era(), LoginEra(5));
    }
}
