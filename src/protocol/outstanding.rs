//! The replies a node still owes, in order, and what is to become of each.
//!
//! Invariants:
//! * Every message sent to a node that has a reply has one entry here, pushed when it was sent.
//! * An error in the extended protocol removes everything up to the next Sync, as the node skips it
//!   (manual, "Extended Query").
//! * Replies that pgweir makes itself stand in the same queue, so that order is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use super::description::Described;

/// What happens to a reply that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The client gets it.
    Forward,
    /// pgweir caused it; the client does not see it.
    Discard,
}

/// One expected reply, or one that pgweir gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// `ParseComplete` for the statement with this server-side number (`None`: the unnamed one).
    Parsed(Disposition, Option<u64>),
    /// `BindComplete`, and what the client calls the statement if the node knows it by another name.
    Bound(Option<Arc<[u8]>>),
    /// `CloseComplete`.
    Closed(Disposition),
    /// The `CloseComplete` of a statement that the client has named.
    ClosedNamed,
    /// The reply to a Parse under this name, which is taken, or to a Describe of it, which is unknown: an
    /// error.
    Refused(Arc<[u8]>),
    /// The reply to Describe: optionally `ParameterDescription`, then `RowDescription` or `NoData`.
    Described,
    /// The same, kept if it is the first one of the statement.
    Learned(Disposition, Described),
    /// The reply to a Describe of pgweir's own, which is compared with the first one; the scan stops
    /// behind it.
    Compared(Described),
    /// The same of the statement with this number, behind which the scan goes on: messages that use it have
    /// been sent already, and if it is another one by now, the client gets the server's error in place of
    /// all that is answered up to the next `ReadyForQuery`.
    Guarded(u64, Described),
    /// All replies to a Parse and a Sync of pgweir's own, perhaps with a Describe between: compared, and the
    /// scan goes on.
    Checked(Described),
    /// The reply to a message about a statement that does not exist, in place of one whose result type
    /// has changed: an error.
    Outdated,
    /// The reply to Execute, up to `CommandComplete`, `EmptyQueryResponse` or `PortalSuspended`.
    Executed,
    /// The `ReadyForQuery` of a Sync.
    Synced,
    /// All replies to a Query or `FunctionCall` message, up to its `ReadyForQuery`.
    Query(Disposition),
    /// All replies to a Query of pgweir's own, whose rows it reads.
    Inspection,
    /// All replies to a Parse, a Bind and an Execute of pgweir's own, up to `CommandComplete`. The
    /// node skips what stands behind them if they fail.
    Aside,
    /// The replies to a statement of pgweir's own that stands before or behind a Parse. The client gets an
    /// error as if it were its own statement's: neither would have run.
    Around(Around),
    /// These bytes go to the client when everything before them has been answered.
    Synthesize(Box<[u8]>),
    /// What comes behind the first `ReadyForQuery` behind a COPY IN that has failed and a Sync of pgweir's
    /// own. If it is another one, a Sync of the client's was not ignored, and [`Self::CopySyncs`] are next;
    /// else the client is to be skipped to its next Sync.
    AfterCopy,
    /// As many `ReadyForQuery` as come: of the Syncs that the client has sent behind what made its COPY IN
    /// fail.
    CopySyncs,
    /// The client's Parse of a statement that the node has already: answered like `Synthesize`.
    AlreadyParsed(Called),
    /// The client's Close of a statement, of which the node learns nothing.
    AlreadyClosed(Called),
}

/// Which statement a Parse or a Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// One that the client has named.
    Named,
    /// The unnamed one.
    Unnamed,
}

/// Which replies to a statement around a Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// Up to its `CommandComplete`.
    Runs,
    /// The `CloseComplete` of its portal.
    Closes,
}

impl Expected {
    /// Whether all of it is pgweir's own, errors too.
    pub const fn is_own_query(&self) -> bool {
        matches!(
            self,
            Self::Query(Disposition::Discard) | Self::Inspection | Self::Checked(_)
        )
    }

    /// Whether a description is read in it.
    pub const fn reads_description(&self) -> bool {
        matches!(
            self,
            Self::Learned(..) | Self::Compared(_) | Self::Guarded(..) | Self::Checked(_)
        )
    }

