//! The catalog of one database with the DDL that was seen since it was loaded, and when anybody last
//! wrote there.
//!
//! Invariants:
//! * What a load brings covers the DDL up to the mark that was taken before it began, and no more:
//!   later DDL stays doubtful.
//! * A reader takes no lock.

mod occupancy;
mod prepared;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::core::catalog::{Catalog, TouchedNames};
use crate::core::statement::{CatalogEffect, TouchedName, TwoPhaseStep};
use crate::limits::TOUCHED_NAMES;

pub use occupancy::{Occupancy, Occupant};
pub use prepared::PreparedTransactions;

/// The catalog of one database with the DDL that was seen since it was loaded.
#[derive(Debug)]
pub struct DatabaseCatalog {
    history: Mutex<History>,
    /// What follows from `history`.
    standing: ArcSwapOption<Standing>,
    /// A read has met something that is not known now.
    wanted: AtomicBool,
    changed: Notify,
    /// How many loads were published.
    loads: AtomicU64,
    /// How long the last load took, in nanoseconds; 0 before the first, and after one that failed.
    load_nanos: AtomicU64,
    /// Whether the last load has failed for a reason that is there to stay.
    out_of_reach: AtomicBool,
    /// Up to this number of loads, nobody waits for one: a read has waited in vain.
    vain_until: AtomicU64,
    /// What transactions may have changed that are prepared and not committed yet.
    pub prepared: PreparedTransactions,
    /// When pgweir first met the database.
    since: Instant,
    /// When a write was last acknowledged, in nanoseconds since then; 0 for never.
    written: Arc<AtomicU64>,
    /// Who is in the database.
    pub occupancy: Occupancy,
    /// The catalog of the same database under a later list of nodes: what sessions do that still use the
    /// earlier one is noted there too.
    successor: OnceLock<Arc<DatabaseCatalog>>,
}

/// For so many loads nobody waits after somebody has waited in vain.
const LOADS_WITHOUT_WAIT: u64 = 8;

/// How much DDL had been seen when a load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DdlMark {
    seen: u64,
    /// When the last of it was seen complete; `None` before the first.
    pub at: Option<Instant>,
}

#[derive(Debug, Default)]
struct History {
    /// Grows with every DDL statement that matters to a read.
    seen: u64,
    last_at: Option<Instant>,
    /// The last of them whose reach is not known; 0 for none.
    unbounded: u64,
    /// The others, each with its number.
    touched: Vec<(u64, TouchedName)>,
    /// Procedures that were called while everything was doubtful, and by the older catalog run no DDL,
    /// numbered like DDL: the next load tells whether that was so.
    called: Vec<(u64, Arc<str>)>,
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    as_of: u64,
    catalog: Arc<Catalog>,
}

/// Why there is no catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFailure {
    /// The next load may succeed.
    Passing,
    /// It will not, as long as the database is as it is.
    Lasting,
}

#[derive(Debug)]
struct Standing {
    catalog: Arc<Catalog>,
    currency: Currency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Currency {
    Current,
    Doubtful,
}

impl Default for DatabaseCatalog {
    fn default() -> Self {
        Self {
            history: Mutex::new(History::default()),
            standing: ArcSwapOption::empty(),
            wanted: AtomicBool::new(false),
            changed: Notify::new(),
            loads: AtomicU64::new(0),
            load_nanos: AtomicU64::new(0),
            out_of_reach: AtomicBool::new(false),
            vain_until: AtomicU64::new(0),
            prepared: PreparedTransactions::default(),
            since: Instant::now(),
            written: Arc::default(),
            occupancy: Occupancy::default(),
            successor: OnceLock::new(),
        }
    }
}

impl DatabaseCatalog {
    /// The catalog of the same database under a later list of nodes, not loaded yet; the first call
    /// decides.
    pub fn followed(&self) -> Arc<Self> {
        let followed = self.successor.get_or_init(|| {
            Arc::new(Self {
                since: self.since,
                written: Arc::clone(&self.written),
                occupancy: self.occupancy.followed(),
                ..Self::default()
            })
        });
        Arc::clone(followed)
    }

    /// Has `next` follow, unless something does already.
    pub fn follow_with(&self, next: Arc<Self>) {
        let _earlier = self.successor.set(next);
    }

    /// The catalog, if it is loaded and nothing in it is doubtful; else a load is wanted.
    pub fn current(&self) -> Option<Arc<Catalog>> {
        let standing = self.standing.load();
        let current = standing
            .as_ref()
            .filter(|standing| standing.currency == Currency::Current);
        if current.is_none() {
            self.want();
        }
        current.map(|standing| Arc::clone(&standing.catalog))
    }

