//! Serves one whole segment: answers it, or has it run on the connection the session holds, or on
//! one that routing chooses.

use std::time::Instant;

use tokio::io::AsyncWriteExt;

use super::link::{ClientSide, Link, LinkError, Pause, Until};
use super::names::Names;
use super::plan::{Needs, Plan, Settings};
use super::reading::SegmentReading;
use super::settle::Batch;
use super::translate::{Comparing, Destination, Translation, Unsure};
use super::{Next, Session, SessionEnd, SessionTexts, Skipping, now, own};
use crate::core::statement::{ProxyStatement, SessionEffect};
use crate::frontend::buffers::BufferSize;
use crate::frontend::error::{ProxyError, Severity};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::tag;
use crate::protocol::outstanding::{OutstandingReplies, Own};
use crate::protocol::replies::{Boundaries, Hold};
use crate::protocol::segment::SegmentEnd;

/// A segment as it stands at the start of the client's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Its bytes.
    pub(super) length: usize,
    /// How it ends.
    pub(super) end: SegmentEnd,
    /// When it was whole.
    pub(super) arrived: Instant,
}

impl Session {
    /// Serves the segment of `length` bytes at the start of the buffer, and uses it up.
    pub(super) async fn serve(&mut self, length: usize, end: SegmentEnd) -> Result<(), SessionEnd> {
        let extent = Extent {
            length,
            end,
            arrived: now(),
        };
        match end {
            SegmentEnd::Terminate => return Err(SessionEnd::Closed),
            SegmentEnd::StrayCopy => {
                self.inbound.consume(length);
                return Ok(());
            }
            SegmentEnd::Query | SegmentEnd::FunctionCall | SegmentEnd::Sync | SegmentEnd::Flush => {
            }
        }
        if self.skipping == Skipping::UntilSync && self.skip(extent).await? {
            return Ok(());
        }
        let Some(mut extent) = self.skip_with_node(extent) else {
            return Ok(());
        };
        if self.link.is_none() {
            if self.block.is_none() {
                self.state.end_local();
            }
            self.follow_reload();
        }
        let (mut plan, planned) = match self.plan_known(extent).await {
            Ok(planned) => planned,
            Err(error) => return self.refuse(&error, extent).await,
        };
        extent = planned;
        if plan.settings == Settings::Some {
            // Boxed: every idle session would keep room for it.
            Box::pin(self.prepare_tokens(&plan)).await;
        }
        if self.pin.is_some()
            && let Some(shown) = self.must_cross()
            && let Err(error) = Box::pin(self.cross_kept(shown, &plan, extent)).await
        {
            return self.refuse(&error, extent).await;
        }
        self.look_at_options(&plan, extent.end);
        self.take_up(&plan, extent);
        let node_waits = |link: &Link| {
            let for_sync = link.batch.is_open() && extent.end == SegmentEnd::Sync;
            let for_names = link.names == Names::Client && extent.end != SegmentEnd::Query;
            for_sync || for_names || !link.is_quiet()
        };
        let is_held = self.link.as_deref().is_some_and(node_waits);
        if plan.needs == Needs::Nothing && !is_held {
            return self.answer_own(&plan, extent).await;
        }
        if self.control_block(&plan, extent).await? {
            return Ok(());
        }
        if self.is_keyed(&plan) || plan.settings == Settings::Some {
            // Boxed: every idle session would keep room for it.
            if let Err(error) = Box::pin(self.enter_shared(&plan)).await {
                return self.refuse(&error, extent).await;
            }
        }
        if std::mem::take(&mut self.next) == Next::Coupled && !is_held {
            self.take_along(&mut plan, &mut extent).await;
        }
        match self.link.take() {
            Some(link) => self.serve_linked(link, &plan, extent).await?,
            None => self.serve_routed(&plan, extent).await?,
        }
        self.spare_plan = plan.emptied();
        Ok(())
    }

