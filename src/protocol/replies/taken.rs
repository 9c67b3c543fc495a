//! What pgweir takes from the replies for itself: rows of its own query, descriptions of statements.

use super::{Disposition, Expected, Outcome, ReplyScanner};
use crate::protocol::backend::tag;
use crate::protocol::description::{Comparison, Description};
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::outstanding::OutstandingReplies;

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
            Some(Expected::Compared(known) | Expected::Checked(known)) => {
                (Disposition::Discard, known)
            }
            _ => return Disposition::Discard,
        };
        if message == tag::PARAMETER_DESCRIPTION {
            self.parameters = body.map(Box::from);
            return disposition;
        }
        let parameters = self.parameters.take().unwrap_or_default();
        let columns = (message == tag::ROW_DESCRIPTION).then(|| body.unwrap_or_default());
        let comparison = match Description::read(&parameters, columns) {
            Ok(found) if known.get_or_init(|| found.clone()).columns != found.columns => {
                Comparison::Other
            }
            Ok(_) | Err(_) => Comparison::Same,
        };
        match replies.head() {
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
}
