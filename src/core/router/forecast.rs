//! Where a request would go, for those who ask before anything runs.

use std::time::{Duration, Instant};

use super::{
    Decision, NoRoute, NodeSet, Patience, Route, RouteReason, RouteRequest, RouteWorld, behind,
    members, route, serves,
};
use crate::core::snapshot::{NodeId, NodeRole};

/// Where a request would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// The node, or why there is none.
    pub outcome: Result<Route, NoRoute>,
    /// How long the request would probably wait before.
    pub wait: Duration,
}

/// Foresees where `request` goes if it arrives at `world.now` and every replica keeps its distance.
pub fn forecast(request: &RouteRequest, world: &RouteWorld<'_>) -> Forecast {
    let until = match route(request, world, Patience::Since(world.now)) {
        Decision::Wait { until, .. } => until,
        decision @ (Decision::Go(_) | Decision::Refuse(_)) => {
            return Forecast {
                outcome: settled(decision),
                wait: Duration::ZERO,
            };
        }
    };
    let after = |at: Instant| at.saturating_duration_since(world.now);
    match first_fresh(request, world) {
        Some((at, node)) if at <= until => Forecast {
            outcome: Ok(Route {
                node,
                role: NodeRole::Replica,
                reason: RouteReason::Waited,
            }),
            wait: after(at),
        },
        Some(_) | None => Forecast {
            outcome: settled(route(request, world, Patience::Exhausted)),
            wait: after(until),
        },
    }
}

fn settled(decision: Decision) -> Result<Route, NoRoute> {
    match decision {
        Decision::Go(route) => Ok(route),
        Decision::Refuse(cause) => Err(cause),
        // Who has no patience is not told to wait.
        Decision::Wait { .. } => Err(NoRoute::NoFreshReplica),
    }
}

/// The replica in rotation that has the floor first, and when.
fn first_fresh(request: &RouteRequest, world: &RouteWorld<'_>) -> Option<(Instant, NodeId)> {
    let rotation = NodeSet::of(world, |node| serves(node, request, world));
    members(rotation, world)
        .filter_map(|node| {
            let bound = request.floor.bound_for(node.id, node.incarnation)?;
            Some((bound.checked_add(behind(node))?, node.id))
        })
        .min_by_key(|(at, _)| *at)
}