    fn plan(&mut self, length: usize) -> Result<Plan, ProxyError> {
        let plan = std::mem::take(&mut self.spare_plan);
        let bytes = self.inbound.filled().get(..length).unwrap_or_default();
        plan.of(bytes, &self.state, &mut SessionTexts { session: self })
    }

    /// The plan of a whole segment that had one before.
    pub(super) fn plan_again(&mut self, before: Plan, extent: Extent) -> Result<Plan, ProxyError> {
        self.spare_plan = before.emptied();
        self.plan(extent.length)
    }

    /// The plan of the segment, or of its beginning: what stands behind the end of all prepared
    /// statements depends on what became of it, and is served when that has been answered.
    pub(super) fn plan_in_order(&mut self, extent: Extent) -> Result<(Plan, Extent), ProxyError> {
        let plan = self.plan(extent.length)?;
        if !forgets_statements(&plan) {
            return Ok((plan, extent));
        }
        let bytes = self.inbound.filled().get(..extent.length);
        match up_to_first_execute(bytes.unwrap_or_default()) {
            Some(length) => {
                let part = Extent {
                    length,
                    end: SegmentEnd::Flush,
                    ..extent
                };
                Ok((self.plan(length)?, part))
            }
            None => Ok((plan, extent)),
        }
    }

    /// Drops messages up to the Sync; `false` when the segment is to be served after all.
    async fn skip(&mut self, extent: Extent) -> Result<bool, SessionEnd> {
        match extent.end {
            SegmentEnd::Sync => {
                self.skipping = Skipping::No;
                self.inbound.consume(extent.length);
                self.write_client(&own::ready(self.status())).await?;
                Ok(true)
            }
            SegmentEnd::Flush | SegmentEnd::Query | SegmentEnd::FunctionCall => {
                self.inbound.consume(extent.length);
                Ok(true)
            }
            SegmentEnd::Terminate | SegmentEnd::StrayCopy => Ok(false),
        }
    }

    /// While the node skips messages because of an error, only the Sync is left of a segment.
    fn skip_with_node(&mut self, extent: Extent) -> Option<Extent> {
        let skips = |link: &Link| link.replies.is_skipping();
        if !self.link.as_deref().is_some_and(skips) {
            return Some(extent);
        }
        if extent.end != SegmentEnd::Sync {
            self.inbound.consume(extent.length);
            return None;
        }
        self.inbound
            .consume(extent.length.saturating_sub(HEADER_BYTES));
        Some(Extent {
            length: HEADER_BYTES,
            ..extent
        })
    }

    /// Answers a segment with an error of pgweir's own; the session goes on.
    pub(super) async fn refuse(
        &mut self,
        error: &ProxyError,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        tracing::debug!(
            user = self.user.name,
            sqlstate = error.sqlstate(),
            "refused"
        );
        let linked = self.link.is_some();
        if linked && (self.status() != TransactionStatus::Idle || self.block.is_some()) {
            // The node would not know that the block has failed.
            return Err(SessionEnd::Fatal(error.clone()));
        }
        self.drop_stray_marks();
        self.fail_put_off();
        self.inbound.consume(extent.length);
        let mut answer = Vec::new();
        error.write(&mut answer, Severity::Error);
        match extent.end {
            SegmentEnd::Flush => self.skipping = Skipping::UntilSync,
            SegmentEnd::Query
            | SegmentEnd::FunctionCall
            | SegmentEnd::Sync
            | SegmentEnd::Terminate
            | SegmentEnd::StrayCopy => answer.extend_from_slice(&own::ready(self.status())),
        }
        self.write_client(&answer).await
    }

    pub(super) async fn write_client(&mut self, bytes: &[u8]) -> Result<(), SessionEnd> {
        let written = async {
            self.client.write_all(bytes).await?;
            self.client.flush().await
        };
        written.await.map_err(|_| SessionEnd::Closed)
    }

    pub(super) fn own_context(&self) -> own::Context {
        own::Context {
            status: self.status(),
            default: self.policies.consistency.default,
            block: own::Block::of(self.link.as_deref()),
        }
    }

