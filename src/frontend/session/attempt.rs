//! Has a segment run on a node that routing chooses; and on another one, where the first proves
//! that nothing of it has run.

use std::time::Duration;

use super::link::{Link, LinkError, Pause};
use super::plan::{Needs, Plan};
use super::refusal::checkout_refusal;
use super::serve::Extent;
use super::settle::Batch;
use super::{Next, Session, SessionEnd, now};
use crate::backend::pool::CheckoutError;
use crate::core::retry::{AfterError, NamesRecovery, after_replica_error};
use crate::core::router::{NodeSet, Route, RouteReason, RouteRequest, Spill, Target};
use crate::core::segment::Begun;
use crate::core::snapshot::{NodeId, NodeRole};
use crate::core::statement::{Consistency, TransactionControl};
use crate::frontend::error::ProxyError;
use crate::limits::READ_ATTEMPTS;
use crate::metrics::RetryCause;
use crate::protocol::backend::{SqlState, TransactionStatus};
use crate::protocol::replies::{ErrorKind, Hold, Outcome};
use crate::protocol::segment::SegmentEnd;

/// What has been tried for one segment.
#[derive(Debug)]
struct Attempts {
    request: RouteRequest,
    count: usize,
    /// How a replica refused the segment.
    misrouted: Option<Misrouted>,
}

/// How a replica refused a segment.
#[derive(Debug, Clone, Copy)]
enum Misrouted {
    /// As a hot standby does.
    Told,
    /// With this error, which may come from every node.
    Perhaps(SqlState, NodeId),
}

/// What one attempt led to.
enum Attempted {
    /// Every reply has been passed on.
    Done(Box<Link>),
    /// Nothing has reached the client; another node is to run it.
    Again,
    /// Of several segments the first have been answered; the others are to be served anew.
    Partly,
}

impl Session {
    /// Routes a segment, runs it, and keeps or returns the connection.
    pub(super) async fn serve_routed(
        &mut self,
        plan: &Plan,
        mut extent: Extent,
    ) -> Result<(), SessionEnd> {
        let begun = match &self.block {
            // Boxed: few sessions come here, and every one would keep room for it.
            Some(_) => Box::pin(self.begun(plan, extent.arrived)).await,
            None => Begun::No,
        };
        let mut attempts = Attempts {
            request: self.request(plan, extent, begun),
            count: 0,
            misrouted: None,
        };
        if let Some(database) = self.database_to_leave(plan, extent) {
            // Boxed: hardly any segment comes here.
            Box::pin(self.leave_database(&database)).await;
        }
        let unnamed = self.state.unnamed.clone();
        loop {
            match self.attempt(plan, &mut extent, &mut attempts).await {
                Ok(Attempted::Done(mut link)) => {
                    self.judge_audit(&mut link);
                    self.inbound.consume(extent.length);
                    if let Some(misrouted) = attempts.misrouted
                        && !link.scanner.outcome.has(Outcome::ERROR)
                    {
                        if let Misrouted::Perhaps(sqlstate, node) = misrouted {
                            self.note_misrouted(sqlstate, node);
                        }
                        self.learn_write(plan);
                    }
                    return self.settle(link, plan, extent).await;
                }
                Ok(Attempted::Again) => self.state.unnamed.clone_from(&unnamed),
                Ok(Attempted::Partly) => {
                    self.next = Next::Alone;
                    return Ok(());
                }
                Err(Failure::Refused(error)) => {
                    self.state.unnamed = unnamed;
                    return self.refuse(&error, extent).await;
                }
                Err(Failure::Session(end)) => return Err(end),
            }
        }
    }

    /// What is asked of the router for a segment that stands in the block `begun`.
    pub(super) fn request(&self, plan: &Plan, extent: Extent, begun: Begun) -> RouteRequest {
        let target = match plan.target(self.consistency(), begun) {
            // What it has begun cannot be moved to another node any more.
            Target::Read if extent.end == SegmentEnd::Flush && !closes_early(plan, extent) => {
                Target::Primary(RouteReason::NotUnderstood)
            }
            // A hot standby has no SERIALIZABLE (manual, "Hot Standby").
            Target::Read if self.state.is_serializable_by_default() => {
                Target::Primary(RouteReason::Transaction)
            }
            Target::Read if self.state.has_nonstandard_strings() || self.begins_blindly(plan) => {
                Target::Primary(RouteReason::NotUnderstood)
            }
            target @ (Target::Read | Target::Primary(_)) => target,
        };
        let (mode, bound) = self.promised(plan);
        let arrived = extent.arrived;
        let policy = &self.policies.consistency;
        let floor = self.state.guarantee.floor(policy, mode, bound, arrived);
        RouteRequest {
            target,
            floor: self.keyed_floor(floor, plan, (mode, arrived)),
            excluded: NodeSet::default(),
            spill: Spill::default(),
        }
    }

