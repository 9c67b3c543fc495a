//! `routing` and `consistency`, with the overrides of clusters and users.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::ANY_TIME;
use crate::config::raw::{Bound, Faults, Field, KeyPath, Misfit, Section};
use crate::config::{Policies, units};
use crate::core::policy::{
    Balance, ConsistencyPolicy, MonotonicReads, OnNoReplica, ReadAfterWrite, RoutingPolicy,
    Transactions,
};
use crate::core::statement::Consistency;

const MAX_STALENESS: Duration = Duration::from_secs(10);
const MAX_LAG_BYTES: u64 = 64 * 1024 * 1024;
const WINDOW: Duration = Duration::from_secs(15);
const WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The rarest audit: one read in so many.
const MOST_AUDIT: u64 = 1_000_000_000;

/// The longest name in a list of functions or relations: `schema.name`.
const QUALIFIED_NAME_BYTES: usize = 2 * crate::config::limits::NAME_BYTES + 1;

/// What one place of the file says about `routing` and `consistency`.
#[derive(Clone, Default)]
pub(super) struct Layer {
    max_staleness: Option<Sited<Duration>>,
    max_lag_bytes: Option<u64>,
    balance: Option<Balance>,
    transactions: Option<Transactions>,
    read_functions: Option<Vec<String>>,
    write_functions: Option<Vec<String>>,
    primary_tables: Option<Vec<String>>,
    default: Option<Consistency>,
    monotonic_reads: Option<Sited<MonotonicReads>>,
    guard: Option<Sited<Guard>>,
    window: Option<Sited<Duration>>,
    staleness_of_every_read: Option<Bound>,
    wait: Option<Sited<Duration>>,
    max_wait: Option<Sited<Duration>>,
    spill_limit: Option<u8>,
    audit_one_in: Option<u32>,
    on_no_replica: Option<OnNoReplica>,
}

/// A value and where it stands.
#[derive(Clone)]
struct Sited<T> {
    value: T,
    path: KeyPath,
}

/// `consistency.read_after_write` without its window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Position,
    Window,
}

/// Who a layer is for.
#[derive(Clone, Copy)]
enum Scope {
    Everyone,
    User,
}

impl Layer {
    /// What stands at the top or under a cluster.
    pub(super) fn read(section: &Section<'_>) -> Self {
        Self::read_in(section, Scope::Everyone)
    }

    /// What stands under a user; `None` if nothing.
    pub(super) fn read_of_user(section: &Section<'_>) -> Option<Self> {
        let layer = Self::read_in(section, Scope::User);
        let is_present = ["routing", "consistency"]
            .into_iter()
            .any(|key| section.field(key).is_present());
        is_present.then_some(layer)
    }

    fn read_in(section: &Section<'_>, scope: Scope) -> Self {
        let mut layer = Self::default();
        if let Some(routing) = section.field("routing").section() {
            layer.read_routing(&routing, scope);
            routing.finish();
        }
        if let Some(consistency) = section.field("consistency").section() {
            layer.read_consistency(&consistency);
            consistency.finish();
        }
        layer
    }

    fn read_routing(&mut self, routing: &Section<'_>, scope: Scope) {
        let (max_staleness, max_lag) = (routing.field("max_staleness"), routing.field("max_lag"));
        match scope {
            Scope::Everyone => {
                self.max_staleness = sited(&max_staleness, |field| field.duration(ANY_TIME));
                self.max_lag_bytes = max_lag.size(1..=1 << 50);
            }
            // Whether a replica is in rotation is measured once for a whole cluster.
            Scope::User => {
                max_staleness.not_built("under a user, write consistency.max_staleness");
                max_lag.not_built("write it under a cluster or at the top");
            }
        }
        self.balance = routing.field("balance").word(&[
            ("least_loaded", Balance::LeastLoaded),
            ("round_robin", Balance::RoundRobin),
            ("random", Balance::Random),
        ]);
        self.transactions = routing.field("transactions").word(&[
            ("primary", Transactions::Primary),
            ("until_write", Transactions::UntilWrite),
        ]);
        self.read_functions = names(&routing.field("read_functions"));
        self.write_functions = names(&routing.field("write_functions"));
        self.primary_tables = names(&routing.field("primary_tables"));
    }

