//! What the control ring writes and the frontend ring reads of one cluster.
//!
//! The two rings never call each other; they meet in these values. The frontend asks for fresher
//! samples through [`FreshnessDemand`] and reports DDL through [`DatabaseCatalog::invalidate`].

mod causal_store;
mod crossings;
mod database_catalog;
mod demand;
mod positions;
mod role_lookups;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::core::snapshot::RoutingSnapshot;
use crate::limits::{CATALOGS_PER_CLUSTER, FIRST_MEASUREMENT};
use crate::published::Published;

pub use causal_store::{CausalStore, Others, SharedKey, StoreMessage};
pub use crossings::Crossings;
pub use database_catalog::{
    DatabaseCatalog, DdlMark, LoadFailure, Occupancy, Occupant, PreparedTransactions,
};
pub use demand::FreshnessDemand;
pub use positions::Positions;
pub use role_lookups::{RoleLookups, RoleQuestion, Unanswered};

/// What is known of one cluster at this moment.
#[derive(Debug)]
pub struct ClusterWorld {
    /// Roles, health and freshness of the nodes.
    pub routing: Published<RoutingSnapshot>,
    /// Who waits for how fresh a replica.
    pub demand: FreshnessDemand,
    /// Catalog knowledge by database.
    pub catalogs: Arc<CatalogDirectory>,
    /// The primary's positions as they were sampled.
    pub positions: Positions,
    /// Causal keys that are shared with other proxies.
    pub store: CausalStore,
    /// What logins ask about roles.
    pub roles: RoleLookups,
    /// What sessions ask that go from a replica to the primary.
    pub crossings: Crossings,
}

impl ClusterWorld {
    /// A world in which nothing has been measured yet.
    pub fn new(snapshot: RoutingSnapshot, now: Instant) -> Self {
        Self {
            crossings: Crossings::new(now, snapshot.nodes.len()),
            routing: Published::new(snapshot),
            demand: FreshnessDemand::new(now),
            catalogs: Arc::default(),
            positions: Positions::default(),
            store: CausalStore::default(),
            roles: RoleLookups::default(),
        }
    }

    /// The same for another list of nodes. DDL and writes of sessions that still use `old` are noted in
    /// both.
    #[must_use]
    pub fn following(old: &Self, snapshot: RoutingSnapshot, now: Instant) -> Self {
        Self {
            catalogs: old.catalogs.followed(),
            ..Self::new(snapshot, now)
        }
    }

    /// Waits until every node was asked once, which a start begins with, and a reload that changes whom
    /// to ask, or as whom; `false` if that does not come to be within [`FIRST_MEASUREMENT`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn becomes_measured(&self) -> bool {
        let measured = self
            .routing
            .wait_for(|snapshot| snapshot.is_measured().then_some(()));
        tokio::time::timeout(FIRST_MEASUREMENT, measured)
            .await
            .is_ok()
    }
}

/// The catalogs of one cluster, by database name.
#[derive(Debug, Default)]
pub struct CatalogDirectory {
    entries: Mutex<HashMap<Arc<str>, Arc<DatabaseCatalog>>>,
    added: Notify,
    /// The catalogs under a later list of nodes.
    successor: OnceLock<Arc<CatalogDirectory>>,
}

impl CatalogDirectory {
    /// The catalog of `database`; made (not yet loaded) at the first call. `None` when the cluster
    /// has more databases than `CATALOGS_PER_CLUSTER`: reads of the others go to the primary.
    pub fn of(&self, database: &str) -> Option<Arc<DatabaseCatalog>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = entries.get(database) {
            return Some(Arc::clone(found));
        }
        if entries.len() >= CATALOGS_PER_CLUSTER {
            return None;
        }
        let entry = Arc::new(DatabaseCatalog::default());
        if let Some(next) = self.successor.get().and_then(|next| next.of(database)) {
            entry.follow_with(next);
        }
        entries.insert(Arc::from(database), Arc::clone(&entry));
        self.added.notify_waiters();
        Some(entry)
    }

    /// The catalog of `database`, if there is one.
    pub fn find(&self, database: &str) -> Option<Arc<DatabaseCatalog>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(database).cloned()
    }

    /// The catalogs of the same databases under a later list of nodes, not loaded yet.
    fn followed(&self) -> Arc<Self> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = entries
            .iter()
            .map(|(name, entry)| (Arc::clone(name), entry.followed()));
        let next = self.successor.get_or_init(|| {
            Arc::new(Self {
                entries: Mutex::new(followed.collect()),
                ..Self::default()
            })
        });
        Arc::clone(next)
    }

    /// Every catalog asked for so far.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<DatabaseCatalog>)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .map(|(name, entry)| (Arc::clone(name), Arc::clone(entry)))
            .collect()
    }

    /// Resolves when there are more than `known` catalogs.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn more_than(&self, known: usize) {
        loop {
            let mut added = std::pin::pin!(self.added.notified());
            added.as_mut().enable();
            if self
                .entries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
                > known
            {
                return;
            }
            added.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::statement::CatalogEffect;

    #[test]
    fn a_database_that_is_met_after_a_reload_is_followed_too() {
        let old = CatalogDirectory::default();
        let known = old.of("known").unwrap();
        let new = old.followed();
        let late = old.of("late").unwrap();
        for (name, catalog) in [("known", known), ("late", late)] {
            let before = new.of(name).unwrap().ddl_mark();
            catalog.invalidate(&CatalogEffect::MayChange);
            assert_ne!(new.of(name).unwrap().ddl_mark(), before, "{name}");
        }
    }
}
