//! Asks a replica behind one in so many of its reads whether it is what routing took it for
//! (`consistency.audit_one_in`).
//!
//! The question goes in the same write as the read and its answer is not passed on; the client's next
//! statement waits for it.

use super::Session;
use super::inspect::text;
use super::link::Link;
use super::plan::Plan;
use super::serve::Extent;
use crate::core::audit::{AuditVerdict, Belief, QUERY, Told};
use crate::core::guarantee::Floor;
use crate::core::router::RouteReason;
use crate::core::statement::TransactionControl;
use crate::protocol::frontend::write_query;
use crate::protocol::message::{Malformed, Reader};
use crate::protocol::outstanding::Expected;
use crate::protocol::replies::Outcome;
use crate::protocol::segment::SegmentEnd;

impl Session {
    /// Asks behind a read that has been written for a replica and was promised `floor`, if its turn
    /// has come.
    pub(super) fn audit(&self, link: &mut Link, plan: &Plan, extent: Extent, floor: &Floor) {
        let Some(one_in) = self.policies.consistency.audit_one_in else {
            return;
        };
        let is_promised = matches!(link.route.reason, RouteReason::Fresh | RouteReason::Waited)
            && floor.bound_for(link.route.node, link.incarnation).is_some();
        // Behind a part of a segment it would end its transaction.
        let may_stand = self.block.is_none() && link.waiting.is_none();
        if !is_promised || !may_stand || !stands_alone(plan, extent) {
            return;
        }
        if !self.cluster.shared.is_audited(one_in) {
            return;
        }
        let snapshot = self.cluster.world.routing.load();
        let node = snapshot.node(link.route.node);
        link.audit = node.and_then(|node| Belief::of(node, link.incarnation));
        if link.audit.is_some() {
            write_query(link.to_server.writer(), QUERY.as_bytes());
            link.replies.push(Expected::Inspection);
            // A Query message ends the unnamed statement.
            link.lease.unnamed_owner = None;
        }
    }

    /// Counts what the replica has answered, and logs it if the read had no proof.
    pub(super) fn judge_audit(&self, link: &mut Link) {
        let Some(belief) = link.audit.take() else {
            return;
        };
        let told = if link.scanner.outcome.has(Outcome::OWN_QUERY_FAILED) {
            None
        } else {
            told(&link.scanner.captured).unwrap_or_default()
        };
        let verdict = belief.judge(told);
        self.cluster.metrics.count_audit(verdict);
        match verdict {
            AuditVerdict::Confirmed | AuditVerdict::Undecided => {}
            AuditVerdict::Behind | AuditVerdict::OtherServer => tracing::error!(
                node = %self.node_name(link.route.node),
                verdict = verdict.as_str(),
                believed = %belief.replay,
                replayed = told.and_then(|told| told.replay).map(tracing::field::display),
                "a replica has served a read without what its choice relied on"
            ),
        }
    }
}

/// Whether nothing of the segment's transaction is left when it has been answered, and nothing comes
/// behind it.
fn stands_alone(plan: &Plan, extent: Extent) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    let is_whole = match extent.end {
        SegmentEnd::Query | SegmentEnd::Sync => plan.ends.is_empty() && !plan.executed.is_empty(),
        SegmentEnd::FunctionCall
        | SegmentEnd::Flush
        | SegmentEnd::Terminate
        | SegmentEnd::StrayCopy => false,
    };
    is_whole && statements.all(|one| one.transaction == TransactionControl::None)
}

fn told(rows: &[Box<[u8]>]) -> Result<Option<Told>, Malformed> {
    let [row] = rows else {
        return Err(Malformed);
    };
    let mut reader = Reader::new(row);
    if reader.int16()? != 2 {
        return Err(Malformed);
    }
    let (started, replay) = (text(&mut reader)?, text(&mut reader)?);
    Ok(Told::read(started.as_deref(), replay.as_deref()))
}
