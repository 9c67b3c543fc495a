//! A read-only block that stands on a replica and meets a statement that needs the primary.
//!
//! Every statement of a READ COMMITTED block takes a snapshot of its own, so as long as the block
//! has done nothing but read, it can go on in a new block on the primary. Otherwise it cannot go on.

use std::time::Instant;

use super::block::OpenBlock;
use super::link::Link;
use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::settle::Batch;
use super::{Session, SessionEnd};
use crate::core::router::{RouteReason, RouteRequest};
use crate::core::segment::{may_join_replica_block, may_stay_on_replica};
use crate::core::snapshot::NodeRole;
use crate::core::statement::{AccessMode, StatementVerdict, TransactionControl, TransactionModes};
use crate::frontend::cluster::DefaultIsolation;
use crate::frontend::error::ProxyError;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::replies::Hold;

/// What the client is told when the block cannot go on.
const REFUSED: ProxyError = ProxyError::Unsupported(
    "this statement must run on the primary, and its read-only transaction runs on a replica",
);

/// What becomes of a read-only block on a replica at a segment that does not fit in it.
pub(super) enum Leaving {
    /// It goes on on the primary, begun with these words.
    Anew(&'static str),
    /// The replica runs the segment all the same.
    Stays,
    /// The session ends.
    Refused(ProxyError),
}

impl Session {
    /// Why the segment runs on the connection that the session holds; `None` if it leaves a replica's
    /// block.
    pub(super) fn runs_here(&self, link: &Link, plan: &Plan) -> Option<RouteReason> {
        // A block that has failed refuses everything but its end itself.
        let refuses = link.scanner.status == TransactionStatus::Failed && !ends_and_goes_on(plan);
        let new_key = link.route.role == NodeRole::Replica && self.meets_new_key(plan);
        let joins = refuses || (joins_replica_block(plan) && !new_key);
        if link.route.role == NodeRole::Replica && !joins {
            return None;
        }
        Some(match (self.pin, link.route.role) {
            (Some(_), _) => RouteReason::Pinned,
            (None, NodeRole::Replica) => RouteReason::ReadOnlyTransaction,
            (None, NodeRole::Primary | NodeRole::Unknown) if self.block.is_some() => {
                RouteReason::Transaction
            }
            (None, NodeRole::Primary | NodeRole::Unknown) => link.route.reason,
        })
    }

    /// What becomes of the block at a segment for which [`Self::runs_here`] has no reason, where a block
    /// that names no isolation level has this one.
    pub(super) fn leaving(&self, plan: &Plan, isolation: DefaultIsolation) -> Leaving {
        let has_fixed_modes = self
            .block
            .as_deref()
            .is_some_and(OpenBlock::has_fixed_modes);
        if has_fixed_modes && changes_modes(plan) {
            // It comes too late, as it would not in a new block.
            return Leaving::Stays;
        }
        let begin = self.block.as_ref().and_then(|block| block.begun_anew());
        match (begin, isolation) {
            (Some(begin), DefaultIsolation::ReadCommitted) => return Leaving::Anew(begin),
            (Some(_), DefaultIsolation::Other) | (None, _) => {}
        }
        if self.meets_new_key(plan) {
            return Leaving::Refused(ProxyError::TooLateInBlock);
        }
        // The block cannot be moved: its statements share one snapshot. What leaves nothing on the
        // connection runs where the block is; whether it may write, the replica judges itself.
        let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
        if plan.needs == Needs::Primary || !statements.all(may_stay_on_replica) {
            return Leaving::Refused(REFUSED);
        }
        Leaving::Stays
    }

    /// Begins the block again on the primary and runs the segment there.
    pub(super) async fn leave_replica(
        &mut self,
        link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let mut isolation = DefaultIsolation::ReadCommitted;
        let is_open = self.block.as_ref();
        if is_open.is_some_and(|block| block.begun_anew().is_some())
            && !self.is_read_committed(extent.arrived).await
        {
            isolation = DefaultIsolation::Other;
        }
        let begin = match self.leaving(plan, isolation) {
            Leaving::Anew(begin) => begin,
            Leaving::Stays => {
                // The primary may have been asked meanwhile.
                let target = self.cancel_target(&link.lease);
                self.registration.set_target(target);
                return self.stay_on_replica(link, plan, extent).await;
            }
            Leaving::Refused(error) => return Err(SessionEnd::Fatal(error)),
        };
        let mut primary = self.begin_anew(link, begin, extent.arrived).await?;
        self.use_names(&mut primary, plan).await?;
        self.send(&mut primary, plan, extent, Hold::Released)?;
        self.inbound.consume(extent.length);
        self.finish(primary, plan, extent).await
    }

