//! The texts of the pages.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::{AdminCluster, AdminState};
use crate::core::snapshot::{NodeRole, NodeState, ReplayLag, RoutingSnapshot};

/// One line a cluster; `Err` if a cluster has no primary.
pub(super) fn readiness(snapshots: &[(Arc<str>, Arc<RoutingSnapshot>)]) -> Result<String, String> {
    let mut text = String::new();
    let mut is_ready = true;
    for (name, snapshot) in snapshots {
        let primary = snapshot.primary.and_then(|id| snapshot.node(id));
        is_ready &= primary.is_some();
        let state = primary.map_or_else(
            || why_no_primary(snapshot),
            |primary| format!("primary {}", primary.name),
        );
        line(&mut text, &format!("{name}: {state}"));
    }
    if is_ready { Ok(text) } else { Err(text) }
}

fn why_no_primary(snapshot: &RoutingSnapshot) -> String {
    let claims = |node: &&NodeState| node.role == NodeRole::Primary;
    let claimants = snapshot.nodes.iter().filter(claims).map(|node| &*node.name);
    let claimants: Vec<&str> = claimants.collect();
    if claimants.len() > 1 {
        return format!(
            "more than one node says it is the primary: {}",
            claimants.join(", ")
        );
    }
    let nodes = snapshot.nodes.iter();
    let states: Vec<String> = nodes
        .map(|node| {
            let (role, eligibility) = (node.role.as_str(), node.eligibility.as_str());
            format!("{} is {role} ({eligibility})", node.name)
        })
        .collect();
    format!("no primary: {}", states.join(", "))
}

/// The page for people.
pub(super) fn status(state: &AdminState, now: Instant) -> String {
    let mut text = String::new();
    line(&mut text, &format!("pgweir {}", env!("CARGO_PKG_VERSION")));
    line(
        &mut text,
        &format!("clients {}", state.metrics.clients().value()),
    );
    for cluster in state.clusters.load().iter() {
        cluster_table(&mut text, cluster, now);
    }
    line(&mut text, "\n/metrics /healthz /readyz");
    text
}

fn cluster_table(text: &mut String, cluster: &AdminCluster, now: Instant) {
    let snapshot = cluster.world.routing.load_full();
    let primary = snapshot.primary.and_then(|id| snapshot.node(id));
    let primary = primary.map_or("none", |node| &*node.name);
    let name = &cluster.name;
    line(text, &format!("\ncluster {name}, primary {primary}\n"));
    row(
        text,
        ["node", "role", "reads", "staleness", "lag", "statements"],
    );
    for node in &snapshot.nodes {
        let staleness = match node.lag.staleness(now) {
            Some(staleness) => format!("{:.3} s", staleness.as_secs_f64()),
            None => "unknown".to_owned(),
        };
        let lag = match node.lag {
            ReplayLag::Known { bytes, .. } => format!("{bytes} B"),
            ReplayLag::Stated { .. } => "not shown".to_owned(),
            ReplayLag::Unknown => "unknown".to_owned(),
        };
        let (staleness, lag) = match node.role {
            NodeRole::Primary => ("-", "-"),
            NodeRole::Replica | NodeRole::Unknown => (&*staleness, &*lag),
        };
        let statements = cluster.metrics.queries_of(node.id).to_string();
        row(
            text,
            [
                &node.name,
                node.role.as_str(),
                node.eligibility.as_str(),
                staleness,
                lag,
                &statements,
            ],
        );
    }
}

fn row(text: &mut String, [node, role, reads, staleness, lag, statements]: [&str; 6]) {
    let cells =
        format!("{node:<24} {role:<8} {reads:<17} {staleness:>12} {lag:>16} {statements:>14}");
    line(text, &cells);
}

fn line(text: &mut String, line: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "{line}");
}
