//! Prepared statements: one server-side name for every client that prepared the same text.
//!
//! A statement is shared when text, parameter types and session settings are the same, since the
//! settings decide what the text means (`search_path`).
//!
//! # Change of result type
//! A server fixes a statement's parameter and result types when it is parsed. Later it plans it anew
//! when it must, and refuses it when the result type has become another one (`RevalidateCachedQuery`,
//! `src/backend/utils/cache/plancache.c`). A statement that pgweir parses on another connection must
//! be refused likewise, so:
//! * The first Parse of a named statement is described, and [`Prepared`] keeps what the node said.
//! * On a connection a statement has these columns or it is not there: where it is parsed again
//!   although it is not [current](StatementRegistry::is_current), it is compared before it is used.
//! * From the moment DDL is sent until it is known what became of it ([`StatementRegistry::begin_change`])
//!   nothing is current, and nothing that is prepared shares a statement: other clients may see the
//!   change before pgweir does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use crate::backend::state::AppliedSettings;
use crate::frontend::classification::CachedText;
use crate::limits::STATEMENT_TRUST;
use crate::protocol::description::{Columns, Described, Description};

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
    /// The generation of the registry when it was parsed or compared last.
    generation: AtomicU64,
    /// When that was, in milliseconds of [`StatementNumbers::clock`].
    known_at: AtomicU64,
    /// The settings it was parsed with.
    pub settings: Arc<AppliedSettings>,
    /// What the node said of it first; `None` for the unnamed one, and where its text is not held.
    described: Option<Described>,
    /// Where it can be used.
    place: Place,
}

/// Where a statement can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On every connection: its text is held.
    Anywhere,
    /// On the connection that has parsed it: its text is too long to be held.
    Here,
}

/// When a statement was parsed or compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    generation: u64,
    at: u64,
}

impl Prepared {
    /// Its name on the nodes.
    pub fn server_name(&self) -> &[u8] {
        &self.server_name
    }

    /// Whether only the connection that has parsed it can have it, under [`Self::server_name`].
    pub fn stays(&self) -> bool {
        self.place == Place::Here
    }

    /// The same under another name than the client's `name` for it.
    pub fn stays_unlike(&self, name: &[u8]) -> bool {
        self.stays() && *self.server_name != *name
    }

    /// Where what the node says of it is kept.
    pub const fn described(&self) -> Option<&Described> {
        self.described.as_ref()
    }

    /// What the node said of it first, if that is known.
    fn description(&self) -> Option<&Description> {
        self.described.as_ref()?.get()
    }

    /// Whether its columns can have become others. Statements that are not analysed before they run
    /// take the columns of the moment (`stmt_requires_parse_analysis`,
    /// `src/backend/parser/analyze.c`).
    pub fn may_change_columns(&self) -> bool {
        let word = self.sql.trim_ascii_start();
        let is = |other: &[u8]| {
            let begins = word.get(..other.len());
            begins.is_some_and(|word| word.eq_ignore_ascii_case(other))
        };
        let description = self.description();
        description.is_some_and(|known| known.columns != Columns::None)
            && !is(b"fetch")
            && !is(b"show")
    }

    /// The parameter types that the server has found for it; else those of its Parse.
    pub fn found_types(&self) -> &[u8] {
        match self.description() {
            Some(description) => &description.types,
            None => &self.types,
        }
    }