    /// A connection to the primary, on which the block goes on, for a segment that nobody has read.
    ///
    /// # Errors
    /// When the block cannot be moved.
    pub(super) async fn leave_replica_unread(
        &mut self,
        link: Box<Link>,
        arrived: Instant,
    ) -> Result<Box<Link>, SessionEnd> {
        let fails = link.scanner.status == TransactionStatus::Failed;
        if fails || link.batch != Batch::Closed || !link.is_quiet() {
            return Err(SessionEnd::Fatal(REFUSED));
        }
        let block = self.block.as_deref_mut();
        if let Some(begin) = block.and_then(|block| block.until_write.take()) {
            self.end_replica_block(link).await;
            self.put_off_on_primary(begin);
            let request = RouteRequest::to_primary(RouteReason::NotUnderstood);
            return self.link_for(&request, arrived).await;
        }
        let begin = self.block.as_ref().and_then(|block| block.begun_anew());
        match begin {
            Some(begin) if self.is_read_committed(arrived).await => {
                self.begin_anew(link, begin, arrived).await
            }
            Some(_) | None => Err(SessionEnd::Fatal(REFUSED)),
        }
    }

    /// Begins the block again on the primary.
    async fn begin_anew(
        &mut self,
        link: Box<Link>,
        begin: &str,
        arrived: Instant,
    ) -> Result<Box<Link>, SessionEnd> {
        self.end_replica_block(link).await;
        let request = RouteRequest::to_primary(RouteReason::Transaction);
        let mut primary = self.link_for(&request, arrived).await?;
        if !self.run_own(&mut primary, begin).await {
            return Err(ProxyError::ConnectionLost.into());
        }
        Ok(primary)
    }

    /// Runs a segment in a block that cannot be moved.
    async fn stay_on_replica(
        &mut self,
        mut link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        link.route.reason = RouteReason::ReadOnlyTransaction;
        self.use_names(&mut link, plan).await?;
        self.send(&mut link, plan, extent, Hold::Released)?;
        self.inbound.consume(extent.length);
        self.finish(link, plan, extent).await
    }
}

/// Whether everything in the segment may run in a read-only block on a replica. What a named portal has
/// left is fetched from the node that has it, so that the block could not be moved any more.
fn joins_replica_block(plan: &Plan) -> bool {
    let texts = &plan.texts;
    plan.needs != Needs::Primary
        && !plan.opens_named_portal()
        && texts.iter().all(|text| {
            let understood = !text.statements.is_empty() || text.access == AccessMode::ReadOnly;
            understood && text.statements.iter().all(may_join_replica_block)
        })
        && !ends_and_goes_on(plan)
}

/// Whether all that the segment does is to choose modes of the transaction.
fn changes_modes(plan: &Plan) -> bool {
    let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
    let chooses = |one: &StatementVerdict| match one.transaction {
        TransactionControl::SetModes(_) => true,
        // A warning, and the same attempt.
        TransactionControl::Begin(modes) => modes != TransactionModes::default(),
        TransactionControl::None
        | TransactionControl::Commit(_)
        | TransactionControl::Rollback(_)
        | TransactionControl::Savepoint
        | TransactionControl::TwoPhase => false,
    };
    !plan.texts.is_empty() && plan.needs == Needs::Node && statements.all(chooses)
}

/// Statements behind the end of the block would run outside it, where they are routed anew.
fn ends_and_goes_on(plan: &Plan) -> bool {
    let statements = plan.texts.iter().flat_map(|text| text.statements.iter());
    let mut after_end = statements.skip_while(|statement| {
        !matches!(
            statement.transaction,
            TransactionControl::Commit(_) | TransactionControl::Rollback(_)
        )
    });
    after_end.next();
    after_end.next().is_some()
}
