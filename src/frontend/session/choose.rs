//! Chooses the node of a request, waiting for a fresh replica, or for room on the primary, as long as
//! the policy allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::attempt::Failure;
use super::{Session, now};
use crate::core::policy::Balance;
use crate::core::router::{
    Decision, Forecast, NoRoute, Patience, Route, RouteReason, RouteRequest, RouteWorld, Spill,
    Target, expected_wait, forecast, route,
};
use crate::core::snapshot::{Incarnation, NodeId, NodeRole, RoutingSnapshot};
use crate::frontend::error::ProxyError;

/// Whether the request has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    No,
    Yes,
}

/// Why a wait is over.
#[derive(Debug)]
enum Awaited {
    /// A replica is fresh.
    Replica,
    /// The primary has room.
    Room(OwnedSemaphorePermit),
    /// It has lasted as long as it may.
    Expired,
}

impl Session {
    /// Decides where the request goes, waiting as long as the policy allows.
    pub(super) async fn choose(
        &mut self,
        request: &RouteRequest,
        arrived: Instant,
    ) -> Result<(Route, Option<Incarnation>), Failure> {
        let mut request = *request;
        let mut waited = Waited::No;
        self.spilled = None;
        loop {
            self.cluster.shared.loads(&mut self.loads);
            self.picks = self.picks.wrapping_add(1);
            let patience = Patience::Since(arrived);
            let decision = match waited {
                Waited::No => self.decide(&request, arrived, patience),
                Waited::Yes => self.decide(&request, now(), patience).after_waiting(),
            };
            if decision.is_displaced() && !self.spill() {
                request.spill = Spill::Full;
                continue;
            }
            match decision {
                Decision::Go(route) => {
                    let Some(route) = self.crossed(&request, route, arrived).await? else {
                        waited = Waited::Yes;
                        continue;
                    };
                    if waited == Waited::Yes {
                        let time = now().saturating_duration_since(arrived);
                        self.cluster.metrics.observe_freshness_wait(time);
                    }
                    if route.role == NodeRole::Replica {
                        self.spilled = None;
                    }
                    self.note_displaced(&request, route);
                    return Ok((route, self.incarnation_of(route.node)));
                }
                Decision::Refuse(NoRoute::Unmeasured)
                    if self.cluster.world.becomes_measured().await => {}
                Decision::Refuse(NoRoute::NoPrimary | NoRoute::Unmeasured) => {
                    return Err(Failure::Refused(ProxyError::NoNodeAvailable));
                }
                Decision::Refuse(NoRoute::NoFreshReplica) => {
                    let expected = self.expected_wait(&request);
                    return Err(Failure::Refused(ProxyError::NoFreshReplica { expected }));
                }
                Decision::Wait { until, floor } => {
                    waited = Waited::Yes;
                    self.cluster.world.demand.ask(floor);
                    if let Awaited::Room(place) = self.wait_for_route(&request, until).await {
                        self.spilled = Some(place);
                        request.spill = Spill::Room;
                    }
                }
            }
        }
    }

    /// The route, once what a replica has shown can be found there; `None` if it is to be chosen anew.
    async fn crossed(
        &self,
        request: &RouteRequest,
        route: Route,
        arrived: Instant,
    ) -> Result<Option<Route>, Failure> {
        if route.role == NodeRole::Primary
            && let Some(shown) = self.must_cross()
        {
            // Boxed: hardly any session comes here, and every one would keep room for it.
            let crossing = Box::pin(self.cross(request, route, (shown, arrived)));
            return crossing.await.map_err(Failure::Refused);
        }
        Ok(Some(route))
    }

    pub(super) fn decide(
        &self,
        request: &RouteRequest,
        at: Instant,
        patience: Patience,
    ) -> Decision {
        let snapshot = self.cluster.world.routing.load();
        route(request, &self.world(&snapshot, at), patience)
    }

