//! Who is in a database: sessions of clients, and whoever loads its catalog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many sessions are in a database, and whether it is to be left.
#[derive(Debug, Default)]
pub struct Occupancy {
    sessions: Arc<AtomicUsize>,
    leaving: Notify,
}

/// A session of a client in a database.
#[derive(Debug)]
pub struct Occupant(Arc<AtomicUsize>);

impl Occupancy {
    /// For the catalog of the same database under a later list of nodes: the sessions are the same.
    pub(super) fn followed(&self) -> Self {
        Self {
            sessions: Arc::clone(&self.sessions),
            leaving: Notify::new(),
        }
    }

    /// One more session is in the database, until what this returns is dropped.
    pub fn enter(&self) -> Occupant {
        self.sessions.fetch_add(1, Ordering::AcqRel);
        Occupant(Arc::clone(&self.sessions))
    }

    /// Whether no session is in the database.
    pub fn is_empty(&self) -> bool {
        self.sessions.load(Ordering::Acquire) == 0
    }

    /// Has whoever loads the catalog close the connection for that.
    pub(super) fn leave(&self) {
        self.leaving.notify_one();
    }

    /// Resolves when the connection that loads the catalog is to be closed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn is_to_be_left(&self) {
        self.leaving.notified().await;
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
