//! Notes what a segment has done: to the session's settings, to what it must see, to the catalog;
//! and keeps or returns the connection.

use std::sync::Arc;
use std::time::Instant;

use super::block::{Discarded, OpenBlock, Savepoints, Wrote};
use super::link::{Link, Undone};
use super::names::Names;
use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::state::{Backslashes, LastRoute};
use super::{Session, SessionEnd, Skipping, now};
use crate::core::catalog::Catalog;
use crate::core::causality::keys::Effect;
use crate::core::residue::SettingNames;
use crate::core::segment::may_move;
use crate::core::snapshot::NodeRole;
use crate::core::statement::{Logins, PinReason, TransactionControl, TransactionModes};
use crate::frontend::cancel_keys::Asked;
use crate::protocol::backend::{SqlState, TransactionStatus};
use crate::protocol::replies::{Outcome, Verdict};
use crate::protocol::segment::SegmentEnd;

/// `ERRCODE_FEATURE_NOT_SUPPORTED` (`src/backend/utils/errcodes.txt`).
const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");

/// Whether the node waits for the Sync of what it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// It does not.
    Closed,
    /// It does.
    Open(Last),
    /// It does not, although the client has sent no Sync yet: nothing but Parse and Describe was sent,
    /// and pgweir has ended the batch itself.
    ClosedEarly,
}

/// What a node that waits for a Sync has read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Messages with a Flush, or with a Sync that it has ignored.
    Messages,
    /// A Query or a `FunctionCall`, which has left the transaction of the batch before it open.
    Query,
    /// A Sync behind that: it says that it is idle and has ended nothing, so that the next statement fails
    /// (18.4: `finish_xact_command` finds no command that was started, `src/backend/tcop/postgres.c`). Only
    /// this client is to meet that.
    Sync,
}

impl Batch {
    /// Whether the node waits for a Sync.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open(_))
    }
}

/// What became of settings that were changed in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Undone,
}

/// When the transaction that has ended was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Began {
    /// By the segment that ended it.
    Here,
    /// By an earlier one.
    Earlier,
}

impl Session {
    /// Every reply to the segment has been passed on.
    pub(super) async fn settle(
        &mut self,
        mut link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let at = now();
        self.note_prepared(&mut link);
        self.note_told(&mut link);
        for _ in 0..=plan.ends.len() {
            self.note_route(&link, at.saturating_duration_since(extent.arrived));
        }
        let was_open = self.block.is_some();
        let is_open = link.scanner.status != TransactionStatus::Idle;
        let mut block = self.block.take().unwrap_or_default();
        let put_off = block.put_off.take();
        block.begun = put_off.as_ref().map(|begin| begin.modes).or(block.begun);
        for text in &plan.executed {
            block.note_text(text, link.route.role);
        }
        if link.scanner.outcome.has(Outcome::DISCARDED_ALL) {
            self.discard_all(&mut link);
            block.discarded = Discarded::Yes;
        }
        self.note_pins(plan, &link);
        self.note_options(plan, &mut link);
        let outcome = link.scanner.outcome;
        if was_open || is_open || !leaves_nothing(plan, outcome) {
            self.change_catalog(plan, &block.catalog, outcome);
        }
        if link.scanner.last_error == Some(FEATURE_NOT_SUPPORTED) {
            // Perhaps "cached plan must not change result type", after DDL that nobody sent this way.
            self.cluster.shared.statements.begin_generation();
        }
        if link.scanner.outcome.has(Outcome::FATAL) {
            let _ = self.registration.clear_target();
            return Err(SessionEnd::Told);
        }
        link.batch = self.batch_behind(&link, plan, extent);
        if is_open && was_open && ends_transactions(plan) {
            self.state.end_local();
        }
        if is_open && was_open && link.replayed.is_some() && ends_transactions(plan) {
            Box::pin(self.replay_anew(&mut link)).await;
        }
        if is_open || link.batch.is_open() {
            if link.route.role != NodeRole::Replica {
                block.begun_under = None;
            } else if let Some(begin) = put_off {
                block.begun_under = self.current_catalog();
                block.until_write = may_move(begin.modes).then_some(begin);
            } else if !was_open {
                block.begun = begun_modes(plan);
                block.begun_under = self.current_catalog();
            }
            block.begun = block.begun.filter(|_| !plan.opens_named_portal());
            self.block = Some(block);
        } else {
            let began = if was_open {
                Began::Earlier
            } else {
                Began::Here
            };
            self.end_block(&block, &mut link, plan, began);
            self.note_seen(&block, &link, (extent.arrived, at));
            self.state.end_local();
        }
        if link.undone == Undone::Yes && self.pin.is_some() && self.block.is_none() {
            Box::pin(self.adjust_undone(&mut link)).await?;
        }
        if self.must_inspect(&link) {
            // Boxed: hardly any segment comes here, and every idle session would keep room for it.
            Box::pin(self.inspect_behind_answer(&mut link)).await?;
        }
        self.keep_or_return(link, at);
        Ok(())
    }

