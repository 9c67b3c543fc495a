//! What pgweir counts, under the names of its Prometheus interface.
//!
//! Invariants:
//! * Counting takes no lock and looks nothing up: handles are resolved once for a cluster.
//! * Every label value comes from a closed enum or from the configuration, never from a peer.
//! * A series is printed only once it has been counted.
//!
//! It must not read a clock: times come in as arguments.

mod atomic;
mod exposition;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::config::ClusterConfig;
use crate::core::audit::AuditVerdict;
use crate::core::crossing::CrossingOutcome;
use crate::core::freshness::replay_wait::WaitOutcome;
use crate::core::router::RouteReason;
use crate::core::snapshot::{NodeId, NodeRole, RoutingSnapshot};
use crate::core::statement::{PinReason, Reason};

pub use atomic::Gauge;
use atomic::{Histogram, LabelledCounters};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const ROUTE_REASONS: usize = RouteReason::ALL.len();
const STATEMENT_REASONS: usize = Reason::TooLong as usize + 1;
const PIN_REASONS: usize = PinReason::NotUnderstood as usize + 1;

/// All that one process counts.
#[derive(Debug, Default)]
pub struct Metrics {
    process: Arc<ProcessMetrics>,
    clusters: Mutex<BTreeMap<Arc<str>, ClusterSeries>>,
}

/// Series without a cluster label.
#[derive(Debug, Default)]
struct ProcessMetrics {
    clients: Gauge,
    proxy_overhead: Histogram,
    freshness_wait: Histogram,
    pool_wait: Histogram,
    displaced: LabelledCounters<ROUTE_REASONS>,
    misrouted: LabelledCounters<{ Sqlstate::COUNT }>,
    retries: LabelledCounters<{ RetryCause::Missing as usize + 1 }>,
    evictions: LabelledCounters<2>,
    pins: LabelledCounters<PIN_REASONS>,
    classified: LabelledCounters<STATEMENT_REASONS>,
    classify_cache: LabelledCounters<3>,
    causal_store: LabelledCounters<3>,
    audits: LabelledCounters<{ AuditVerdict::ALL.len() }>,
    barriers: LabelledCounters<{ CrossingOutcome::ALL.len() }>,
}

/// Series of one cluster; they outlive a reload, so that counters never go back.
#[derive(Debug, Default, Clone)]
struct ClusterSeries {
    nodes: BTreeMap<Arc<str>, Arc<NodeMetrics>>,
    answered: Arc<LabelledCounters<ROUTE_REASONS>>,
}

#[derive(Debug, Default)]
struct NodeMetrics {
    roles: [RoleMetrics; 3],
    samples: LabelledCounters<1>,
    replay_waits: LabelledCounters<{ WaitOutcome::ALL.len() }>,
    connections: [Arc<Gauge>; 3],
}

#[derive(Debug, Default)]
struct RoleMetrics {
    queries: LabelledCounters<ROUTE_REASONS>,
    seconds: OnceLock<Box<Histogram>>,
}

/// What a pooled server connection is doing: the label `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// Lent to a session.
    Active,
    /// Waiting to be lent.
    Idle,
    /// Being opened.
    Connecting,
}

impl PoolState {
    const ALL: [Self; 3] = [Self::Active, Self::Idle, Self::Connecting];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
        }
    }
}

/// Why an idle connection was closed to make room: the label `cause` of `pgweir_pool_evictions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionCause {
    /// A session needs other start-up parameters.
    Startup,
    /// Other sessions have used customized options there.
    Options,
}

impl EvictionCause {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Options => "options",
        }
    }
}

/// Why a statement was sent to a second node: the label `cause` of `pgweir_retries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// The replica cancelled it because of a conflict with recovery.
    Conflict,
    /// The connection was lost before the first byte of a result.
    Lost,
    /// The replica does not have an object that the statement names, or lacks a feature that the primary
    /// may have.
    Missing,
}

impl RetryCause {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Lost => "lost",
            Self::Missing => "missing",
        }
    }
}

/// How a text found its classification: the label `outcome` of `pgweir_classify_cache_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// The text itself was known.
    Raw,
    /// The text was known but for its literals.
    Normalised,
    /// It was parsed.
    Miss,
}

