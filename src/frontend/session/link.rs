//! A leased server connection with the bytes under way on it: the relay.
//!
//! One task moves bytes both ways. Nothing is read from a side while what came from it before is
//! still to be written, so a slow peer slows the other down and memory stays bounded. A result is
//! passed on from the buffer it was read into.
//!
//! # Cancel safety
//! All state is in [`Link`] and the session's buffers, so a dropped future loses nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::comparison::Waiting;
use super::copy::Copy;
use super::names::Names;
use super::outgoing::{Outgoing, Output, collect};
use super::parked::Keeping;
pub(super) use super::pause::{LinkError, Pause, Until};
use super::settle::Batch;
use super::spare::LinkMemory;
use crate::backend::connection::ReportedParameters;
use crate::backend::custom::Novelty;
use crate::backend::pool::Lease;
use crate::backend::state::AppliedSettings;
use crate::core::audit::Belief;
use crate::core::router::Route;
use crate::core::snapshot::Incarnation;
use crate::frontend::buffers::Buffer;
use crate::frontend::cluster::{Changing, UnderWay};
use crate::protocol::outstanding::OutstandingReplies;
use crate::protocol::replies::{Behind, Hold, Outcome, ReplyScanner, Span, Stop};
use crate::protocol::segment::SegmentEnd;
use crate::wire::socket::Socket;

/// A leased connection with the bytes under way on it.
#[derive(Debug)]
pub(super) struct Link {
    /// The connection.
    pub(super) lease: Lease,
    /// Where the session was routed when it leased it.
    pub(super) route: Route,
    /// The life of the node at that moment.
    pub(super) incarnation: Option<Incarnation>,
    /// Replies that the node owes.
    pub(super) replies: OutstandingReplies,
    /// The walk over its replies.
    pub(super) scanner: ReplyScanner,
    /// Bytes for the node.
    pub(super) to_server: Outgoing,
    /// Whether the node waits for COPY data.
    pub(super) copy: Copy,
    /// Bytes of the client's current message that go to the node unread.
    pub(super) passing: usize,
    /// What ends when the last of these bytes has been passed.
    pub(super) ends_with: Option<SegmentEnd>,
    /// Whether the node waits for the Sync of what it has answered.
    pub(super) batch: Batch,
    /// Whether anything of the current segment has reached the client.
    pub(super) progress: Progress,
    /// How many of several segments have been answered.
    pub(super) answered: usize,
    /// Under which names the node knows the session's statements.
    pub(super) names: Names,
    /// Statements of pgweir's own that go before the next segment.
    pub(super) prologue: Vec<String>,
    /// Whether the connection has lost the session's settings.
    pub(super) undone: Undone,
    /// The rest of the segment, if that waits for a comparison.
    pub(super) waiting: Option<Box<Waiting>>,
    /// What a comparison has found with other columns here, while the client's messages are translated as
    /// they come.
    pub(super) outdated: Option<u64>,
    /// Settings that the connection has if the transaction under way commits.
    pub(super) replayed: Option<Arc<AppliedSettings>>,
    /// What the node is asked to confirm behind the read.
    pub(super) audit: Option<Belief>,
    /// What the client has been told of parameters.
    pub(super) told: ReportedParameters,
    trust: Trust,
    from_server: Buffer,
    scanned: usize,
    spans: Vec<Span>,
    pub(super) to_client: Output,
    /// Counts the statement until the link is parked or gone.
    pub(super) under_way: Option<UnderWay>,
    /// Held from the moment DDL is sent until its transaction has ended and been noted, or is lost.
    pub(super) changing: Option<Changing>,
    /// Whether the session has kept the connection from an earlier statement.
    pub(super) keeping: Keeping,
}

/// Whether the connection may serve another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It may.
    Clean,
    /// It was pinned: it is closed when the session lets go of it.
    Tainted,
    /// The node has ended it behind the client's last answer.
    Ended,
}

/// Whether anything of the current segment has reached the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing: it may still be sent elsewhere.
    Untouched,
    /// Something.
    Answered,
}

/// Whether a rollback has taken back the settings that were given to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undone {
    /// It has not.
    No,
    /// It has: it has those that it had before.
    Yes,
}