    /// What the client knows now of parameters and of what it has closed.
    fn note_told(&mut self, link: &mut Link) {
        if !Arc::ptr_eq(&self.told, &link.told) {
            self.told = Arc::clone(&link.told);
            self.state.backslashes = Backslashes::under(&self.told);
        }
        self.state.unnamed.settle(&link.scanner.unnamed);
    }

    /// Whether the node waits for a Sync behind the segment.
    fn batch_behind(&mut self, link: &Link, plan: &Plan, extent: Extent) -> Batch {
        let outcome = link.scanner.outcome;
        match (extent.end, link.batch) {
            _ if outcome.has(Outcome::SYNC_IGNORED) => Batch::Open(Last::Messages),
            _ if outcome.has(Outcome::CLIENT_SKIPS) => {
                self.skipping = Skipping::UntilSync;
                Batch::Closed
            }
            (SegmentEnd::Flush, Batch::ClosedEarly) => {
                if outcome.has(Outcome::ERROR) {
                    self.skipping = Skipping::UntilSync;
                }
                Batch::Closed
            }
            (SegmentEnd::Flush, Batch::Open(_) | Batch::Closed) => Batch::Open(Last::Messages),
            // It may have left the transaction of the batch before it open.
            (SegmentEnd::Query | SegmentEnd::FunctionCall, before)
                if (before.is_open() || plan.opens_portal())
                    && link.scanner.status == TransactionStatus::InTransaction
                    && link.lease.keeps_batches_open() =>
            {
                Batch::Open(Last::Query)
            }
            (SegmentEnd::Sync, Batch::Open(Last::Query | Last::Sync))
                if plan.needs == Needs::Nothing =>
            {
                Batch::Open(Last::Sync)
            }
            _ => Batch::Closed,
        }
    }

    /// Statements that the node has confirmed, and those it has not.
    pub(super) fn note_prepared(&mut self, link: &mut Link) {
        for id in link.scanner.unparsed.drain(..) {
            link.lease.prepared.remove(id);
            let is_new = self.pending.iter().any(|change| change.parses(id));
            if link.names == Names::Client && !is_new {
                self.state.statements.miss(|one| one.id == id);
            }
        }
        if link.scanner.outcome.has(Outcome::UNNAMED_LOST) {
            link.lease.unnamed_owner = None;
        }
        if link.scanner.outcome.has(Outcome::CLOSE_LOST) {
            link.taint();
        }
        for (change, became) in self.pending.drain(..).zip(link.scanner.changes.drain(..)) {
            if became == Verdict::Done {
                self.state.statements.apply(change);
            }
        }
        if link.scanner.outcome.has(Outcome::DEALLOCATED_ALL) {
            link.lease.prepared.clear();
            self.state.statements = super::named::NamedStatements::default();
        }
    }

    pub(super) fn note_route(&mut self, link: &Link, took: std::time::Duration) {
        let route = link.route;
        let metrics = &self.cluster.metrics;
        metrics.count_query(route.node, route.role, route.reason);
        metrics.observe_query_seconds(route.node, route.role, took);
        if let Some(last) = &mut self.state.last_route
            && last.route.node == route.node
        {
            last.route = route;
        } else {
            let node = self.node_name(route.node);
            self.state.last_route = Some(LastRoute { node, route });
        }
    }

    /// The catalog of the session's database, if it is known now.
    pub(super) fn current_catalog(&self) -> Option<Arc<Catalog>> {
        let catalog = self.catalog.as_ref()?;
        catalog.current()
    }

    /// The session stands outside a block: what was set in it holds or is gone.
    fn end_block(&mut self, block: &OpenBlock, link: &mut Link, plan: &Plan, began: Began) {
        let outcome = link.scanner.outcome;
        if let Some(changing) = link.changing.take() {
            changing.settle();
        }
        if block.logins == Logins::Changed {
            let logins = &self.cluster.shared.logins;
            logins.change(self.policies.routing.max_staleness);
        }
        if block.discarded == Discarded::Yes {
            let undone = outcome.has(Outcome::ERROR) || outcome.has(Outcome::ROLLED_BACK);
            if undone || !block.settings.is_empty() {
                self.suspect(PinReason::Setting, &SettingNames::default());
            }
            return;
        }
        self.suspect_defined(&block.catalog, plan);
        let fate = fate(plan, began, outcome);
        if began == Began::Earlier && fate != Some(Fate::Undone) {
            // A load that was made meanwhile has not seen it.
            self.invalidate_catalog(&block.catalog);
        }
        match (link.replayed.take(), fate) {
            (None, _) => {}
            (Some(_), Some(Fate::Undone)) => link.undone = Undone::Yes,
            (Some(settings), Some(Fate::Kept)) => link.lease.settings = settings,
            (Some(_), None) => {
                link.taint();
                link.forget_settings();
            }
        }
        if block.settings.is_empty() {
            return;
        }
        if fate.is_none() || block.savepoints == Savepoints::Some {
            self.suspect(PinReason::Setting, &SettingNames::default());
        } else if fate == Some(Fate::Kept) {
            // The client is told nothing of what a replica reports, so that says nothing here.
            let told = match link.route.role {
                NodeRole::Replica => &[],
                NodeRole::Primary | NodeRole::Unknown => &*self.told,
            };
            for change in &block.settings {
                self.state.apply_setting(change, told);
            }
            // Beside them it must have the session's others.
            if link.undone == Undone::No {
                link.lease.settings = Arc::clone(&self.state.settings);
            }
        }
    }

