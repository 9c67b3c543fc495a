//! Reads of what DDL has made doubtful: they wait for the catalog where that is soon loaded.

use std::sync::Arc;

use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::{Session, now};
use crate::core::catalog::is_worth_waiting;
use crate::core::policy::OnNoReplica;
use crate::core::snapshot::Eligibility;
use crate::core::statement::{
    AccessMode, Classification, Consistency, Reason, SessionEffect, TransactionControl,
};
use crate::frontend::error::ProxyError;
use crate::protocol::segment::SegmentEnd;
use crate::world::DatabaseCatalog;

impl Session {
    /// The plan of the segment, or of its beginning, with the catalog if waiting for that pays.
    pub(super) async fn plan_known(
        &mut self,
        extent: Extent,
    ) -> Result<(Plan, Extent), ProxyError> {
        let (plan, planned) = self.plan_in_order(extent)?;
        match &self.catalog {
            Some(catalog) if self.lacks_catalog(&plan, planned) => {
                let catalog = Arc::clone(catalog);
                // Boxed: hardly any segment comes here, and every one would keep room for it.
                Box::pin(self.await_catalog(&catalog, plan, planned)).await
            }
            Some(_) | None => Ok((plan, planned)),
        }
    }

    /// Waits for loads of `catalog`, as long as a read may wait, and plans anew behind each. What has waited
    /// counts as having arrived afterwards: that makes its promises stricter.
    async fn await_catalog(
        &mut self,
        catalog: &DatabaseCatalog,
        mut plan: Plan,
        extent: Extent,
    ) -> Result<(Plan, Extent), ProxyError> {
        let wait = self.policies.consistency.wait;
        let until = extent.arrived.checked_add(wait).unwrap_or(extent.arrived);
        while is_worth_waiting(catalog.load_takes(), wait) && catalog.is_waited_for() {
            // Counted before it is looked at: a load that ends meanwhile is none to wait for.
            let loads = catalog.loads();
            plan = self.plan_again(plan, extent)?;
            if !self.lacks_catalog(&plan, extent) {
                break;
            }
            tokio::select! {
                () = catalog.loaded_beyond(loads) => {}
                () = tokio::time::sleep_until(until.into()) => catalog.note_vain_wait(),
                () = self.registration.waiter().cancelled() => return Err(ProxyError::QueryCanceled),
            }
        }
        let arrived = now();
        Ok((plan, Extent { arrived, ..extent }))
    }

    /// Whether the segment is nothing but reads outside a block, of which some cannot be judged without the
    /// catalog, and a replica may run them if they can.
    fn lacks_catalog(&self, plan: &Plan, extent: Extent) -> bool {
        let unknown = |text: &Arc<Classification>| text.reason == Reason::CatalogUnknown;
        plan.texts.iter().any(unknown)
            && plan.texts.iter().all(|text| may_be_read(text))
            && matches!(extent.end, SegmentEnd::Query | SegmentEnd::Sync)
            && plan.needs == Needs::Node
            && self.link.is_none()
            && self.block.is_none()
            && self.pin.is_none()
            && !self.is_bound_to_primary(plan, extent)
            && self.has_replica()
    }

    /// Whether the primary is to run the segment, whatever it is.
    fn is_bound_to_primary(&self, plan: &Plan, extent: Extent) -> bool {
        let asks_for_it = |text: &Arc<Classification>| {
            text.hint.route_primary.is_some() || text.hint.consistency == Some(Consistency::Primary)
        };
        let policy = &self.policies.consistency;
        let (mode, bound) = self.promised(plan);
        let floor = self
            .state
            .guarantee
            .floor(policy, mode, bound, extent.arrived);
        mode == Consistency::Primary
            || policy.on_no_replica != OnNoReplica::Primary
            || plan.texts.iter().any(asks_for_it)
            || floor
                .primary_until
                .is_some_and(|until| extent.arrived < until)
            || self.state.is_serializable_by_default()
            || self.state.has_nonstandard_strings()
    }

    fn has_replica(&self) -> bool {
        let snapshot = self.cluster.world.routing.load();
        let mut nodes = snapshot.nodes.iter();
        nodes.any(|node| node.eligibility == Eligibility::Eligible && node.weight > 0)
    }
}

/// Whether a text is a read, or one but for what is not known.
fn may_be_read(text: &Classification) -> bool {
    text.statements.iter().all(|one| {
        (one.access == AccessMode::ReadOnly || one.reason == Reason::CatalogUnknown)
            && one.transaction == TransactionControl::None
            && one.session == SessionEffect::None
    })
}
