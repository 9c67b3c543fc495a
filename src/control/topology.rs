//! What changed between two snapshots, for the log.

use crate::core::snapshot::{Eligibility, NodeRole, NodeState, RoutingSnapshot};

/// Logs every change an operator wants to know of.
pub(super) fn log_changes(cluster: &str, before: &RoutingSnapshot, after: &RoutingSnapshot) {
    for (old, new) in before.nodes.iter().zip(&after.nodes) {
        log_role(cluster, old, new);
        log_eligibility(cluster, old, new);
    }
    if before.primary != after.primary {
        log_primary(cluster, after);
    }
}

fn log_role(cluster: &str, old: &NodeState, new: &NodeState) {
    if old.role == new.role {
        return;
    }
    let node = &*new.name;
    let timeline = new.incarnation.and_then(|incarnation| incarnation.timeline);
    match new.role {
        NodeRole::Unknown => {
            tracing::warn!(cluster, node, was = old.role.as_str(), "node unreachable");
        }
        NodeRole::Primary | NodeRole::Replica => tracing::info!(
            cluster,
            node,
            was = old.role.as_str(),
            role = new.role.as_str(),
            timeline,
            "node role found"
        ),
    }
}

fn log_eligibility(cluster: &str, old: &NodeState, new: &NodeState) {
    if old.eligibility == new.eligibility || new.role != NodeRole::Replica {
        return;
    }
    let node = &*new.name;
    match new.eligibility {
        Eligibility::Eligible => tracing::info!(cluster, node, "replica in rotation"),
        Eligibility::Unreachable
        | Eligibility::Unmeasured
        | Eligibility::Lagging
        | Eligibility::NotReplica
        | Eligibility::ForeignTimeline => tracing::warn!(
            cluster,
            node,
            reason = new.eligibility.as_str(),
            "replica out of rotation"
        ),
    }
}

fn log_primary(cluster: &str, after: &RoutingSnapshot) {
    if let Some(primary) = after.primary.and_then(|id| after.node(id)) {
        let timeline = primary.incarnation.and_then(|life| life.timeline);
        tracing::info!(cluster, node = &*primary.name, timeline, "primary found");
    } else {
        let of_primary = |node: &&NodeState| node.role == NodeRole::Primary;
        let claims = after.nodes.iter().filter(of_primary).count();
        tracing::warn!(cluster, claims, "no primary, writes are refused");
    }
}
