//! Finds where the next segment of a client's byte stream ends.
//!
//! A segment is what is routed as one: a Query or `FunctionCall` message alone, or messages of the
//! extended protocol up to and with the next Sync or Flush.

use super::frame::{FrameHeader, HEADER_BYTES, InvalidLength};
use super::frontend::tag;

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentEnd {
    /// One Query message.
    Query,
    /// One `FunctionCall` message.
    FunctionCall,
    /// A Sync: the implicit transaction ends here.
    Sync,
    /// A Flush: more of the same implicit transaction follows.
    Flush,
    /// Terminate.
    Terminate,
    /// COPY data after its COPY has ended; the node would ignore it (`PostgresMain`,
    /// `src/backend/tcop/postgres.c`).
    StrayCopy,
}

/// What stands at the start of the client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// A whole segment of so many bytes.
    Whole(usize, SegmentEnd),
    /// More bytes are needed.
    Partial,
    /// More bytes are needed than are worth holding: the segment is sent on as it arrives. So many
    /// bytes are whole messages.
    TooLong(usize),
}

/// A message that the frontend protocol does not have, or an impossible length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSegment {
    /// The length field is out of range.
    #[error(transparent)]
    Length(#[from] InvalidLength),
    /// The type is none of the frontend's.
    #[error("invalid frontend message type {0}")]
    Type(u8),
}

/// Looks for the segment at the start of `bytes`. `walked` says how many bytes earlier calls have
/// found to be whole messages; it is updated, and goes back to 0 when a segment is found.
///
/// # Errors
/// When a message has an impossible length or an unknown type.
pub fn find_segment(
    bytes: &[u8],
    walked: &mut usize,
    max_length: u32,
    hold_bytes: usize,
) -> Result<Segment, InvalidSegment> {
    loop {
        let rest = bytes.get(*walked..).unwrap_or_default();
        let Some(header) = FrameHeader::parse(rest, max_length)? else {
            return Ok(held(bytes, *walked, hold_bytes));
        };
        let end = end_of(header.tag)?;
        if rest.len() < header.total() {
            return Ok(held(bytes, *walked, hold_bytes));
        }
        // A message of its own behind unfinished extended messages starts the next segment; the
        // messages before it are sent on and stay open.
        let alone = matches!(
            end,
            Some(
                SegmentEnd::Query
                    | SegmentEnd::FunctionCall
                    | SegmentEnd::Terminate
                    | SegmentEnd::StrayCopy
            )
        );
        if alone && *walked > 0 {
            return Ok(Segment::Whole(std::mem::take(walked), SegmentEnd::Flush));
        }
        *walked += header.total();
        if let Some(end) = end {
            return Ok(Segment::Whole(std::mem::take(walked), end));
        }
    }
}

/// The whole messages at the start of `bytes`: type and body.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let header = FrameHeader::parse(bytes, u32::MAX).ok()??;
        let (message, after) = bytes.split_at_checked(header.total())?;
        bytes = after;
        Some((header.tag, message.get(HEADER_BYTES..)?))
    })
}

fn held(bytes: &[u8], walked: usize, hold_bytes: usize) -> Segment {
    if bytes.len() >= hold_bytes {
        Segment::TooLong(walked)
    } else {
        Segment::Partial
    }
}

/// The end that a message of this type is; `None` if more messages follow.
fn end_of(message: u8) -> Result<Option<SegmentEnd>, InvalidSegment> {
    match message {
        tag::QUERY => Ok(Some(SegmentEnd::Query)),
        tag::FUNCTION_CALL => Ok(Some(SegmentEnd::FunctionCall)),
        tag::SYNC => Ok(Some(SegmentEnd::Sync)),
        tag::FLUSH => Ok(Some(SegmentEnd::Flush)),
        tag::TERMINATE => Ok(Some(SegmentEnd::Terminate)),
        tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(Some(SegmentEnd::StrayCopy)),
        tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => Ok(None),
        other => Err(InvalidSegment::Type(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(bytes: &[u8]) -> Result<Segment, InvalidSegment> {
        find_segment(bytes, &mut 0, 1000, 100)
    }

    const SYNC: &[u8] = b"S\0\0\0\x04";
    const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
    const QUERY: &[u8] = b"Q\0\0\0\x06;\0";

    #[test]
    fn a_segment_ends_with_its_sync_and_not_before() {
        let bytes = [EXECUTE, EXECUTE, SYNC, QUERY].concat();
        for cut in 0..25 {
            assert_eq!(find(&bytes[..cut]), Ok(Segment::Partial), "{cut}");
        }
        assert_eq!(find(&bytes), Ok(Segment::Whole(25, SegmentEnd::Sync)));
        assert_eq!(find(&bytes[25..]), Ok(Segment::Whole(7, SegmentEnd::Query)));
    }

    #[test]
    fn a_query_behind_an_open_batch_is_a_segment_of_its_own() {
        let bytes = [EXECUTE, QUERY].concat();
        assert_eq!(find(&bytes), Ok(Segment::Whole(10, SegmentEnd::Flush)));
    }

    #[test]
    fn copy_data_behind_an_open_batch_waits_until_the_batch_has_been_sent() {
        let bytes = [EXECUTE, b"d\0\0\0\x05x"].concat();
        assert_eq!(find(&bytes), Ok(Segment::Whole(10, SegmentEnd::Flush)));
        assert_eq!(
            find(&bytes[10..]),
            Ok(Segment::Whole(6, SegmentEnd::StrayCopy))
        );
    }

    #[test]
    fn what_is_too_long_is_sent_on_as_it_arrives() {
        let mut bytes = EXECUTE.to_vec();
        bytes.extend_from_slice(b"B\0\0\x03\0");
        bytes.resize(100, 0);
        assert_eq!(find(&bytes), Ok(Segment::TooLong(10)));
    }

    #[test]
    fn unknown_types_and_impossible_lengths_are_refused() {
        assert_eq!(find(b"G\0\0\0\x04"), Err(InvalidSegment::Type(b'G')));
        assert!(find(b"Q\0\0\0\x03").is_err());
        assert!(find(b"Q\x7f\xff\xff\xff").is_err());
    }
}
