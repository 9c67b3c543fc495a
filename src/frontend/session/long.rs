//! Segments that are longer than is worth holding, and COPY data: sent on as they arrive.

use super::link::{ClientSide, Link, Pause, Until};
use super::plan::{Plan, unread};
use super::prologue::Unprepared;
use super::reading::SegmentReading;
use super::refusal::length_refusal;
use super::serve::Extent;
use super::{Session, SessionEnd, SessionTexts, Skipping, now};
use crate::core::router::{RouteReason, RouteRequest};
use crate::core::snapshot::NodeRole;
use crate::core::statement::{CatalogEffect, PinReason};
use crate::frontend::buffers::BufferSize;
use crate::frontend::error::{Limit, ProxyError};
use crate::limits::{SEGMENT_BYTES, STATEMENT_BYTES};
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::{Bind, tag};
use crate::protocol::message::{Reader, write_message};
use crate::protocol::outstanding::{Disposition, Expected};
use crate::protocol::replies::Hold;
use crate::protocol::segment::SegmentEnd;

/// What a look at the client's bytes led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// More bytes are needed.
    Starved,
    /// The next message waits for a comparison.
    Waiting,
    /// The segment is complete.
    End(SegmentEnd),
}

impl Session {
    /// Serves a segment of which `whole` bytes are whole messages, and more is still to come. It goes
    /// to the primary, since it cannot be sent twice.
    pub(super) async fn serve_long(&mut self, whole: usize) -> Result<(), SessionEnd> {
        if let Some(length) = self.length_to_drop(whole) {
            return self.drop_unread(length).await;
        }
        if self.must_hold(whole) {
            return self.read_more().await;
        }
        let arrived = now();
        self.look_at_unread_options();
        let mut link = match self.link.take() {
            Some(link) if link.route.role == NodeRole::Replica => {
                // Boxed: hardly any segment comes here, and every idle session would keep room for it.
                Box::pin(self.leave_replica_unread(link, arrived)).await?
            }
            Some(link) => link,
            None => self.open_primary(arrived).await?,
        };
        if self.names_streamed(whole) && link.can_adopt_names() {
            let adopted = Box::pin(self.adopt_names(&mut link)).await;
            adopted.map_err(|Unprepared| ProxyError::ConnectionLost)?;
        }
        link.scanner.begin(Hold::Released);
        self.pending.clear();
        self.walked = 0;
        let mut plan = Plan::default();
        Box::pin(self.enter_shared(&plan)).await?;
        self.mark_keys(&link, &plan)?;
        let end = self.stream(&mut link, &mut plan).await?;
        let extent = Extent {
            length: 0,
            end,
            arrived,
        };
        self.finish(link, &plan, extent).await
    }

    /// Whether the message that is not whole yet is to be held until it is: its text is needed.
    fn must_hold(&mut self, whole: usize) -> bool {
        let Some((header, _)) = self.unfinished(whole) else {
            return false;
        };
        let holds_text = matches!(header.tag, tag::QUERY | tag::PARSE);
        if !holds_text || header.total() > STATEMENT_BYTES {
            return false;
        }
        self.make_room_for_statement();
        !self.inbound.is_full()
    }

    /// Whether the message that is not whole yet prepares a statement, under a name, that is not held:
    /// then SQL finds it if the connection knows the client's names.
    fn names_streamed(&self, whole: usize) -> bool {
        self.unfinished(whole).is_some_and(|(header, body)| {
            let names = body.first().is_some_and(|first| *first != 0);
            names && header.tag == tag::PARSE && header.total() > STATEMENT_BYTES
        })
    }

    /// The header of the message that is not whole yet, and what is there of its body.
    fn unfinished(&self, whole: usize) -> Option<(FrameHeader, &[u8])> {
        let rest = self.inbound.filled().get(whole..)?;
        let header = FrameHeader::parse(rest, self.max_message_bytes);
        Some((header.ok().flatten()?, rest.get(HEADER_BYTES..)?))
    }

    fn make_room_for_statement(&mut self) {
        if self.inbound.is_full() {
            self.inbound.grow(STATEMENT_BYTES + SEGMENT_BYTES);
        }
    }

