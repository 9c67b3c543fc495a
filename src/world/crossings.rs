//! What sessions ask that go from a replica to the primary, and what the nodes have answered.
//!
//! One listing of the primary serves every session that asked before it was sent, and so does one
//! answer of a replica: however many sessions wait, a node has one question at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::core::crossing::{Known, Listing, Scope, Shown};
use crate::core::snapshot::NodeId;

/// Questions of sessions, answered by the monitor.
#[derive(Debug)]
pub struct Crossings {
    epoch: Instant,
    /// When somebody asked last for a listing.
    listing: Wanted,
    /// The same, with the id of everything that runs.
    every: Wanted,
    /// By node id: when somebody asked last for the answer of this replica about a listing.
    shown: Box<[Wanted]>,
    asked: Notify,
    known: Mutex<Known>,
    noted: Notify,
}

/// An instant that only grows, as nanoseconds after an epoch; 0 is none.
#[derive(Debug, Default)]
struct Wanted(AtomicU64);

impl Wanted {
    fn raise(&self, since: Duration) {
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanos.max(1), Ordering::AcqRel);
    }

    fn after(&self, epoch: Instant) -> Option<Instant> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            nanos => epoch.checked_add(Duration::from_nanos(nanos)),
        }
    }
}

impl Crossings {
    /// Nothing asked yet, in a cluster of so many nodes.
    pub fn new(epoch: Instant, nodes: usize) -> Self {
        Self {
            epoch,
            listing: Wanted::default(),
            every: Wanted::default(),
            shown: (0..nodes).map(|_| Wanted::default()).collect(),
            asked: Notify::new(),
            known: Mutex::default(),
            noted: Notify::new(),
        }
    }

    /// Asks for a listing that is sent at `at` or later.
    pub fn ask(&self, at: Instant, scope: Scope) {
        let since = at.saturating_duration_since(self.epoch);
        self.listing.raise(since);
        match scope {
            Scope::Snapshot => {}
            Scope::Every => self.every.raise(since),
        }
        self.asked.notify_waiters();
    }

    /// Asks for the answer of the replica `node` about a listing that is sent at `at` or later.
    pub fn ask_replica(&self, node: NodeId, at: Instant) {
        if let Some(wanted) = self.shown.get(node.index()) {
            wanted.raise(at.saturating_duration_since(self.epoch));
            self.asked.notify_waiters();
        }
    }

    /// When somebody asked last for an answer of the replica `node`.
    pub fn replica_asked_at(&self, node: NodeId) -> Option<Instant> {
        self.shown.get(node.index())?.after(self.epoch)
    }

    /// A primary has answered.
    pub fn note_listing(&self, listing: Listing) {
        self.with(|known| known.listing = Some(listing));
        // Replicas may be asked about it now.
        self.asked.notify_waiters();
    }

    /// A replica has answered.
    pub fn note_shown(&self, shown: Shown) {
        self.with(|known| {
            known.shown.retain(|old| old.node != shown.node);
            known.shown.push(shown);
        });
    }

    fn with(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
        self.noted.notify_waiters();
    }

    /// Resolves to what `accept` first maps to `Some`, now or after an answer.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for<R>(&self, mut accept: impl FnMut(&Known) -> Option<R>) -> R {
        loop {
            let mut noted = std::pin::pin!(self.noted.notified());
            noted.as_mut().enable();
            let found = accept(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(found) = found {
                return found;
            }
            noted.await;
        }
    }

    /// Resolves when a listing of `node` is due that was not sent at `last` or before: to what it has
    /// to tell.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn listing_due(&self, last: Option<Instant>) -> Scope {
        let later = |wanted: &Wanted| wanted.after(self.epoch) > last;
        let due = || {
            if later(&self.every) {
                return Some(Scope::Every);
            }
            later(&self.listing).then_some(Scope::Snapshot)
        };
        self.when_asked(due).await
    }

    /// Resolves when the replica `node` is to answer about a listing: to that listing.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn replica_due(&self, node: NodeId) -> Listing {
        let due = || {
            let wanted = self.shown.get(node.index())?.after(self.epoch)?;
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let answered = known.shown.iter().find(|shown| shown.node == node);
            if answered.is_some_and(|shown| shown.listed >= wanted) {
                return None;
            }
            known
                .listing
                .clone()
                .filter(|listing| listing.sent >= wanted)
        };
        self.when_asked(due).await
    }

    async fn when_asked<R>(&self, due: impl Fn() -> Option<R>) -> R {
        loop {
            let mut asked = std::pin::pin!(self.asked.notified());
            asked.as_mut().enable();
            if let Some(due) = due() {
                return due;
            }
            asked.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_listing_serves_all_who_asked_before_it_was_sent() {
        let epoch = Instant::now();
        let at = |millis| epoch + Duration::from_millis(millis);
        let crossings = Crossings::new(epoch, 2);
        let due = |last| {
            let waiting = crossings.listing_due(last);
            tokio::time::timeout(Duration::from_millis(20), waiting)
        };
        assert!(due(None).await.is_err());
        for millis in [1, 3, 2] {
            crossings.ask(at(millis), Scope::Snapshot);
        }
        assert_eq!(due(None).await, Ok(Scope::Snapshot));
        assert_eq!(due(Some(at(2))).await, Ok(Scope::Snapshot));
        assert!(due(Some(at(3))).await.is_err());
        crossings.ask(at(4), Scope::Every);
        assert_eq!(due(Some(at(3))).await, Ok(Scope::Every));
        assert!(due(Some(at(4))).await.is_err());
    }

    #[tokio::test]
    async fn a_replica_is_asked_once_about_a_listing_that_is_late_enough() {
        let epoch = Instant::now();
        let at = |millis| epoch + Duration::from_millis(millis);
        let crossings = Crossings::new(epoch, 2);
        let replica = NodeId(1);
        let due = || {
            let waiting = crossings.replica_due(replica);
            tokio::time::timeout(Duration::from_millis(20), waiting)
        };
        let listing = |sent| Listing::new(NodeId(0), sent, 5, vec![3]);
        crossings.note_listing(listing(at(1)));
        assert!(due().await.is_err(), "nobody has asked");
        crossings.ask_replica(replica, at(2));
        assert!(due().await.is_err(), "the listing is too early");
        crossings.note_listing(listing(at(2)));
        assert_eq!(due().await, Ok(listing(at(2))));
        crossings.note_shown(Shown {
            node: replica,
            incarnation: None,
            fresh_as_of: None,
            primary: NodeId(0),
            listed: at(2),
            committed: Some(vec![]),
        });
        assert!(due().await.is_err(), "it has answered");
    }
}
