//! The world as one immutable value: what control publishes and routing reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lsn::Lsn;

/// A node's place in the cluster's list of nodes; stable until a reload changes the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The place as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the node said it is when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeRole {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Replica,
    /// Not reached, or not asked yet.
    Unknown,
}

impl NodeRole {
    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown",
        }
    }
}

/// One life of one server process; what was learned of another life says nothing about this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// `pg_postmaster_start_time()` in microseconds since the Unix epoch, on the node's own clock.
    pub started_at_unix_micros: i64,
    /// The timeline the node was on; `None` where a service does not show it.
    pub timeline: Option<u32>,
    /// How many times the monitor had connected to the node. A backend that crashes makes a replica
    /// recover again, from an older state, under the same start time; it also ends the monitor's
    /// connection.
    pub connection: u32,
}

/// Whether a replica may serve reads at all, before any session's floor is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Eligibility {
    /// It may.
    Eligible,
    /// The last probes failed.
    Unreachable,
    /// Never measured, or measured too long ago.
    Unmeasured,
    /// Further behind than `routing.max_staleness` or `routing.max_lag`.
    Lagging,
    /// Not a replica.
    NotReplica,
    /// Its timeline does not descend from the primary's.
    ForeignTimeline,
}

impl Eligibility {
    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eligible => "eligible",
            Self::Unreachable => "unreachable",
            Self::Unmeasured => "unmeasured",
            Self::Lagging => "lagging",
            Self::NotReplica => "not_replica",
            Self::ForeignTimeline => "foreign_timeline",
        }
    }
}

/// How far behind a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayLag {
    /// Not measured. Never treated as fresh.
    Unknown,
    /// Measured.
    Known {
        /// WAL bytes between the primary's newest sample and the replica's replay position.
        bytes: u64,
        /// Everything acknowledged before this instant is visible on the replica.
        fresh_as_of: Instant,
        /// The replica's replay position when it was measured.
        replay: Lsn,
        /// For how long at least, when it was measured, the replica had been missing a position of
        /// the primary; zero when it had every position sampled by then.
        behind: Duration,
        /// When the replica was asked.
        measured_at: Instant,
    },
    /// Not measured, but stated by the service that runs the node: no proof, see [`Evidence`].
    Stated {
        /// Everything acknowledged before this instant is visible on the replica, it says.
        fresh_as_of: Instant,
        /// When the service was asked, or the replica whether it lives, whichever was earlier.
        measured_at: Instant,
    },
}

/// What a read takes for the freshness of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evidence {
    /// Only what pgweir has proved by WAL positions.
    #[default]
    Proved,
    /// Also what a service states that hides its positions.
    Stated,
}

impl ReplayLag {
    /// An upper bound of the staleness at `now`, as far as it is proved or stated; `None` when unknown.
    pub fn staleness(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Known { fresh_as_of, .. } | Self::Stated { fresh_as_of, .. } => {
                Some(now.saturating_duration_since(fresh_as_of))
            }
        }
    }

    /// The instant as of which the replica is fresh by this evidence; `None` without it.
    pub const fn fresh_as_of(self, evidence: Evidence) -> Option<Instant> {
        match (self, evidence) {
            (Self::Unknown, _) | (Self::Stated { .. }, Evidence::Proved) => None,
            (Self::Known { fresh_as_of, .. }, _)
            | (Self::Stated { fresh_as_of, .. }, Evidence::Stated) => Some(fresh_as_of),
        }
    }
}

/// One node as it was last measured.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Its place in [`RoutingSnapshot::nodes`].
    pub id: NodeId,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its share of the reads relative to other replicas; 0 takes no reads.
    pub weight: u32,
    /// Its zone, if one is configured.
    pub zone: Option<Arc<str>>,
    /// What it said it is.
    pub role: NodeRole,
    /// The life of the server process that was measured.
    pub incarnation: Option<Incarnation>,
    /// How far behind it is; `Unknown` on a primary.
    pub lag: ReplayLag,
    /// Whether it may serve reads.
    pub eligibility: Eligibility,
}

/// The world as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingSnapshot {
    /// Grows by one with every publication.
    pub generation: u64,
    /// The one node that takes writes; `None` when none or more than one claims to be it.
    pub primary: Option<NodeId>,
    /// Every configured node, in the order of its id.
    pub nodes: Vec<NodeState>,
}

impl RoutingSnapshot {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeState> {
        self.nodes.get(id.index())
    }

    /// Whether every node was asked once.
    pub fn is_measured(&self) -> bool {
        !self.nodes.iter().any(|node| {
            node.role == NodeRole::Unknown && node.eligibility == Eligibility::Unmeasured
        })
    }
}
