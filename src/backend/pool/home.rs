//! Which connection is a new session's home.
//!
//! A session tells its client the process id of one connection, its home, and goes back to that
//! connection whenever it is free. Homes are shared when there are more sessions than connections.
//!
//! Invariants:
//! * A connection is opened for a home only while the pool has room and nobody queues for it.
//! * Claims are made under the pool's lock; they end with the [`Home`].

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::queue::Pool;
use super::state::{Claim, Turn};
use crate::backend::connection::WorkerId;
use crate::backend::home::Home;
use crate::backend::login::NodeLogin;
use crate::backend::startup::StartupParameters;

impl Pool {
    /// A home for one more session: a connection that is nobody's, else a new one if there is room,
    /// else the one with the fewest owners. `None` if there is nothing to share by `deadline`.
    ///
    /// # Cancel safety
    /// As `checkout`.
    pub(super) async fn home(
        self: &Arc<Self>,
        startup: &Arc<StartupParameters>,
        login: &NodeLogin,
        worker: WorkerId,
        deadline: Instant,
    ) -> Option<Home> {
        loop {
            let settled = self.settled.notified();
            match self.claim(startup, worker) {
                Claim::Taken(home) => return Some(home),
                Claim::Nothing => return None,
                Claim::Open(offer) => {
                    let Turn::Open(place) = self.turn(offer) else {
                        return None;
                    };
                    let opening = self.open(place, startup, login, worker);
                    let Ok(Ok(opened)) = timeout_at(deadline.into(), opening).await else {
                        return self.lock().share(startup, worker);
                    };
                    // Claimed before others learn of it.
                    let home = opened.home();
                    self.admit(opened).give_back(Instant::now());
                    return Some(home);
                }
                later @ (Claim::Later | Claim::Shared) => {
                    let expecting = matches!(later, Claim::Later).then(|| Expecting(self));
                    let in_time = timeout_at(deadline.into(), settled).await;
                    drop(expecting);
                    if in_time.is_err() {
                        return self.lock().share(startup, worker);
                    }
                }
            }
        }
    }

    fn claim(&self, startup: &StartupParameters, worker: WorkerId) -> Claim {
        let config = self.config();
        self.lock().claim(startup, worker, config)
    }
}

/// A session that waits to open its home.
struct Expecting<'a>(&'a Arc<Pool>);

impl Drop for Expecting<'_> {
    fn drop(&mut self) {
        self.0.lock().expects_no_more();
    }
}
