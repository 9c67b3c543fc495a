//! The cluster as the probes have found it: answers in, snapshots out.
//!
//! Invariants:
//! * The primary is the only node out of recovery on the highest timeline that was ever seen; two
//!   of them make none. A server that comes back on a lower timeline is never the primary again.
//! * A lost connection forgets all that was proved about a node.
//! * A node of another database system, or on another timeline than the primary, serves no reads.
//! * It must not look at a clock: instants come with the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PrimarySample, PrimaryTimeline, ReplicaFreshness, ReplicaSample, WalGeometry};
use crate::core::health::{Reachability, RotationBounds};
use crate::core::snapshot::{
    Eligibility, Incarnation, NodeId, NodeRole, NodeState, ReplayLag, RoutingSnapshot,
};

/// What is configured of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the reads.
    pub weight: u32,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// What a node tells of itself when the monitor connects; it holds for that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIdentity {
    /// `pg_postmaster_start_time()` in microseconds since the Unix epoch.
    pub started_at_unix_micros: i64,
    /// `pg_control_system().system_identifier`.
    pub system_identifier: i64,
    /// The sizes of its pages and segments.
    pub geometry: WalGeometry,
}

/// Builds snapshots from answers.
#[derive(Debug)]
pub struct ClusterObserver {
    nodes: Vec<Observed>,
    bounds: RotationBounds,
    /// The highest timeline that any node of the cluster was seen on.
    highest_timeline: u32,
    /// The elected primary.
    primary: Option<NodeId>,
    /// The positions of the last elected primary.
    history: Option<PrimaryHistory>,
    generation: u64,
}

#[derive(Debug)]
struct PrimaryHistory {
    node: NodeId,
    /// Which connection to the node answered.
    connection: u32,
    system_identifier: i64,
    positions: PrimaryTimeline,
}

#[derive(Debug)]
struct Observed {
    entry: NodeEntry,
    /// How many times the monitor has connected.
    connection: u32,
    identity: Option<NodeIdentity>,
    reachability: Reachability,
    face: Face,
    eligibility: Eligibility,
}

/// What a node said it is.
#[derive(Debug)]
enum Face {
    Unknown,
    Primary(PrimarySample),
    Replica(ReplicaFreshness),
}

impl Observed {
    fn timeline(&self) -> Option<u32> {
        match &self.face {
            Face::Unknown => None,
            Face::Primary(sample) => Some(sample.timeline),
            Face::Replica(freshness) => freshness.sample().and_then(|sample| sample.timeline),
        }
    }

    fn incarnation(&self) -> Option<Incarnation> {
        Some(Incarnation {
            started_at_unix_micros: self.identity?.started_at_unix_micros,
            timeline: self.timeline()?,
            connection: self.connection,
        })
    }

    const fn role(&self) -> NodeRole {
        match (self.reachability, &self.face) {
            (Reachability::NotAsked | Reachability::Unreachable, _) | (_, Face::Unknown) => {
                NodeRole::Unknown
            }
            (_, Face::Primary(_)) => NodeRole::Primary,
            (_, Face::Replica(_)) => NodeRole::Replica,
        }
    }
}

impl ClusterObserver {
    /// An observer that has seen nothing yet.
    pub fn new(entries: Vec<NodeEntry>, bounds: RotationBounds) -> Self {
        let unseen = |entry| Observed {
            entry,
            connection: 0,
            identity: None,
            reachability: Reachability::default(),
            face: Face::Unknown,
            eligibility: Eligibility::Unmeasured,
        };
        Self {
            nodes: entries.into_iter().map(unseen).collect(),
            bounds,
            highest_timeline: 0,
            primary: None,
            history: None,
            generation: 0,
        }
    }

    /// The monitor has a new connection to `node`: what an earlier one proved of a replica is
    /// forgotten.
    pub fn on_connected(&mut self, node: NodeId, identity: NodeIdentity) {
        if let Some(observed) = self.nodes.get_mut(node.index()) {
            observed.connection = observed.connection.wrapping_add(1);
            observed.identity = Some(identity);
            forget_freshness(observed);
        }
    }