impl CacheOutcome {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Normalised => "normalised",
            Self::Miss => "miss",
        }
    }
}

/// What came of the store of causal keys: the label `outcome` of `pgweir_causal_store_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOutcome {
    /// It has answered.
    Answered,
    /// It has not, in time: the statement was bound to all that was acknowledged before.
    Unavailable,
    /// A write was acknowledged that other proxies were not told of.
    Unpublished,
}

impl StoreOutcome {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unavailable => "unavailable",
            Self::Unpublished => "unpublished",
        }
    }
}

/// The closed set of SQLSTATEs by which a replica refuses a write.
struct Sqlstate;

impl Sqlstate {
    const KNOWN: [&'static str; 4] = ["25006", "0A000", "55000", "XX000"];
    const COUNT: usize = Self::KNOWN.len() + 1;

    /// The place and the label of `code`.
    fn label(code: &str) -> (usize, &'static str) {
        Self::KNOWN
            .iter()
            .position(|known| *known == code)
            .and_then(|place| Some((place, *Self::KNOWN.get(place)?)))
            .unwrap_or((Self::KNOWN.len(), "other"))
    }
}

impl Metrics {
    /// Metrics that nobody has counted in yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The handles of one cluster. The same cluster and node names share their series over calls,
    /// so that a reload keeps every count.
    pub fn cluster(&self, config: &ClusterConfig) -> Arc<ClusterMetrics> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let series = clusters.entry(Arc::clone(&config.name)).or_default();
        // A node that left the configuration is dropped once nobody counts in it any more.
        series.nodes.retain(|name, node| {
            config.nodes.iter().any(|kept| kept.name == *name) || Arc::strong_count(node) > 1
        });
        let nodes = config
            .nodes
            .iter()
            .map(|node| Arc::clone(series.nodes.entry(Arc::clone(&node.name)).or_default()))
            .collect();
        Arc::new(ClusterMetrics {
            process: Arc::clone(&self.process),
            answered: Arc::clone(&series.answered),
            nodes,
            stray: NodeMetrics::default(),
        })
    }

    /// The number of connected clients.
    pub fn clients(&self) -> &Gauge {
        &self.process.clients
    }

    /// The text for a scrape at `now`; staleness, lag and reachability are those of `snapshots`,
    /// by cluster name.
    ///
    /// # Errors
    /// Only if the encoder of the metrics library fails.
    pub fn render(
        &self,
        snapshots: &[(Arc<str>, Arc<RoutingSnapshot>)],
        now: Instant,
    ) -> Result<String, std::fmt::Error> {
        exposition::render(self, snapshots, now)
    }
}

/// The handles of one cluster, shared by all its sessions.
///
/// A node id that the configuration does not have is counted nowhere.
#[derive(Debug)]
pub struct ClusterMetrics {
    process: Arc<ProcessMetrics>,
    answered: Arc<LabelledCounters<ROUTE_REASONS>>,
    nodes: Box<[Arc<NodeMetrics>]>,
    /// Takes what belongs to no node, and is never printed.
    stray: NodeMetrics,
}

impl ClusterMetrics {
    fn node(&self, node: NodeId) -> &NodeMetrics {
        self.nodes
            .get(node.index())
            .map_or(&self.stray, AsRef::as_ref)
    }

    fn role(&self, node: NodeId, role: NodeRole) -> &RoleMetrics {
        let [primary, replica, unknown] = &self.node(node).roles;
        match role {
            NodeRole::Primary => primary,
            NodeRole::Replica => replica,
            NodeRole::Unknown => unknown,
        }
    }

    /// One statement was sent to `node`, which serves it as `role` because of `reason`.
    pub fn count_query(&self, node: NodeId, role: NodeRole, reason: RouteReason) {
        let queries = &self.role(node, role).queries;
        queries.count(reason as usize, reason.as_str());
    }

    /// One statement was answered by pgweir itself; it has no node, and the role `proxy`.
    pub fn count_answered(&self) {
        let reason = RouteReason::Proxy;
        self.answered.count(reason as usize, reason.as_str());
    }

