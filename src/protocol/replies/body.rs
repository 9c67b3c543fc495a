//! Which messages are looked into.

use crate::protocol::backend::tag;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::outstanding::Expected;

/// Longest message that is held until it is whole, in bytes; longer ones pass through unread.
const WHOLE_MESSAGE_BYTES: usize = 16 * 1024;

/// The same for a description that is learned or compared: 1,000 columns and more
/// (`MaxTupleAttributeNumber`, `src/include/access/htup_details.h`, is 1664).
const DESCRIPTION_BYTES: usize = 48 * 1024;

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
pub(super) fn whole_body<'a>(
    header: FrameHeader,
    rest: &'a [u8],
    expected: Option<&Expected>,
) -> Body<'a> {
    let needed = matches!(
        header.tag,
        tag::READY_FOR_QUERY
            | tag::ERROR
            | tag::COMMAND_COMPLETE
            | tag::PARAMETER_STATUS
            | tag::NOTIFICATION
    );
    let most = if needed {
        WHOLE_MESSAGE_BYTES
    } else if is_description(header.tag) && expected.is_some_and(Expected::reads_description) {
        DESCRIPTION_BYTES
    } else {
        return Body::Unread;
    };
    if header.total() > most {
        return Body::Unread;
    }
    rest.get(HEADER_BYTES..header.total())
        .map_or(Body::Incomplete, Body::Whole)
}

const fn is_description(message: u8) -> bool {
    matches!(message, tag::PARAMETER_DESCRIPTION | tag::ROW_DESCRIPTION)
}