    /// A probe of `node` failed or its connection ended.
    pub fn on_failed(&mut self, node: NodeId) {
        if let Some(observed) = self.nodes.get_mut(node.index()) {
            observed.reachability = observed.reachability.failed();
            forget_freshness(observed);
            self.elect();
        }
    }

    /// `node` is alive and has no room for the monitor: nothing more is proved of it, and a primary
    /// stays one.
    pub fn on_busy(&mut self, node: NodeId) {
        if let Some(observed) = self.nodes.get_mut(node.index()) {
            if observed.reachability == Reachability::NotAsked {
                observed.reachability = observed.reachability.failed();
            }
            forget_freshness(observed);
            self.elect();
        }
    }

    /// `node` answered that it is not in recovery.
    pub fn on_primary(&mut self, node: NodeId, sample: PrimarySample) {
        let Some(observed) = self.nodes.get_mut(node.index()) else {
            return;
        };
        observed.reachability = observed.reachability.answered();
        observed.face = Face::Primary(sample);
        self.see_timeline(node);
        self.elect();
        if self.primary == Some(node) {
            self.extend_history(node, &sample);
            self.prove_all();
        }
    }

    /// `node` answered that it is in recovery.
    pub fn on_replica(&mut self, node: NodeId, sample: ReplicaSample) {
        let Some(observed) = self.nodes.get_mut(node.index()) else {
            return;
        };
        observed.reachability = observed.reachability.answered();
        let mut freshness = match observed.face {
            Face::Replica(freshness) => freshness,
            Face::Unknown | Face::Primary(_) => ReplicaFreshness::Unknown,
        };
        freshness.measure(sample);
        observed.face = Face::Replica(freshness);
        self.see_timeline(node);
        self.elect();
        self.prove(node);
    }

    /// The instant as of which `node` is proved fresh.
    pub fn fresh_as_of(&self, node: NodeId) -> Option<Instant> {
        match &self.nodes.get(node.index())?.face {
            Face::Replica(freshness) => freshness.fresh_as_of(),
            Face::Unknown | Face::Primary(_) => None,
        }
    }

    /// The one node that takes writes.
    pub const fn primary(&self) -> Option<NodeId> {
        self.primary
    }

    /// Raises the floor of timelines. Only nodes of the known system count: a stranger must not be
    /// able to fence the cluster.
    fn see_timeline(&mut self, node: NodeId) {
        let known_system = self
            .history
            .as_ref()
            .map(|history| history.system_identifier);
        let Some(observed) = self.nodes.get(node.index()) else {
            return;
        };
        let system = observed.identity.map(|identity| identity.system_identifier);
        let counts = match known_system {
            Some(known) => system == Some(known),
            None => matches!(observed.face, Face::Primary(_)),
        };
        if let (true, Some(timeline)) = (counts, observed.timeline()) {
            self.highest_timeline = self.highest_timeline.max(timeline);
        }
    }