    /// Whether a `ReadyForQuery` may stand in it.
    pub const fn has_ready(&self) -> bool {
        matches!(
            self,
            Self::Synced
                | Self::Inspection
                | Self::AfterCopy
                | Self::CopySyncs
                | Self::Checked(_)
                | Self::Query(_)
        )
    }
}

/// What pgweir answers itself, taken from the head of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// These bytes.
    Bytes(Box<[u8]>),
    /// `ParseComplete`.
    Parsed(Called),
    /// `CloseComplete`.
    Closed(Called),
}

/// Whether the node is skipping messages after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Normal,
    /// An error was seen and no Sync has been sent since.
    Skipping,
}

/// The queue of expected replies of one connection.
#[derive(Debug)]
pub struct OutstandingReplies {
    queue: VecDeque<Expected>,
    mode: Mode,
    copy_syncs: CopySyncs,
}

/// What becomes of the Syncs that were sent before the end of the data of a COPY IN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopySyncs {
    /// There are none.
    None,
    /// The node ignores them unless the COPY fails before it reads them.
    Sent,
    /// The COPY has failed: the node is to be asked.
    Unclear(CopyFailure),
}

/// What a node does behind a COPY IN that has failed (`PostgresMain`, `src/backend/tcop/postgres.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFailure {
    /// It was run by Execute: the node skips messages up to the next Sync.
    Skips,
    /// It was run by Query: the node goes on with the next message.
    GoesOn,
}

impl Default for OutstandingReplies {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            mode: Mode::Normal,
            copy_syncs: CopySyncs::None,
        }
    }
}