    /// How many statements `node` has been sent so far, in any role.
    pub fn queries_of(&self, node: NodeId) -> u64 {
        let counted = self.node(node).roles.iter();
        counted
            .flat_map(|role| role.queries.counted())
            .map(|(_, count)| count)
            .sum()
    }

    /// From the statement's arrival to the end of its answer.
    pub fn observe_query_seconds(&self, node: NodeId, role: NodeRole, time: Duration) {
        let seconds = &self.role(node, role).seconds;
        seconds.get_or_init(Box::default).observe(time);
    }

    /// The part of a statement's time that was pgweir's own.
    pub fn observe_proxy_overhead(&self, time: Duration) {
        self.process.proxy_overhead.observe(time);
    }

    /// How long a read waited for a replica to be fresh enough.
    pub fn observe_freshness_wait(&self, time: Duration) {
        self.process.freshness_wait.observe(time);
    }

    /// How long a session waited for a server connection.
    pub fn observe_pool_wait(&self, time: Duration) {
        self.process.pool_wait.observe(time);
    }

    /// A read went to the primary because of `cause`: a stale read was prevented.
    pub fn count_displaced(&self, cause: RouteReason) {
        self.process.displaced.count(cause as usize, cause.as_str());
    }

    /// A replica refused a statement with `sqlstate`; unknown ones count as `other`.
    pub fn count_misrouted(&self, sqlstate: &str) {
        let (place, label) = Sqlstate::label(sqlstate);
        self.process.misrouted.count(place, label);
    }

    /// An idle connection was closed to make room for another one.
    pub fn count_eviction(&self, cause: EvictionCause) {
        self.process.evictions.count(cause as usize, cause.as_str());
    }

    /// A statement was sent to a second node.
    pub fn count_retry(&self, cause: RetryCause) {
        self.process.retries.count(cause as usize, cause.as_str());
    }

    /// A session was pinned to its connection.
    pub fn count_pin(&self, reason: PinReason) {
        self.process.pins.count(reason as usize, reason.as_str());
    }

    /// A text was classified for `reason`, from the cache or not.
    pub fn count_classified(&self, reason: Reason) {
        let classified = &self.process.classified;
        classified.count(reason as usize, reason.as_str());
    }

    /// A text's classification was looked up.
    pub fn count_classify_cache(&self, outcome: CacheOutcome) {
        let cache = &self.process.classify_cache;
        cache.count(outcome as usize, outcome.as_str());
    }

    /// The store of causal keys was asked, or could not be told of a write.
    pub fn count_causal_store(&self, outcome: StoreOutcome) {
        let store = &self.process.causal_store;
        store.count(outcome as usize, outcome.as_str());
    }

    /// A replica was asked behind a read whether it is what routing took it for.
    pub fn count_audit(&self, verdict: AuditVerdict) {
        let audits = &self.process.audits;
        audits.count(verdict as usize, verdict.as_str());
    }

    /// A session has gone from a replica to the primary, or could not.
    pub fn count_barrier(&self, outcome: CrossingOutcome) {
        let barriers = &self.process.barriers;
        barriers.count(outcome as usize, outcome.as_str());
    }

    /// `node` was asked for its WAL position.
    pub fn count_position_sample(&self, node: NodeId) {
        self.node(node).samples.count(0, "");
    }

    /// The server of `node` was made to wait for a WAL position before it was asked for its own.
    pub fn count_replay_wait(&self, node: NodeId, outcome: WaitOutcome) {
        let waits = &self.node(node).replay_waits;
        waits.count(outcome as usize, outcome.as_str());
    }

    /// How many server connections to `node` are in `state`.
    pub fn pool_connections(&self, node: NodeId, state: PoolState) -> &Arc<Gauge> {
        let [active, idle, connecting] = &self.node(node).connections;
        match state {
            PoolState::Active => active,
            PoolState::Idle => idle,
            PoolState::Connecting => connecting,
        }
    }

    /// The number of connected clients of the whole process.
    pub fn clients(&self) -> &Gauge {
        &self.process.clients
    }
}
