//! One cluster as sessions use it: the world they read, the pools they lease from.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::pool::{PoolKey, Pools};
use crate::config::ClusterConfig;
use crate::core::causality::keys::NodeList;
use crate::core::snapshot::NodeId;
use crate::core::statement::CatalogEffect;
use crate::frontend::causal_keys::CausalKeys;
use crate::frontend::classification::LearnedWrites;
use crate::frontend::logins::Logins;
use crate::frontend::spill::SpillShares;
use crate::frontend::statements::{StatementNumbers, StatementRegistry};
use crate::limits::CATALOGS_PER_CLUSTER;
use crate::metrics::ClusterMetrics;
use crate::world::{ClusterWorld, DatabaseCatalog};

/// One cluster as sessions use it. A reload makes a new one; what still fits is shared.
#[derive(Debug)]
pub struct ServedCluster {
    /// What the file says.
    pub config: Arc<ClusterConfig>,
    /// What is measured.
    pub world: Arc<ClusterWorld>,
    /// The server connections.
    pub pools: Arc<Pools>,
    /// Where it is counted.
    pub metrics: Arc<ClusterMetrics>,
    /// What lives as long as the list of nodes does.
    pub shared: Arc<ClusterMemory>,
}

/// What sessions of a cluster share among themselves.
#[derive(Debug)]
pub struct ClusterMemory {
    /// Names of prepared statements.
    pub statements: StatementRegistry,
    /// Causal keys; they live longer than the list of nodes.
    pub keys: Arc<CausalKeys>,
    /// Which list of nodes it is.
    pub list: NodeList,
    loads: Box<[AtomicU32]>,
    learned: Mutex<HashMap<Arc<str>, Arc<LearnedWrites>>>,
    isolations: Mutex<HashMap<PoolKey, DefaultIsolation>>,
    /// Reads on the primary for want of a replica.
    pub spill: SpillShares,
    /// Reads that could have been audited.
    auditable: AtomicU32,
    /// How often the logins of roles have changed.
    pub logins: Arc<Logins>,
}

/// The isolation level of a block that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultIsolation {
    /// READ COMMITTED, as PostgreSQL itself has it.
    ReadCommitted,
    /// What a role, a database or the server has been given instead.
    Other,
}

impl ClusterMemory {
    /// Nothing remembered, for a cluster of `nodes` nodes.
    pub fn new(nodes: usize, numbers: StatementNumbers, keys: Arc<CausalKeys>) -> Self {
        Self {
            statements: StatementRegistry::new(numbers),
            keys,
            list: NodeList::default(),
            loads: (0..nodes).map(|_| AtomicU32::new(0)).collect(),
            learned: Mutex::default(),
            isolations: Mutex::default(),
            spill: SpillShares::default(),
            auditable: AtomicU32::new(0),
            logins: Arc::default(),
        }
    }

    /// Nothing remembered, for a cluster of `nodes` nodes, but the causal keys of `old`.
    #[must_use]
    pub fn following(old: &Self, nodes: usize, numbers: StatementNumbers) -> Self {
        let list = NodeList(old.list.0.saturating_add(1));
        let learned = old.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let learned = learned.iter().map(|(database, known)| {
            let known = LearnedWrites::following(known);
            (Arc::clone(database), Arc::new(known))
        });
        Self {
            list,
            logins: Arc::new(Logins::following(&old.logins)),
            learned: Mutex::new(learned.collect()),
            statements: StatementRegistry::following(&old.statements),
            ..Self::new(nodes, numbers, Arc::clone(&old.keys))
        }
    }

    /// Statements under way, by node id.
    pub fn loads(&self, into: &mut Vec<u32>) {
        into.clear();
        into.extend(self.loads.iter().map(|load| load.load(Ordering::Relaxed)));
    }