impl OutstandingReplies {
    /// Notes that a message with this reply has been written.
    pub fn push(&mut self, expected: Expected) {
        match (self.mode, &expected) {
            (Mode::Skipping, Expected::Synced) => {
                self.mode = Mode::Normal;
                self.queue.push_back(expected);
            }
            (Mode::Skipping, _) => {}
            (Mode::Normal, _) => self.queue.push_back(expected),
        }
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing is owed to the client.
    pub fn is_own(&self) -> bool {
        self.queue.iter().all(Expected::is_own_query)
    }

    /// Whether little memory is held.
    pub fn is_small(&self) -> bool {
        self.queue.capacity() <= 16
    }

    /// Whether something is owed that a Sync does not stand behind.
    pub fn is_mid_segment(&self) -> bool {
        let last = self.queue.back();
        last.is_some_and(|last| !matches!(last, Expected::Synced | Expected::Query(_)))
    }

    /// How many replies are owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The next reply.
    pub fn head(&self) -> Option<&Expected> {
        self.queue.front()
    }

    /// Removes the next reply.
    pub fn pop(&mut self) -> Option<Expected> {
        self.queue.pop_front()
    }

    /// Removes the reply at the head if pgweir gives it itself.
    pub fn pop_own(&mut self) -> Option<Own> {
        // Looked at once a message, so nothing is moved unless there is something to give.
        match self.queue.front()? {
            Expected::Synthesize(_) | Expected::AlreadyParsed(_) | Expected::AlreadyClosed(_) => {}
            Expected::Parsed(..)
            | Expected::Bound(_)
            | Expected::Closed(_)
            | Expected::ClosedNamed
            | Expected::Refused(_)
            | Expected::Described
            | Expected::Learned(..)
            | Expected::Compared(_)
            | Expected::Guarded(..)
            | Expected::Checked(_)
            | Expected::Outdated
            | Expected::Executed
            | Expected::Synced
            | Expected::Inspection
            | Expected::Aside
            | Expected::Around(_)
            | Expected::AfterCopy
            | Expected::CopySyncs
            | Expected::Query(_) => return None,
        }
        match self.queue.pop_front()? {
            Expected::Synthesize(bytes) => Some(Own::Bytes(bytes)),
            Expected::AlreadyParsed(called) => Some(Own::Parsed(called)),
            Expected::AlreadyClosed(called) => Some(Own::Closed(called)),
            Expected::Parsed(..)
            | Expected::Bound(_)
            | Expected::Closed(_)
            | Expected::ClosedNamed
            | Expected::Refused(_)
            | Expected::Described
            | Expected::Learned(..)
            | Expected::Compared(_)
            | Expected::Guarded(..)
            | Expected::Checked(_)
            | Expected::Outdated
            | Expected::Executed
            | Expected::Synced
            | Expected::Inspection
            | Expected::Aside
            | Expected::Around(_)
            | Expected::AfterCopy
            | Expected::CopySyncs
            | Expected::Query(_) => None,
        }
    }

    /// Whether the node is skipping messages until the client's next Sync.
    pub fn is_skipping(&self) -> bool {
        self.mode == Mode::Skipping
    }

    /// An error came in the extended protocol: removes what the node skips and shows it to `lost`.
    pub fn fail(&mut self, mut lost: impl FnMut(&Expected)) {
        while let Some(head) = self.queue.front() {
            match head {
                Expected::Synced
                | Expected::Inspection
                | Expected::Checked(_)
                | Expected::Query(_) => return,
                Expected::Parsed(..)
                | Expected::Bound(_)
                | Expected::Closed(_)
                | Expected::ClosedNamed
                | Expected::Refused(_)
                | Expected::Described
                | Expected::Learned(..)
                | Expected::Compared(_)
                | Expected::Guarded(..)
                | Expected::Outdated
                | Expected::Executed
                | Expected::Aside
                | Expected::Around(_)
                | Expected::AfterCopy
                | Expected::CopySyncs
                | Expected::Synthesize(_)
                | Expected::AlreadyClosed(_)
                | Expected::AlreadyParsed(_) => lost(head),
            }
            self.queue.pop_front();
        }
        self.mode = Mode::Skipping;
        if self.copy_syncs == CopySyncs::Sent {
            self.mode = Mode::Normal;
            self.copy_syncs = CopySyncs::Unclear(CopyFailure::Skips);
            self.push_after_copy(CopyFailure::Skips);
        }
    }

    /// What comes in reply to a mark behind a COPY IN that has failed.
    fn push_after_copy(&mut self, failure: CopyFailure) {
        let mark = Expected::Query(Disposition::Discard);
        match failure {
            CopyFailure::Skips => self.queue.extend([mark.clone(), Expected::AfterCopy, mark]),
            CopyFailure::GoesOn => self.queue.extend([Expected::CopySyncs, mark]),
        }
    }

    /// A Query has failed that may have run a COPY IN.
    pub fn fail_query(&mut self) {
        if self.copy_syncs == CopySyncs::Sent {
            self.copy_syncs = CopySyncs::Unclear(CopyFailure::GoesOn);
            self.push_after_copy(CopyFailure::GoesOn);
        }
    }

    /// A Sync has been sent to a node that waits for COPY data, or whose COPY has failed.
    pub fn sync_in_copy(&mut self) {
        self.copy_syncs = CopySyncs::Sent;
    }

    /// A message is to be sent to such a node that is neither data nor a Sync. Returns what the COPY has
    /// failed as, if it has: then a mark is to be sent first, as behind [`Self::must_ask_after_copy`], which
    /// is a message of the same type; `None` if that is not needed.
    pub fn mark_in_copy(&mut self) -> Option<CopyFailure> {
        let failure = match self.queue.front() {
            Some(Expected::Query(Disposition::Forward)) => CopyFailure::GoesOn,
            Some(Expected::Executed) if self.copy_syncs == CopySyncs::Sent => CopyFailure::Skips,
            _ => return None,
        };
        self.copy_syncs = CopySyncs::None;
        self.push_after_copy(failure);
        Some(failure)
    }

    /// Whether the node skips what was sent behind a failed COPY IN, and the replies to a mark come next.
    pub fn is_behind_copy(&self) -> bool {
        self.queue.get(1) == Some(&Expected::AfterCopy)
    }

    /// COPY IN has begun in the extended protocol: the node ignores the Syncs that were sent before
    /// the data (`CopyGetData`, `src/backend/commands/copyfromparse.c`), so none of them is answered,
    /// unless the COPY fails before it reads data.
    pub fn copy_in_began(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|expected| *expected != Expected::Synced);
        if self.queue.len() < before {
            self.copy_syncs = CopySyncs::Sent;
        }
    }

    /// A command has ended well; `true` if it was a COPY IN whose Sync was ignored.
    pub fn copy_in_ended(&mut self) -> bool {
        let ignored = self.copy_syncs == CopySyncs::Sent;
        self.copy_syncs = CopySyncs::None;
        ignored
    }

