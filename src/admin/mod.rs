//! The HTTP side: metrics for Prometheus, health for orchestrators, a page for people.
//!
//! Invariants:
//! * It only reads what other parts publish, and changes nothing.
//! * Connections, their headers and their time are bounded; a request body is never read.
//!
//! It must not be reached from untrusted networks: it asks for no password.

mod http;
mod pages;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::core::snapshot::RoutingSnapshot;
use crate::metrics::{ClusterMetrics, Metrics};
use crate::published::Published;
use crate::world::ClusterWorld;

pub use http::serve;

/// What the pages are made from.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// The clusters served at the moment; replaced whole when the configuration is.
    pub clusters: Arc<Published<Vec<AdminCluster>>>,
}

/// One cluster as the pages see it.
#[derive(Debug, Clone)]
pub struct AdminCluster {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What is known of its nodes.
    pub world: Arc<ClusterWorld>,
    /// Its counters.
    pub metrics: Arc<ClusterMetrics>,
}

impl AdminState {
    /// Every cluster's name and nodes at this moment.
    fn snapshots(&self) -> Vec<(Arc<str>, Arc<RoutingSnapshot>)> {
        let clusters = self.clusters.load();
        let seen =
            |cluster: &AdminCluster| (Arc::clone(&cluster.name), cluster.world.routing.load_full());
        clusters.iter().map(seen).collect()
    }
}
