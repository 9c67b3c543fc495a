//! A read-only block that stands on a replica and meets a statement that needs the primary.
//!
//! Every statement of a READ COMMITTED block takes a snapshot of its own, so as long as the block
//! has done nothing but read, it can go on in a new block on the primary. Otherwise it cannot go on.

use super::link::Link;
use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::{Session, SessionEnd};
use crate::core::router::{RouteReason, RouteRequest};
use crate::core::segment::may_stay_on_replica;
use crate::frontend::error::ProxyError;
use crate::protocol::replies::Hold;

/// What the client is told when the block cannot go on.
pub(super) const REFUSED: ProxyError = ProxyError::Unsupported(
    "this statement must run on the primary, and its read-only transaction runs on a replica",
);

impl Session {
    /// Begins the block again on the primary and runs the segment there.
    pub(super) async fn leave_replica(
        &mut self,
        link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let begin = self.block.as_ref().and_then(|block| block.begun_anew());
        let isolation_is_set = self
            .state
            .settings
            .0
            .contains_key("default_transaction_isolation");
        let Some(begin) = begin.filter(|_| !isolation_is_set) else {
            if self.meets_new_key(plan) {
                return Err(SessionEnd::Fatal(ProxyError::TooLateInBlock));
            }
            return self.stay_on_replica(link, plan, extent).await;
        };
        self.end_replica_block(link).await;
        let request = RouteRequest::to_primary(RouteReason::Transaction);
        let mut primary = self.link_for(&request, extent.arrived).await?;
        if !self.run_own(&mut primary, begin).await {
            return Err(ProxyError::ConnectionLost.into());
        }
        self.use_names(&mut primary, plan).await?;
        self.send(&mut primary, plan, extent, Hold::Released)?;
        self.inbound.consume(extent.length);
        self.finish(primary, plan, extent).await
    }

    /// The block cannot be moved: its statements share one snapshot. What leaves nothing on the
    /// connection runs where the block is; whether it may write, the replica judges itself.
    async fn stay_on_replica(
        &mut self,
        mut link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
        if plan.needs == Needs::Primary || !statements.all(may_stay_on_replica) {
            return Err(SessionEnd::Fatal(REFUSED));
        }
        link.route.reason = RouteReason::ReadOnlyTransaction;
        self.send(&mut link, plan, extent, Hold::Released)?;
        self.inbound.consume(extent.length);
        self.finish(link, plan, extent).await
    }
}