    /// The mode and the bound of staleness in which a segment reads, the policy's bound apart.
    pub(super) fn promised(&self, plan: &Plan) -> (Consistency, Option<Duration>) {
        let hint = plan.texts.first().map(|text| &text.hint);
        let own = self.state.own().max_staleness.bound();
        let bound = hint.and_then(|hint| hint.max_staleness).unwrap_or(own);
        let mode = hint.and_then(|hint| hint.consistency);
        (mode.unwrap_or_else(|| self.consistency()), bound)
    }

    /// Whether the segment begins a block of which no later statement could be judged: on a replica
    /// it could not go on.
    fn begins_blindly(&self, plan: &Plan) -> bool {
        let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
        let begins = statements.any(|one| matches!(one.transaction, TransactionControl::Begin(_)));
        let put_off = self
            .block
            .as_deref()
            .is_some_and(|block| block.put_off.is_some());
        (begins || put_off) && self.current_catalog().is_none()
    }

    async fn attempt(
        &mut self,
        plan: &Plan,
        extent: &mut Extent,
        attempts: &mut Attempts,
    ) -> Result<Attempted, Failure> {
        attempts.count += 1;
        let (route, mut link) = match self.reach(&attempts.request, extent.arrived).await? {
            (_, Ok(link)) => (link.route, link),
            (route, Err(error)) => return self.after_no_connection(&error, route, attempts),
        };
        if self.prepare(&mut link, plan, extent.end).await.is_err() {
            return self.after_refusal(&link, attempts);
        }
        if closes_early(plan, *extent) {
            link.batch = Batch::ClosedEarly;
        }
        let may_repeat = attempts.request.target == Target::Read;
        let hold = if may_repeat && route.role == NodeRole::Replica {
            Hold::UntilResult
        } else {
            Hold::Released
        };
        self.send(&mut link, plan, *extent, hold)
            .map_err(Failure::Refused)?;
        if hold == Hold::UntilResult {
            self.audit(&mut link, plan, *extent, &attempts.request.floor);
        }
        let spent = now().saturating_duration_since(extent.arrived);
        self.cluster.metrics.observe_proxy_overhead(spent);
        if !may_repeat {
            self.inbound.consume(std::mem::take(&mut extent.length));
        }
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        loop {
            match self.relay(&mut link).await {
                Ok(Pause::Answered) => return Ok(Attempted::Done(link)),
                Ok(Pause::HeldError(sqlstate, kind)) if link.answered > 0 => {
                    if after_replica_error(&sqlstate.0, names_recovery(kind)) == AfterError::Surface
                    {
                        link.scanner.hold = Hold::Released;
                        continue;
                    }
                    self.settle_answered(plan, &link, *extent);
                    self.drain(link).await;
                    return Ok(Attempted::Partly);
                }
                Ok(Pause::HeldError(sqlstate, kind)) => {
                    if self.takes_back(sqlstate, kind, route, attempts) {
                        self.drain(link).await;
                        return Ok(Attempted::Again);
                    }
                    link.scanner.hold = Hold::Released;
                }
                Ok(Pause::Compared(_)) => {}
                Ok(Pause::Input) => self.feed_copy(&mut link).map_err(Failure::Session)?,
                Err(LinkError::Server(_)) if link.end_behind_answer() => {
                    return Ok(Attempted::Done(link));
                }
                // What was sent for the primary is used up and cannot be sent again.
                Err(LinkError::OwnFailed) => return self.after_loss(&link, attempts),
                Err(LinkError::Server(_)) if link.answered > 0 && link.is_untouched() => {
                    self.settle_answered(plan, &link, *extent);
                    return Ok(Attempted::Partly);
                }
                Err(LinkError::Server(_)) if may_repeat && link.is_untouched() => {
                    return self.after_loss(&link, attempts);
                }
                Err(error) => return Err(Failure::Session(self.lost(&link, &error))),
            }
        }
    }

    /// Whether an error stays between pgweir and the replica.
    fn takes_back(
        &mut self,
        sqlstate: SqlState,
        kind: ErrorKind,
        route: Route,
        attempts: &mut Attempts,
    ) -> bool {
        if attempts.count >= READ_ATTEMPTS {
            return false;
        }
        let recovery = names_recovery(kind);
        let metrics = &self.cluster.metrics;
        match after_replica_error(&sqlstate.0, recovery) {
            AfterError::Surface => return false,
            AfterError::Misrouted => {
                self.note_misrouted(sqlstate, route.node);
                attempts.misrouted = Some(Misrouted::Told);
                attempts.request.target = Target::Primary(RouteReason::Misrouted);
            }
            AfterError::PerhapsMisrouted => {
                metrics.count_retry(RetryCause::Missing);
                attempts.misrouted = Some(Misrouted::Perhaps(sqlstate, route.node));
                attempts.request.target = Target::Primary(RouteReason::Retried);
            }
            AfterError::AskPrimary => {
                metrics.count_retry(RetryCause::Missing);
                attempts.request.target = Target::Primary(RouteReason::Retried);
            }
            AfterError::Elsewhere => {
                metrics.count_retry(RetryCause::Conflict);
                attempts.request.excluded = attempts.request.excluded.with(route.node);
            }
        }
        true
    }

