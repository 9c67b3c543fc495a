//! `EXPLAIN ROUTE`: tells where a statement would go now and why, and sends, counts and changes nothing.
//!
//! Every answer comes from what decides about a statement that is run. What that would ask a node or
//! the shared store for is not asked here; the answer then says what it assumes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::link::Link;
use super::plan::{Needs, Plan};
use super::put_off::Control;
use super::replica_block::Leaving;
use super::serve::Extent;
use super::texts::SilentTexts;
use super::{Session, now};
use crate::core::router::{
    Forecast, NoRoute, Route, RouteReason, RouteRequest, Standing, expected_wait, standing,
};
use crate::core::segment::Begun;
use crate::core::snapshot::{NodeRole, NodeState, RoutingSnapshot};
use crate::core::statement::{Classification, PinReason};
use crate::core::words::{class, destination, effects, hint};
use crate::frontend::cluster::DefaultIsolation;
use crate::frontend::error::ProxyError;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::frontend::write_query;
use crate::protocol::segment::SegmentEnd;

/// The name and the value of a fact.
pub(super) type Fact = (Cow<'static, str>, String);

/// Where a statement would go.
enum Foreseen {
    /// Nowhere: pgweir answers it.
    Nowhere,
    /// On the connection that the session holds.
    Held(Route),
    /// Where routing leads.
    Routed(Forecast),
    /// It would fail.
    Refused(ProxyError),
}

impl Session {
    /// What decides about the statement `sql`, if it came now.
    pub(super) fn explain(&mut self, sql: &str) -> Vec<Fact> {
        let mut message = Vec::new();
        write_query(&mut message, sql.as_bytes());
        let extent = Extent {
            length: message.len(),
            end: SegmentEnd::Query,
            arrived: now(),
        };
        let mut texts = SilentTexts { session: self };
        let plan = match Plan::default().of(&message, &self.state, &mut texts) {
            Ok(plan) => plan,
            Err(error) => return vec![refused(&error)],
        };
        let mut facts = Vec::new();
        if let Some(text) = plan.texts.first() {
            classified(&mut facts, text);
        }
        let (begun, assumes) = self.begun_unasked(&plan);
        let request = self.request(&plan, extent, begun);
        let foreseen = self.foresee_segment(&plan, sql.as_bytes(), &request, extent);
        self.destined(&mut facts, &foreseen, &request, extent.arrived);
        let (mode, bound) = self.promised(&plan);
        facts.push(("consistency".into(), mode.as_str().to_owned()));
        if let Some(bound) = bound.or(self.policies.consistency.max_staleness) {
            facts.push(("max_staleness".into(), milliseconds(bound)));
        }
        facts.push(("connection".into(), self.kept()));
        facts.extend(assumes.map(|it| ("assumes".into(), it.to_owned())));
        if self.is_keyed(&plan) && self.cluster.shared.keys.shared_for().is_some() {
            let nothing = "no other proxy tells of anything newer under the key";
            facts.push(("assumes".into(), nothing.to_owned()));
        }
        self.replicas(&mut facts, &request, extent.arrived);
        facts
    }

    /// The block that the statement would stand in, and what is assumed of it.
    fn begun_unasked(&self, plan: &Plan) -> (Begun, Option<&'static str>) {
        let (begun, unless) = self.begun_as_told(plan);
        let (Some(modes), Begun::UntilWrite) = (unless, begun) else {
            return (begun, None);
        };
        match self.known_isolation() {
            Some(DefaultIsolation::ReadCommitted) => (begun, None),
            Some(DefaultIsolation::Other) => (Begun::Yes(modes), None),
            None => (begun, Some("transactions are READ COMMITTED by default")),
        }
    }

    fn foresee_segment(
        &mut self,
        plan: &Plan,
        sql: &[u8],
        request: &RouteRequest,
        extent: Extent,
    ) -> Foreseen {
        let at = extent.arrived;
        if plan.needs == Needs::Nothing {
            return Foreseen::Nowhere;
        }
        match self.control_of(plan, Some(sql)) {
            Some(Control::Refuse) => return Foreseen::Refused(ProxyError::InFailedTransaction),
            Some(Control::Begin(..) | Control::End | Control::Deallocate(_)) => {
                return Foreseen::Nowhere;
            }
            None => {}
        }
        let link = self.link.as_deref();
        let link = link.or_else(|| self.awaiting(plan, extent));
        match link.map(|link| self.held(link, plan)) {
            Some(Ok(foreseen)) => foreseen,
            Some(Err(reason)) => {
                Foreseen::Routed(self.foresee(&RouteRequest::to_primary(reason), at))
            }
            None => Foreseen::Routed(self.foresee(request, at)),
        }
    }

    /// What becomes of the statement in a session that holds a connection; the reason for which it
    /// goes on elsewhere, if it does.
    fn held(&self, link: &Link, plan: &Plan) -> Result<Foreseen, RouteReason> {
        let here = |reason| {
            Ok(Foreseen::Held(Route {
                reason,
                ..link.route
            }))
        };
        let block = self.block.as_deref();
        if block.is_some_and(|block| block.until_write.is_some()) {
            return if self.moves_on(link, plan) {
                Err(RouteReason::Transaction)
            } else {
                here(RouteReason::ReadOnlyTransaction)
            };
        }
        match self.runs_here(link, plan) {
            Some(reason) => here(reason),
            None => match self.leaving(
                plan,
                self.known_isolation()
                    .unwrap_or(DefaultIsolation::ReadCommitted),
            ) {
                Leaving::Anew(_) => Err(RouteReason::Transaction),
                Leaving::Stays => here(RouteReason::ReadOnlyTransaction),
                Leaving::Refused(error) => Ok(Foreseen::Refused(error)),
            },
        }
    }

    /// The facts about where the statement goes.
    fn destined(
        &self,
        facts: &mut Vec<Fact>,
        foreseen: &Foreseen,
        request: &RouteRequest,
        at: Instant,
    ) {
        let (route, wait) = match foreseen {
            Foreseen::Nowhere => {
                facts.push(("node".into(), "none: pgweir answers it".to_owned()));
                let reason = RouteReason::Proxy.as_str();
                return facts.push(("route reason".into(), reason.to_owned()));
            }
            Foreseen::Refused(error) => return facts.push(refused(error)),
            Foreseen::Held(route) => (Ok(*route), Duration::ZERO),
            Foreseen::Routed(forecast) => (forecast.outcome, forecast.wait),
        };
        let snapshot = self.cluster.world.routing.load();
        let node = match route {
            Ok(route) => {
                facts.push(("node".into(), self.node_name(route.node).to_string()));
                facts.push(("role".into(), route.role.as_str().to_owned()));
                facts.push(("route reason".into(), route.reason.as_str().to_owned()));
                snapshot.node(route.node)
            }
            Err(NoRoute::NoPrimary | NoRoute::Unmeasured) => {
                facts.push(refused(&ProxyError::NoNodeAvailable));
                None
            }
            Err(NoRoute::NoFreshReplica) => {
                let expected = expected_wait(request, &self.world(&snapshot, at));
                facts.push(refused(&ProxyError::NoFreshReplica { expected }));
                None
            }
        };
        if let Some(node) = node {
            facts.push(("staleness bound".into(), staleness(node, at)));
        }
        facts.push(("freshness floor".into(), floor(request, node, at)));
        facts.push(("expected wait".into(), milliseconds(wait)));
    }

    /// What the session keeps a connection for, if it does.
    fn kept(&self) -> String {
        match (self.pin, &self.link, &self.parked) {
            (Some(pin), _, _) => format!("kept: {}", pin.reason.as_str()),
            (None, Some(link), _) if link.scanner.status != TransactionStatus::Idle => {
                "kept: transaction block".to_owned()
            }
            (None, Some(_), _) => "kept: statements that were sent and not synced".to_owned(),
            (None, None, Some(_)) => format!("kept: {}", PinReason::PoolMode.as_str()),
            (None, None, None) => "none is kept".to_owned(),
        }
    }

    /// How every replica stands to the statement as a read.
    fn replicas(&self, facts: &mut Vec<Fact>, request: &RouteRequest, at: Instant) {
        let snapshot = self.cluster.world.routing.load();
        let world = self.world(&snapshot, at);
        for node in others(&snapshot) {
            let bound = staleness(node, at);
            let stands = match standing(node, request, &world) {
                Standing::Fresh => format!("fresh enough, at most {bound} stale"),
                Standing::NotFresh => format!("not fresh enough, at most {bound} stale"),
                Standing::Unproved => format!("needs a proof, said to be at most {bound} stale"),
                Standing::Out(why) => format!("serves no reads: {}", why.as_str()),
                Standing::Excluded => "serves no reads: weight 0".to_owned(),
            };
            facts.push((format!("replica {}", node.name).into(), stands));
        }
    }
}

/// Every node but the primary.
fn others(snapshot: &RoutingSnapshot) -> impl Iterator<Item = &NodeState> {
    let others = snapshot.nodes.iter();
    others.filter(|node| Some(node.id) != snapshot.primary)
}

/// What the statement was classified as, in the words of `pgweir explain`.
fn classified(facts: &mut Vec<Fact>, text: &Classification) {
    facts.push(("class".into(), class(text.access).to_owned()));
    facts.push(("reason".into(), text.reason.as_str().to_owned()));
    facts.push(("goes to".into(), destination(text).to_owned()));
    let effects: Vec<_> = text.statements.iter().flat_map(effects).collect();
    if !effects.is_empty() {
        facts.push(("effect".into(), effects.join(", ")));
    }
    let hints = hint(&text.hint);
    if !hints.is_empty() {
        facts.push(("hint".into(), hints.join(", ")));
    }
}

fn refused(error: &ProxyError) -> Fact {
    let told = format!("{} {error}", error.sqlstate());
    ("refused".into(), told)
}

/// An upper bound of the node's staleness at `at`.
fn staleness(node: &NodeState, at: Instant) -> String {
    match (node.role, node.lag.staleness(at)) {
        (NodeRole::Primary, _) => milliseconds(Duration::ZERO),
        (NodeRole::Replica | NodeRole::Unknown, Some(bound)) => milliseconds(bound),
        (NodeRole::Replica | NodeRole::Unknown, None) => "unknown".to_owned(),
    }
}

/// What the session must see: on `node` if that is a replica, else on any it has not read last.
fn floor(request: &RouteRequest, node: Option<&NodeState>, at: Instant) -> String {
    let floor = &request.floor;
    if let Some(until) = floor.primary_until.filter(|until| at < *until) {
        let rest = milliseconds(until.saturating_duration_since(at));
        return format!("only the primary for {rest}");
    }
    let replica = node.filter(|node| node.role == NodeRole::Replica);
    let bound = match replica {
        Some(node) => floor.bound_for(node.id, node.incarnation),
        None => floor.everywhere.max(floor.elsewhere),
    };
    bound.map_or_else(
        || "none".to_owned(),
        |bound| format!("{} ago", milliseconds(at.saturating_duration_since(bound))),
    )
}

/// With the unit, as settings have it, and microseconds behind the point.
fn milliseconds(time: Duration) -> String {
    let micros = time.as_micros();
    match micros % 1000 {
        0 => format!("{}ms", micros / 1000),
        rest => format!("{}.{rest:03}ms", micros / 1000),
    }
}
