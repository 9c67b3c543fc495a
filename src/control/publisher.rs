//! Turns answers into published snapshots.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::topology::log_changes;
use crate::config::ClusterConfig;
use crate::core::freshness::observer::{ClusterObserver, NodeEntry};
use crate::core::health::RotationBounds;
use crate::core::snapshot::{Eligibility, NodeId, NodeRole, NodeState, ReplayLag, RoutingSnapshot};
use crate::world::ClusterWorld;

/// The snapshot before anything was measured: every read and write is refused or waits.
pub fn initial_snapshot(cluster: &ClusterConfig) -> RoutingSnapshot {
    let unseen = |(id, entry): (u16, NodeEntry)| NodeState {
        id: NodeId(id),
        name: entry.name,
        weight: entry.weight,
        zone: entry.zone,
        role: NodeRole::Unknown,
        incarnation: None,
        lag: ReplayLag::Unknown,
        eligibility: Eligibility::Unmeasured,
    };
    RoutingSnapshot {
        generation: 0,
        primary: None,
        nodes: (0..).zip(entries(cluster)).map(unseen).collect(),
    }
}

fn entries(cluster: &ClusterConfig) -> Vec<NodeEntry> {
    cluster
        .nodes
        .iter()
        .map(|node| NodeEntry {
            name: Arc::clone(&node.name),
            weight: node.weight,
            zone: node.zone.clone(),
        })
        .collect()
}

/// The observer of one cluster together with the place where its snapshots go.
#[derive(Debug)]
pub struct Publisher {
    cluster: Arc<str>,
    world: Arc<ClusterWorld>,
    observer: Mutex<ClusterObserver>,
}

impl Publisher {
    /// Knows nothing yet of the nodes of `cluster`; what it finds goes into `world`.
    pub fn new(cluster: &ClusterConfig, world: Arc<ClusterWorld>) -> Self {
        Self {
            cluster: Arc::clone(&cluster.name),
            world,
            observer: Mutex::new(ClusterObserver::new(entries(cluster), bounds(cluster))),
        }
    }

    /// Judges the nodes by the policies of `cluster` from now on, which has the same nodes.
    pub fn judge_by(&self, cluster: &ClusterConfig) {
        self.observe(|observer| observer.bounds = bounds(cluster));
    }

    pub(super) fn world(&self) -> &ClusterWorld {
        &self.world
    }

    /// Looks at the observer without publishing.
    pub(super) fn look<R>(&self, look: impl FnOnce(&ClusterObserver) -> R) -> R {
        look(&self.observer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the observer something and publishes what changed by it.
    pub(super) fn observe(&self, tell: impl FnOnce(&mut ClusterObserver)) {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut observer);
        let after = observer.snapshot(Instant::now());
        let before = self.world.routing.load_full();
        if before.primary == after.primary && before.nodes == after.nodes {
            return;
        }
        self.world.demand.set_distance(distance(&after));
        // Stored under the lock: snapshots are published in the order of their generations.
        self.world.routing.store(Arc::new(after));
        drop(observer);
        log_changes(&self.cluster, &before, &self.world.routing.load());
    }
}

/// The loosest of all users.
fn bounds(cluster: &ClusterConfig) -> RotationBounds {
    let policies = std::iter::once(&cluster.policies).chain(cluster.user_policies.values());
    RotationBounds::loosest(policies.map(|policies| &policies.routing))
}

/// How far the nearest replica in rotation is behind; nothing if there is none.
fn distance(snapshot: &RoutingSnapshot) -> Duration {
    let nodes = snapshot.nodes.iter();
    let serving = nodes.filter(|node| node.eligibility == Eligibility::Eligible && node.weight > 0);
    let behind = serving.filter_map(|node| match node.lag {
        ReplayLag::Known { behind, .. } => Some(behind),
        ReplayLag::Unknown | ReplayLag::Stated { .. } => None,
    });
    behind.min().unwrap_or_default()
}
