//! Buffers that are borrowed while bytes move and given back while a session idles.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::{BUFFERS_KEPT_PER_WORKER, CLIENT_BUFFER_BYTES, SERVER_BUFFER_BYTES};

/// Spare buffers of one worker; its lock is only ever taken by that worker's thread.
#[derive(Debug, Default)]
pub struct BufferPool {
    client: Mutex<Vec<Vec<u8>>>,
    server: Mutex<Vec<Vec<u8>>>,
}

/// Which size a buffer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferSize {
    /// For what clients send.
    Client,
    /// For what nodes send.
    Server,
}

impl BufferSize {
    const fn bytes(self) -> usize {
        match self {
            Self::Client => CLIENT_BUFFER_BYTES,
            Self::Server => SERVER_BUFFER_BYTES,
        }
    }
}

impl BufferPool {
    /// Makes sure that `buffer` has memory.
    pub fn lend(&self, size: BufferSize, buffer: &mut Buffer) {
        if buffer.bytes.is_empty() {
            let spare = self
                .shelf(size)
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            buffer.bytes = spare.unwrap_or_else(|| vec![0; size.bytes()]);
        }
    }

    /// Takes the memory of `buffer` back if it holds nothing.
    pub fn take_back(&self, size: BufferSize, buffer: &mut Buffer) {
        if !buffer.filled().is_empty() || buffer.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(buffer).bytes;
        let mut spare = self
            .shelf(size)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A buffer that grew for one long message is not kept.
        if bytes.len() == size.bytes() && spare.len() < BUFFERS_KEPT_PER_WORKER {
            spare.push(bytes);
        }
    }

    const fn shelf(&self, size: BufferSize) -> &Mutex<Vec<Vec<u8>>> {
        match size {
            BufferSize::Client => &self.client,
            BufferSize::Server => &self.server,
        }
    }
}

/// Bytes that have been read and not been used up.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What has been read and not been used up.
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Uses up the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Whether nothing more can be read without growing.
    pub fn is_full(&self) -> bool {
        self.end - self.start == self.bytes.len()
    }

    /// Doubles the memory, up to `most` bytes.
    pub fn grow(&mut self, most: usize) {
        let length = self.bytes.len().saturating_mul(2).min(most);
        if length > self.bytes.len() {
            self.bytes.resize(length, 0);
        }
    }

    /// Reads once. `Ok(0)` is the end of the stream; the buffer must not be full.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut space = ReadBuf::new(self.bytes.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(reader).poll_read(context, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_buffer_keeps_what_is_not_used_up_and_goes_back_when_empty() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        pool.lend(BufferSize::Client, &mut buffer);
        let data = vec![7_u8; CLIENT_BUFFER_BYTES];
        let mut source = data.as_slice();
        std::future::poll_fn(|context| buffer.poll_fill(&mut source, context))
            .await
            .unwrap();
        assert!(buffer.is_full());
        buffer.consume(CLIENT_BUFFER_BYTES - 1);
        pool.take_back(BufferSize::Client, &mut buffer);
        assert_eq!(buffer.filled(), [7]);
        let mut more = &b"ab"[..];
        std::future::poll_fn(|context| buffer.poll_fill(&mut more, context))
            .await
            .unwrap();
        assert_eq!(buffer.filled(), [7, b'a', b'b']);
        buffer.consume(3);
        pool.take_back(BufferSize::Client, &mut buffer);
        assert_eq!(pool.client.lock().unwrap().len(), 1);
    }
}
