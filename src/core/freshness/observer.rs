//! The cluster as the probes have found it: answers in, snapshots out.
//!
//! Invariants:
//! * The primary is the only node out of recovery on the highest timeline that any node of its
//!   system was ever seen on; two of them make none. A server that comes back on a lower timeline is
//!   never the primary again.
//! * A lost connection forgets all that was proved about a node; another start of its server, also
//!   its role.
//! * A node of another database system, or on another timeline than the highest, serves no reads.
//! * Nodes that hide their positions are measured by their service's word ([`super::service`]), which
//!   proves nothing.
//! * It must not look at a clock: instants come with the answers.

mod identity;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::service::{ReaderLife, WriterSample};
use super::{PrimarySample, PrimaryTimeline, ReplicaFreshness, ReplicaSample};
use crate::core::causality::positions::SystemPosition;
use crate::core::health::{Reachability, RotationBounds};
use crate::core::lsn::Lsn;
use crate::core::snapshot::{
    Eligibility, Incarnation, NodeId, NodeRole, NodeState, ReplayLag, RoutingSnapshot,
};

pub use identity::{NodeIdentity, ServerIdentity};
use service::stated_lag;

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

/// Builds snapshots from answers.
#[derive(Debug)]
pub struct ClusterObserver {
    nodes: Vec<Observed>,
    /// What the nodes are judged by from the next snapshot on.
    pub bounds: RotationBounds,
    /// The highest timeline that any node of the cluster's system was seen on.
    highest_timeline: u32,
    /// The elected primary.
    primary: Option<NodeId>,
    /// The positions of the last elected primary.
    history: Option<PrimaryHistory>,
    /// What the last elected primary told of the readers of its service.
    statement: Option<WriterSample>,
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
    identity: Option<ServerIdentity>,
    /// The highest timeline that it was seen on as a node of this system.
    highest_timeline: u32,
    reachability: Reachability,
    face: Face,
    eligibility: Eligibility,
}

/// Where the cluster is: what is on another line has another history, whether or not there is a
/// primary at the moment.
#[derive(Debug, Clone, Copy)]
struct Line {
    system: i64,
    /// The highest that was seen.
    timeline: u32,
}

/// What a node said it is.
#[derive(Debug)]
enum Face {
    Unknown,
    Primary(PrimarySample),
    Replica(ReplicaFreshness),
    /// Out of recovery, with hidden positions.
    Writer,
    /// In recovery, with hidden positions; `None` while nothing is known of this life.
    Reader(Option<ReaderLife>),
}

impl Observed {
    fn system(&self) -> Option<i64> {
        Some(self.identity?.shown()?.system_identifier)
    }

    fn timeline(&self) -> Option<u32> {
        match &self.face {
            Face::Unknown | Face::Writer | Face::Reader(_) => None,
            Face::Primary(sample) => Some(sample.timeline),
            Face::Replica(freshness) => freshness.sample().and_then(|sample| sample.timeline),
        }
    }

    fn incarnation(&self) -> Option<Incarnation> {
        let timeline = match &self.face {
            Face::Writer | Face::Reader(_) => None,
            Face::Unknown | Face::Primary(_) | Face::Replica(_) => Some(self.timeline()?),
        };
        Some(Incarnation {
            started_at_unix_micros: self.identity?.started_at_unix_micros(),
            timeline,
            connection: self.connection,
        })
    }

    const fn role(&self) -> NodeRole {
        match (self.reachability, &self.face) {
            (Reachability::NotAsked | Reachability::Unreachable, _) | (_, Face::Unknown) => {
                NodeRole::Unknown
            }
            (_, Face::Primary(_) | Face::Writer) => NodeRole::Primary,
            (_, Face::Replica(_) | Face::Reader(_)) => NodeRole::Replica,
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
            highest_timeline: 0,
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
            statement: None,
            generation: 0,
        }
    }

    /// The monitor has a new connection to `node`: what an earlier one proved of a replica is
    /// forgotten. A server that was started again may have another role than before.
    pub fn on_connected(&mut self, node: NodeId, identity: impl Into<ServerIdentity>) {
        let identity = identity.into();
        if let Some(observed) = self.nodes.get_mut(node.index()) {
            observed.connection = observed.connection.wrapping_add(1);
            if observed.system() != identity.shown().map(|shown| shown.system_identifier) {
                observed.highest_timeline = 0;
            }
            let same_start = observed.identity.is_some_and(|old| {
                old.started_at_unix_micros() == identity.started_at_unix_micros()
            });
            if matches!(observed.face, Face::Primary(_) | Face::Writer) && !same_start {
                observed.face = Face::Unknown;
            }
            forget_freshness(observed);
            observed.identity = Some(identity);
            self.elect();
        }
    }

    /// A probe of `node` failed or its connection was lost.
    pub fn on_failed(&mut self, node: NodeId) {
        self.on_unanswered(node, Reachability::failed);
    }

    /// `node` ended the monitor's connection on somebody's command: it is given up if it cannot be
    /// reached anew. An order to stop begins like this too.
    pub fn on_ended(&mut self, node: NodeId) {
        self.on_unanswered(node, Reachability::ended);
    }

    /// `node` is alive and has no room for the monitor: a primary stays one.
    pub fn on_busy(&mut self, node: NodeId) {
        self.on_unanswered(node, Reachability::busy);
    }