    /// How much is dropped of what comes next: a COPY message, whose COPY has ended, and what stands
    /// between an error of pgweir's own and the Sync, which ends a segment.
    fn length_to_drop(&self, whole: usize) -> Option<usize> {
        if self.skipping == Skipping::UntilSync && whole > 0 {
            return Some(whole);
        }
        let header = FrameHeader::parse(self.inbound.filled(), self.max_message_bytes);
        let header = header.ok().flatten()?;
        let is_copy = matches!(header.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL);
        (whole == 0 && (is_copy || self.skipping == Skipping::UntilSync)).then(|| header.total())
    }

    /// Drops messages as they come.
    async fn drop_unread(&mut self, mut length: usize) -> Result<(), SessionEnd> {
        self.walked = 0;
        loop {
            let here = length.min(self.inbound.filled().len());
            self.inbound.consume(here);
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.read_more().await?;
        }
    }

    async fn open_primary(&mut self, arrived: std::time::Instant) -> Result<Box<Link>, SessionEnd> {
        let request = RouteRequest::to_primary(RouteReason::NotUnderstood);
        self.link_for(&request, arrived).await
    }

    /// Sends messages on until the segment ends.
    async fn stream(&mut self, link: &mut Link, plan: &mut Plan) -> Result<SegmentEnd, SessionEnd> {
        loop {
            match self.feed(link, plan)? {
                Fed::End(end) => return Ok(end),
                Fed::Waiting => {
                    self.compare(link).await?;
                    continue;
                }
                Fed::Starved => {}
            }
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
            match link.relay(client, Until::Input).await {
                Ok(Pause::Input | Pause::Answered | Pause::Compared(_)) => {}
                Ok(Pause::HeldError(..)) => link.scanner.hold = Hold::Released,
                Err(error) => return Err(self.lost(link, &error)),
            }
        }
    }

    /// Waits until the statement of the next message has been compared.
    async fn compare(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        while link.waiting.is_some() {
            match self.relay(link).await {
                Ok(Pause::Input) => self.feed_copy(link)?,
                Ok(Pause::Answered | Pause::Compared(_)) => {}
                Ok(Pause::HeldError(..)) => link.scanner.hold = Hold::Released,
                Err(error) => return Err(self.lost(link, &error)),
            }
        }
        Ok(())
    }

    /// Sends on what the client has sent, one message or part of one at a time.
    fn feed(&mut self, link: &mut Link, plan: &mut Plan) -> Result<Fed, SessionEnd> {
        loop {
            if !self.pass(link) {
                return Ok(Fed::Starved);
            }
            if let Some(end) = link.ends_with.take() {
                self.pin_for_good(PinReason::NotUnderstood);
                plan.executed.push(unread(match end {
                    SegmentEnd::FunctionCall => CatalogEffect::None,
                    SegmentEnd::Query
                    | SegmentEnd::Sync
                    | SegmentEnd::Flush
                    | SegmentEnd::Terminate
                    | SegmentEnd::StrayCopy => CatalogEffect::MayChange,
                }));
                return Ok(Fed::End(end));
            }
            let filled = self.inbound.filled();
            let header =
                FrameHeader::parse(filled, self.max_message_bytes).map_err(length_refusal)?;
            let Some(header) = header else {
                return Ok(Fed::Starved);
            };
            let whole = filled.len() >= header.total();
            match header.tag {
                tag::TERMINATE => return Err(SessionEnd::Closed),
                tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {
                    if !self.feed_copy_message(link, header)? {
                        return Ok(Fed::Starved);
                    }
                }
                _ if whole => {
                    if !self.feed_whole(link, plan, header.total())? {
                        return Ok(Fed::Waiting);
                    }
                    if let Some(end) = end_of(header.tag) {
                        return Ok(Fed::End(end));
                    }
                }
                // Of a long one the names are here then.
                tag::BIND | tag::PARSE if filled.len() < SEGMENT_BYTES => {
                    self.make_room();
                    return Ok(Fed::Starved);
                }
                tag::PARSE if header.total() <= STATEMENT_BYTES => {
                    self.make_room_for_statement();
                    return Ok(Fed::Starved);
                }
                _ if filled.len() < SEGMENT_BYTES && header.total() <= SEGMENT_BYTES => {
                    self.make_room();
                    return Ok(Fed::Starved);
                }
                tag::QUERY | tag::FUNCTION_CALL => self.pass_raw(link, header),
                tag::PARSE => self.pass_parse(link, plan, header)?,
                tag::BIND => {
                    if !self.pass_bind(link, plan, header)? {
                        return Ok(Fed::Waiting);
                    }
                }
                _ => {
                    return Err(ProxyError::LimitExceeded {
                        limit: Limit::Message,
                    }
                    .into());
                }
            }
        }
    }

