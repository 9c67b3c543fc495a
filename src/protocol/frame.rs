//! Message framing without meaning.
//!
//! Every message after the startup packet is one tag byte and a big-endian `Int32` length that
//! counts itself but not the tag (manual, "Message Formats").

/// Bytes of tag and length.
pub const HEADER_BYTES: usize = 5;

/// The least value of the length field: it counts itself.
pub const MIN_LENGTH: u32 = 4;

/// Tag and length of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The message type.
    pub tag: u8,
    /// The length field: the body and the field itself, in bytes; at least 4.
    pub length: u32,
}

/// The length field of a message is below 4 or above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length {length}")]
pub struct InvalidLength {
    /// What the field says, as unsigned.
    pub length: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` while fewer than five bytes are there.
    ///
    /// # Errors
    /// When the length is below 4 or above `max_length`.
    pub fn parse(bytes: &[u8], max_length: u32) -> Result<Option<Self>, InvalidLength> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < MIN_LENGTH || length > max_length {
            return Err(InvalidLength { length });
        }
        Ok(Some(Self { tag, length }))
    }

    /// Bytes of the whole message, tag included.
    pub fn total(self) -> usize {
        self.length as usize + 1
    }

    /// Bytes of the body.
    pub fn body(self) -> usize {
        (self.length - MIN_LENGTH) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_on_both_sides() {
        assert_eq!(FrameHeader::parse(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(
            FrameHeader::parse(b"Q\0\0\0\x03", 100),
            Err(InvalidLength { length: 3 })
        );
        assert_eq!(
            FrameHeader::parse(b"Q\0\0\0\x65", 100),
            Err(InvalidLength { length: 101 })
        );
        assert!(FrameHeader::parse(b"Q\xff\xff\xff\xff", 100).is_err());
        let header = FrameHeader::parse(b"Q\0\0\0\x09abcd\0", 100)
            .unwrap()
            .unwrap();
        assert_eq!((header.tag, header.body(), header.total()), (b'Q', 5, 10));
    }
}
