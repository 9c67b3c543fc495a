//! What pgweir takes from the replies for itself: rows of its own query, descriptions of statements.

use super::errors::{OUTDATED_CODE, SEVERITY, outdated_error};
use super::{Disposition, Expected, Outcome, ReplyScanner, Rest, UnexpectedReply};
use crate::protocol::backend::tag;
use crate::protocol::description::{Comparison, Described, Description};
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::outstanding::{Around, OutstandingReplies};

/// Most bytes of rows that pgweir reads of its own query.
pub(super) const CAPTURED_BYTES: usize = 128 * 1024;

impl ReplyScanner {
    /// Takes one row of pgweir's own query; `false` while it is not whole.
    pub(super) fn capture(&mut self, header: FrameHeader, rest: &[u8]) -> bool {
        // With their headers: rows without a body cost memory too.
        if self.captured_bytes + header.total() > CAPTURED_BYTES {
            self.outcome.add(Outcome::OWN_QUERY_FAILED);
            self.pass(header, Disposition::Discard);
            return true;
        }
        let Some(body) = rest.get(HEADER_BYTES..header.total()) else {
            return false;
        };
        self.captured.push(body.into());
        self.captured_bytes += header.total();
        self.pass(header, Disposition::Discard);
        true
    }

    /// Takes a `ParameterDescription`, or the `RowDescription` or `NoData` behind it. What is too long to
    /// be read is not learned, and compares as the same.
    pub(super) fn described(
        &mut self,
        message: u8,
        body: Option<&[u8]>,
        replies: &mut OutstandingReplies,
    ) -> Disposition {
        let (disposition, known) = match replies.head() {
            Some(Expected::Learned(disposition, known)) => (*disposition, known),
            Some(
                Expected::Compared(known) | Expected::Guarded(_, known) | Expected::Checked(known),
            ) => (Disposition::Discard, known),
            _ => return Disposition::Discard,
        };
        if message == tag::PARAMETER_DESCRIPTION {
            self.parameters = body.map(Box::from);
            return disposition;
        }
        let comparison = self.compared(message, body, known);
        self.parameters = None;
        match replies.head() {
            Some(Expected::Guarded(id, _)) if comparison == Comparison::Other => {
                self.unlike.push(*id);
                self.refuse();
            }
            Some(Expected::Checked(known)) => {
                if comparison == Comparison::Other {
                    self.outdated.push(known.clone());
                }
                return disposition;
            }
            Some(Expected::Compared(_)) => self.comparison = Some(comparison),
            _ => {}
        }
        self.popped(replies)
    }

    /// Takes a reply to a statement of pgweir's own around a Parse, which is closed before and after it is
    /// bound.
    pub(super) fn around(
        &mut self,
        message: u8,
        part: Around,
        replies: &mut OutstandingReplies,
    ) -> Result<Disposition, UnexpectedReply> {
        match (message, part) {
            (tag::CLOSE_COMPLETE | tag::PARSE_COMPLETE | tag::BIND_COMPLETE, Around::Runs) => {
                Ok(Disposition::Discard)
            }
            (tag::COMMAND_COMPLETE, Around::Runs) | (tag::CLOSE_COMPLETE, Around::Closes) => {
                Ok(self.popped(replies))
            }
            (tag, Around::Runs | Around::Closes) => Err(UnexpectedReply { tag }),
        }
    }

    /// Compares what comes behind the `ParameterDescription` with what is known, which it may be itself.
    fn compared(&self, message: u8, body: Option<&[u8]>, known: &Described) -> Comparison {
        let parameters = self.parameters.as_deref().unwrap_or_default();
        let columns = (message == tag::ROW_DESCRIPTION).then(|| body.unwrap_or_default());
        match Description::read(parameters, columns) {
            Ok(found) if known.get_or_init(|| found.clone()).columns != found.columns => {
                Comparison::Other
            }
            Ok(_) | Err(_) => Comparison::Same,
        }
    }

    /// Whether what comes next shows that a statement must not be used of which messages have been sent.
    pub(super) fn is_unlike(
        &self,
        message: u8,
        body: Option<&[u8]>,
        replies: &OutstandingReplies,
    ) -> bool {
        let Some(Expected::Guarded(_, known)) = replies.head() else {
            return false;
        };
        matches!(message, tag::ROW_DESCRIPTION | tag::NO_DATA)
            && self.compared(message, body, known) == Comparison::Other
    }

    /// The client gets an error, and nothing more up to the next `ReadyForQuery`.
    fn refuse(&mut self) {
        self.rest = Rest::Dropped;
        self.outcome.add(Outcome::ERROR);
        self.last_error = Some(OUTDATED_CODE);
        self.instead = Some(outdated_error(SEVERITY));
    }
}
