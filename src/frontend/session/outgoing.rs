//! Bytes that wait for a socket.

use crate::protocol::frame::FrameHeader;
use crate::protocol::replies::Span;

/// Bytes that wait for a socket.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    /// Where new bytes are appended.
    pub(super) fn writer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether everything has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Adds `by` to the length of the last message at or after offset `from` of [`Self::writer`].
    pub(super) fn lengthen_last_message(&mut self, mut from: usize, by: usize) {
        while let Some(rest) = self.bytes.get(from..) {
            let Ok(Some(header)) = FrameHeader::parse(rest, u32::MAX) else {
                return;
            };
            if header.total() < rest.len() {
                from += header.total();
                continue;
            }
            let length = u32::try_from(by)
                .unwrap_or(u32::MAX)
                .saturating_add(header.length);
            if let Some(field) = self.bytes.get_mut(from + 1..from + 5) {
                field.copy_from_slice(&length.to_be_bytes());
            }
            return;
        }
    }

    /// How much memory is held.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// What has not been written yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// So many bytes have been written.
    pub(super) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.written = 0;
            self.bytes.clear();
            // One long message must not keep its memory.
            if self.bytes.capacity() > crate::limits::PENDING_BYTES {
                self.bytes = Vec::new();
            }
        }
    }
}

/// The bytes of several spans, in order.
pub(super) fn collect(spans: &[Span], buffer: &[u8]) -> Outgoing {
    let mut bytes = Vec::new();
    for span in spans {
        match span {
            Span::Range(range) => {
                bytes.extend_from_slice(buffer.get(range.clone()).unwrap_or_default());
            }
            Span::Own(own) => bytes.extend_from_slice(own),
        }
    }
    Outgoing { bytes, written: 0 }
}

/// What waits for the client: a span of the server's buffer, or collected bytes.
#[derive(Debug)]
pub(super) enum Output {
    /// Nothing waits.
    Nothing,
    /// So many bytes from this offset of the server's buffer.
    Direct(usize, usize),
    /// These.
    Collected(Outgoing),
}

impl Output {
    /// So many bytes have been written.
    pub(super) fn advance(&mut self, by: usize) {
        match self {
            Self::Nothing => {}
            Self::Direct(at, count) => {
                *at += by;
                *count = count.saturating_sub(by);
            }
            Self::Collected(collected) => collected.advance(by),
        }
    }
}