    /// This reply comes next.
    pub fn put_first(&mut self, expected: Expected) {
        self.queue.push_front(expected);
    }

    /// Whether the node is to be asked now what became of the Syncs before and in a COPY IN: with a mark,
    /// which is a Close of a portal and a Sync, and a Sync before it if the node skips to one.
    pub fn must_ask_after_copy(&mut self) -> Option<CopyFailure> {
        let CopySyncs::Unclear(failure) = self.copy_syncs else {
            return None;
        };
        self.copy_syncs = CopySyncs::None;
        Some(failure)
    }

    /// Statement numbers whose Parse has been sent and not been answered.
    pub fn is_parsing(&self, id: u64) -> bool {
        self.queue
            .iter()
            .any(|expected| matches!(expected, Expected::Parsed(_, Some(other)) if *other == id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_skips_to_the_next_sync_and_no_further() {
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Parsed(Disposition::Forward, Some(7)));
        replies.push(Expected::Bound(None));
        replies.push(Expected::Executed);
        replies.push(Expected::Synced);
        replies.push(Expected::Parsed(Disposition::Forward, Some(8)));
        let mut lost = Vec::new();
        replies.fail(|expected| lost.push(expected.clone()));
        let parse = Expected::Parsed(Disposition::Forward, Some(7));
        assert_eq!(lost, [parse, Expected::Bound(None), Expected::Executed]);
        assert_eq!(replies.head(), Some(&Expected::Synced));
        assert!(!replies.is_skipping());
        assert!(replies.is_parsing(8));
    }

    #[test]
    fn without_a_sync_later_messages_are_skipped_until_one_is_sent() {
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Executed);
        replies.fail(|_| {});
        assert!(replies.is_skipping() && replies.is_empty());
        replies.push(Expected::Bound(None));
        assert!(replies.is_empty());
        replies.push(Expected::Synced);
        replies.push(Expected::Bound(None));
        assert_eq!(replies.len(), 2);
    }

    #[test]
    fn own_replies_wait_for_their_turn() {
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Bound(None));
        replies.push(Expected::Synthesize(b"x".as_slice().into()));
        assert_eq!(replies.pop_own(), None);
        assert_eq!(replies.pop(), Some(Expected::Bound(None)));
        assert_eq!(replies.pop_own(), Some(Own::Bytes(b"x".as_slice().into())));
    }

    #[test]
    fn after_a_failed_copy_it_is_asked_what_became_of_the_sync_before_it() {
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Executed);
        replies.push(Expected::Synced);
        replies.copy_in_began();
        assert_eq!(replies.len(), 1);
        assert_eq!(replies.must_ask_after_copy(), None);
        replies.fail(|_| {});
        assert_eq!(replies.must_ask_after_copy(), Some(CopyFailure::Skips));
        assert_eq!(replies.must_ask_after_copy(), None);
        assert!(!replies.is_skipping());
        assert_eq!(replies.pop(), Some(Expected::Query(Disposition::Discard)));
        assert_eq!(replies.pop(), Some(Expected::AfterCopy));

        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Executed);
        replies.push(Expected::Synced);
        replies.copy_in_began();
        replies.pop();
        assert!(replies.copy_in_ended() && !replies.copy_in_ended());
    }

    #[test]
    fn after_a_failed_copy_of_a_query_it_is_asked_what_became_of_the_syncs_in_it() {
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Query(Disposition::Forward));
        replies.fail_query();
        assert_eq!((replies.must_ask_after_copy(), replies.len()), (None, 1));
        replies.sync_in_copy();
        replies.fail_query();
        assert_eq!(replies.must_ask_after_copy(), Some(CopyFailure::GoesOn));
        replies.pop();
        assert_eq!(replies.pop(), Some(Expected::CopySyncs));
        assert_eq!(replies.pop(), Some(Expected::Query(Disposition::Discard)));
        replies.push(Expected::Executed);
        assert_eq!(replies.mark_in_copy(), None);
        replies.sync_in_copy();
        assert_eq!(replies.mark_in_copy(), Some(CopyFailure::Skips));
        replies.fail(|_| {});
        assert_eq!(replies.must_ask_after_copy(), None);
        assert!(replies.is_behind_copy() && !replies.is_skipping());
    }
}