    pub(super) fn make_room(&mut self) {
        if self.inbound.is_full() {
            self.inbound.grow(2 * SEGMENT_BYTES);
        }
    }

    /// Translates a whole message; `false` if it is to be translated again behind a comparison.
    fn feed_whole(
        &mut self,
        link: &mut Link,
        plan: &mut Plan,
        length: usize,
    ) -> Result<bool, SessionEnd> {
        let counts = plan.counts();
        let bytes = self.inbound.filled().get(..length).unwrap_or_default();
        plan.extend(bytes, &self.state, &mut SessionTexts { session: self })?;
        self.mark_keys(link, plan)?;
        self.expect_changes(link, plan);
        let reading = SegmentReading::of(&plan.executed).going_on();
        self.translate(link, plan, length, reading)?;
        if link.waiting.is_some() {
            plan.cut(counts);
            return Ok(false);
        }
        self.inbound.consume(length);
        Ok(true)
    }

    /// Passes on bytes of the current message; `true` when none of it is left.
    pub(super) fn pass(&mut self, link: &mut Link) -> bool {
        let count = link.passing.min(self.inbound.filled().len());
        let bytes = self.inbound.filled().get(..count).unwrap_or_default();
        link.to_server.writer().extend_from_slice(bytes);
        link.passing -= count;
        self.inbound.consume(count);
        link.passing == 0
    }

    /// Passes a message unread that ends the segment.
    fn pass_raw(&mut self, link: &mut Link, header: FrameHeader) {
        link.changing = Some(self.cluster.shared.changing(self.catalog.as_ref()));
        link.replies.push(Expected::Query(Disposition::Forward));
        self.state.unnamed.set(None);
        link.lease.unnamed_owner = None;
        link.passing = header.total();
        link.ends_with = end_of(header.tag);
    }

    /// Sends the names of a long Bind, and passes its parameters; `false` if it is to be translated again
    /// behind a comparison.
    fn pass_bind(
        &mut self,
        link: &mut Link,
        plan: &mut Plan,
        header: FrameHeader,
    ) -> Result<bool, SessionEnd> {
        let body = self
            .inbound
            .filled()
            .get(HEADER_BYTES..)
            .unwrap_or_default();
        let mut reader = Reader::new(body);
        let (portal, statement) = (reader.string(), reader.string());
        let (Ok(portal), Ok(statement)) = (portal, statement) else {
            return Err(ProxyError::ProtocolViolation("invalid message format").into());
        };
        let head = body.len() - reader.rest().len();
        // A whole Bind with the same names and no parameters: what it prepares and notes is the same.
        let bind = Bind {
            portal,
            statement,
            rest: &[],
        };
        let mut short = Vec::new();
        crate::protocol::frontend::write_bind(&mut short, bind, statement);
        let counts = plan.counts();
        plan.extend(&short, &self.state, &mut SessionTexts { session: self })?;
        self.expect_changes(link, plan);
        let rest = header.body().saturating_sub(head);
        let at = link.to_server.writer().len();
        let reading = SegmentReading::of(&plan.executed).going_on();
        self.translate_bytes(link, plan, &short, reading)?;
        if link.waiting.is_some() {
            plan.cut(counts);
            return Ok(false);
        }
        if link.to_server.writer().len() == at {
            // Nothing of it is for the node, which ignores COPY data where there is no COPY.
            write_message(link.to_server.writer(), tag::COPY_DATA, |_| {});
        }
        link.to_server.lengthen_last_message(at, rest);
        link.passing = rest;
        self.inbound.consume(HEADER_BYTES + head);
        Ok(true)
    }
}

fn end_of(message: u8) -> Option<SegmentEnd> {
    match message {
        tag::SYNC => Some(SegmentEnd::Sync),
        tag::FLUSH => Some(SegmentEnd::Flush),
        tag::QUERY => Some(SegmentEnd::Query),
        tag::FUNCTION_CALL => Some(SegmentEnd::FunctionCall),
        _ => None,
    }
}
