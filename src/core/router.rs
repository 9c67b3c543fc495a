//! The only decision function: which node serves a statement, and why.
//!
//! Invariants:
//! * A replica serves a read only if it is in rotation now (a snapshot ages: staleness is judged at
//!   the instant of the decision) and fresh as of the read's floor.
//! * What is not measured, or measured too long ago, is never fresh; what is only stated is never
//!   fresh for a read that needs a proof.
//! * Every decision carries its reason; the same input gives the same decision.

mod forecast;
mod reason;

use std::time::{Duration, Instant};

use super::freshness::service::STATEMENT_INTERVAL;
use super::guarantee::Floor;
use super::policy::{Balance, ConsistencyPolicy, OnNoReplica, RoutingPolicy};
use super::snapshot::{
    Eligibility, Evidence, NodeId, NodeRole, NodeState, ReplayLag, RoutingSnapshot,
};
use crate::limits::SAMPLE_EXPIRY;

pub use forecast::{Forecast, Standing, expected_wait, forecast, standing};
pub use reason::RouteReason;

/// What is asked of the router.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteRequest {
    /// Where the statement may run.
    pub target: Target,
    /// What the read must see.
    pub floor: Floor,
    /// Nodes that already failed this statement, as a bit set by node id.
    pub excluded: NodeSet,
    /// Whether the primary has room for a read that lacks a replica.
    pub spill: Spill,
}

impl RouteRequest {
    /// For something that only the primary may run.
    pub fn to_primary(reason: RouteReason) -> Self {
        Self {
            target: Target::Primary(reason),
            floor: Floor::default(),
            excluded: NodeSet::default(),
            spill: Spill::default(),
        }
    }
}

/// What is left of the share of the primary's pool that displaced reads may take
/// (`consistency.spill_limit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spill {
    /// Something, or it is not known to be taken.
    #[default]
    Room,
    /// Nothing.
    Full,
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
    /// Nor was every node asked who it is.
    Unmeasured,
    /// No replica is fresh enough, and the policy forbids the primary.
    NoFreshReplica,
}

impl Decision {
    /// Whether a read goes to the primary for want of a replica.
    pub const fn is_displaced(&self) -> bool {
        match self {
            Self::Go(route) => matches!(
                route.reason,
                RouteReason::NotFresh
                    | RouteReason::Unproved
                    | RouteReason::Lagging
                    | RouteReason::NoReplica
            ),
            Self::Wait { .. } | Self::Refuse(_) => false,
        }
    }

    /// The same decision for a read that has waited: a replica that is fresh now has become so
    /// while the read waited.
    pub fn after_waiting(self) -> Self {
        match self {
            Self::Go(route) if route.reason == RouteReason::Fresh => Self::Go(Route {
                reason: RouteReason::Waited,
                ..route
            }),
            Self::Go(_) | Self::Wait { .. } | Self::Refuse(_) => self,
        }
    }
}

/// All that a decision looks at besides the request.
#[derive(Debug, Clone, Copy)]
pub struct RouteWorld<'a> {
    /// The nodes as they were last measured.
    pub snapshot: &'a RoutingSnapshot,
    /// `routing:` of this user.
    pub routing: &'a RoutingPolicy,
    /// `consistency:` of this user.
    pub consistency: &'a ConsistencyPolicy,
    /// Statements under way by node id; a missing entry counts as none.
    pub loads: &'a [u32],
    /// The instant of the decision.
    pub now: Instant,
    /// Chooses among equals: a counter for [`Balance::RoundRobin`], a random number otherwise.
    pub pick: u64,
}

/// Decides where `request` goes.
///
/// The order for a read: a fresh replica now; else a wait of at most `consistency.wait` where a
/// replica in rotation may become fresh in that time; else what `consistency.on_no_replica` says. A
/// read for which the primary has no room waits for it, or for a replica, up to `consistency.max_wait`.
pub fn route(request: &RouteRequest, world: &RouteWorld<'_>, patience: Patience) -> Decision {
    match request.target {
        Target::Primary(reason) => primary(request, world, reason),
        Target::Read => read(request, world, patience),
    }
}

fn primary(request: &RouteRequest, world: &RouteWorld<'_>, reason: RouteReason) -> Decision {
    match world.snapshot.primary {
        Some(node) if !request.excluded.contains(node) => Decision::Go(Route {
            node,
            role: NodeRole::Primary,
            reason,
        }),
        Some(_) | None if !world.snapshot.is_measured() => Decision::Refuse(NoRoute::Unmeasured),
        Some(_) | None => Decision::Refuse(NoRoute::NoPrimary),
    }
}