/// The sockets and buffers of the client side.
#[derive(Debug)]
pub(super) struct ClientSide<'a> {
    /// The client's socket.
    pub(super) stream: &'a mut Socket,
    /// What it has sent.
    pub(super) inbound: &'a mut Buffer,
}

impl Link {
    /// A link over a fresh lease. `from_server` has memory.
    pub(super) fn new(
        lease: Lease,
        route: Route,
        incarnation: Option<Incarnation>,
        under_way: UnderWay,
        memory: LinkMemory,
    ) -> Self {
        Self {
            lease,
            route,
            incarnation,
            replies: memory.replies,
            scanner: memory.scanner,
            to_server: memory.to_server,
            copy: Copy::Idle,
            passing: 0,
            ends_with: None,
            batch: Batch::Closed,
            progress: Progress::Untouched,
            answered: 0,
            names: Names::Shared,
            prologue: Vec::new(),
            undone: Undone::No,
            waiting: None,
            outdated: None,
            replayed: None,
            audit: None,
            told: ReportedParameters::default(),
            trust: Trust::Clean,
            from_server: Buffer::default(),
            scanned: 0,
            spans: memory.spans,
            to_client: Output::Nothing,
            under_way: Some(under_way),
            changing: None,
            keeping: Keeping::Leased,
        }
    }

    /// The buffer for what the node sends, to be lent memory and to be taken back.
    pub(super) fn server_buffer(&mut self) -> &mut Buffer {
        &mut self.from_server
    }

    /// Whether nothing is owed and nothing is half-done on either side.
    pub(super) fn is_quiet(&self) -> bool {
        self.replies.is_empty()
            && !self.replies.is_skipping()
            && self.scanner.is_between_messages()
            && self.to_server.is_empty()
            && matches!(self.to_client, Output::Nothing)
            && self.scanned == self.from_server.filled().len()
            && self.passing == 0
            && self.copy == Copy::Idle
    }

    /// Makes sure that the connection is closed when the session lets go of it.
    pub(super) fn taint(&mut self) {
        if self.trust == Trust::Clean {
            self.trust = Trust::Tainted;
        }
    }

    /// Whether the node has ended the connection behind the client's last answer: a client that has
    /// nothing on it need not know.
    pub(super) fn has_ended(&self) -> bool {
        self.trust == Trust::Ended
    }

    /// Notes that the connection is lost; `true` if the client has all of its answer.
    pub(super) fn end_behind_answer(&mut self) -> bool {
        let given = matches!(self.to_client, Output::Nothing) && self.spans.is_empty();
        let is_whole =
            given && self.replies.is_own() && self.copy == Copy::Idle && self.passing == 0;
        if is_whole {
            self.trust = Trust::Ended;
        }
        is_whole
    }

    /// Returns the connection to its pool, or closes it if it cannot serve another session.
    pub(super) fn give_back(mut self, now: Instant) -> LinkMemory {
        // Behind the client's last answer, a query of pgweir's own may have changed some.
        self.take_in_reports();
        self.lease.custom.novelty = Novelty::Seen;
        if self.trust == Trust::Clean {
            self.lease.give_back(now);
        }
        let (replies, scanner) = (self.replies, self.scanner);
        LinkMemory {
            replies,
            scanner,
            to_server: self.to_server,
            spans: self.spans,
        }
        .kept()
    }

    /// Where replies for the client are noted, in order.
    pub(super) fn spans_for_client(&mut self) -> &mut Vec<Span> {
        &mut self.spans
    }

    /// Forgets replies that were held back.
    pub(super) fn discard_held(&mut self) {
        self.spans.clear();
        self.scanner.hold = Hold::Discarding;
    }

