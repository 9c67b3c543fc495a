//! What becomes of messages that are not looked into.

use std::ops::Range;

use super::{
    Disposition, Expected, Hold, Outcome, OutstandingReplies, ReplyScanner, Span, UnexpectedReply,
    tag,
};

impl ReplyScanner {
    /// Whatever is sent for a message, and is no `ReadyForQuery`, comes behind those of the client's Syncs in
    /// a COPY IN that has failed.
    pub(super) fn end_copy_syncs(&mut self, message: u8, replies: &mut OutstandingReplies) {
        let is_unasked = matches!(
            message,
            tag::NOTICE | tag::NOTIFICATION | tag::PARAMETER_STATUS
        );
        if is_unasked || message == tag::READY_FOR_QUERY {
            return;
        }
        if replies.head() == Some(&Expected::AfterCopy) {
            self.outcome.add(Outcome::CLIENT_SKIPS);
            replies.pop();
        } else if replies.head() == Some(&Expected::CopySyncs) {
            replies.pop();
        }
    }
}

/// Who gets a row.
pub(super) fn row_disposition(
    replies: &OutstandingReplies,
    hold: Hold,
    tag: u8,
) -> Result<Disposition, UnexpectedReply> {
    match replies.head() {
        _ if hold == Hold::Discarding => Ok(Disposition::Discard),
        Some(Expected::Query(disposition)) => Ok(*disposition),
        Some(Expected::Executed) => Ok(Disposition::Forward),
        _ => Err(UnexpectedReply { tag }),
    }
}

/// What is reported while pgweir's own query runs is not the client's.
pub(super) fn asynchronous(head: Option<&Expected>) -> Disposition {
    match head {
        Some(Expected::Query(disposition)) => *disposition,
        // The client has got what its own Parse brought.
        Some(
            Expected::Inspection
            | Expected::Aside
            | Expected::Around(_)
            | Expected::Parsed(Disposition::Discard, _)
            | Expected::Checked(_),
        ) => Disposition::Discard,
        _ => Disposition::Forward,
    }
}

pub(super) fn emit(spans: &mut Vec<Span>, range: Range<usize>, disposition: Disposition) {
    if disposition == Disposition::Discard || range.is_empty() {
        return;
    }
    if let Some(Span::Range(last)) = spans.last_mut()
        && last.end == range.start
    {
        last.end = range.end;
        return;
    }
    spans.push(Span::Range(range));
}
