//! Where a request would go, for those who ask before anything runs.

use std::time::{Duration, Instant};

use super::{
    Decision, NoRoute, NodeSet, Patience, Route, RouteReason, RouteRequest, RouteWorld, behind,
    has_floor, lacks_proof, members, route, serves,
};
use crate::core::snapshot::{Eligibility, NodeId, NodeRole, NodeState};

/// Where a request would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// The node, or why there is none.
    pub outcome: Result<Route, NoRoute>,
    /// How long the request would probably wait before.
    pub wait: Duration,
}

impl Forecast {
    /// Whether a read goes to the primary for want of a replica.
    pub fn is_displaced(&self) -> bool {
        self.outcome
            .is_ok_and(|route| Decision::Go(route).is_displaced())
    }
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

/// How long it will take at least until a replica in rotation may serve the read, if each keeps its
/// distance from the primary; `None` if there is none, or if it cannot be told.
pub fn expected_wait(request: &RouteRequest, world: &RouteWorld<'_>) -> Option<Duration> {
    let rotation = NodeSet::of(world, |node| serves(node, request, world));
    members(rotation, world)
        .filter_map(|node| {
            let bound = request.floor.bound_for(node.id, node.incarnation);
            let ready = bound.map_or(Some(world.now), |bound| bound.checked_add(behind(node)))?;
            Some(ready.saturating_duration_since(world.now))
        })
        .min()
}

/// How a node stands to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is a replica in rotation, and has what the request must see.
    Fresh,
    /// It is a replica in rotation, and lacks something.
    NotFresh,
    /// It may serve, but what it shows is only stated, and the request needs a proof.
    Unproved,
    /// It serves no such read now, for this reason.
    Out(Eligibility),
    /// It has no weight, or has refused the statement.
    Excluded,
}

/// How `node` stands to `request`.
pub fn standing(node: &NodeState, request: &RouteRequest, world: &RouteWorld<'_>) -> Standing {
    if serves(node, request, world) {
        return if has_floor(node, &request.floor) {
            Standing::Fresh
        } else {
            Standing::NotFresh
        };
    }
    match node.eligibility {
        Eligibility::Eligible if node.weight == 0 || request.excluded.contains(node.id) => {
            Standing::Excluded
        }
        Eligibility::Eligible if lacks_proof(node, request) => Standing::Unproved,
        // It was within the bounds when it was measured; or this user's are narrower.
        Eligibility::Eligible => Standing::Out(Eligibility::Lagging),
        other @ (Eligibility::Unreachable
        | Eligibility::Unmeasured
        | Eligibility::Lagging
        | Eligibility::NotReplica
        | Eligibility::ForeignTimeline) => Standing::Out(other),
    }
}
