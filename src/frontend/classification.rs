//! Remembers what texts were classified as: by the text without its literals, or by the text itself
//! where a literal may matter.
//!
//! A text is analysed once; the verdict is judged again only when the catalog, the policy or the
//! list of learned writes has changed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use crate::config::Policies;
use crate::core::catalog::Catalog;
use crate::core::classify::{Analysis, Held, Normalised, analyse, is_apart_from, judge, normalise};
use crate::core::policy::RoutingPolicy;
use crate::core::segment::may_share_transaction;
use crate::core::statement::{
    AccessMode, Classification, ProxyStatement, Reason, SessionEffect, TransactionControl,
};
use crate::frontend::options::DatabaseOptions;
use crate::limits::{CLASSIFICATION_CACHE_BYTES, CLASSIFY_TEXT_BYTES, LEARNED_WRITES};
use crate::metrics::CacheOutcome;

/// A text that has been analysed, with its latest verdict.
#[derive(Debug)]
pub struct CachedText {
    analysis: Analysis,
    /// The statement for pgweir itself that it is.
    own: Option<ProxyStatement>,
    /// Whether something else may run before it in its transaction.
    company: Company,
    /// What [`LearnedWrites`] knows it by: the text without its literals where that is safe.
    identity: Box<[u8]>,
    judged: ArcSwapOption<Judged>,
}

/// Whether something else may run before a text in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// It may.
    Bears,
    /// It may not, or the text is about transactions itself.
    None,
}

#[derive(Debug)]
struct Judged {
    catalog: Option<Weak<Catalog>>,
    policies: Weak<Policies>,
    learned: u64,
    classification: Arc<Classification>,
}

/// What a verdict depends on besides the text.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The catalog of the session's database, if it is known now.
    pub catalog: Option<&'a Arc<Catalog>>,
    /// The policies in force for the session.
    pub policies: &'a Arc<Policies>,
    /// Statements that replicas have refused.
    pub learned: &'a LearnedWrites,
}

impl CachedText {
    fn new(sql: &[u8], identity: &[u8]) -> Self {
        let analysis = analyse(sql);
        // No catalog and no list bears on either.
        let alone = judge(&analysis, None, &RoutingPolicy::default());
        Self {
            analysis,
            own: own_statement(&alone),
            company: company(&alone),
            identity: identity.into(),
            judged: ArcSwapOption::empty(),
        }
    }

    /// A text that is too long to be held.
    pub fn unread() -> Self {
        Self {
            analysis: Analysis::unread(),
            own: None,
            company: Company::None,
            identity: Box::default(),
            judged: ArcSwapOption::empty(),
        }
    }

    /// The statement for pgweir itself that the text is, if it is one.
    pub fn own(&self) -> Option<&ProxyStatement> {
        self.own.as_ref()
    }

    /// Whether something else may run before it in its transaction.
    pub fn company(&self) -> Company {
        self.company
    }

    /// The verdict in these circumstances.
    pub fn judge(&self, now: Circumstances<'_>) -> Arc<Classification> {
        let learned = now.learned.generation();
        if let Some(judged) = self.judged.load().as_ref()
            && judged.fits(now, learned)
        {
            return Arc::clone(&judged.classification);
        }
        let catalog = now.catalog.map(AsRef::as_ref);
        let mut classification = judge(&self.analysis, catalog, &now.policies.routing);
        if classification.access == AccessMode::ReadOnly && now.learned.contains(&self.identity) {
            classification = as_learned_write(classification);
        }
        let classification = Arc::new(classification);
        self.judged.store(Some(Arc::new(Judged {
            catalog: now.catalog.map(Arc::downgrade),
            policies: Arc::downgrade(now.policies),
            learned,
            classification: Arc::clone(&classification),
        })));
        classification
    }

    /// Whether nothing in the text can mean what is held on one connection.
    pub fn is_apart_from(&self, held: Held<'_>, catalog: &Catalog) -> bool {
        is_apart_from(held, &self.analysis, catalog)
    }

    /// What [`LearnedWrites`] knows the text by.
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }
}

