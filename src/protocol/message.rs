//! Checked reading of message bodies and building of the messages that pgweir originates.

/// A message body ended early, has bytes left over, or holds a value that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Reads one message body front to back; every step is checked.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of a body.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// `Byte1`.
    ///
    /// # Errors
    /// At the end of the body.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    /// `Int16`.
    ///
    /// # Errors
    /// At the end of the body.
    pub fn int16(&mut self) -> Result<i16, Malformed> {
        let (value, rest) = self.rest.split_first_chunk::<2>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(i16::from_be_bytes(*value))
    }

    /// `Int32`.
    ///
    /// # Errors
    /// At the end of the body.
    pub fn int32(&mut self) -> Result<i32, Malformed> {
        let (value, rest) = self.rest.split_first_chunk::<4>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*value))
    }

    /// `String`: the bytes before the next NUL.
    ///
    /// # Errors
    /// When there is no NUL in the rest of the body.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed)?;
        let (text, rest) = self.rest.split_at_checked(end).ok_or(Malformed)?;
        self.rest = rest.get(1..).ok_or(Malformed)?;
        Ok(text)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// Appends one whole message to `out`: the tag, the length, and what `body` writes.
pub fn write_message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    write_counted(out, body);
}

/// Appends a length that counts itself, and what `body` writes: a startup packet, or the part of a
/// message after its tag.
pub fn write_counted(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // Our own messages are far below 4 GiB; a longer one would be refused by the peer as too short.
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends `text` and a NUL. Bytes from the first NUL in `text` on are left out.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend(text.iter().take(end));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_body_is_an_error_at_every_step() {
        let mut reader = Reader::new(b"ab");
        assert_eq!(reader.int32(), Err(Malformed));
        assert_eq!(reader.string(), Err(Malformed));
        assert_eq!(reader.bytes(3), Err(Malformed));
        assert_eq!(reader.int16(), Ok(0x6162));
        assert_eq!(reader.byte(), Err(Malformed));
    }

    #[test]
    fn a_written_message_is_framed() {
        let mut out = Vec::new();
        write_message(&mut out, b'Q', |body| {
            write_string(body, b"SELECT 1\0ignored");
        });
        assert_eq!(out, b"Q\0\0\0\x0dSELECT 1\0");
    }
}