    pub(super) fn note_misrouted(&self, sqlstate: SqlState, node: NodeId) {
        self.cluster.metrics.count_misrouted(sqlstate.as_str());
        tracing::warn!(
            node = %self.node_name(node),
            sqlstate = sqlstate.as_str(),
            "a replica refused a statement; the primary runs it"
        );
    }

    /// Takes the rest of a refused segment off the connection, so that it can be used again.
    pub(super) async fn drain(&mut self, mut link: Box<Link>) {
        link.discard_held();
        let drained = loop {
            match self.relay(&mut link).await {
                Ok(Pause::Answered) => break link.is_quiet(),
                Ok(Pause::HeldError(..) | Pause::Input | Pause::Compared(_)) => {}
                Err(_) => break false,
            }
        };
        self.leave_target(&mut link);
        if drained && !link.scanner.outcome.has(Outcome::FATAL) {
            // The client has not been told of it; it is sent again.
            self.pending.clear();
            self.note_prepared(&mut link);
            if link.replayed.take().is_some() && !link.scanner.outcome.has(Outcome::ERROR) {
                // What held it back was not an error of the node's: its Sync has committed the settings.
                link.forget_settings();
            }
            if link.scanner.status == TransactionStatus::Idle {
                self.spare = link.give_back(now());
            } else {
                self.end_replica_block(link).await;
            }
        }
    }

    /// A connection was lost before anything of a read reached the client.
    fn after_loss(&mut self, link: &Link, attempts: &mut Attempts) -> Result<Attempted, Failure> {
        let _ = self.registration.clear_target();
        let spent = attempts.count >= READ_ATTEMPTS || attempts.request.target != Target::Read;
        if spent || link.was_parked() {
            return Err(Failure::Session(SessionEnd::Fatal(
                ProxyError::ConnectionLost,
            )));
        }
        self.cluster.metrics.count_retry(RetryCause::Lost);
        if link.route.role == NodeRole::Replica {
            attempts.request.excluded = attempts.request.excluded.with(link.route.node);
        }
        Ok(Attempted::Again)
    }

    /// The node refused the session's settings, or was lost; nothing of the segment has run.
    fn after_refusal(
        &mut self,
        link: &Link,
        attempts: &mut Attempts,
    ) -> Result<Attempted, Failure> {
        let again = attempts.count < READ_ATTEMPTS && attempts.request.target != Target::Read;
        if again && !link.was_parked() {
            let _ = self.registration.clear_target();
            self.cluster.metrics.count_retry(RetryCause::Lost);
            return Ok(Attempted::Again);
        }
        self.after_loss(link, attempts)
    }

    fn after_no_connection(
        &mut self,
        error: &CheckoutError,
        route: Route,
        attempts: &mut Attempts,
    ) -> Result<Attempted, Failure> {
        if matches!(error, CheckoutError::Closed) && attempts.count < READ_ATTEMPTS {
            // A reload has replaced the nodes since the segment was routed.
            self.follow_reload();
            attempts.request.excluded = NodeSet::default();
            if self.parked.is_some() {
                attempts.request.target = Target::Primary(RouteReason::NoReplica);
            }
            return Ok(Attempted::Again);
        }
        let elsewhere = attempts.request.target == Target::Read
            && attempts.count < READ_ATTEMPTS
            && route.role == NodeRole::Replica;
        if elsewhere {
            self.cluster.metrics.count_retry(RetryCause::Lost);
            attempts.request.excluded = attempts.request.excluded.with(route.node);
            return Ok(Attempted::Again);
        }
        tracing::warn!(
            node = %self.node_name(route.node),
            error = error as &dyn std::error::Error,
            "no server connection"
        );
        Err(Failure::Refused(checkout_refusal(error)))
    }
}

pub(super) const fn names_recovery(kind: ErrorKind) -> NamesRecovery {
    match kind {
        ErrorKind::DuringRecovery => NamesRecovery::Yes,
        ErrorKind::Ordinary | ErrorKind::Fatal => NamesRecovery::No,
    }
}

/// Whether a batch that the client goes on with may be ended: it has only prepared and described, so
/// its transaction holds nothing.
fn closes_early(plan: &Plan, extent: Extent) -> bool {
    extent.end == SegmentEnd::Flush && plan.executed.is_empty() && plan.needs == Needs::Node
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// The segment gets this error, the session goes on.
    Refused(ProxyError),
    /// The session ends.
    Session(SessionEnd),
}
