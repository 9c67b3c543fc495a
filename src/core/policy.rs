//! What the configuration says about routing and consistency, in the core's own words.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::statement::Consistency;

/// `routing:` of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingPolicy {
    /// A replica whose staleness is above this serves no reads.
    pub max_staleness: Duration,
    /// A replica that is further behind than this many WAL bytes serves no reads.
    pub max_lag_bytes: u64,
    /// How to choose among equal replicas.
    pub balance: Balance,
    /// Where transaction blocks run that are not READ ONLY.
    pub transactions: Transactions,
    /// The zone of this proxy: replicas of the same zone are preferred.
    pub zone: Option<Arc<str>>,
    /// Functions (`name` or `schema.name`) that are safe on a replica in spite of the catalog.
    pub read_functions: Vec<String>,
    /// Functions (`name` or `schema.name`) that must run on the primary in spite of the catalog.
    pub write_functions: Vec<String>,
    /// Relations (`name` or `schema.name`) that only the primary may serve.
    pub primary_tables: Vec<String>,
}

/// `routing.transactions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transactions {
    /// On the primary.
    Primary,
    /// On a replica until the first statement that may write. Each statement of a READ COMMITTED block
    /// has a snapshot of its own (manual, "Read Committed Isolation Level"), so reads before it may
    /// come from another node.
    UntilWrite,
}

/// `routing.balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The replica with the fewest statements under way in proportion to its weight.
    LeastLoaded,
    /// In turn.
    RoundRobin,
    /// At random, in proportion to the weights.
    Random,
}

/// `consistency:` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsistencyPolicy {
    /// The mode of a session that asks for none.
    pub default: Consistency,
    /// How a session's own writes are guarded.
    pub read_after_write: ReadAfterWrite,
    /// Whether what a replica has shown may be missing on the primary for a moment.
    pub monotonic_reads: MonotonicReads,
    /// A bound for every read.
    pub max_staleness: Option<Duration>,
    /// How long a read may wait for a replica before the primary is used.
    pub wait: Duration,
    /// How long a read may wait at most when the primary may not be used.
    pub max_wait: Duration,
    /// The share of the primary's pool, in per cent, that reads may take which lack a replica; 100 is
    /// no limit.
    pub spill_limit: u8,
    /// One in so many reads of replicas is audited; `None` for none.
    pub audit_one_in: Option<NonZeroU32>,
    /// What to do when no replica qualifies.
    pub on_no_replica: OnNoReplica,
}

impl ConsistencyPolicy {
    /// Whether reads of a session without wishes of its own may rely on what a service states of its
    /// replicas' freshness, without a proof: the guard of writes is a time, and no bound is promised.
    pub const fn relies_on_statements(&self) -> bool {
        matches!(self.read_after_write, ReadAfterWrite::Window(_)) && self.max_staleness.is_none()
    }

    /// How many connections of a primary's pool with `size` places such reads may take at once: at
    /// least one unless the share is nothing; `None` if there is no limit.
    pub fn spill_places(&self, size: usize) -> Option<usize> {
        match self.spill_limit {
            0 => Some(0),
            share @ 1..=99 => Some((size.saturating_mul(usize::from(share)) / 100).max(1)),
            100.. => None,
        }
    }
}

/// `consistency.read_after_write` with its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAfterWrite {
    /// Until a replica is proved to have the write.
    Position,
    /// For a fixed time after the acknowledgement; never less than `routing.max_staleness`.
    Window(Duration),
}

/// `consistency.monotonic_reads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MonotonicReads {
    /// A commit that a replica has shown may still be missing on the primary, as long as the primary
    /// waits for a synchronous standby.
    #[default]
    Ordinary,
    /// A statement of a session that has read on a replica is held until the primary shows all of it.
    Strict,
}

/// `consistency.on_no_replica`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNoReplica {
    /// The primary serves the read.
    Primary,
    /// The read waits up to `max_wait`, then fails.
    Wait,
    /// The read fails.
    Error,
    /// Any replica within `routing.max_staleness` serves the read, fresh enough or not.
    Stale,
}

impl Default for RoutingPolicy {
    /// What a configuration without `routing:` means.
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(10),
            max_lag_bytes: 64 << 20,
            balance: Balance::LeastLoaded,
            transactions: Transactions::Primary,
            zone: None,
            read_functions: Vec::new(),
            write_functions: Vec::new(),
            primary_tables: Vec::new(),
        }
    }
}