    /// Answers a segment for which no node is needed.
    async fn answer_own(&mut self, plan: &Plan, extent: Extent) -> Result<(), SessionEnd> {
        let context = self.own_context();
        let answer = match (extent.end, own_statement(plan)) {
            (SegmentEnd::Query, Some(statement)) => {
                context.answer_query(&statement, &mut self.state)
            }
            _ => match self.answer_extended(plan, extent) {
                Ok(answer) => answer,
                Err(error) => return self.refuse(&error, extent).await,
            },
        };
        self.cluster.metrics.count_answered();
        self.inbound.consume(extent.length);
        self.write_client(&answer).await
    }

    fn answer_extended(&mut self, plan: &Plan, extent: Extent) -> Result<Vec<u8>, ProxyError> {
        let own = self.own_context();
        self.pending.clear();
        let (mut nowhere, mut replies) = (Vec::new(), OutstandingReplies::default());
        let mut translation = Translation {
            state: &mut self.state,
            pending: &mut self.pending,
            registry: &self.cluster.shared.statements,
            own,
            parses: plan.parses.iter(),
            executed: &plan.executed,
            reading: SegmentReading::Keeps,
            block: None,
            outdated: None,
            comparing: Comparing::First,
            learned: None,
            unsure: Unsure::default(),
        };
        let bytes = self
            .inbound
            .filled()
            .get(..extent.length)
            .unwrap_or_default();
        let mut to = Destination {
            out: &mut nowhere,
            replies: &mut replies,
            node: None,
        };
        let translated = translation.messages(bytes, &mut to);
        // What stands before an error has been carried out.
        self.state.unnamed.keep();
        translated?;
        let mut answer = Vec::new();
        while let Some(reply) = replies.pop_own() {
            match reply {
                Own::Bytes(bytes) => answer.extend_from_slice(&bytes),
                Own::Parsed(_) => answer.extend_from_slice(&own::PARSE_COMPLETE),
                Own::Closed(_) => answer.extend_from_slice(&own::CLOSE_COMPLETE),
            }
        }
        for change in self.pending.drain(..) {
            self.state.statements.apply(change);
        }
        Ok(answer)
    }

    /// Runs a segment on the connection that the session holds.
    async fn serve_linked(
        &mut self,
        mut link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        let block = self.block.as_deref_mut();
        if let Some(begin) = block.and_then(|block| block.until_write.take()) {
            return Box::pin(self.serve_until_write(link, begin, plan, extent)).await;
        }
        let Some(reason) = self.runs_here(&link, plan) else {
            return self.leave_replica(link, plan, extent).await;
        };
        link.route.reason = reason;
        if self.block.is_none() && link.is_quiet() && link.batch == Batch::Closed {
            self.provide_options_here(&mut link).await?;
        }
        self.use_names(&mut link, plan).await?;
        self.send(&mut link, plan, extent, Hold::Released)?;
        self.inbound.consume(extent.length);
        self.finish(link, plan, extent).await
    }

    /// Relays until everything is answered, and notes what came of it.
    pub(super) async fn finish(
        &mut self,
        mut link: Box<Link>,
        plan: &Plan,
        extent: Extent,
    ) -> Result<(), SessionEnd> {
        loop {
            match self.relay(&mut link).await {
                Ok(Pause::Answered) => break,
                Ok(Pause::HeldError(..) | Pause::Compared(_)) => {
                    link.scanner.hold = Hold::Released;
                }
                Ok(Pause::Input) => self.feed_copy(&mut link)?,
                Err(error) => return Err(self.lost(&link, &error)),
            }
        }
        self.settle(link, plan, extent).await
    }

    /// Relays until there is something to decide, and sends on what has waited for a comparison.
    pub(super) async fn relay(&mut self, link: &mut Link) -> Result<Pause, LinkError> {
        loop {
            let paused = self.relay_once(link).await?;
            if link.waiting.is_none() {
                return Ok(paused);
            }
            if let Some(paused) = self.go_on(link, paused)? {
                return Ok(paused);
            }
        }
    }

