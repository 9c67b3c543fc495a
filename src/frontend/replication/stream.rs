//! Passes bytes between two sockets, both ways at once, and knows where messages end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{CLIENT_BUFFER_BYTES, SERVER_BUFFER_BYTES};
use crate::protocol::frame::HEADER_BYTES;

/// Two sockets with what is under way between them.
#[derive(Debug)]
pub(super) struct Streams<'a, S> {
    client: &'a mut S,
    node: &'a mut S,
    to_node: Flow,
    to_client: Flow,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Streams<'a, S> {
    /// Nothing under way; both sockets stand between two messages.
    pub(super) fn new(client: &'a mut S, node: &'a mut S) -> Self {
        Self {
            client,
            node,
            to_node: Flow::new(CLIENT_BUFFER_BYTES),
            to_client: Flow::new(SERVER_BUFFER_BYTES),
        }
    }

    /// Relays until the node has closed its connection and everything has been passed on, or one of
    /// the sides is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn relay(&mut self) {
        poll_fn(|context| self.poll_relay(context)).await;
    }

    fn poll_relay(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let sent = self
                .to_node
                .poll(context, self.client, self.node, Reach::Anything);
            // What the node has said last still counts when it takes no more.
            let sent = sent.unwrap_or_else(|_| self.to_node.give_up());
            let given = self
                .to_client
                .poll(context, self.node, self.client, Reach::Anything);
            match given {
                Err(_) => return Poll::Ready(()),
                Ok(_) if self.to_client.stage == Stage::Ended => return Poll::Ready(()),
                Ok(given) if !sent && !given => return Poll::Pending,
                Ok(_) => {}
            }
        }
    }

    /// Passes on the rest of the message that the node has begun, and nothing behind it.
    ///
    /// # Errors
    /// When one of the sides is lost or has closed its connection.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn finish_message(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            loop {
                let given =
                    self.to_client
                        .poll(context, self.node, self.client, Reach::EndOfMessage)?;
                if self.to_client.stage != Stage::Open {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                if self.to_client.is_between_messages() {
                    return Poll::Ready(Ok(()));
                }
                if !given {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// How far may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// As far as there is room.
    Anything,
    /// To the end of the message that has begun.
    EndOfMessage,
}

/// How far a direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More may come.
    Open,
    /// The source has ended, the sink is to be told.
    Ending,
    /// The sink has been told.
    Ended,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    bytes: Vec<u8>,
    /// What of `bytes` has been read and not written yet.
    written: usize,
    read: usize,
    walk: Walk,
    stage: Stage,
}

impl Flow {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity],
            written: 0,
            read: 0,
            walk: Walk::default(),
            stage: Stage::Open,
        }
    }

    /// Whether whole messages, and nothing else, have been passed on.
    fn is_between_messages(&self) -> bool {
        self.written == self.read && self.walk.is_between_messages()
    }

    /// Drops what cannot be written.
    fn give_up(&mut self) -> bool {
        let gave_up = self.stage != Stage::Ended;
        self.stage = Stage::Ended;
        self.written = self.read;
        gave_up
    }

    /// Moves what can be moved; `true` when something was.
    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        sink: &mut S,
        reach: Reach,
    ) -> io::Result<bool> {
        let mut moved = false;
        while self.stage != Stage::Ended {
            if self.written < self.read {
                match self.poll_write(context, sink) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => break,
                }
            } else if self.stage == Stage::Ending {
                match Pin::new(&mut *sink).poll_shutdown(context) {
                    Poll::Ready(told) => told?,
                    Poll::Pending => break,
                }
                self.stage = Stage::Ended;
            } else {
                match self.poll_fill(context, source, reach) {
                    Poll::Ready(filled) => filled?,
                    Poll::Pending => {
                        // TLS may have taken more than the socket did.
                        if let Poll::Ready(flushed) = Pin::new(&mut *sink).poll_flush(context) {
                            flushed?;
                        }
                        break;
                    }
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut S,
    ) -> Poll<io::Result<()>> {
        let rest = self.bytes.get(self.written..self.read).unwrap_or_default();
        Pin::new(sink)
            .poll_write(context, rest)
            .map(|written| match written? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                count => {
                    self.written += count;
                    Ok(())
                }
            })
    }

    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        reach: Reach,
    ) -> Poll<io::Result<()>> {
        let room = match reach {
            Reach::Anything => self.bytes.len(),
            Reach::EndOfMessage if self.walk.is_between_messages() => return Poll::Pending,
            Reach::EndOfMessage => self.walk.to_next_end().min(self.bytes.len()),
        };
        let mut room = ReadBuf::new(self.bytes.get_mut(..room).unwrap_or_default());
        Pin::new(source).poll_read(context, &mut room).map_ok(|()| {
            let filled = room.filled();
            if filled.is_empty() {
                self.stage = Stage::Ending;
            }
            self.walk.pass(filled);
            (self.written, self.read) = (0, filled.len());
        })
    }
}

/// Where in a stream of messages one stands.
#[derive(Debug, Default)]
struct Walk {
    header: [u8; HEADER_BYTES],
    /// How much of a header has been passed.
    known: usize,
    /// How much of the body that follows the header has not.
    left: usize,
}

impl Walk {
    fn is_between_messages(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// How many bytes belong to the message for certain; at least 1.
    fn to_next_end(&self) -> usize {
        if self.left > 0 {
            self.left
        } else {
            HEADER_BYTES - self.known
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.to_next_end().min(bytes.len());
            let (these, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            bytes = rest;
            if self.left > 0 {
                self.left -= these.len();
                continue;
            }
            for (place, byte) in self.header.iter_mut().skip(self.known).zip(these) {
                *place = *byte;
            }
            self.known += these.len();
            if self.known == HEADER_BYTES {
                let [_, a, b, c, d] = self.header;
                // The length counts itself.
                let length = u32::from_be_bytes([a, b, c, d]).saturating_sub(4);
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                self.known = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