    /// The catalog as it was loaded, with what DDL has made doubtful in it; `None` before the first
    /// load. Another value after every DDL statement that matters to a read.
    pub fn latest(&self) -> Option<Arc<Catalog>> {
        let standing = self.standing.load();
        standing
            .as_ref()
            .map(|standing| Arc::clone(&standing.catalog))
    }

    /// Notes that something which may have written was acknowledged at `at`, to whichever session.
    pub fn note_write(&self, at: Instant) {
        let since = at.saturating_duration_since(self.since).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.written.fetch_max(since, Ordering::AcqRel);
    }

    /// When the last write was acknowledged, rounded up; `None` before the first.
    pub fn last_write(&self) -> Option<Instant> {
        match self.written.load(Ordering::Acquire) {
            0 => None,
            since => self.since.checked_add(Duration::from_nanos(since)),
        }
    }

    /// Has whoever loads it close the connection for that.
    pub fn leave(&self) {
        self.occupancy.leave();
        if let Some(next) = self.successor.get() {
            next.leave();
        }
    }

    /// Notes that a read went to the primary because the catalog is not known: a load is worth it.
    pub fn want(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    /// Notes that DDL may have run: what it reaches is doubtful until the next load.
    pub fn invalidate(&self, effect: &CatalogEffect) {
        self.invalidate_own(effect);
        if let Some(next) = self.successor.get() {
            next.invalidate(effect);
        }
    }

    fn invalidate_own(&self, effect: &CatalogEffect) {
        let mut history = self.lock();
        if let CatalogEffect::Calls(procedure) = effect
            && history.is_quiet(procedure)
        {
            history.note_call(procedure, Instant::now());
            return;
        }
        let names: Option<&[TouchedName]> = match effect {
            CatalogEffect::None
            | CatalogEffect::TwoPhase(TwoPhaseStep::Prepare | TwoPhaseStep::Rollback, _) => return,
            CatalogEffect::MayChange
            | CatalogEffect::Calls(_)
            | CatalogEffect::TwoPhase(TwoPhaseStep::Commit, _) => None,
            CatalogEffect::Removes => Some(&[]),
            CatalogEffect::Touches(names) => Some(names),
        };
        // Without a catalog it is not known whether event triggers do more.
        let names = names.filter(|_| {
            let loaded = history.loaded.as_ref();
            loaded.is_some_and(|loaded| !loaded.catalog.has_event_triggers())
        });
        if names.is_some() && matches!(effect, CatalogEffect::Touches(none) if none.is_empty()) {
            return;
        }
        history.note(names, Instant::now());
        if names.is_none_or(|names| !names.is_empty()) {
            self.standing.store(history.standing());
        }
        drop(history);
        self.changed.notify_waiters();
    }

    /// The mark to hand to [`Self::publish`]; taken before the load begins.
    pub fn ddl_mark(&self) -> DdlMark {
        let history = self.lock();
        self.wanted.store(false, Ordering::Release);
        DdlMark {
            seen: history.seen,
            at: history.last_at,
        }
    }

    /// Publishes what a load that began at `as_of` has found.
    pub fn publish(&self, as_of: DdlMark, catalog: Catalog) {
        let mut history = self.lock();
        history.loaded(as_of.seen, catalog);
        let standing = history.standing();
        if standing
            .as_ref()
            .is_some_and(|s| s.currency == Currency::Current)
        {
            self.wanted.store(false, Ordering::Release);
        }
        self.out_of_reach.store(false, Ordering::Relaxed);
        self.standing.store(standing);
        self.loads.fetch_add(1, Ordering::AcqRel);
        drop(history);
        self.changed.notify_waiters();
    }

    /// Notes how long a load took.
    pub fn note_load(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.load_nanos.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Notes that a load failed: nobody knows when the next one ends.
    pub fn note_failed_load(&self, failure: LoadFailure) {
        self.load_nanos.store(0, Ordering::Relaxed);
        if failure == LoadFailure::Lasting {
            self.out_of_reach.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there is no catalog, and most likely will be none: the database has too much for one.
    pub fn is_out_of_reach(&self) -> bool {
        self.out_of_reach.load(Ordering::Relaxed) && self.loads() == 0
    }

    /// Notes that a read has waited as long as it may and was not told: under such DDL the next ones would
    /// not be told either.
    pub fn note_vain_wait(&self) {
        let until = self.loads().saturating_add(LOADS_WITHOUT_WAIT);
        self.vain_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether reads wait for loads at present.
    pub fn is_waited_for(&self) -> bool {
        self.loads() >= self.vain_until.load(Ordering::Relaxed)
    }

    /// How long the last load took; `None` before the first, and after one that failed.
    pub fn load_takes(&self) -> Option<Duration> {
        match self.load_nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// How many loads were published.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Acquire)
    }

    /// Resolves when more than `loads` were published.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn loaded_beyond(&self, loads: u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.loads() > loads {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when a load is due: there never was one, a read wants what is doubtful, or something is
    /// and there was no more DDL for `pause`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn load_due(&self, pause: Duration) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.due_at(pause) {
                Due::Now => return,
                Due::At(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                Due::Never => changed.await,
            }
        }
    }

    fn due_at(&self, pause: Duration) -> Due {
        let history = self.lock();
        let now = Instant::now();
        match (&history.loaded, history.last_at) {
            (None, _) => Due::Now,
            (Some(loaded), Some(last_at)) if loaded.as_of < history.seen => {
                let at = last_at.checked_add(pause).unwrap_or(now);
                if at <= now || self.wanted.load(Ordering::Acquire) {
                    Due::Now
                } else {
                    Due::At(at)
                }
            }
            (Some(_), _) => Due::Never,
        }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a load is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    At(Instant),
    Never,
}

impl History {
    /// One more DDL statement; its reach is not known without `names`.
    fn note(&mut self, names: Option<&[TouchedName]>, at: Instant) {
        self.seen += 1;
        self.last_at = Some(at);
        let seen = self.seen;
        for touched in names.unwrap_or_default() {
            let known = self.touched.iter_mut().find(|(_, known)| known == touched);
            match known {
                Some((mark, _)) => *mark = seen,
                None => self.touched.push((seen, touched.clone())),
            }
        }
        let mut names_called = names
            .unwrap_or_default()
            .iter()
            .map(|touched| &touched.name);
        let another = names_called.any(|name| self.called.iter().any(|(_, call)| **call == **name));
        if names.is_none() || another || self.touched.len() > TOUCHED_NAMES {
            self.make_unbounded();
        }
    }

    fn make_unbounded(&mut self) {
        self.unbounded = self.seen;
        self.touched.clear();
        self.called.clear();
    }

    /// Whether no procedure of this name runs DDL, by what is loaded and what was touched since.
    fn is_quiet(&self, procedure: &str) -> bool {
        let loaded = self.loaded.as_ref();
        loaded.is_some_and(|loaded| loaded.catalog.runs_no_ddl(procedure))
            && self
                .touched
                .iter()
                .all(|(_, touched)| *touched.name != *procedure)
    }

    /// A call of a procedure that is quiet. Where all is doubtful it may have been replaced.
    fn note_call(&mut self, procedure: &Arc<str>, at: Instant) {
        if self
            .loaded
            .as_ref()
            .is_some_and(|loaded| self.unbounded <= loaded.as_of)
        {
            return;
        }
        self.seen += 1;
        self.last_at = Some(at);
        self.called.retain(|(_, known)| known != procedure);
        self.called.push((self.seen, Arc::clone(procedure)));
        if self.called.len() > TOUCHED_NAMES {
            self.make_unbounded();
        }
    }

    fn loaded(&mut self, as_of: u64, catalog: Catalog) {
        self.touched.retain(|(mark, _)| *mark > as_of);
        self.called.retain(|(mark, _)| *mark > as_of);
        let has_run_ddl = self
            .called
            .iter()
            .any(|(_, call)| !catalog.runs_no_ddl(call));
        // They were not known to be there when the later DDL was noted.
        let event_triggers = catalog.has_event_triggers() && as_of < self.seen;
        if has_run_ddl || event_triggers {
            self.make_unbounded();
        }
        self.loaded = Some(Loaded {
            as_of,
            catalog: Arc::new(catalog),
        });
    }

    fn standing(&self) -> Option<Arc<Standing>> {
        let loaded = self.loaded.as_ref()?;
        let (catalog, currency) = if self.unbounded > loaded.as_of {
            let catalog = loaded.catalog.doubting_everything();
            (Arc::new(catalog), Currency::Doubtful)
        } else if self.touched.is_empty() {
            (Arc::clone(&loaded.catalog), Currency::Current)
        } else {
            let catalog = loaded.catalog.doubting(self.names());
            (Arc::new(catalog), Currency::Doubtful)
        };
        Some(Arc::new(Standing { catalog, currency }))
    }

    fn names(&self) -> TouchedNames {
        let mut names = TouchedNames::with_capacity(self.touched.len());
        for (_, touched) in &self.touched {
            let kind = names.entry(touched.name.clone()).or_insert(touched.kind);
            *kind = kind.and(touched.kind);
        }
        names
    }
}

#[cfg(test)]
mod tests;
