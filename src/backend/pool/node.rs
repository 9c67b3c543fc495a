//! The pools of one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::queue::Pool;
use super::{CheckoutError, PoolCounts, PoolKey, PoolStatus, Shared};
use crate::core::snapshot::NodeId;
use crate::limits::POOLS_PER_NODE;

/// By database, then by user: looked up by borrowed names.
type ByName = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Pool>>>;

/// The pools of one node.
#[derive(Debug)]
pub(super) struct NodePools {
    id: NodeId,
    life: Arc<NodeLife>,
    pools: RwLock<ByName>,
}

/// What every pool of a node looks at.
#[derive(Debug, Default)]
pub(super) struct NodeLife {
    /// Grows when the connections opened so far are no longer to be used.
    generation: AtomicU64,
    closed: AtomicBool,
}

impl NodeLife {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl NodePools {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            life: Arc::default(),
            pools: RwLock::default(),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.id
    }

    /// The pool of these names, if there is one.
    pub(super) fn find(&self, database: &str, user: &str) -> Option<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(pools.get(database)?.get(user)?))
    }

    /// The pool of the key's names; made at the first call.
    pub(super) fn pool(
        &self,
        shared: &Arc<Shared>,
        key: &PoolKey,
    ) -> Result<Arc<Pool>, CheckoutError> {
        if let Some(found) = self.find(&key.database, &key.user) {
            return Ok(found);
        }
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.values().map(HashMap::len).sum::<usize>() >= POOLS_PER_NODE {
            return Err(CheckoutError::TooManyPools);
        }
        let users = pools.entry(Arc::clone(&key.database)).or_default();
        let pool = users.entry(Arc::clone(&key.user));
        let pool = pool.or_insert_with(|| Pool::new(shared, &self.life, key));
        Ok(Arc::clone(pool))
    }

    /// Closes what is idle, and has what is in use closed when it comes back.
    pub(super) fn start_generation(&self) {
        self.life.generation.fetch_add(1, Ordering::AcqRel);
        for pool in self.all() {
            pool.close_idle();
        }
    }

    pub(super) fn close(&self) {
        self.life.closed.store(true, Ordering::Release);
        for pool in self.all() {
            pool.close();
        }
    }

    /// Closes what is too old, forgets pools that nobody uses, and counts the rest.
    pub(super) fn reap(&self, now: Instant) -> PoolCounts {
        let mut sum = PoolCounts::default();
        let mut unused = 0;
        for pool in self.all() {
            let counts = pool.reap(now);
            unused += usize::from(counts == PoolCounts::default());
            sum.add(counts);
        }
        if unused > 0 {
            let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
            for users in pools.values_mut() {
                // Nobody else can get hold of a pool while the map is locked.
                users.retain(|_, pool| {
                    Arc::strong_count(pool) > 1 || pool.counts() != PoolCounts::default()
                });
            }
            pools.retain(|_, users| !users.is_empty());
        }
        sum
    }

    pub(super) fn status(&self) -> Vec<PoolStatus> {
        let pools = self.all();
        let statuses = pools.iter().map(|pool| PoolStatus {
            node: self.id,
            database: Arc::clone(pool.database()),
            user: Arc::clone(pool.user()),
            counts: pool.counts(),
        });
        statuses.collect()
    }

    /// The pools of one database.
    pub(super) fn of_database(&self, database: &str) -> Vec<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools
            .get(database)
            .map_or_else(Vec::new, |users| users.values().cloned().collect())
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().flat_map(HashMap::values).cloned().collect()
    }
}