    /// Relays until there is something to decide.
    ///
    /// # Errors
    /// When either side is lost or the node breaks the protocol.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn relay(
        &mut self,
        mut client: ClientSide<'_>,
        until: Until,
    ) -> Result<Pause, LinkError> {
        std::future::poll_fn(|context| self.poll_relay(context, &mut client, until)).await
    }

    fn poll_relay(
        &mut self,
        context: &mut Context<'_>,
        client: &mut ClientSide<'_>,
        until: Until,
    ) -> Poll<Result<Pause, LinkError>> {
        let waits = until == Until::Answered && self.copy == Copy::Idle && self.passing == 0;
        self.scanner.behind = if waits { Behind::Kept } else { Behind::Passed };
        loop {
            let sent = self.poll_send(context)?;
            let given = self.poll_give(context, client)?;
            let (moved, pause) = match self.poll_server(context) {
                // A node that goes away behind its whole answer has answered.
                Err(LinkError::Server(_)) if until == Until::Answered && self.is_answered() => {
                    return Poll::Ready(Ok(Pause::Answered));
                }
                polled => polled?,
            };
            if let Some(pause) = pause {
                return Poll::Ready(Ok(pause));
            }
            if until == Until::Answered && self.is_answered() {
                return Poll::Ready(Ok(Pause::Answered));
            }
            let heard = self.poll_client(context, client)?;
            let ready = until == Until::Input || self.copy == Copy::In || self.passing > 0;
            if ready && heard && self.to_server.len() < crate::limits::PENDING_BYTES {
                return Poll::Ready(Ok(Pause::Input));
            }
            if !(sent || given || moved || heard) {
                return Poll::Pending;
            }
        }
    }

    /// Whether every reply to what has been sent has been passed on.
    fn is_answered(&self) -> bool {
        self.replies.is_empty()
            && self.copy == Copy::Idle
            && self.passing == 0
            && self.scanner.is_between_messages()
            && self.to_server.is_empty()
            && matches!(self.to_client, Output::Nothing)
            && self.spans.is_empty()
    }

    /// Writes towards the node; `true` when something was written.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<bool, LinkError> {
        let mut moved = false;
        while !self.to_server.is_empty() {
            let stream = Pin::new(&mut self.lease.stream);
            match stream.poll_write(context, self.to_server.rest()) {
                Poll::Ready(Ok(0)) => return Err(LinkError::Server(None)),
                Poll::Ready(Ok(count)) => self.to_server.advance(count),
                Poll::Ready(Err(error)) => return Err(LinkError::Server(Some(error))),
                Poll::Pending => return Ok(moved),
            }
            moved = true;
        }
        // TLS may have taken more than the socket did.
        match Pin::new(&mut self.lease.stream).poll_flush(context) {
            Poll::Ready(Err(error)) => Err(LinkError::Server(Some(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(moved),
        }
    }

    /// Writes towards the client; `true` when something was written.
    fn poll_give(
        &mut self,
        context: &mut Context<'_>,
        client: &mut ClientSide<'_>,
    ) -> Result<bool, LinkError> {
        let mut moved = false;
        loop {
            let bytes = match &self.to_client {
                Output::Nothing => return Ok(moved),
                Output::Direct(at, count) => self
                    .from_server
                    .filled()
                    .get(*at..at.saturating_add(*count))
                    .unwrap_or_default(),
                Output::Collected(collected) => collected.rest(),
            };
            if bytes.is_empty() {
                // TLS may have taken more than the socket did.
                match Pin::new(&mut *client.stream).poll_flush(context) {
                    Poll::Ready(Ok(())) => self.given(),
                    Poll::Ready(Err(error)) => return Err(LinkError::Client(error)),
                    Poll::Pending => return Ok(moved),
                }
                return Ok(true);
            }
            match Pin::new(&mut *client.stream).poll_write(context, bytes) {
                Poll::Ready(Ok(0)) => return Err(LinkError::ClientGone),
                Poll::Ready(Ok(count)) => self.to_client.advance(count),
                Poll::Ready(Err(error)) => return Err(LinkError::Client(error)),
                Poll::Pending => return Ok(moved),
            }
            moved = true;
        }
    }

    /// All output has been written: the buffer behind it is free.
    fn given(&mut self) {
        self.to_client = Output::Nothing;
        self.from_server.consume(self.scanned);
        self.scanned = 0;
    }

    /// Scans what the node has sent, reading more when there is nothing left to scan.
    fn poll_server(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<(bool, Option<Pause>), LinkError> {
        if !matches!(self.to_client, Output::Nothing) {
            return Ok((false, None));
        }
        let mut moved = false;
        loop {
            let before = self.scanned;
            let spans_before = self.spans.len();
            let stop = self.scanner.scan(
                self.from_server.filled(),
                &mut self.scanned,
                &mut self.replies,
                &mut self.spans,
            )?;
            moved |= self.scanned != before || self.spans.len() != spans_before;
            if !self.scanner.unlike.is_empty() {
                self.close_unlike();
            }
            match stop {
                Stop::HeldError(sqlstate, kind) => {
                    return Ok((true, Some(Pause::HeldError(sqlstate, kind))));
                }
                Stop::Compared(comparison) => {
                    return Ok((true, Some(Pause::Compared(comparison))));
                }
                Stop::Boundary => {
                    self.pass_boundary();
                    return Ok((true, None));
                }
                Stop::Reported(status) => self.report(status),
                Stop::OwnFailed => return Err(LinkError::OwnFailed),
                Stop::CopyIn => {
                    self.copy = Copy::In;
                    self.scanner.hold = Hold::Released;
                    return Ok((true, Some(Pause::Input))); // data may have come already
                }
                Stop::Behind => {
                    self.trust = Trust::Ended;
                    return Ok((self.release_spans() || moved, None));
                }
                Stop::NeedMore => {}
            }
            if matches!(stop, Stop::Reported(_)) {
                continue;
            }
            if self.scanner.outcome.has(Outcome::ERROR) {
                self.copy = Copy::Idle;
                self.ask_after_copy();
            }
            if self.release_spans() {
                return Ok((true, None));
            }
            if self.from_server.is_full() {
                // A message that must be seen whole is longer than the buffer's free part.
                self.from_server
                    .grow(2 * crate::limits::SERVER_BUFFER_BYTES);
            }
            match self.from_server.poll_fill(&mut self.lease.stream, context) {
                Poll::Ready(Ok(0)) => return Err(LinkError::Server(None)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Err(LinkError::Server(Some(error))),
                Poll::Pending => return Ok((moved, None)),
            }
        }
    }

    /// One of several segments has been answered: the client gets it, and the next is held back until
    /// it has a result.
    fn pass_boundary(&mut self) {
        self.scanner.hold = Hold::Released;
        self.release_spans();
        self.scanner.hold_next();
        self.progress = Progress::Untouched;
        self.answered += 1;
    }

    /// Whether nothing of the segment under way has reached the client.
    pub(super) fn is_untouched(&self) -> bool {
        self.progress == Progress::Untouched
    }

    /// Turns spans into output unless they are held back; `true` when there is output now.
    fn release_spans(&mut self) -> bool {
        if self.spans.is_empty() {
            if self.scanner.hold != Hold::UntilResult {
                // Everything that was scanned has been dropped.
                self.from_server.consume(self.scanned);
                self.scanned = 0;
            }
            return false;
        }
        if self.scanner.hold == Hold::UntilResult {
            // A batch with a Flush may have no result.
            let more_comes = !self.replies.is_empty() && !self.from_server.is_full();
            if !self.scanner.has_result() && more_comes {
                return false;
            }
            self.scanner.hold = Hold::Released;
        }
        self.progress = Progress::Answered;
        self.to_client = match self.spans.as_slice() {
            [Span::Range(range)] => Output::Direct(range.start, range.len()),
            spans => Output::Collected(collect(spans, self.from_server.filled())),
        };
        self.spans.clear();
        true
    }

    /// Reads from the client while there is room; `true` when something was read.
    fn poll_client(
        &mut self,
        context: &mut Context<'_>,
        client: &mut ClientSide<'_>,
    ) -> Result<bool, LinkError> {
        if client.inbound.is_full() || self.to_server.len() >= crate::limits::PENDING_BYTES {
            return Ok(false);
        }
        match client.inbound.poll_fill(client.stream, context) {
            Poll::Ready(Ok(0)) => Err(LinkError::ClientGone),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(LinkError::Client(error)),
            Poll::Pending => Ok(false),
        }
    }
}