    /// Nothing more is proved of `node`.
    fn on_unanswered(&mut self, node: NodeId, after: fn(Reachability) -> Reachability) {
        if let Some(observed) = self.nodes.get_mut(node.index()) {
            observed.reachability = after(observed.reachability);
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
            Face::Unknown | Face::Primary(_) | Face::Writer | Face::Reader(_) => {
                ReplicaFreshness::Unknown
            }
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
            Face::Unknown | Face::Primary(_) | Face::Writer | Face::Reader(_) => None,
        }
    }

    /// The oldest position of the elected primary that `node`, a replica of its system and timeline, had
    /// not replayed when it answered last.
    pub fn missing(&self, node: NodeId) -> Option<Lsn> {
        let history = self.history.as_ref();
        let history = history.filter(|history| self.primary == Some(history.node))?;
        let observed = self.nodes.get(node.index())?;
        if observed.system() != Some(history.system_identifier) {
            return None;
        }
        match &observed.face {
            Face::Replica(freshness) => history.positions.missing(freshness.sample()?),
            Face::Unknown | Face::Primary(_) | Face::Writer | Face::Reader(_) => None,
        }
    }

    /// Where the elected primary is according to its `sample`; `None` if `node` is not that.
    pub fn position(&self, node: NodeId, sample: &PrimarySample) -> Option<SystemPosition> {
        let observed = self.nodes.get(node.index())?;
        let identity = observed.identity.filter(|_| self.primary == Some(node))?;
        let identity = identity.shown()?;
        Some(SystemPosition {
            system: identity.system_identifier,
            timeline: sample.timeline,
            lsn: identity.geometry.settled(sample.insert),
        })
    }

    /// The one node that takes writes.
    pub const fn primary(&self) -> Option<NodeId> {
        self.primary
    }

    /// Raises the floor of timelines of the node's system.
    fn see_timeline(&mut self, node: NodeId) {
        let known_system = self.known_system();
        let Some(observed) = self.nodes.get_mut(node.index()) else {
            return;
        };
        let Some(timeline) = observed.timeline() else {
            return;
        };
        observed.highest_timeline = observed.highest_timeline.max(timeline);
        if known_system.is_some() && observed.system() == known_system {
            self.highest_timeline = self.highest_timeline.max(timeline);
        }
    }

    fn known_system(&self) -> Option<i64> {
        let history = self.history.as_ref();
        history.map(|history| history.system_identifier)
    }

    /// The highest timeline that a node of `system` was seen on. Nodes of other systems do not count:
    /// a stranger must not be able to fence the cluster.
    fn timeline_floor(&self, system: i64) -> u32 {
        let remembered = match self.known_system() {
            Some(known) if known == system => self.highest_timeline,
            Some(_) | None => 0,
        };
        let of_system = self
            .nodes
            .iter()
            .filter(|node| node.system() == Some(system));
        let seen = of_system.map(|node| node.highest_timeline);
        seen.fold(remembered, u32::max)
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
        let known_system = self.known_system();
        let mut claims = self.nodes.iter().enumerate().filter(|(_, observed)| {
            if observed.claims_as_writer() {
                return known_system.is_none();
            }
            observed.role() == NodeRole::Primary
                && observed.system().is_some_and(|system| {
                    known_system.is_none_or(|known| known == system)
                        && observed.timeline() >= Some(self.timeline_floor(system))
                })
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
            .and_then(|observed| Some((observed, observed.identity?.shown()?)))
        else {
            return;
        };
        match &mut self.history {
            Some(history) if history.node == node && history.connection == observed.connection => {
                history.positions.note(sample);
            }
            Some(_) | None => {
                self.highest_timeline = self.timeline_floor(identity.system_identifier);
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
        let same_system = observed.system() == Some(history.system_identifier);
        if let (true, Face::Replica(freshness)) = (same_system, &mut observed.face) {
            freshness.prove(&history.positions);
        }
    }

    /// The world at `now`. Judges every node against the bounds on the way.
    pub fn snapshot(&mut self, now: Instant) -> RoutingSnapshot {
        self.generation = self.generation.wrapping_add(1);
        let line = self.known_system().map(|system| Line {
            system,
            timeline: self.highest_timeline,
        });
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (index, observed) in self.nodes.iter_mut().enumerate() {
            let Some(id) = node_id(index) else { continue };
            let lag = match &observed.face {
                Face::Reader(known) => stated_lag(known.as_ref(), self.statement.as_ref()),
                Face::Unknown | Face::Primary(_) | Face::Replica(_) | Face::Writer => {
                    lag_of(observed, self.history.as_ref())
                }
            };
            observed.eligibility = eligibility(observed, (lag, self.bounds), line, now);
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
    match &mut observed.face {
        Face::Replica(freshness) => *freshness = ReplicaFreshness::Unknown,
        Face::Reader(life) => *life = None,
        Face::Unknown | Face::Primary(_) | Face::Writer => {}
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
    line: Option<Line>,
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
    let foreign = line.is_some_and(|line| {
        matches!(observed.face, Face::Reader(_))
            || observed
                .system()
                .is_some_and(|system| system != line.system)
            || observed
                .timeline()
                .is_some_and(|timeline| timeline != line.timeline)
    });
    if foreign {
        Eligibility::ForeignTimeline
    } else {
        bounds.judge(observed.eligibility, lag, now)
    }
}

#[cfg(test)]
mod tests;