    /// DISCARD ALL: the session is as new. What had pinned it is gone, but the connection is not
    /// given to others again (its temporary schema stays).
    fn discard_all(&mut self, link: &mut Link) {
        self.state.discard_all();
        link.lease.prepared.clear();
        link.lease.unnamed_owner = None;
        link.names = Names::Shared;
        link.replayed = None;
        link.lease.settings = Arc::clone(&self.state.settings);
        self.doubt = None;
        if self.pin.take().is_some() {
            self.keep(link);
        }
    }

    /// What the session has written or seen binds its later reads.
    fn note_seen(&mut self, block: &OpenBlock, link: &Link, (arrived, at): (Instant, Instant)) {
        if !self.marks.is_empty() || !self.entered.is_empty() {
            let effect = match block.wrote {
                Wrote::No => Effect::Read,
                Wrote::Maybe => Effect::Wrote,
            };
            self.end_marks(link.route.role, effect, at);
        }
        if link.route.role == NodeRole::Primary {
            self.cluster.world.demand.wish(at);
        }
        let guarantee = &mut self.state.guarantee;
        match (link.route.role, block.wrote) {
            (NodeRole::Replica, _) | (_, Wrote::No) => {
                let route = link.route;
                guarantee.on_read_completed(route.node, route.role, link.incarnation, at);
            }
            (NodeRole::Primary | NodeRole::Unknown, Wrote::Maybe) => {
                self.state.wrote_last = Some(arrived);
                if let Some(catalog) = &self.catalog {
                    catalog.note_write(at);
                }
                guarantee.on_write_acknowledged(at);
                guarantee.on_read_completed(link.route.node, link.route.role, link.incarnation, at);
            }
        }
    }

    /// The session leaves its connection: a cancel request that is under way to it would hit whoever
    /// comes next.
    pub(super) fn leave_target(&self, link: &mut Link) {
        if self.registration.clear_target() == Asked::Yes {
            link.taint();
        }
    }
}

/// Whether all that ran outside a block was one definition that failed. A session that was ended may
/// have committed before.
fn leaves_nothing(plan: &Plan, outcome: Outcome) -> bool {
    plan.is_one_definition() && outcome.has(Outcome::ERROR) && !outcome.has(Outcome::FATAL)
}

/// What became of the settings of a transaction that has ended; `None` if that cannot be told.
fn fate(plan: &Plan, began: Began, outcome: Outcome) -> Option<Fate> {
    let controls_blocks = plan
        .executed
        .iter()
        .flat_map(|text| text.statements.iter())
        .filter(|statement| statement.transaction != TransactionControl::None)
        .count();
    match (began, controls_blocks) {
        // An implicit transaction: all or nothing.
        (Began::Here, 0) if outcome.has(Outcome::ERROR) => Some(Fate::Undone),
        (Began::Here, 0) => Some(Fate::Kept),
        // The block ended with this segment, which did nothing else to blocks.
        (Began::Earlier, 1) if outcome.has(Outcome::COMMITTED) => Some(Fate::Kept),
        (Began::Earlier, 1) if outcome.has(Outcome::ROLLED_BACK) => Some(Fate::Undone),
        // Several transactions have ended, all of them well.
        (Began::Earlier, _)
            if outcome.has(Outcome::COMMITTED)
                && !outcome.has(Outcome::ROLLED_BACK)
                && !outcome.has(Outcome::ERROR) =>
        {
            Some(Fate::Kept)
        }
        _ => None,
    }
}

/// Whether the segment ends a transaction, and not only goes back to a savepoint.
fn ends_transactions(plan: &Plan) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.any(|statement| {
        matches!(
            statement.transaction,
            TransactionControl::Commit(_) | TransactionControl::Rollback(_)
        )
    })
}

/// The modes of the first BEGIN in the segment.
fn begun_modes(plan: &Plan) -> Option<TransactionModes> {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.find_map(|statement| match statement.transaction {
        TransactionControl::Begin(modes) => Some(modes),
        TransactionControl::None
        | TransactionControl::Commit(_)
        | TransactionControl::Rollback(_)
        | TransactionControl::Savepoint
        | TransactionControl::SetModes(_)
        | TransactionControl::TwoPhase => None,
    })
}
