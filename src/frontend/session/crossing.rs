//! Holds a statement for the primary until the primary shows all that the session has read on a replica
//! (`consistency.monotonic_reads: strict`).
//!
//! Must not be asked for sessions that read nothing on replicas, nor in `ordinary` mode: it costs a round
//! trip to the primary and one to the replica, both shared with other sessions that ask meanwhile.

use std::time::Instant;

use tokio::time::{sleep, timeout, timeout_at};

use super::link::Link;
use super::plan::Plan;
use super::serve::Extent;
use super::{Session, now};
use crate::core::crossing::{Crossing, CrossingOutcome, Progress, Scope};
use crate::core::guarantee::Floor;
use crate::core::policy::MonotonicReads;
use crate::core::router::{Decision, Patience, Route, RouteRequest, Target};
use crate::core::snapshot::{NodeId, NodeRole};
use crate::frontend::error::ProxyError;
use crate::limits::{CROSSING_PATIENCE, CROSSING_PAUSE};
use crate::world::ClusterWorld;

impl Session {
    /// What the primary has to show before a statement of the session may run there; `None` if that
    /// needs no proof.
    pub(super) fn must_cross(&self) -> Option<Floor> {
        match self.policies.consistency.monotonic_reads {
            MonotonicReads::Ordinary => None,
            MonotonicReads::Strict => self.state.guarantee.shown_on_replica(),
        }
    }

    /// Where a request runs that was routed to the primary, once that shows what `shown` is about; `None`
    /// if another node has become the primary meanwhile.
    ///
    /// # Errors
    /// When it does not within `consistency.max_wait` of the arrival, and no replica may serve instead.
    pub(super) async fn cross(
        &self,
        request: &RouteRequest,
        route: Route,
        (shown, arrived): (Floor, Instant),
    ) -> Result<Option<Route>, ProxyError> {
        let outcome = self.cross_to(route.node, shown, arrived).await;
        if outcome != CrossingOutcome::NotReached {
            let primary = self.cluster.world.routing.load().primary;
            return Ok((primary == Some(route.node)).then_some(route));
        }
        if request.target == Target::Read {
            let elsewhere = RouteRequest {
                excluded: request.excluded.with(route.node),
                ..*request
            };
            if let Decision::Go(route) = self.decide(&elsewhere, now(), Patience::Exhausted)
                && route.role == NodeRole::Replica
            {
                return Ok(Some(route));
            }
        }
        Err(ProxyError::NotShownYet)
    }

    /// Holds the session until `primary` shows what `shown` is about, for as long as it may.
    pub(super) async fn cross_to(
        &self,
        primary: NodeId,
        shown: Floor,
        arrived: Instant,
    ) -> CrossingOutcome {
        let until = arrived.checked_add(self.policies.consistency.max_wait);
        let crossing = wait(&self.cluster.world, primary, shown);
        let outcome = match until {
            Some(until) => timeout_at(until.into(), crossing).await,
            None => Ok(crossing.await),
        };
        let outcome = outcome.unwrap_or(CrossingOutcome::NotReached);
        self.cluster.metrics.count_barrier(outcome);
        outcome
    }
}

impl Session {
    /// The same for a segment, if it runs on the connection to the primary which the session keeps.
    ///
    /// # Errors
    /// When the primary does not show it in time, or the client cancels.
    pub(super) async fn cross_kept(
        &self,
        shown: Floor,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), ProxyError> {
        let Some(link) = self.awaiting(plan, extent) else {
            return Ok(());
        };
        let (primary, arrived) = (link.route.node, extent.arrived);
        let waiter = self.registration.waiter();
        tokio::select! {
            outcome = self.cross_to(primary, shown, arrived) => match outcome {
                CrossingOutcome::Passed | CrossingOutcome::Waited => Ok(()),
                CrossingOutcome::NotReached => Err(ProxyError::NotShownYet),
            },
            () = waiter.cancelled() => Err(ProxyError::QueryCanceled),
        }
    }

    /// A block leaves its replica before its end: what it has read there has been shown.
    pub(super) fn note_left(&mut self, link: &Link) {
        match self.policies.consistency.monotonic_reads {
            MonotonicReads::Ordinary => {}
            MonotonicReads::Strict => {
                let (node, role) = (link.route.node, link.route.role);
                let guarantee = &mut self.state.guarantee;
                guarantee.on_read_completed(node, role, link.incarnation, now());
            }
        }
    }
}

/// Waits until `primary` shows what `shown` is about.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
async fn wait(world: &ClusterWorld, primary: NodeId, shown: Floor) -> CrossingOutcome {
    let crossings = &world.crossings;
    let asked = now();
    let mut crossing = Crossing::new(primary, shown, asked);
    ask_replicas(world, &shown, asked);
    crossings.ask(asked, Scope::Snapshot);
    loop {
        let looking = crossings.wait_for(|known| crossing.look(known));
        match timeout(CROSSING_PATIENCE, looking).await {
            Ok(Progress::Over(outcome)) => return outcome,
            Ok(Progress::Again) => {
                sleep(CROSSING_PAUSE).await;
                crossings.ask(now(), Scope::Snapshot);
            }
            Err(_) if crossing.is_blind() => {
                ask_replicas(world, &shown, now());
                crossings.ask(now(), Scope::Every);
            }
            // A question may have been lost with the connection it was sent on.
            Ok(Progress::Once) | Err(_) => crossings.ask(now(), Scope::Snapshot),
        }
    }
}

/// Asks the replica that was read last; all of them if that has not the life any more that it had then.
fn ask_replicas(world: &ClusterWorld, shown: &Floor, at: Instant) {
    let snapshot = world.routing.load();
    let home = shown.home.filter(|(node, life)| {
        let node = snapshot.node(*node);
        node.is_some_and(|node| node.incarnation == Some(*life))
    });
    for node in &snapshot.nodes {
        if home.is_none_or(|(home, _)| home == node.id) {
            world.crossings.ask_replica(node.id, at);
        }
    }
}