    fn read_consistency(&mut self, consistency: &Section<'_>) {
        self.default = consistency.field("default").word(&[
            ("eventual", Consistency::Eventual),
            ("session", Consistency::Session),
            ("latest", Consistency::Latest),
            ("primary", Consistency::Primary),
        ]);
        self.monotonic_reads = sited(&consistency.field("monotonic_reads"), |field| {
            field.word(&[
                ("ordinary", MonotonicReads::Ordinary),
                ("strict", MonotonicReads::Strict),
            ])
        });
        self.guard = sited(&consistency.field("read_after_write"), |field| {
            field.word(&[("position", Guard::Position), ("window", Guard::Window)])
        });
        let time = |key| sited(&consistency.field(key), |field| field.duration(ANY_TIME));
        self.window = time("window");
        self.max_wait = time("max_wait");
        self.wait = sited(&consistency.field("wait"), |field| {
            field.duration(Duration::ZERO..=*ANY_TIME.end())
        });
        self.staleness_of_every_read = consistency.field("max_staleness").bound(ANY_TIME);
        self.spill_limit = consistency
            .field("spill_limit")
            .parsed(|text| Ok(units::percentage(text)?));
        let audit = consistency.field("audit_one_in").number(0..=MOST_AUDIT);
        self.audit_one_in = audit.and_then(|one_in| u32::try_from(one_in).ok());
        self.on_no_replica = consistency.field("on_no_replica").word(&[
            ("primary", OnNoReplica::Primary),
            ("wait", OnNoReplica::Wait),
            ("error", OnNoReplica::Error),
            ("stale", OnNoReplica::Stale),
        ]);
    }

    /// This layer where it speaks, `below` where it is silent.
    #[must_use]
    pub(super) fn over(&self, below: &Self) -> Self {
        let (this, below) = (self.clone(), below.clone());
        Self {
            max_staleness: this.max_staleness.or(below.max_staleness),
            max_lag_bytes: this.max_lag_bytes.or(below.max_lag_bytes),
            balance: this.balance.or(below.balance),
            transactions: this.transactions.or(below.transactions),
            read_functions: this.read_functions.or(below.read_functions),
            write_functions: this.write_functions.or(below.write_functions),
            primary_tables: this.primary_tables.or(below.primary_tables),
            default: this.default.or(below.default),
            monotonic_reads: this.monotonic_reads.or(below.monotonic_reads),
            guard: this.guard.or(below.guard),
            window: this.window.or(below.window),
            staleness_of_every_read: this
                .staleness_of_every_read
                .or(below.staleness_of_every_read),
            wait: this.wait.or(below.wait),
            max_wait: this.max_wait.or(below.max_wait),
            spill_limit: this.spill_limit.or(below.spill_limit),
            audit_one_in: this.audit_one_in.or(below.audit_one_in),
            on_no_replica: this.on_no_replica.or(below.on_no_replica),
        }
    }

    /// The policies of a proxy in `zone`, with the defaults where every layer is silent.
    pub(super) fn resolve(self, zone: Option<Arc<str>>, faults: &Faults<'_>) -> Policies {
        self.check_window(faults);
        self.check_waits(faults);
        self.check_monotonic_reads(faults);
        let guard = self.guard.as_ref().map_or(Guard::Position, |g| g.value);
        Policies {
            consistency: ConsistencyPolicy {
                default: self.default.unwrap_or(Consistency::Session),
                read_after_write: match guard {
                    Guard::Position => ReadAfterWrite::Position,
                    Guard::Window => ReadAfterWrite::Window(value(self.window.as_ref(), WINDOW)),
                },
                monotonic_reads: self.monotonic_reads.map(|m| m.value).unwrap_or_default(),
                max_staleness: self.staleness_of_every_read.and_then(Bound::duration),
                wait: value(self.wait.as_ref(), WAIT),
                max_wait: value(self.max_wait.as_ref(), MAX_WAIT),
                spill_limit: self.spill_limit.unwrap_or(100),
                audit_one_in: self.audit_one_in.and_then(NonZeroU32::new),
                on_no_replica: self.on_no_replica.unwrap_or(OnNoReplica::Primary),
            },
            routing: RoutingPolicy {
                max_staleness: value(self.max_staleness.as_ref(), MAX_STALENESS),
                max_lag_bytes: self.max_lag_bytes.unwrap_or(MAX_LAG_BYTES),
                balance: self.balance.unwrap_or(Balance::LeastLoaded),
                transactions: self.transactions.unwrap_or(Transactions::Primary),
                zone,
                read_functions: self.read_functions.unwrap_or_default(),
                write_functions: self.write_functions.unwrap_or_default(),
                primary_tables: self.primary_tables.unwrap_or_default(),
            },
        }
    }

