//! What an `ErrorResponse` does to the replies that are still owed.

use super::{Outcome, ReplyScanner};
use crate::protocol::backend::ErrorView;
use crate::protocol::outstanding::{Disposition, Expected, OutstandingReplies};

impl ReplyScanner {
    pub(super) fn error(
        &mut self,
        body: Option<&[u8]>,
        replies: &mut OutstandingReplies,
    ) -> Disposition {
        let view = body.and_then(|body| ErrorView::read(body).ok());
        self.last_error = view.map(|view| view.sqlstate);
        if view.is_some_and(|view| view.is_fatal()) {
            self.outcome.add(Outcome::FATAL);
        }
        match replies.head() {
            Some(Expected::Query(Disposition::Discard) | Expected::Inspection) => {
                self.outcome.add(Outcome::OWN_QUERY_FAILED);
                Disposition::Discard
            }
            Some(Expected::Query(Disposition::Forward)) => {
                self.outcome.add(Outcome::ERROR);
                Disposition::Forward
            }
            _ => {
                self.outcome.add(Outcome::ERROR);
                let (unparsed, outcome) = (&mut self.unparsed, &mut self.outcome);
                let unclosed = &mut self.unclosed;
                replies.fail(|lost| match lost {
                    Expected::Parsed(_, Some(id)) => unparsed.push(*id),
                    Expected::Parsed(_, None) => outcome.add(Outcome::UNNAMED_LOST),
                    Expected::Closed(Disposition::Discard) => outcome.add(Outcome::CLOSE_LOST),
                    Expected::Closed(Disposition::Forward)
                    | Expected::Bound
                    | Expected::Described
                    | Expected::Executed
                    | Expected::Synced
                    | Expected::Query(_)
                    | Expected::Inspection
                    | Expected::Aside
                    | Expected::AfterCopy
                    | Expected::Synthesize(_)
                    | Expected::AlreadyParsed(_) => {}
                    Expected::AlreadyClosed(name) => unclosed.push(name.clone()),
                });
                Disposition::Forward
            }
        }
    }
}