    /// Lends buffers and relays.
    async fn relay_once(&mut self, link: &mut Link) -> Result<Pause, LinkError> {
        self.worker
            .buffers
            .lend(BufferSize::Client, &mut self.inbound);
        self.worker
            .buffers
            .lend(BufferSize::Server, link.server_buffer());
        let client = ClientSide {
            stream: &mut self.client,
            inbound: &mut self.inbound,
        };
        let paused = link.relay(client, Until::Answered).await;
        self.worker
            .buffers
            .take_back(BufferSize::Server, link.server_buffer());
        paused
    }

    /// Writes a segment's messages into the link's outgoing bytes.
    pub(super) fn send(
        &mut self,
        link: &mut Link,
        plan: &Plan,
        extent: Extent,
        hold: Hold,
    ) -> Result<(), ProxyError> {
        self.mark_keys(link, plan)?;
        link.scanner.begin(hold);
        link.scanner.boundaries = if plan.ends.is_empty() || hold != Hold::UntilResult {
            Boundaries::Passed
        } else {
            Boundaries::Kept
        };
        link.answered = 0;
        link.progress = super::link::Progress::Untouched;
        self.pending.clear();
        self.expect_changes(link, plan);
        link.write_prologue(plan.form);
        let reading = SegmentReading::of(&plan.executed);
        self.translate(link, plan, extent.length, reading)?;
        // The key may have been set among the messages.
        self.mark_keys(link, plan)?;
        link.end_segment(extent.end);
        Ok(())
    }

    /// Lets nobody take a statement for current while DDL of the segment is under way.
    pub(super) fn expect_changes(&self, link: &mut Link, plan: &Plan) {
        let mut effects = plan.executed.iter().map(|text| &text.catalog);
        if link.changing.is_none() && effects.any(|effect| self.may_change_catalog(effect)) {
            link.changing = Some(self.cluster.shared.changing(self.catalog.as_ref()));
        }
    }

    /// Translates the first `length` bytes of the client's buffer.
    pub(super) fn translate(
        &mut self,
        link: &mut Link,
        plan: &Plan,
        length: usize,
        reading: SegmentReading,
    ) -> Result<(), ProxyError> {
        let inbound = std::mem::take(&mut self.inbound);
        let bytes = inbound.filled().get(..length).unwrap_or_default();
        let translated = self.translate_bytes(link, plan, bytes, reading);
        self.inbound = inbound;
        translated
    }

    /// Remembers that the segment's text must run on the primary.
    pub(super) fn learn_write(&self, plan: &Plan) {
        if let Some(text) = &plan.only_text {
            self.learned.learn(text.identity());
        }
    }
}

/// The statement for pgweir that a Query message is.
fn own_statement(plan: &Plan) -> Option<ProxyStatement> {
    let [text] = plan.texts.as_slice() else {
        return None;
    };
    match &*text.statements {
        [only] => match &only.session {
            SessionEffect::Proxy(statement) => Some(statement.clone()),
            SessionEffect::None
            | SessionEffect::Setting(_)
            | SessionEffect::LocalSetting(_)
            | SessionEffect::WatchesCounters
            | SessionEffect::DiscardAll
            | SessionEffect::DeallocateAll
            | SessionEffect::Pins(_)
            | SessionEffect::MayConfigure(..) => None,
        },
        _ => None,
    }
}

/// Whether the segment drops every prepared statement.
fn forgets_statements(plan: &Plan) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.any(|one| {
        matches!(
            one.session,
            SessionEffect::DiscardAll | SessionEffect::DeallocateAll
        )
    })
}

/// How many bytes there are up to and with the first Execute, if anything but a Sync stands behind it.
fn up_to_first_execute(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let header = FrameHeader::parse(bytes.get(at..)?, u32::MAX).ok()??;
        at += header.total();
        if header.tag == tag::EXECUTE {
            let next = *bytes.get(at)?;
            return (next != tag::SYNC).then_some(at);
        }
    }
}
