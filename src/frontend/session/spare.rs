//! Memory that a session keeps between two segments, so that an ordinary one allocates little.

use super::outgoing::Outgoing;
use crate::limits::SPARE_BYTES;
use crate::protocol::outstanding::OutstandingReplies;
use crate::protocol::replies::{ReplyScanner, Span};

/// The emptied queues and vectors of a link that has been given back.
#[derive(Debug, Default)]
pub(super) struct LinkMemory {
    /// Nothing is owed.
    pub(super) replies: OutstandingReplies,
    /// Between two messages, outside a block.
    pub(super) scanner: ReplyScanner,
    /// Nothing waits.
    pub(super) to_server: Outgoing,
    /// None.
    pub(super) spans: Vec<Span>,
}

impl LinkMemory {
    /// The same, without what one long segment has left behind, or anything if it is not empty.
    pub(super) fn kept(self) -> Self {
        let is_empty = self.replies.is_empty() && self.to_server.is_empty();
        if is_empty && self.to_server.capacity() <= SPARE_BYTES && self.replies.is_small() {
            self
        } else {
            Self::default()
        }
    }
}