    /// Counts one statement on `node` until the guard is dropped, and keeps `spilled` as long.
    pub fn under_way(
        self: &Arc<Self>,
        node: NodeId,
        spilled: Option<OwnedSemaphorePermit>,
    ) -> UnderWay {
        if let Some(load) = self.loads.get(node.index()) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        UnderWay {
            memory: Arc::clone(self),
            node,
            _spilled: spilled,
        }
    }

    /// Whether it is the turn of a read that could be audited: the first, and every `one_in`th.
    pub fn is_audited(&self, one_in: NonZeroU32) -> bool {
        let place = self.auditable.fetch_add(1, Ordering::Relaxed);
        place % one_in == 0
    }

    /// Notes that DDL is under way in a database until the guard is dropped or settled.
    pub fn changing(self: &Arc<Self>, catalog: Option<&Arc<DatabaseCatalog>>) -> Changing {
        self.statements.begin_change();
        Changing {
            memory: Arc::clone(self),
            unsettled: catalog.map(Arc::clone),
        }
    }

    /// The default isolation of a role in a database with these startup parameters, if it is known.
    pub fn isolation(&self, key: &PoolKey) -> Option<DefaultIsolation> {
        let known = self.isolations.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.get(key).copied()
    }

    /// Remembers it until the nodes are reloaded, for a number of roles.
    pub fn note_isolation(&self, key: PoolKey, isolation: DefaultIsolation) {
        let known = self.isolations.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CATALOGS_PER_CLUSTER && !known.contains_key(&key) {
            known.clear();
        }
        known.insert(key, isolation);
    }

    /// The learned writes of `database`. When there are too many databases, the last ones share.
    pub fn learned(&self, database: &Arc<str>) -> Arc<LearnedWrites> {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let full = learned.len() >= CATALOGS_PER_CLUSTER;
        let name = if full && !learned.contains_key(database) {
            Arc::from("")
        } else {
            Arc::clone(database)
        };
        Arc::clone(learned.entry(name).or_default())
    }
}

/// One statement under way on a node.
#[derive(Debug)]
pub struct UnderWay {
    memory: Arc<ClusterMemory>,
    node: NodeId,
    _spilled: Option<OwnedSemaphorePermit>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(load) = self.memory.loads.get(self.node.index()) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// DDL under way on a connection. Dropped before its end is known, it may have changed anything.
#[derive(Debug)]
pub struct Changing {
    memory: Arc<ClusterMemory>,
    unsettled: Option<Arc<DatabaseCatalog>>,
}

impl Changing {
    /// The node has answered, and what that means for the catalog was noted.
    pub fn settle(mut self) {
        self.unsettled = None;
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        if let Some(catalog) = &self.unsettled {
            catalog.invalidate(&CatalogEffect::MayChange);
        }
        self.memory.statements.end_change();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::CausalityConfig;

    fn memory() -> Arc<ClusterMemory> {
        let config = CausalityConfig {
            store: None,
            key_ttl: Duration::from_secs(1),
            max_keys: 1,
            secret: None,
        };
        let keys = CausalKeys::new(&config, Instant::now());
        let numbers = StatementNumbers::default();
        Arc::new(ClusterMemory::new(1, numbers, Arc::new(keys)))
    }

    #[test]
    fn ddl_whose_end_nobody_has_seen_may_have_changed_anything() {
        let (memory, catalog) = (memory(), Arc::new(DatabaseCatalog::default()));
        let before = catalog.ddl_mark();
        memory.changing(Some(&catalog)).settle();
        assert_eq!(catalog.ddl_mark(), before);
        drop(memory.changing(Some(&catalog)));
        assert_ne!(catalog.ddl_mark(), before);
    }

    #[test]
    fn ddl_under_an_earlier_list_of_nodes_is_under_way_under_the_later_too() {
        let old = memory();
        let changing = old.changing(None);
        let new = ClusterMemory::following(&old, 2, StatementNumbers::default());
        assert!(new.statements.is_changing());
        changing.settle();
        assert!(!new.statements.is_changing());
    }
}