fn read(request: &RouteRequest, world: &RouteWorld<'_>, patience: Patience) -> Decision {
    if request
        .floor
        .primary_until
        .is_some_and(|until| world.now < until)
    {
        return primary(request, world, RouteReason::Window);
    }
    let rotation = NodeSet::of(world, |node| serves(node, request, world));
    let fresh = NodeSet::of(world, |node| {
        rotation.contains(node.id) && has_floor(node, &request.floor)
    });
    if let Some(decision) = choose(fresh, world, RouteReason::Fresh) {
        return decision;
    }
    if let Some(wait) = worthwhile_wait(rotation, request, world, patience) {
        return wait;
    }
    match world.consistency.on_no_replica {
        OnNoReplica::Primary => displaced(rotation, request, world, patience),
        OnNoReplica::Wait => wait_on(rotation, request, world, patience),
        OnNoReplica::Error => Decision::Refuse(NoRoute::NoFreshReplica),
        OnNoReplica::Stale => choose(rotation, world, RouteReason::Stale)
            .unwrap_or_else(|| displaced(rotation, request, world, patience)),
    }
}

/// To the primary for want of a replica, if it has room.
fn displaced(
    rotation: NodeSet,
    request: &RouteRequest,
    world: &RouteWorld<'_>,
    patience: Patience,
) -> Decision {
    match request.spill {
        Spill::Room => primary(request, world, cause(rotation, request, world)),
        Spill::Full => wait_on(rotation, request, world, patience),
    }
}

/// Whether `node` is a replica in rotation at this instant and under this user's bounds.
fn serves(node: &NodeState, request: &RouteRequest, world: &RouteWorld<'_>) -> bool {
    if node.eligibility != Eligibility::Eligible
        || node.role != NodeRole::Replica
        || node.weight == 0
        || request.excluded.contains(node.id)
    {
        return false;
    }
    match node.lag {
        ReplayLag::Unknown => false,
        ReplayLag::Known {
            bytes,
            fresh_as_of,
            measured_at,
            ..
        } => {
            bytes <= world.routing.max_lag_bytes
                && age(fresh_as_of, world.now) <= world.routing.max_staleness
                && age(measured_at, world.now) <= SAMPLE_EXPIRY
        }
        ReplayLag::Stated {
            fresh_as_of,
            measured_at,
        } => {
            !lacks_proof(node, request)
                && age(fresh_as_of, world.now) <= world.routing.max_staleness
                && age(measured_at, world.now) <= SAMPLE_EXPIRY
        }
    }
}

/// Whether `request` needs a proof of the node's freshness, which is only stated.
fn lacks_proof(node: &NodeState, request: &RouteRequest) -> bool {
    request.floor.evidence == Evidence::Proved && matches!(node.lag, ReplayLag::Stated { .. })
}

fn age(at: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(at)
}

fn has_floor(node: &NodeState, floor: &Floor) -> bool {
    match floor.bound_for(node.id, node.incarnation) {
        None => true,
        Some(bound) => {
            let fresh = node.lag.fresh_as_of(floor.evidence);
            fresh.is_some_and(|fresh| fresh >= bound)
        }
    }
}

/// A wait of at most `consistency.wait`, if a replica is likely to be fresh by its end.
fn worthwhile_wait(
    rotation: NodeSet,
    request: &RouteRequest,
    world: &RouteWorld<'_>,
    patience: Patience,
) -> Option<Decision> {
    let until = deadline(patience, world.consistency.wait).filter(|until| world.now < *until)?;
    let floor = members(rotation, world)
        .filter_map(|node| {
            let bound = request.floor.bound_for(node.id, node.incarnation)?;
            // A replica that keeps its distance has the floor this long after it.
            (bound.checked_add(behind(node))? <= until).then_some(bound)
        })
        .min()?;
    Some(Decision::Wait { until, floor })
}

/// Up to `max_wait`, whatever the prediction.
fn wait_on(
    rotation: NodeSet,
    request: &RouteRequest,
    world: &RouteWorld<'_>,
    patience: Patience,
) -> Decision {
    let floor = members(rotation, world)
        .filter_map(|node| request.floor.bound_for(node.id, node.incarnation))
        .min()
        .unwrap_or(world.now);
    match deadline(patience, world.consistency.max_wait) {
        Some(until) if world.now < until => Decision::Wait { until, floor },
        Some(_) | None => Decision::Refuse(NoRoute::NoFreshReplica),
    }
}

