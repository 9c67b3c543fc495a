//! Walks over the bytes a node sends and says which of them the client gets.
//!
//! Pure: bytes in, spans and events out. It hops from header to header and looks inside a message
//! only where routing needs it (`ReadyForQuery`, `ErrorResponse`, `CommandComplete`,
//! `ParameterStatus`), so that a row costs a few instructions and a result is never held.

mod body;
mod errors;
mod outcome;
mod passed;
mod taken;

use super::backend::{ErrorView, SqlState, TransactionStatus, command_tag, tag};
use super::description::{Comparison, Described};
use super::frame::FrameHeader;
use super::message::Malformed;
use super::outstanding::{Disposition, Expected, OutstandingReplies, Own};

use body::{Body, whole_body};
use errors::kind_of;
pub use errors::{OLDER_CATALOG, OUTDATED_STAND_IN, SERVER_NAME_PREFIX};
pub use outcome::{
    Alias, Behind, Boundaries, Compare, ErrorKind, Hold, Outcome, Span, Stop, Verdict,
};
use passed::{asynchronous, emit, row_disposition};

/// The node broke the protocol, or answered something nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node sent an unexpected message of type {tag:#04x}")]
pub struct UnexpectedReply {
    /// The message type.
    pub tag: u8,
}

/// The state of the walk over one connection's replies.
#[derive(Debug)]
pub struct ReplyScanner {
    /// Bytes of the current message that are still to come, and what happens to them.
    passing: usize,
    passing_as: Disposition,
    /// What the replies amounted to since [`Self::begin`].
    pub outcome: Outcome,
    /// The last `ReadyForQuery`.
    pub status: TransactionStatus,
    /// The SQLSTATE of the last error since [`Self::begin`].
    pub last_error: Option<SqlState>,
    /// The message with which the node has ended the connection in answer to a query of pgweir's own.
    pub own_fatal: Option<Box<[u8]>>,
    /// Named statements whose Parse failed since [`Self::begin`].
    pub unparsed: Vec<u64>,
    /// What became of the client's Parse and Close messages with a name since [`Self::begin`], in order.
    pub changes: Vec<Verdict>,
    /// The same of those without a name.
    pub unnamed: Vec<Verdict>,
    /// Goes to the client instead of the message that was read last.
    instead: Option<Box<[u8]>>,
    /// Rows of pgweir's own query, as message bodies.
    pub captured: Vec<Box<[u8]>>,
    /// What they took on the wire.
    captured_bytes: usize,
    /// The body of the `ParameterDescription` that is being learned or compared.
    parameters: Option<Box<[u8]>>,
    /// What became of the comparison behind which the scan is to stop.
    comparison: Option<Comparison>,
    /// Statements that a check has found with other columns since [`Self::begin`].
    pub outdated: Vec<Described>,
    /// Statements that could not be checked since [`Self::begin`], since the node did not take them.
    pub refused: Vec<Described>,
    /// Statements that were found with other columns since [`Self::begin`] while they were under way: they
    /// are to be closed.
    pub unlike: Vec<u64>,
    /// What becomes of the rest of the segment's answer.
    rest: Rest,
    /// Bodies of `ParameterStatus` messages. The client is not told of them as they come: the node may
    /// report what pgweir has set, and may have reported earlier what the client sets now.
    pub reports: Vec<Box<[u8]>>,
    /// Whether the client may have to be told of a parameter although the node reports none.
    pub compare: Compare,
    /// Whether the scan stops between the answers to several segments.
    pub boundaries: Boundaries,
    /// What becomes of an error that nothing was sent for.
    pub behind: Behind,
    /// What the client was told of the connection's process id, if that is something else.
    pub alias: Option<Alias>,
    has_result: ResultSeen,
    /// Whether bytes may still be taken back.
    pub hold: Hold,
}

/// What becomes of the rest of a segment's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It is passed on as it is due.
    Passed,
    /// The client has got an error in its place, up to `ReadyForQuery`.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResultSeen {
    No,
    Yes,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self {
            passing: 0,
            passing_as: Disposition::Forward,
            outcome: Outcome::default(),
            status: TransactionStatus::Idle,
            last_error: None,
            own_fatal: None,
            unparsed: Vec::new(),
            changes: Vec::new(),
            unnamed: Vec::new(),
            instead: None,
            captured: Vec::new(),
            captured_bytes: 0,
            parameters: None,
            comparison: None,
            outdated: Vec::new(),
            refused: Vec::new(),
            unlike: Vec::new(),
            rest: Rest::Passed,
            reports: Vec::new(),
            compare: Compare::No,
            boundaries: Boundaries::Passed,
            behind: Behind::Passed,
            alias: None,
            has_result: ResultSeen::No,
            hold: Hold::Released,
        }
    }
}