    /// Nobody is elected before every node was asked once: an old primary that answers first must
    /// not take writes for a moment.
    fn elect(&mut self) {
        if self
            .nodes
            .iter()
            .any(|node| node.reachability == Reachability::NotAsked)
        {
            self.primary = None;
            return;
        }
        let system = self
            .history
            .as_ref()
            .map(|history| history.system_identifier);
        let mut claims = self.nodes.iter().enumerate().filter(|(_, observed)| {
            let of_cluster = match (system, observed.identity) {
                (Some(system), Some(identity)) => identity.system_identifier == system,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            of_cluster
                && observed.role() == NodeRole::Primary
                && observed.timeline() >= Some(self.highest_timeline)
        });
        self.primary = match (claims.next(), claims.next()) {
            (Some((index, _)), None) => node_id(index),
            (None, _) | (Some(_), Some(_)) => None,
        };
    }

    fn extend_history(&mut self, node: NodeId, sample: &PrimarySample) {
        let Some((observed, identity)) = self
            .nodes
            .get(node.index())
            .and_then(|observed| Some((observed, observed.identity?)))
        else {
            return;
        };
        match &mut self.history {
            Some(history) if history.node == node && history.connection == observed.connection => {
                history.positions.note(sample);
            }
            Some(_) | None => {
                self.history = Some(PrimaryHistory {
                    node,
                    connection: observed.connection,
                    system_identifier: identity.system_identifier,
                    positions: PrimaryTimeline::starting_with(identity.geometry, sample),
                });
            }
        }
    }

    fn prove_all(&mut self) {
        for index in 0..self.nodes.len() {
            if let Some(node) = node_id(index) {
                self.prove(node);
            }
        }
    }

    fn prove(&mut self, node: NodeId) {
        let (Some(history), Some(observed)) = (&self.history, self.nodes.get_mut(node.index()))
        else {
            return;
        };
        let same_system = observed
            .identity
            .is_some_and(|identity| identity.system_identifier == history.system_identifier);
        if let (true, Face::Replica(freshness)) = (same_system, &mut observed.face) {
            freshness.prove(&history.positions);
        }
    }

    /// The world at `now`. Judges every node against the bounds on the way.
    pub fn snapshot(&mut self, now: Instant) -> RoutingSnapshot {
        self.generation = self.generation.wrapping_add(1);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (index, observed) in self.nodes.iter_mut().enumerate() {
            let Some(id) = node_id(index) else { continue };
            let lag = lag_of(observed, self.history.as_ref());
            observed.eligibility = eligibility(
                observed,
                (lag, self.bounds),
                self.history.as_ref().filter(|_| self.primary.is_some()),
                now,
            );
            nodes.push(NodeState {
                id,
                name: Arc::clone(&observed.entry.name),
                weight: observed.entry.weight,
                zone: observed.entry.zone.clone(),
                role: observed.role(),
                incarnation: observed.incarnation(),
                lag,
                eligibility: observed.eligibility,
            });
        }
        RoutingSnapshot {
            generation: self.generation,
            primary: self.primary,
            nodes,
        }
    }
}

fn node_id(index: usize) -> Option<NodeId> {
    u16::try_from(index).ok().map(NodeId)
}

fn forget_freshness(observed: &mut Observed) {
    if let Face::Replica(freshness) = &mut observed.face {
        *freshness = ReplicaFreshness::Unknown;
    }
}

fn lag_of(observed: &Observed, history: Option<&PrimaryHistory>) -> ReplayLag {
    let (
        Face::Replica(ReplicaFreshness::Measured {
            sample,
            fresh_as_of,
        }),
        Some(history),
    ) = (&observed.face, history)
    else {
        return ReplayLag::Unknown;
    };
    let (Some(fresh_as_of), Some(flush)) = (*fresh_as_of, history.positions.flush()) else {
        return ReplayLag::Unknown;
    };
    let comparable = sample.timeline == Some(history.positions.timeline());
    ReplayLag::Known {
        bytes: flush.bytes_ahead_of(sample.replay),
        fresh_as_of,
        replay: sample.replay,
        behind: if comparable {
            history.positions.behind(sample)
        } else {
            Duration::MAX
        },
        measured_at: sample.sent,
    }
}

fn eligibility(
    observed: &Observed,
    (lag, bounds): (ReplayLag, RotationBounds),
    primary: Option<&PrimaryHistory>,
    now: Instant,
) -> Eligibility {
    match observed.role() {
        NodeRole::Primary => return Eligibility::NotReplica,
        NodeRole::Unknown => {
            return match observed.reachability {
                Reachability::NotAsked => Eligibility::Unmeasured,
                Reachability::Answering | Reachability::Doubtful(_) | Reachability::Unreachable => {
                    Eligibility::Unreachable
                }
            };
        }
        NodeRole::Replica => {}
    }
    let foreign = primary.is_some_and(|history| {
        let system = observed.identity.map(|identity| identity.system_identifier);
        let timeline = observed.timeline();
        system.is_some_and(|system| system != history.system_identifier)
            || timeline.is_some_and(|timeline| timeline != history.positions.timeline())
    });
    if foreign {
        Eligibility::ForeignTimeline
    } else {
        bounds.judge(observed.eligibility, lag, now)
    }
}

#[cfg(test)]
mod tests;
