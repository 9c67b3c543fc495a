//! COPY FROM STDIN: data is sent on as it arrives.

use super::link::Link;
use super::refusal::length_refusal;
use super::{Session, SessionEnd};
use crate::frontend::error::{Limit, ProxyError};
use crate::frontend::statements::SERVER_NAME_PREFIX;
use crate::limits::SEGMENT_BYTES;
use crate::protocol::frame::FrameHeader;
use crate::protocol::frontend::{SYNC, tag};
use crate::protocol::message::{write_message, write_string};
use crate::protocol::outstanding::{CopyFailure, Expected};

/// Whether the node waits for COPY data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// It does not.
    Idle,
    /// It does.
    In,
}

impl Session {
    /// Sends COPY data on; the node waits for it.
    pub(super) fn feed_copy(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        self.make_room();
        while link.copy == Copy::In || link.passing > 0 {
            // The node waits for the rest of a message also when the COPY has failed meanwhile.
            if !self.pass(link) || link.copy == Copy::Idle {
                link.ask_after_copy();
                return Ok(());
            }
            let header = FrameHeader::parse(self.inbound.filled(), self.max_message_bytes)
                .map_err(length_refusal)?;
            let Some(header) = header else { return Ok(()) };
            match header.tag {
                tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {
                    if !self.feed_copy_message(link, header)? {
                        return Ok(());
                    }
                }
                // The node ignores these while it waits for data (`CopyGetData`,
                // `src/backend/commands/copyfromparse.c`); it may have met bad data and not be waiting.
                tag::SYNC => {
                    link.passing = header.total();
                    link.replies.sync_in_copy();
                }
                tag::FLUSH => {
                    if self.inbound.filled().len() < header.total() {
                        return Ok(());
                    }
                    self.inbound.consume(header.total());
                }
                // The node says what it thinks of others, and ends the connection, if it waits for data.
                _ => {
                    link.copy = Copy::Idle;
                    if !link.mark_end_of_copy(header.tag) {
                        link.passing = header.total();
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends one COPY message on; `false` while its header or, for a short one, its body is missing.
    pub(super) fn feed_copy_message(
        &mut self,
        link: &mut Link,
        header: FrameHeader,
    ) -> Result<bool, SessionEnd> {
        let is_data = header.tag == tag::COPY_DATA;
        if link.copy == Copy::Idle {
            // Data after the COPY has failed: the node ignores it.
            link.passing = header.total();
            return Ok(self.pass(link));
        }
        if !is_data && self.inbound.filled().len() < header.total() {
            if header.total() > SEGMENT_BYTES {
                return Err(ProxyError::LimitExceeded {
                    limit: Limit::Message,
                }
                .into());
            }
            return Ok(false);
        }
        link.passing = header.total();
        let passed = self.pass(link);
        if !is_data {
            link.copy = Copy::Idle;
            // In the extended protocol the node would keep its answer until the Sync, which the
            // client may not have sent yet.
            if link.replies.head() == Some(&Expected::Executed) {
                link.to_server
                    .writer()
                    .extend_from_slice(&[tag::FLUSH, 0, 0, 0, 4]);
            }
        }
        Ok(passed)
    }
}

impl Link {
    /// The client has sent a message of this type, which is no part of a COPY, to a node that waits for COPY
    /// data or whose COPY has failed, which nobody knows yet. Sends one of the same type without a body, at
    /// which the COPY ends as at the client's, or which the node refuses; `false` if the client's own will do.
    /// After the latter the client's can be served like any.
    fn mark_end_of_copy(&mut self, message: u8) -> bool {
        let is_alone = matches!(message, tag::QUERY | tag::FUNCTION_CALL);
        let is_extended = matches!(
            message,
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE
        );
        if !is_alone && !is_extended {
            return false;
        }
        let Some(failure) = self.replies.mark_in_copy() else {
            return false;
        };
        let out = self.to_server.writer();
        if failure == CopyFailure::Skips {
            out.extend_from_slice(&SYNC);
        }
        write_message(out, message, |_| {});
        if is_extended {
            out.extend_from_slice(&SYNC);
        }
        true
    }

    /// A COPY IN has failed, and the client had sent a Sync before or in it: asks the node whether it has read
    /// that Sync as COPY data. The portal does not exist, so that its Close changes nothing.
    pub(super) fn ask_after_copy(&mut self) {
        if self.passing > 0 {
            return;
        }
        let Some(failure) = self.replies.must_ask_after_copy() else {
            return;
        };
        let out = self.to_server.writer();
        if failure == CopyFailure::Skips {
            out.extend_from_slice(&SYNC);
        }
        write_message(out, tag::CLOSE, |body| {
            body.push(b'P');
            write_string(body, SERVER_NAME_PREFIX.as_bytes());
        });
        out.extend_from_slice(&SYNC);
    }
}
