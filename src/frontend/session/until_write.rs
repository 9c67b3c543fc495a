//! A block that may write and has not yet: it runs on a replica, and goes on in a block on the primary
//! at the first segment that may write, or that the replica cannot run (`routing.transactions:
//! until_write`).
//!
//! That is sound for READ COMMITTED alone, where every statement has a snapshot of its own (manual,
//! "Read Committed Isolation Level"), and as long as nothing is left on the replica: no setting,
//! savepoint, cursor or named portal. A role's or database's default of another level is asked for once.

use std::time::Instant;

use super::inspect::Asked;
use super::link::{Link, LinkError, Pause};
use super::plan::{Needs, Plan};
use super::put_off::{On, PutOff};
use super::serve::Extent;
use super::{Session, SessionEnd, now};
use crate::backend::pool::PoolKey;
use crate::core::policy::Transactions;
use crate::core::retry::{AfterError, after_replica_error};
use crate::core::router::{RouteReason, RouteRequest};
use crate::core::segment::{Begun, may_move, may_precede_write};
use crate::core::snapshot::NodeId;
use crate::core::statement::TransactionModes;
use crate::frontend::cluster::DefaultIsolation;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::message::Reader;
use crate::protocol::replies::Hold;

impl Session {
    /// The block that the segment stands in, if no node has seen it.
    pub(super) async fn begun(&mut self, plan: &Plan, arrived: Instant) -> Begun {
        match self.begun_as_told(plan) {
            (Begun::UntilWrite, Some(modes)) if !self.is_read_committed(arrived).await => {
                Begun::Yes(modes)
            }
            (begun, _) => begun,
        }
    }

    /// The same before its isolation level is asked for. It has to be READ COMMITTED where modes come
    /// with the answer, which are those of the block if it is not.
    pub(super) fn begun_as_told(&self, plan: &Plan) -> (Begun, Option<TransactionModes>) {
        let block = self.block.as_deref();
        let Some(begin) = block.and_then(|block| block.put_off.as_ref()) else {
            return (Begun::No, None);
        };
        let modes = begin.modes;
        let wanted = self.policies.routing.transactions == Transactions::UntilWrite;
        if wanted && begin.on == On::Any && may_move(modes) && precedes_write(plan) {
            (
                Begun::UntilWrite,
                modes.isolation.is_none().then_some(modes),
            )
        } else {
            (Begun::Yes(modes), None)
        }
    }

    /// Whether a block that does not name its isolation level is READ COMMITTED.
    pub(super) async fn is_read_committed(&mut self, arrived: Instant) -> bool {
        if let Some(known) = self.known_isolation() {
            return known == DefaultIsolation::ReadCommitted;
        }
        // The block is not to be begun on the connection that is asked.
        let block = self.block.take();
        let asked = Box::pin(self.ask_isolation(arrived)).await;
        self.block = block;
        if let Some(isolation) = asked {
            let key = self.isolation_key();
            self.cluster.shared.note_isolation(key, isolation);
        }
        asked == Some(DefaultIsolation::ReadCommitted)
    }

    /// The isolation level of blocks that name none; `None` if it has not been asked for.
    pub(super) fn known_isolation(&self) -> Option<DefaultIsolation> {
        let settings = &self.state.settings.0;
        if settings.contains_key("default_transaction_isolation") {
            return Some(DefaultIsolation::Other);
        }
        self.cluster.shared.isolation(&self.isolation_key())
    }

    fn isolation_key(&self) -> PoolKey {
        PoolKey {
            node: NodeId(0),
            ..self.key.clone()
        }
    }

    /// Asks the primary; `None` if there is no answer.
    async fn ask_isolation(&mut self, arrived: Instant) -> Option<DefaultIsolation> {
        let request = RouteRequest::to_primary(RouteReason::Transaction);
        let mut link = self.link_for(&request, arrived).await.ok()?;
        let asked = self.ask(&mut link, b"SHOW transaction_isolation").await;
        self.leave_target(&mut link);
        if asked.ok()? == Asked::Refused {
            return None;
        }
        let isolation = match link.scanner.captured.as_slice() {
            [row] if Reader::new(row).rest().ends_with(b"read committed") => {
                Some(DefaultIsolation::ReadCommitted)
            }
            [_] => Some(DefaultIsolation::Other),
            _ => None,
        };
        self.spare = link.give_back(now());
        isolation
    }

    /// Runs a segment of a block that began as `begin` and is on a replica.
    pub(super) async fn serve_until_write(
        &mut self,
        mut link: Box<Link>,
        begin: PutOff,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let has_failed = link.scanner.status == TransactionStatus::Failed;
        if self.moves_on(&link, plan) {
            self.end_replica_block(link).await;
            return self.begin_on_primary(begin, plan, extent).await;
        }
        link.route.reason = RouteReason::ReadOnlyTransaction;
        let unnamed = self.state.unnamed.clone();
        self.send(&mut link, plan, extent, Hold::UntilResult)?;
        loop {
            match self.relay(&mut link).await {
                Ok(Pause::Answered) => break,
                Ok(Pause::HeldError(sqlstate, kind)) => {
                    let after =
                        after_replica_error(&sqlstate.0, super::attempt::names_recovery(kind));
                    if has_failed || after == AfterError::Surface {
                        link.scanner.hold = Hold::Released;
                        continue;
                    }
                    if after == AfterError::Misrouted {
                        self.note_misrouted(sqlstate, link.route.node);
                        self.learn_write(plan);
                    }
                    self.drain(link).await;
                    self.state.unnamed = unnamed;
                    return self.begin_on_primary(begin, plan, extent).await;
                }
                Ok(Pause::Compared(_)) => {}
                Ok(Pause::Input) => self.feed_copy(&mut link)?,
                Err(LinkError::Server(_)) if link.is_untouched() && !has_failed => {
                    self.note_left(&link);
                    self.leave_target(&mut link);
                    self.state.unnamed = unnamed;
                    return self.begin_on_primary(begin, plan, extent).await;
                }
                Err(error) => return Err(self.lost(&link, &error)),
            }
        }
        self.inbound.consume(extent.length);
        if let Some(block) = self.block.as_deref_mut() {
            block.until_write = Some(begin);
        }
        self.settle(link, plan, extent).await
    }

    /// Whether such a block on `link` goes on on the primary.
    pub(super) fn moves_on(&self, link: &Link, plan: &Plan) -> bool {
        // A block that has failed refuses everything itself.
        let has_failed = link.scanner.status == TransactionStatus::Failed;
        !has_failed && (!precedes_write(plan) || self.meets_new_key(plan))
    }

    /// Goes on in a block of its own on the primary.
    async fn begin_on_primary(
        &mut self,
        begin: PutOff,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        self.put_off_on_primary(begin);
        self.serve_routed(plan, extent).await
    }

    /// The block is to begin anew on the primary.
    pub(super) fn put_off_on_primary(&mut self, begin: PutOff) {
        let block = self.block.get_or_insert_default();
        block.begun_under = None;
        block.put_off = Some(PutOff {
            on: On::Primary,
            ..begin
        });
    }
}

/// Whether the segment leaves nothing on the node that a later one of the block could need.
fn precedes_write(plan: &Plan) -> bool {
    plan.needs == Needs::Node
        && !plan.opens_named_portal()
        && plan.texts.iter().all(|text| {
            !text.statements.is_empty() && text.statements.iter().all(may_precede_write)
        })
}