    /// A window guards a session's own writes only if no replica in rotation is further behind.
    fn check_window(&self, faults: &Faults<'_>) {
        let Some(guard) = self.guard.as_ref().filter(|g| g.value == Guard::Window) else {
            return;
        };
        let window = value(self.window.as_ref(), WINDOW);
        let staleness = value(self.max_staleness.as_ref(), MAX_STALENESS);
        if window >= staleness {
            return;
        }
        let (window, staleness) = (shown(window), shown(staleness));
        let misfit = Misfit::new(format!(
            "makes a window of {window}, shorter than routing.max_staleness of {staleness}"
        ))
        .hint(format!(
            "a read would miss the session's own write: at least {staleness}"
        ));
        let site = self
            .window
            .as_ref()
            .map_or(&guard.path, |sited| &sited.path);
        faults.note(site, misfit);
    }

    /// Nothing is monotonic where a read may show less than an earlier one anyway.
    fn check_monotonic_reads(&self, faults: &Faults<'_>) {
        let strict = |m: &&Sited<MonotonicReads>| m.value == MonotonicReads::Strict;
        let Some(strict) = self.monotonic_reads.as_ref().filter(strict) else {
            return;
        };
        let contradiction = match (self.default, self.on_no_replica) {
            (Some(Consistency::Eventual), _) => "default: eventual",
            (_, Some(OnNoReplica::Stale)) => "on_no_replica: stale",
            _ => return,
        };
        let misfit = Misfit::new(format!("cannot be strict with {contradiction}"))
            .hint("reads may show less than earlier ones there: write ordinary");
        faults.note(&strict.path, misfit);
    }

    fn check_waits(&self, faults: &Faults<'_>) {
        let wait = value(self.wait.as_ref(), WAIT);
        let max_wait = value(self.max_wait.as_ref(), MAX_WAIT);
        let site = self.max_wait.as_ref().or(self.wait.as_ref());
        if let Some(site) = site.filter(|_| max_wait < wait) {
            let (wait, max_wait) = (shown(wait), shown(max_wait));
            let misfit = Misfit::new(format!(
                "makes max_wait {max_wait}, shorter than wait {wait}"
            ))
            .hint("max_wait is the longest wait of all");
            faults.note(&site.path, misfit);
        }
    }
}

fn sited<T>(field: &Field<'_>, read: impl FnOnce(&Field<'_>) -> Option<T>) -> Option<Sited<T>> {
    let path = field.path().clone();
    read(field).map(|value| Sited { value, path })
}

fn value(sited: Option<&Sited<Duration>>, default: Duration) -> Duration {
    sited.map_or(default, |sited| sited.value)
}

fn shown(duration: Duration) -> String {
    units::show_duration(duration)
}

/// A list of `name` or `schema.name`; `None` if it is absent.
fn names(field: &Field<'_>) -> Option<Vec<String>> {
    let entries = field.list();
    let names = entries
        .iter()
        .filter_map(|entry| {
            entry.text(QUALIFIED_NAME_BYTES).filter(|name| {
                let is_name = is_qualified_name(name);
                if !is_name {
                    entry.refuse(
                        Misfit::new("is not a name")
                            .hint("write `name` or `schema.name`, without arguments or quotes"),
                    );
                }
                is_name
            })
        })
        .collect();
    field.is_present().then_some(names)
}

fn is_qualified_name(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let is_part = |part: &&str| {
        !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || "()\"',;".contains(c))
    };
    parts.len() <= 2 && parts.iter().all(is_part)
}