    /// It has been found on the primary as it was described.
    pub fn confirm(&self, seen: Sighting) {
        self.generation.store(seen.generation, Ordering::Release);
        self.known_at.store(seen.at, Ordering::Release);
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
/// The same holds for generations.
#[derive(Debug, Clone)]
pub struct StatementNumbers {
    next: Arc<AtomicU64>,
    /// Where time begins.
    start: Instant,
}

impl Default for StatementNumbers {
    fn default() -> Self {
        Self {
            next: Arc::default(),
            start: Instant::now(),
        }
    }
}

impl StatementNumbers {
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// `at` in milliseconds since the start of the process.
    fn clock(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// Every statement that at least one session of a cluster has prepared.
#[derive(Debug)]
pub struct StatementRegistry {
    numbers: StatementNumbers,
    /// Grows when tables may have changed: what is prepared then is parsed anew.
    generation: Arc<AtomicU64>,
    /// How many connections run DDL whose outcome is open.
    changing: Arc<AtomicU64>,
    known: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    statements: HashMap<Key, Weak<Prepared>>,
    /// Entries after the last sweep; twice as many call for the next.
    swept: usize,
}

impl StatementRegistry {
    /// No statements yet.
    pub fn new(numbers: StatementNumbers) -> Self {
        Self {
            generation: Arc::new(AtomicU64::new(numbers.next())),
            numbers,
            changing: Arc::default(),
            known: Mutex::default(),
        }
    }

    /// No statements yet, for another list of nodes. DDL of sessions that still use `old` concerns both.
    #[must_use]
    pub fn following(old: &Self) -> Self {
        let new = Self {
            generation: Arc::clone(&old.generation),
            changing: Arc::clone(&old.changing),
            ..Self::new(old.numbers.clone())
        };
        // Nothing is known of what these nodes have.
        new.begin_generation();
        new
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
        let prepared = Arc::new(self.apart(sql, types, settings, text));
        known.statements.insert(key, Arc::downgrade(&prepared));
        known.sweep();
        prepared
    }

    /// Tables may have changed: a statement that is prepared from now on must not share one whose
    /// result type is fixed already (`RevalidateCachedQuery`, `src/backend/utils/cache/plancache.c`).
    pub fn begin_generation(&self) {
        self.generation
            .fetch_max(self.numbers.next(), Ordering::AcqRel);
    }

    /// DDL is about to be sent; [`Self::end_change`] must follow.
    pub fn begin_change(&self) {
        self.changing.fetch_add(1, Ordering::AcqRel);
    }

    /// What that DDL did is done or undone, or cannot be known.
    pub fn end_change(&self) {
        // In this order: who sees no change under way any more sees the new generation.
        self.begin_generation();
        self.changing.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether DDL is under way.
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Acquire) > 0
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is noted of a statement that is parsed at `at`.
    pub fn sighting(&self, at: Instant) -> Sighting {
        Sighting {
            generation: self.generation(),
            at: self.numbers.clock(at),
        }
    }

    /// Whether the statement means what it meant when it was parsed: no table can have changed since,
    /// or is changing, as far as pgweir has seen, these are the settings of then, and it was not long ago
    /// that the primary has said so (tables change without pgweir too). Settings that decide how a text is read
    /// may be others: it is always parsed with its own.
    pub fn is_current(
        &self,
        statement: &Prepared,
        settings: &Arc<AppliedSettings>,
        at: Instant,
    ) -> bool {
        if !self.is_untouched(statement) {
            return false;
        }
        let age = self
            .numbers
            .clock(at)
            .checked_sub(statement.known_at.load(Ordering::Acquire));
        age.is_some_and(|age| u128::from(age) < STATEMENT_TRUST.as_millis())
            && (Arc::ptr_eq(&statement.settings, settings)
                || statement.settings.agrees_beside_reading(settings))
    }

    /// Whether no table can have changed since the statement was parsed or compared, or is changing, as far as
    /// pgweir has seen.
    pub fn is_untouched(&self, statement: &Prepared) -> bool {
        // In this order: see `end_change`.
        !self.is_changing() && statement.generation.load(Ordering::Acquire) == self.generation()
    }

    /// A statement that is not shared and whose description is not kept: the unnamed one.
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
            generation: AtomicU64::new(self.generation()),
            known_at: AtomicU64::new(0),
            settings: Arc::clone(settings),
            described: None,
            place: Place::Anywhere,
        }
    }

    /// A statement whose text is not held. The node that parses it knows it by `name`, or by a name of
    /// pgweir's without one.
    pub fn streamed(
        &self,
        name: Option<&[u8]>,
        settings: &Arc<AppliedSettings>,
        text: &Arc<CachedText>,
    ) -> Prepared {
        let statement = self.unshared(&[], &[0, 0], settings, text);
        Prepared {
            server_name: name.map_or(statement.server_name, Box::from),
            place: Place::Here,
            ..statement
        }
    }

    /// A named statement that is not shared.
    pub fn apart(
        &self,
        sql: &[u8],
        types: &[u8],
        settings: &Arc<AppliedSettings>,
        text: &Arc<CachedText>,
    ) -> Prepared {
        Prepared {
            known_at: AtomicU64::new(self.numbers.clock(Instant::now())),
            described: Some(Arc::new(OnceLock::new())),
            ..self.unshared(sql, types, settings, text)
        }
    }
}

impl Shared {
    /// Forgets statements that no session has any more; each is looked at a bounded number of times.
    fn sweep(&mut self) {
        if self.statements.len() > 2 * self.swept + 1000 {
            self.statements
                .retain(|_, statement| statement.strong_count() > 0);
            self.swept = self.statements.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::classification::ClassificationCache;

    fn registry() -> (StatementRegistry, Arc<AppliedSettings>, Arc<Prepared>) {
        let registry = StatementRegistry::new(StatementNumbers::default());
        let settings = Arc::default();
        let text = ClassificationCache::default().find(b"SELECT 1").0;
        let statement = registry.intern(b"SELECT 1", &[0, 0], &settings, &text);
        (registry, settings, statement)
    }

    #[test]
    fn a_statement_is_current_until_a_table_may_have_changed_or_time_has_passed() {
        let (registry, settings, statement) = registry();
        let at = Instant::now();
        assert!(registry.is_current(&statement, &settings, at));
        let later = at + 2 * STATEMENT_TRUST;
        assert!(!registry.is_current(&statement, &settings, later));
        statement.confirm(registry.sighting(later));
        assert!(registry.is_current(&statement, &settings, later));
        let other = AppliedSettings([("search_path".to_owned(), "a".to_owned())].into());
        assert!(!registry.is_current(&statement, &Arc::new(other), later));
        let other = AppliedSettings([("timezone".to_owned(), "'UTC'".to_owned())].into());
        assert!(registry.is_current(&statement, &Arc::new(other), later));
        let before = registry.sighting(later);
        registry.begin_generation();
        assert!(!registry.is_current(&statement, &settings, later));
        statement.confirm(before);
        assert!(!registry.is_current(&statement, &settings, later));
        statement.confirm(registry.sighting(later));
        assert!(registry.is_current(&statement, &settings, later));
    }

    #[test]
    fn no_statement_is_current_while_a_table_may_be_changing() {
        let (registry, settings, statement) = registry();
        let at = Instant::now();
        registry.begin_change();
        registry.begin_change();
        statement.confirm(registry.sighting(at));
        assert!(!registry.is_current(&statement, &settings, at));
        registry.end_change();
        statement.confirm(registry.sighting(at));
        assert!(!registry.is_current(&statement, &settings, at));
        let before = registry.sighting(at);
        registry.end_change();
        statement.confirm(before);
        assert!(!registry.is_current(&statement, &settings, at));
        statement.confirm(registry.sighting(at));
        assert!(registry.is_current(&statement, &settings, at));
    }

    #[test]
    fn a_statement_of_another_registry_is_never_current() {
        let (registry, settings, statement) = registry();
        let other = StatementRegistry::new(registry.numbers.clone());
        assert!(!other.is_current(&statement, &settings, Instant::now()));
    }

    #[test]
    fn only_a_statement_that_is_analysed_anew_can_get_other_columns() {
        let (registry, settings, statement) = registry();
        assert!(!statement.may_change_columns());
        let text = &statement.text;
        for (sql, columns, may) in [
            ("SELECT 1", Columns::Digest(1), true),
            ("INSERT INTO t VALUES (1)", Columns::None, false),
            (" Fetch 1 FROM c", Columns::Digest(1), false),
            ("show work_mem", Columns::Digest(1), false),
        ] {
            let one = registry.apart(sql.as_bytes(), &[0, 0], &settings, text);
            let types: Box<[u8]> = [0, 1, 0, 0, 0, 23].into();
            assert_eq!(one.found_types(), [0, 0]);
            let description = Description {
                types: types.clone(),
                columns,
            };
            assert!(one.described().unwrap().set(description).is_ok());
            assert_eq!(one.may_change_columns(), may, "{sql}");
            assert_eq!(one.found_types(), &*types);
        }
    }
}
