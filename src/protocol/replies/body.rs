//! Which messages are looked into.

use crate::protocol::backend::tag;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};

/// Longest message that is held until it is whole, in bytes; longer ones pass through unread.
const WHOLE_MESSAGE_BYTES: usize = 16 * 1024;

/// What is there of a message's body.
pub(super) enum Body<'a> {
    /// Not all of what is needed.
    Incomplete,
    /// All of it.
    Whole(&'a [u8]),
    /// It is not needed, or too long.
    Unread,
}

/// Whether the body is needed, and is there.
pub(super) fn whole_body(header: FrameHeader, rest: &[u8]) -> Body<'_> {
    let needed = matches!(
        header.tag,
        tag::READY_FOR_QUERY
            | tag::ERROR
            | tag::COMMAND_COMPLETE
            | tag::PARAMETER_STATUS
            | tag::NOTIFICATION
    );
    if !needed || header.total() > WHOLE_MESSAGE_BYTES {
        return Body::Unread;
    }
    rest.get(HEADER_BYTES..header.total())
        .map_or(Body::Incomplete, Body::Whole)
}
