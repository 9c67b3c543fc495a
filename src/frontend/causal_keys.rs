//! The causal keys of one cluster, as its sessions share them.
//!
//! Only sessions that have a key come here: for each statement once before it is sent, and once after
//! its end.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::CausalityConfig;
use crate::core::causality::keys::{Effect, KeyBounds, KeyTable, NodeList, Visit};
use crate::core::guarantee::Floor;
use crate::core::policy::ConsistencyPolicy;
use crate::frontend::tokens::TokenKey;
use crate::limits::{CAUSAL_KEY_TABLES, CAUSAL_KEYS_BYTES};

/// Fewer keys than this share one table.
const KEYS_PER_TABLE: usize = 1024;

/// The causal keys of one cluster; they outlive a reload.
#[derive(Debug)]
pub struct CausalKeys {
    tables: Box<[Mutex<KeyTable>]>,
    places: RandomState,
    tokens: TokenKey,
    /// `key_ttl`, if keys are shared with other proxies.
    shared_for: Option<Duration>,
}

impl CausalKeys {
    /// No key is known, and nothing of what was before `now`.
    pub fn new(config: &CausalityConfig, now: Instant) -> Self {
        let tables = (config.max_keys / KEYS_PER_TABLE).clamp(1, CAUSAL_KEY_TABLES);
        let bounds = KeyBounds {
            keys: config.max_keys / tables,
            bytes: CAUSAL_KEYS_BYTES / tables,
            ttl: config.key_ttl,
        };
        Self {
            tables: (0..tables)
                .map(|_| Mutex::new(KeyTable::new(bounds, now)))
                .collect(),
            places: RandomState::new(),
            tokens: TokenKey::new(config.secret.as_ref()),
            shared_for: config.store.as_ref().map(|_| config.key_ttl),
        }
    }

    /// What the tokens of the cluster's sessions are signed with.
    pub const fn tokens(&self) -> &TokenKey {
        &self.tokens
    }

    /// How long shared keys are remembered; `None` if keys are not shared with other proxies.
    pub const fn shared_for(&self) -> Option<Duration> {
        self.shared_for
    }

    /// How many keys are known.
    pub fn count(&self) -> usize {
        self.tables.iter().map(|table| locked(table).len()).sum()
    }

    /// What a read with `key` that arrived at `arrived` must see for the key's sake.
    pub fn floor(
        &self,
        key: &str,
        nodes: NodeList,
        policy: &ConsistencyPolicy,
        arrived: Instant,
    ) -> Floor {
        match self.table(key) {
            Some(table) => table.floor(key, nodes, policy, arrived),
            None => Floor {
                everywhere: Some(arrived),
                ..Floor::default()
            },
        }
    }

    /// Notes a statement that is about to be sent.
    pub fn begin(self: &Arc<Self>, key: &Arc<str>, visit: Visit, now: Instant) -> KeyMark {
        if let Some(mut table) = self.table(key) {
            table.begin(key, visit, now);
        }
        KeyMark {
            keys: Arc::clone(self),
            key: Arc::clone(key),
            visit,
            ended: None,
        }
    }

    fn table(&self, key: &str) -> Option<MutexGuard<'_, KeyTable>> {
        let tables = u64::try_from(self.tables.len()).ok()?;
        let place = self.places.hash_one(key).checked_rem(tables)?;
        self.tables.get(usize::try_from(place).ok()?).map(locked)
    }
}

fn locked(table: &Mutex<KeyTable>) -> MutexGuard<'_, KeyTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A statement, or a transaction block, under way under a key. When it is dropped before its end is
/// noted, it may have written.
#[derive(Debug)]
pub struct KeyMark {
    keys: Arc<CausalKeys>,
    key: Arc<str>,
    visit: Visit,
    ended: Option<(Effect, Instant)>,
}

impl KeyMark {
    /// Whether it is of `key` and `visit`.
    pub fn is_of(&self, key: &str, visit: Visit) -> bool {
        self.visit == visit && *self.key == *key
    }

    /// Whether it is of `key`, wherever it runs.
    pub fn has_key(&self, key: &str) -> bool {
        *self.key == *key
    }

    /// It has ended at `at`.
    pub fn end(mut self, effect: Effect, at: Instant) {
        self.ended = Some((effect, at));
    }
}

impl Drop for KeyMark {
    fn drop(&mut self) {
        let (effect, at) = self
            .ended
            .unwrap_or_else(|| (Effect::Wrote, Instant::now()));
        if let Some(mut table) = self.keys.table(&self.key) {
            table.end(&self.key, self.visit, effect, at);
        }
    }
}