fn deadline(patience: Patience, wait: Duration) -> Option<Instant> {
    match patience {
        Patience::Since(arrived) => arrived.checked_add(wait),
        Patience::Exhausted => None,
    }
}

fn behind(node: &NodeState) -> Duration {
    match node.lag {
        ReplayLag::Unknown => Duration::MAX,
        // What is stated moves only when the service is asked again.
        ReplayLag::Stated {
            fresh_as_of,
            measured_at,
        } => age(fresh_as_of, measured_at).saturating_add(STATEMENT_INTERVAL),
        ReplayLag::Known { behind, .. } => behind,
    }
}

/// Why no replica may serve the read.
fn cause(rotation: NodeSet, request: &RouteRequest, world: &RouteWorld<'_>) -> RouteReason {
    if !rotation.is_empty() {
        return RouteReason::NotFresh;
    }
    let nodes = world.snapshot.nodes.iter();
    let mut eligible =
        nodes.filter(|node| node.weight > 0 && node.eligibility == Eligibility::Eligible);
    if eligible.any(|node| lacks_proof(node, request)) {
        return RouteReason::Unproved;
    }
    // A replica may be within the bound in the snapshot and beyond it now, or for this user.
    let lagging = world.snapshot.nodes.iter().any(|node| {
        node.weight > 0
            && matches!(
                node.eligibility,
                Eligibility::Lagging | Eligibility::Eligible
            )
    });
    if lagging {
        RouteReason::Lagging
    } else {
        RouteReason::NoReplica
    }
}

impl NodeSet {
    fn of(world: &RouteWorld<'_>, mut belongs: impl FnMut(&NodeState) -> bool) -> Self {
        world
            .snapshot
            .nodes
            .iter()
            .filter(|node| belongs(node))
            .fold(Self::default(), |set, node| set.with(node.id))
    }
}

fn members<'a>(set: NodeSet, world: &RouteWorld<'a>) -> impl Iterator<Item = &'a NodeState> {
    let snapshot = world.snapshot;
    snapshot
        .nodes
        .iter()
        .filter(move |node| set.contains(node.id))
}

/// One node of `set`: of this proxy's zone if there is one, then as `routing.balance` says.
fn choose(set: NodeSet, world: &RouteWorld<'_>, reason: RouteReason) -> Option<Decision> {
    let near = NodeSet::of(world, |node| {
        set.contains(node.id) && node.zone.is_some() && node.zone == world.routing.zone
    });
    let set = if near.is_empty() { set } else { near };
    let node = match world.routing.balance {
        Balance::LeastLoaded => least_loaded(set, world),
        Balance::RoundRobin | Balance::Random => by_weight(set, world),
    }?;
    Some(Decision::Go(Route {
        node: node.id,
        role: NodeRole::Replica,
        reason,
    }))
}

fn least_loaded<'a>(set: NodeSet, world: &RouteWorld<'a>) -> Option<&'a NodeState> {
    let least = members(set, world).min_by(|a, b| compare_loads(a, b, world))?;
    let equals = NodeSet::of(world, |node| {
        set.contains(node.id) && compare_loads(node, least, world).is_eq()
    });
    by_weight(equals, world)
}

/// Compares statements under way per unit of weight, without division.
fn compare_loads(a: &NodeState, b: &NodeState, world: &RouteWorld<'_>) -> std::cmp::Ordering {
    let load = |node: &NodeState| world.loads.get(node.id.index()).copied().unwrap_or(0);
    let scaled = |of: &NodeState, by: &NodeState| u64::from(load(of)) * u64::from(by.weight);
    scaled(a, b).cmp(&scaled(b, a))
}

/// The member on which `pick` falls when every member holds as many tickets as its weight.
fn by_weight<'a>(set: NodeSet, world: &RouteWorld<'a>) -> Option<&'a NodeState> {
    let tickets: u64 = members(set, world).map(|node| u64::from(node.weight)).sum();
    let mut ticket = world.pick.checked_rem(tickets)?;
    members(set, world).find(|node| {
        let weight = u64::from(node.weight);
        let falls_here = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        falls_here
    })
}

#[cfg(test)]
mod tests;