impl ReplyScanner {
    /// Forgets what earlier segments amounted to.
    pub fn begin(&mut self, hold: Hold) {
        self.hold = hold;
        self.outcome = Outcome::default();
        self.last_error = None;
        self.own_fatal = None;
        self.unparsed.clear();
        self.changes.clear();
        self.unnamed.clear();
        self.captured.clear();
        self.captured_bytes = 0;
        self.outdated.clear();
        self.refused.clear();
        self.unlike.clear();
        self.has_result = ResultSeen::No;
    }

    /// Whether a result (a row, a command's completion, COPY data) has been scanned since
    /// [`Self::begin`].
    pub fn has_result(&self) -> bool {
        self.has_result == ResultSeen::Yes
    }

    /// Whether the walk stands between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.passing == 0
    }

    /// Looks at `buffer[*at..]`, moves `at` behind what was looked at and appends to `spans`.
    ///
    /// # Errors
    /// When the node breaks the protocol; the connection is then of no use.
    pub fn scan(
        &mut self,
        buffer: &[u8],
        at: &mut usize,
        replies: &mut OutstandingReplies,
        spans: &mut Vec<Span>,
    ) -> Result<Stop, UnexpectedReply> {
        let mut hold = self.holds();
        loop {
            if self.passing == 0 {
                self.answer_own(replies, spans);
            }
            let rest = buffer.get(*at..).unwrap_or_default();
            if self.passing > 0 {
                if rest.is_empty() {
                    return Ok(Stop::NeedMore);
                }
                let count = self.passing.min(rest.len());
                self.passing -= count;
                emit(spans, *at..*at + count, self.passing_as);
                *at += count;
                continue;
            }
            let Some(header) =
                FrameHeader::parse(rest, MAX_LENGTH).map_err(|_| UnexpectedReply {
                    tag: rest.first().copied().unwrap_or(0),
                })?
            else {
                return Ok(Stop::NeedMore);
            };
            if replies.head() == Some(&Expected::Inspection) && header.tag == tag::DATA_ROW {
                if !self.capture(header, rest) {
                    return Ok(Stop::NeedMore);
                }
                continue;
            }
            if header.tag == tag::DATA_ROW || header.tag == tag::COPY_DATA {
                self.has_result = ResultSeen::Yes;
                self.pass(header, row_disposition(replies, hold, header.tag)?);
                continue;
            }
            let whole = match whole_body(header, rest, replies.head()) {
                Body::Incomplete => return Ok(Stop::NeedMore),
                Body::Whole(body) => Some(body),
                Body::Unread => None,
            };
            if let Some(stop) = self.stop_before(header.tag, whole, replies) {
                return Ok(stop);
            }
            let before = hold;
            let disposition = self.account(header.tag, whole, replies)?;
            hold = self.holds();
            let disposition = match self.instead.take() {
                Some(instead) if before != Hold::Discarding => {
                    spans.push(Span::Own(instead));
                    Disposition::Discard
                }
                _ if hold == Hold::Discarding => Disposition::Discard,
                _ => disposition,
            };
            self.pass(header, disposition);
            if let Some(stop) = self.stop_behind(header.tag, replies) {
                // The message's bytes are passed on before the caller acts.
                let rest = buffer.get(*at..).unwrap_or_default();
                let count = self.passing.min(rest.len());
                self.passing -= count;
                emit(spans, *at..*at + count, self.passing_as);
                *at += count;
                return Ok(stop);
            }
        }
    }

    /// Whether what is scanned now is taken back.
    fn holds(&self) -> Hold {
        match self.rest {
            Rest::Passed => self.hold,
            Rest::Dropped => Hold::Discarding,
        }
    }

    /// Why the scan stops in front of a message.
    fn stop_before(
        &mut self,
        message: u8,
        body: Option<&[u8]>,
        replies: &OutstandingReplies,
    ) -> Option<Stop> {
        let is_own = matches!(
            replies.head(),
            Some(
                Expected::Query(Disposition::Discard) | Expected::Inspection | Expected::Checked(_)
            )
        );
        match message {
            tag::ERROR if self.behind == Behind::Kept && replies.is_empty() => Some(Stop::Behind),
            tag::ERROR if replies.head() == Some(&Expected::Aside) => {
                self.outcome.add(Outcome::OWN_QUERY_FAILED);
                Some(Stop::OwnFailed)
            }
            tag::ERROR if self.hold == Hold::UntilResult && !is_own => {
                let error = ErrorView::read(body?).ok()?;
                Some(Stop::HeldError(error.sqlstate, kind_of(&error)))
            }
            _ if self.hold == Hold::UntilResult && self.is_unlike(message, body, replies) => {
                Some(Stop::HeldError(OLDER_CATALOG, ErrorKind::Ordinary))
            }
            tag::READY_FOR_QUERY if !is_own && self.must_report() => {
                let status = TransactionStatus::read(body?).ok()?;
                self.compare = Compare::No;
                Some(Stop::Reported(status))
            }
            _ => None,
        }
    }

    /// Why the scan stops behind a message.
    fn stop_behind(&mut self, message: u8, replies: &OutstandingReplies) -> Option<Stop> {
        let between = self.boundaries == Boundaries::Kept && self.hold != Hold::Discarding;
        match message {
            tag::COPY_IN => Some(Stop::CopyIn),
            tag::ROW_DESCRIPTION | tag::NO_DATA => self.comparison.take().map(Stop::Compared),
            tag::READY_FOR_QUERY if between && !replies.is_empty() => Some(Stop::Boundary),
            _ => None,
        }
    }

    /// Holds the next answer back until it has a result.
    pub fn hold_next(&mut self) {
        self.hold = Hold::UntilResult;
        self.has_result = ResultSeen::No;
    }

    /// Gives the replies of pgweir's own whose turn it is.
    fn answer_own(&mut self, replies: &mut OutstandingReplies, spans: &mut Vec<Span>) {
        while let Some(own) = replies.pop_own() {
            let bytes = match own {
                Own::Bytes(bytes) => bytes,
                Own::Parsed(called) => {
                    self.note_change(called, Verdict::Done);
                    PARSE_COMPLETE.as_slice().into()
                }
                Own::Closed(called) => {
                    self.note_change(called, Verdict::Done);
                    CLOSE_COMPLETE.as_slice().into()
                }
            };
            if self.holds() != Hold::Discarding {
                spans.push(Span::Own(bytes));
            }
        }
    }

    /// Whether a client that gets `ReadyForQuery` next may have to be told something before.
    fn must_report(&self) -> bool {
        self.compare == Compare::Yes || !self.reports.is_empty()
    }

    fn pass(&mut self, header: FrameHeader, disposition: Disposition) {
        self.passing = header.total();
        self.passing_as = disposition;
    }

    /// Updates the queue for one message that is not a row.
    fn account(
        &mut self,
        tag: u8,
        body: Option<&[u8]>,
        replies: &mut OutstandingReplies,
    ) -> Result<Disposition, UnexpectedReply> {
        let unexpected = UnexpectedReply { tag };
        self.end_copy_syncs(tag, replies);
        let head = replies.head();
        let forward = Ok(Disposition::Forward);
        match (tag, head) {
            // Nobody but the session that listens is ever on such a connection.
            (tag::NOTIFICATION, _) => {
                self.instead = self.alias.and_then(|alias| alias.renamed(body?));
                forward
            }
            (tag::NOTICE, head) => Ok(asynchronous(head)),
            (tag::PARAMETER_STATUS, head) => {
                // Where pgweir has set something itself, what the client knows tells what is new.
                let expected = self.compare == Compare::Yes || head.is_none();
                if !expected && asynchronous(head) == Disposition::Forward {
                    self.outcome.add(Outcome::REPORTED);
                }
                if self.reports.len() < REPORTS {
                    self.reports.extend(body.map(Box::from));
                }
                Ok(Disposition::Discard)
            }
            (tag::ERROR, _) => Ok(self.error(body, replies)),
            (tag::READY_FOR_QUERY, Some(head)) if head.has_ready() => self.ready(body, replies),
            (tag::PARAMETER_DESCRIPTION | tag::ROW_DESCRIPTION | tag::NO_DATA, Some(head))
                if head.reads_description() =>
            {
                Ok(self.described(tag, body, replies))
            }
            (_, Some(head)) if head.is_own_query() => Ok(Disposition::Discard),
            (_, Some(Expected::Around(part))) => self.around(tag, *part, replies),
            (tag::PARSE_COMPLETE | tag::BIND_COMPLETE, Some(Expected::Aside)) => {
                Ok(Disposition::Discard)
            }
            (tag::PARSE_COMPLETE, Some(Expected::Parsed(..)))
            | (tag::COMMAND_COMPLETE, Some(Expected::Aside))
            | (tag::CLOSE_COMPLETE, Some(Expected::Closed(_) | Expected::ClosedNamed))
            | (tag::BIND_COMPLETE, Some(Expected::Bound(_)))
            | (tag::ROW_DESCRIPTION | tag::NO_DATA, Some(Expected::Described)) => {
                Ok(self.popped(replies))
            }
            (tag::PARAMETER_DESCRIPTION, Some(Expected::Described))
            | (tag::ROW_DESCRIPTION, Some(Expected::Query(_))) => forward,
            (
                tag::COMMAND_COMPLETE | tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED,
                Some(Expected::Executed | Expected::Query(_)),
            ) => {
                let is_executed = head == Some(&Expected::Executed);
                if replies.copy_in_ended() && is_executed {
                    self.outcome.add(Outcome::SYNC_IGNORED);
                }
                self.completed(body);
                if is_executed {
                    replies.pop();
                }
                forward
            }
            (
                tag::COPY_IN | tag::COPY_OUT | tag::COPY_DONE | tag::FUNCTION_RESULT,
                Some(Expected::Executed | Expected::Query(_)),
            ) => {
                self.has_result = ResultSeen::Yes;
                if tag == tag::COPY_IN {
                    replies.copy_in_began();
                }
                forward
            }
            _ => Err(unexpected),
        }
    }

    fn ready(
        &mut self,
        body: Option<&[u8]>,
        replies: &mut OutstandingReplies,
    ) -> Result<Disposition, UnexpectedReply> {
        let status = body.and_then(|body| TransactionStatus::read(body).ok());
        self.status = status.ok_or(UnexpectedReply {
            tag: tag::READY_FOR_QUERY,
        })?;
        self.has_result = ResultSeen::Yes;
        self.rest = Rest::Passed;
        Ok(self.popped(replies))
    }

    /// Takes the head, which has been answered, and says who gets the answer.
    fn popped(&mut self, replies: &mut OutstandingReplies) -> Disposition {
        match replies.pop() {
            Some(Expected::Parsed(Disposition::Forward, Some(_)) | Expected::ClosedNamed) => {
                self.changes.push(Verdict::Done);
                Disposition::Forward
            }
            Some(Expected::Parsed(Disposition::Forward, None)) => {
                self.unnamed.push(Verdict::Done);
                Disposition::Forward
            }
            Some(
                Expected::Parsed(disposition, _)
                | Expected::Closed(disposition)
                | Expected::Learned(disposition, _)
                | Expected::Query(disposition),
            ) => disposition,
            Some(
                Expected::Inspection
                | Expected::Aside
                | Expected::Around(_)
                | Expected::Compared(_)
                | Expected::Guarded(..)
                | Expected::Checked(_),
            ) => Disposition::Discard,
            Some(Expected::AfterCopy | Expected::CopySyncs) => {
                replies.put_first(Expected::CopySyncs);
                Disposition::Forward
            }
            _ => Disposition::Forward,
        }
    }

    fn completed(&mut self, body: Option<&[u8]>) {
        self.has_result = ResultSeen::Yes;
        let Some(text) = body.and_then(|body| command_tag(body).ok()) else {
            return;
        };
        let outcome = match text {
            b"COMMIT" | b"COMMIT PREPARED" => Outcome::COMMITTED,
            b"ROLLBACK" => Outcome::ROLLED_BACK,
            b"DISCARD ALL" => Outcome::DISCARDED_ALL,
            b"DEALLOCATE ALL" => Outcome::DEALLOCATED_ALL,
            b"PREPARE TRANSACTION" => Outcome::PREPARED,
            _ => return,
        };
        self.outcome.add(outcome);
    }
}

/// A server message is below 1 GiB (`MaxAllocSize`, `src/include/utils/memutils.h`); a longer one
/// is no message.
const MAX_LENGTH: u32 = 0x4000_0000 + 64;

/// Most reports of parameters that are kept between two `ReadyForQuery`; a node has about 15.
const REPORTS: usize = 64;

/// A whole `ParseComplete`.
const PARSE_COMPLETE: [u8; 5] = [tag::PARSE_COMPLETE, 0, 0, 0, 4];

/// A whole `CloseComplete`.
const CLOSE_COMPLETE: [u8; 5] = [tag::CLOSE_COMPLETE, 0, 0, 0, 4];

/// The body of a message is not what its type says.
impl From<Malformed> for UnexpectedReply {
    fn from(_: Malformed) -> Self {
        Self { tag: 0 }
    }
}

#[cfg(test)]
mod tests;
