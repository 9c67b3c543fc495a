//! Sockets; and reading one message at a time, exactly: for handshakes, where nothing may be read
//! ahead.
//!
//! [`read_message`] must not be used to relay: it allocates a body and makes two system calls a message.

pub mod socket;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::protocol::frame::{FrameHeader, HEADER_BYTES, InvalidLength};

/// One message: its tag and its body.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The message type.
    pub tag: u8,
    /// The body without tag and length.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Message {
    /// Prints tag and length only: a body may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("tag", &char::from(self.tag))
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// A message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The socket failed or ended.
    #[error("reading a message")]
    Io(#[from] io::Error),
    /// The length is impossible or above the limit.
    #[error(transparent)]
    Length(#[from] InvalidLength),
}

/// Reads one message whose length field is at most `max_length`. The caller sets the deadline.
///
/// # Errors
/// When the socket fails, ends early, or the length is out of range.
///
/// # Cancel safety
/// Not cancel-safe: bytes already read are lost, so drop the connection too.
pub async fn read_message<R>(reader: &mut R, max_length: u32) -> Result<Message, ReadError>
where
    R: AsyncRead + Unpin,
{
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let header = FrameHeader::parse(&header, max_length)?.ok_or(InvalidLength { length })?;
    let mut body = vec![0; header.body()];
    reader.read_exact(&mut body).await?;
    Ok(Message {
        tag: header.tag,
        body,
    })
}