impl Judged {
    fn fits(&self, now: Circumstances<'_>, learned: u64) -> bool {
        let same_catalog = match (&self.catalog, now.catalog) {
            (Some(then), Some(now)) => std::ptr::eq(then.as_ptr(), Arc::as_ptr(now)),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_catalog
            && self.learned == learned
            && std::ptr::eq(self.policies.as_ptr(), Arc::as_ptr(now.policies))
    }
}

fn company(classification: &Classification) -> Company {
    let mut statements = classification.statements.iter();
    let apart = statements.all(|one| one.transaction == TransactionControl::None);
    if apart && may_share_transaction(classification) {
        Company::Bears
    } else {
        Company::None
    }
}

fn own_statement(classification: &Classification) -> Option<ProxyStatement> {
    match &*classification.statements {
        [only] => match &only.session {
            SessionEffect::Proxy(statement) => Some(statement.clone()),
            SessionEffect::None
            | SessionEffect::Setting(_)
            | SessionEffect::LocalSetting(_)
            | SessionEffect::WatchesCounters
            | SessionEffect::DiscardAll
            | SessionEffect::DeallocateAll
            | SessionEffect::Pins(_)
            | SessionEffect::MayConfigure(..) => None,
        },
        _ => None,
    }
}

fn as_learned_write(mut classification: Classification) -> Classification {
    classification.access = AccessMode::ReadWrite;
    classification.reason = Reason::LearnedWrite;
    for statement in &mut classification.statements {
        statement.access = AccessMode::ReadWrite;
        statement.reason = Reason::LearnedWrite;
    }
    classification
}

/// The classified texts of one worker. Bounded in bytes: when the newer half is full it becomes the
/// older half, and the older half is forgotten.
#[derive(Debug, Default)]
pub struct ClassificationCache {
    newer: HashMap<Box<[u8]>, Arc<CachedText>>,
    older: HashMap<Box<[u8]>, Arc<CachedText>>,
    newer_bytes: usize,
    scratch: Vec<u8>,
}

/// What an entry costs besides the text itself, in bytes; an estimate of the analysis.
const ENTRY_OVERHEAD_BYTES: usize = 512;

impl ClassificationCache {
    /// Finds or analyses `sql`. Texts that differ only in literals share one entry.
    pub fn find(&mut self, sql: &[u8]) -> (Arc<CachedText>, CacheOutcome) {
        if sql.len() > CLASSIFY_TEXT_BYTES {
            return (Arc::new(CachedText::new(sql, &[])), CacheOutcome::Miss);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let found = match normalise(sql, &mut scratch) {
            Normalised::Literals => {
                // A text has no NUL, so a normalised one cannot be mistaken for one as it came.
                scratch.push(0);
                self.find_key(sql, &scratch, CacheOutcome::Normalised)
            }
            Normalised::AsIs => self.find_key(sql, sql, CacheOutcome::Raw),
        };
        self.scratch = scratch;
        found
    }

    fn find_key(
        &mut self,
        sql: &[u8],
        key: &[u8],
        outcome: CacheOutcome,
    ) -> (Arc<CachedText>, CacheOutcome) {
        if let Some(found) = self.lookup(key) {
            return (found, outcome);
        }
        let text = Arc::new(CachedText::new(sql, key));
        self.insert(key, &text);
        (text, CacheOutcome::Miss)
    }

    fn lookup(&mut self, key: &[u8]) -> Option<Arc<CachedText>> {
        if let Some(found) = self.newer.get(key) {
            return Some(Arc::clone(found));
        }
        let found = self.older.get(key).map(Arc::clone)?;
        self.insert(key, &found);
        Some(found)
    }

    fn insert(&mut self, key: &[u8], text: &Arc<CachedText>) {
        if self.newer_bytes > CLASSIFICATION_CACHE_BYTES / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }
        self.newer_bytes += key.len() + ENTRY_OVERHEAD_BYTES;
        self.newer.insert(key.into(), Arc::clone(text));
    }
}

/// Statements that a replica refused although they were classified as reads; of one database.
#[derive(Debug, Default)]
pub struct LearnedWrites {
    generation: AtomicU64,
    /// Whether anybody asks a connection what its sequences gave last.
    asks_sequences: AtomicBool,
    /// What is known of customized options.
    pub options: DatabaseOptions,
    identities: Mutex<HashSet<Box<[u8]>>>,
}

impl LearnedWrites {
    /// No writes yet, and the rest of what `old` knows that does not depend on nodes.
    #[must_use]
    pub fn following(old: &Self) -> Self {
        Self {
            asks_sequences: AtomicBool::new(old.asks_sequences()),
            options: DatabaseOptions::following(&old.options),
            ..Self::default()
        }
    }

    /// Remembers that the text with this identity must run on the primary. When full, everything is
    /// forgotten first: a forgotten statement is refused by a replica once more.
    pub fn learn(&self, identity: &[u8]) {
        let mut identities = self
            .identities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if identities.len() >= LEARNED_WRITES {
            identities.clear();
        }
        identities.insert(identity.into());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether `currval` or `lastval` has been used in this database: what writes may be asked for the
    /// numbers that it was given.
    pub fn asks_sequences(&self) -> bool {
        self.asks_sequences.load(Ordering::Relaxed)
    }

    /// Remembers that `currval` or `lastval` is used.
    pub fn note_sequences_asked(&self) {
        self.asks_sequences.store(true, Ordering::Relaxed);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn contains(&self, identity: &[u8]) -> bool {
        let nothing_learned = self.generation() == 0;
        !nothing_learned
            && self
                .identities
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(identity)
    }
}