    fn expected_wait(&self, request: &RouteRequest) -> Option<Duration> {
        let snapshot = self.cluster.world.routing.load();
        expected_wait(request, &self.world(&snapshot, now()))
    }

    /// What a decision at the instant `at` looks at.
    pub(super) fn world<'a>(
        &'a self,
        snapshot: &'a RoutingSnapshot,
        at: Instant,
    ) -> RouteWorld<'a> {
        RouteWorld {
            snapshot,
            routing: &self.policies.routing,
            consistency: &self.policies.consistency,
            loads: &self.loads,
            now: at,
            pick: self.pick(),
        }
    }

    /// Foresees where [`Self::choose`] would lead at the instant `at`; nothing is taken or counted.
    pub(super) fn foresee(&mut self, request: &RouteRequest, at: Instant) -> Forecast {
        self.cluster.shared.loads(&mut self.loads);
        // The turn that the statement would have, which is not taken.
        let turn = self.picks;
        self.picks = turn.wrapping_add(1);
        let snapshot = self.cluster.world.routing.load();
        let mut foreseen = forecast(request, &self.world(&snapshot, at));
        let places = self.spill_places();
        if foreseen.is_displaced() && places.is_some_and(|free| free.available_permits() == 0) {
            let spill = Spill::Full;
            foreseen = forecast(
                &RouteRequest { spill, ..*request },
                &self.world(&snapshot, at),
            );
        }
        drop(snapshot);
        self.picks = turn;
        foreseen
    }

    /// Takes one of the primary's places for displaced reads; `false` if all are taken.
    fn spill(&mut self) -> bool {
        if self.spilled.is_some() {
            return true;
        }
        let Some(places) = self.spill_places() else {
            return true;
        };
        self.spilled = places.try_acquire_owned().ok();
        self.spilled.is_some()
    }

    /// The places for displaced reads; `None` if there is no limit.
    fn spill_places(&self) -> Option<Arc<Semaphore>> {
        let size = self.cluster.config.pool.size;
        let limit = self.policies.consistency.spill_places(size)?;
        let (database, user) = (&self.key.database, &self.key.user);
        Some(self.cluster.shared.spill.places(database, user, limit))
    }

    /// Waits until a published snapshot lets the request go to a replica, or the primary has room for
    /// one that waits for that.
    async fn wait_for_route(&self, request: &RouteRequest, until: Instant) -> Awaited {
        let world = &self.cluster.world;
        let patience = Patience::Since(until);
        let ready = world.routing.wait_for(|snapshot| {
            match route(request, &self.world(snapshot, now()), patience) {
                Decision::Go(route) if route.reason == RouteReason::Fresh => Some(()),
                Decision::Go(_) | Decision::Wait { .. } | Decision::Refuse(_) => None,
            }
        });
        let places = match request.spill {
            Spill::Room => None,
            Spill::Full => self.spill_places(),
        };
        let room = async {
            match places {
                Some(places) => places.acquire_owned().await.ok(),
                None => None,
            }
        };
        tokio::select! {
            biased;
            () = ready => Awaited::Replica,
            Some(place) = room => Awaited::Room(place),
            () = tokio::time::sleep_until(until.into()) => Awaited::Expired,
        }
    }

    /// A counter for balancing in turn; else the counter's bits mixed, which is random enough to
    /// spread load.
    fn pick(&self) -> u64 {
        match self.policies.routing.balance {
            Balance::RoundRobin => self.picks,
            Balance::LeastLoaded | Balance::Random => {
                let mixed = self.picks.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                mixed ^ (mixed >> 32)
            }
        }
    }

    fn note_displaced(&self, request: &RouteRequest, route: Route) {
        if request.target == Target::Read && route.role == NodeRole::Primary {
            self.cluster.metrics.count_displaced(route.reason);
        }
    }

    fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        self.cluster
            .world
            .routing
            .load()
            .node(node)
            .and_then(|node| node.incarnation)
    }
}
