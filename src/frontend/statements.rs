//! Prepared statements: one server-side name for every client that prepared the same text.
//!
//! A statement is shared when text, parameter types and session settings are the same, since the
//! settings decide what the text means (`search_path`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::backend::state::AppliedSettings;
use crate::frontend::classification::CachedText;

/// A statement that some session has prepared.
#[derive(Debug)]
pub struct Prepared {
    /// Its number; part of its name on the nodes.
    pub id: u64,
    /// Its name on the nodes; kept, as every Bind needs it.
    server_name: Box<[u8]>,
    /// The SQL text.
    pub sql: Box<[u8]>,
    /// Count and object ids of the parameter types, as on the wire.
    pub types: Box<[u8]>,
    /// What the text was classified as.
    pub text: Arc<CachedText>,
    /// The generation of the registry when it was parsed.
    generation: u64,
    /// The settings it was parsed with.
    settings: Arc<AppliedSettings>,
}

impl Prepared {
    /// Its name on the nodes.
    pub fn server_name(&self) -> &[u8] {
        &self.server_name
    }

    /// What it costs to keep, in bytes.
    pub fn bytes(&self) -> usize {
        self.sql.len() + self.types.len() + self.server_name.len() + size_of::<Self>()
    }
}

/// The name on the nodes of the statement with this number.
pub fn server_name(id: u64) -> String {
    format!("{SERVER_NAME_PREFIX}{id}")
}

pub use crate::protocol::replies::SERVER_NAME_PREFIX;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    sql: Box<[u8]>,
    types: Box<[u8]>,
    settings: Arc<AppliedSettings>,
    generation: u64,
}

/// Where statements get their numbers from. A session keeps its statements when a reload replaces its
/// cluster, so no other statement may ever get the same number, and with it the same name on a node.
#[derive(Debug, Clone, Default)]
pub struct StatementNumbers(Arc<AtomicU64>);

impl StatementNumbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Every statement that at least one session of a cluster has prepared.
#[derive(Debug, Default)]
pub struct StatementRegistry {
    numbers: StatementNumbers,
    /// Grows when tables may have changed: what is prepared then is parsed anew.
    generation: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    statements: HashMap<Key, Weak<Prepared>>,
    /// Entries after the last sweep; twice as many call for the next.
    swept: usize,
}

impl StatementRegistry {
    /// No statements yet.
    pub fn new(numbers: StatementNumbers) -> Self {
        Self {
            numbers,
            ..Self::default()
        }
    }

    /// The statement with this text, types and settings; a new one if no session has it.
    pub fn intern(
        &self,
        sql: &[u8],
        types: &[u8],
        settings: &Arc<AppliedSettings>,
        text: &Arc<CachedText>,
    ) -> Arc<Prepared> {
        let key = Key {
            sql: sql.into(),
            types: types.into(),
            settings: Arc::clone(settings),
            generation: self.generation(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = known.statements.get(&key).and_then(Weak::upgrade) {
            return prepared;
        }
        let prepared = Arc::new(self.unshared(sql, types, settings, text));
        known.statements.insert(key, Arc::downgrade(&prepared));
        known.sweep();
        prepared
    }

    /// Tables may have changed: a statement that is prepared from now on must not share one whose
    /// result type is fixed already (`RevalidateCachedQuery`, `src/backend/utils/cache/plancache.c`).
    pub fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the statement means what it meant when it was parsed: no table can have changed since,
    /// and these are the settings of then.
    pub fn is_current(&self, statement: &Prepared, settings: &Arc<AppliedSettings>) -> bool {
        statement.generation == self.generation() && statement.settings == *settings
    }

    /// A statement that is not shared: the unnamed one.
    pub fn unshared(
        &self,
        sql: &[u8],
        types: &[u8],
        settings: &Arc<AppliedSettings>,
        text: &Arc<CachedText>,
    ) -> Prepared {
        let id = self.numbers.next();
        Prepared {
            id,
            server_name: server_name(id).into_bytes().into(),
            sql: sql.into(),
            types: types.into(),
            text: Arc::clone(text),
            generation: self.generation(),
            settings: Arc::clone(settings),
        }
    }
}

impl Known {
    /// Forgets statements that no session has any more; each is looked at a bounded number of times.
    fn sweep(&mut self) {
        if self.statements.len() > 2 * self.swept + 1000 {
            self.statements
                .retain(|_, statement| statement.strong_count() > 0);
            self.swept = self.statements.len();
        }
    }
}
