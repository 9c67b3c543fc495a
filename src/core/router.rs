//! The only decision function: which node serves a statement, and why.

use std::time::Instant;

use super::guarantee::Floor;
use super::snapshot::{NodeId, NodeRole};

/// What is asked of the router.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteRequest {
    /// Where the statement may run.
    pub target: Target,
    /// What the read must see.
    pub floor: Floor,
    /// Nodes that already failed this statement, as a bit set by node id.
    pub excluded: NodeSet,
}

/// Where the statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Only the primary, for this reason.
    Primary(RouteReason),
    /// A fresh replica, or the primary if there is none.
    Read,
}

/// A set of nodes of one cluster; ids above 63 are never in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeSet(u64);

impl NodeSet {
    /// The set with `id` added.
    #[must_use]
    pub fn with(self, id: NodeId) -> Self {
        Self(self.0 | 1_u64.checked_shl(u32::from(id.0)).unwrap_or(0))
    }

    /// Whether `id` is in the set.
    pub fn contains(self, id: NodeId) -> bool {
        self.0 & 1_u64.checked_shl(u32::from(id.0)).unwrap_or(0) != 0
    }

    /// Whether the set has no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Why a statement went where it went: a label of `pgweir_queries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteReason {
    /// A replica is fresh enough.
    Fresh,
    /// A replica became fresh enough while the read waited.
    Waited,
    /// `on_no_replica: stale` let a replica serve that is not fresh enough.
    Stale,
    /// The statement is not a proved read.
    Write,
    /// The text was not understood.
    NotUnderstood,
    /// Inside a read-write transaction block.
    Transaction,
    /// Inside a read-only transaction block on a replica.
    ReadOnlyTransaction,
    /// The session is pinned to its connection.
    Pinned,
    /// The session's mode is `primary`, or a comment asks for the primary.
    Requested,
    /// No replica is configured or none is reachable.
    NoReplica,
    /// No replica is within `routing.max_staleness` and `routing.max_lag`.
    Lagging,
    /// Replicas are in rotation, but none has what this session must see.
    NotFresh,
    /// Inside the read-after-write window of `read_after_write: window`.
    Window,
    /// A replica refused the statement, so the primary runs it.
    Misrouted,
    /// A replica cancelled the statement or was lost, so another node runs it.
    Retried,
    /// Answered by pgweir itself.
    Proxy,
}

impl RouteReason {
    /// Every reason, for building metric tables.
    pub const ALL: [Self; 16] = [
        Self::Fresh,
        Self::Waited,
        Self::Stale,
        Self::Write,
        Self::NotUnderstood,
        Self::Transaction,
        Self::ReadOnlyTransaction,
        Self::Pinned,
        Self::Requested,
        Self::NoReplica,
        Self::Lagging,
        Self::NotFresh,
        Self::Window,
        Self::Misrouted,
        Self::Retried,
        Self::Proxy,
    ];

    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Waited => "waited",
            Self::Stale => "stale",
            Self::Write => "write",
            Self::NotUnderstood => "not_understood",
            Self::Transaction => "transaction",
            Self::ReadOnlyTransaction => "read_only_transaction",
            Self::Pinned => "pinned",
            Self::Requested => "requested",
            Self::NoReplica => "no_replica",
            Self::Lagging => "lagging",
            Self::NotFresh => "not_fresh",
            Self::Window => "window",
            Self::Misrouted => "misrouted",
            Self::Retried => "retried",
            Self::Proxy => "proxy",
        }
    }
}

/// A decision in favour of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The node.
    pub node: NodeId,
    /// The role in which it serves.
    pub role: NodeRole,
    /// Why it was chosen.
    pub reason: RouteReason,
}

/// What the router answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Send it there.
    Go(Route),
    /// Ask for fresher samples and decide again when they come, or at `until` with
    /// [`Patience::Exhausted`].
    Wait {
        /// The last instant to wait for.
        until: Instant,
        /// A replica that is fresh as of this instant would do.
        floor: Instant,
    },
    /// No node can serve it.
    Refuse(NoRoute),
}

/// Whether the request may still wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It arrived at this instant and may wait from then on as the policy says.
    Since(Instant),
    /// It has waited for as long as it may.
    Exhausted,
}

/// Why no node can serve a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// There is no primary, or more than one node claims to be it.
    NoPrimary,
    /// No replica is fresh enough, and the policy forbids the primary.
    NoFreshReplica,
}
