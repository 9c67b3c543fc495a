//! One socket of a client or a node: TCP or a Unix socket, as it is or with TLS on top.
//!
//! Invariants:
//! * The plain way costs one match more than the bare socket: nothing is boxed, nothing copied.
//! * Data that TLS has decrypted already counts as readable, though the kernel's socket is empty.
//! * What TLS has taken over by [`AsyncWrite::poll_write`] and the socket has not is sent by
//!   [`AsyncWrite::poll_flush`], and whenever somebody reads or waits to read; for a plain socket
//!   there is no such thing.
//!
//! Must not know what is said on the socket.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{ConnectionCommon, SideData};

/// A connected socket that is registered with a runtime.
#[derive(Debug)]
pub enum Socket {
    /// Bytes as they are.
    Plain(PlainSocket),
    /// TLS, after its handshake.
    Tls(Box<TlsStream<PlainSocket>>),
}

/// A socket of the kernel.
#[derive(Debug)]
pub enum PlainSocket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// None any more: it could not be registered with another runtime.
    Lost,
}

/// A socket of the kernel that no runtime knows; it does not block.
#[derive(Debug)]
pub enum Unregistered {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl From<PlainSocket> for Socket {
    fn from(plain: PlainSocket) -> Self {
        Self::Plain(plain)
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(PlainSocket::Tcp(stream))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(PlainSocket::Unix(stream))
    }
}

impl Socket {
    /// The certificate that the other side has shown, in DER; `None` for a plain socket too.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => {
                let shown = tls.get_ref().1.peer_certificates()?;
                shown.first().map(AsRef::as_ref)
            }
        }
    }

    /// Waits until there is something to read, or the end, or perhaps nothing: a read may still
    /// find that it has to wait.
    ///
    /// # Errors
    /// When the socket or TLS has failed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.readable().await,
            Self::Tls(tls) => {
                std::future::poll_fn(|context| {
                    flush_while_waiting(tls, context);
                    let filled = Pin::new(&mut **tls).poll_fill_buf(context);
                    filled.map_ok(|_| ())
                })
                .await
            }
        }
    }

    /// Whether the runtime has seen nothing arrive that was not read. Makes no system call.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_silent(),
            Self::Tls(tls) => {
                let (plain, decrypted) = match &mut **tls {
                    TlsStream::Client(tls) => {
                        let (plain, session) = tls.get_mut();
                        (plain, !is_waiting(session.reader().into_first_chunk()))
                    }
                    TlsStream::Server(tls) => {
                        let (plain, session) = tls.get_mut();
                        (plain, !is_waiting(session.reader().into_first_chunk()))
                    }
                };
                !decrypted && plain.is_silent()
            }
        }
    }

    /// Reads what is there, without waiting: `WouldBlock` for nothing, `Ok(0)` for the end.
    ///
    /// # Errors
    /// When the socket or TLS has failed, or nothing is there.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.try_read(buffer),
            Self::Tls(tls) => match &mut **tls {
                TlsStream::Client(tls) => {
                    let (plain, session) = tls.get_mut();
                    read_tls(&mut AtOnce(plain), session, buffer)
                }
                TlsStream::Server(tls) => {
                    let (plain, session) = tls.get_mut();
                    read_tls(&mut AtOnce(plain), session, buffer)
                }
            },
        }
    }

    /// Writes what the socket takes without waiting; for a last word, since TLS may keep a part.
    ///
    /// # Errors
    /// When the socket or TLS has failed, or the socket takes nothing.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.try_write(bytes),
            Self::Tls(tls) => match &mut **tls {
                TlsStream::Client(tls) => {
                    let (plain, session) = tls.get_mut();
                    write_tls(&mut AtOnce(plain), session, bytes)
                }
                TlsStream::Server(tls) => {
                    let (plain, session) = tls.get_mut();
                    write_tls(&mut AtOnce(plain), session, bytes)
                }
            },
        }
    }

    /// Moves the socket to the runtime of the caller, and reads into `buffer` what has arrived:
    /// the new runtime does not know of it yet. The read is as [`Self::try_read`].
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub fn move_here(self, buffer: &mut [u8]) -> io::Result<(Self, io::Result<usize>)> {
        match self {
            Self::Plain(plain) => {
                let mut moving = plain.unregister()?;
                let read = moving.read(buffer);
                Ok((Self::Plain(moving.register()?), read))
            }
            Self::Tls(mut tls) => {
                let place = match &mut *tls {
                    TlsStream::Client(tls) => tls.get_mut().0,
                    TlsStream::Server(tls) => tls.get_mut().0,
                };
                let mut moving = std::mem::replace(place, PlainSocket::Lost).unregister()?;
                let (place, read) = match &mut *tls {
                    TlsStream::Client(tls) => {
                        let (place, session) = tls.get_mut();
                        (place, read_tls(&mut moving, session, buffer))
                    }
                    TlsStream::Server(tls) => {
                        let (place, session) = tls.get_mut();
                        (place, read_tls(&mut moving, session, buffer))
                    }
                };
                *place = moving.register()?;
                Ok((Self::Tls(tls), read))
            }
        }
    }
}

/// Sends what a write has left with TLS, as far as the socket takes it. Whoever waits for an answer
/// may be waited for.
fn flush_while_waiting(tls: &mut TlsStream<PlainSocket>, context: &mut Context<'_>) {
    if tls.get_ref().1.wants_write() {
        // A failure comes again at the next write; what there is to read comes first.
        let _ = Pin::new(tls).poll_flush(context);
    }
}

fn is_waiting<T>(read: io::Result<T>) -> bool {
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Fills `buffer` from the TLS session, and the session from `source`, until one of them is full or
/// there is no more: like with a plain socket, a buffer that is not full hides nothing.
fn read_tls<D: SideData>(
    source: &mut impl Read,
    session: &mut ConnectionCommon<D>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        let step = read_decrypted(
            source,
            session,
            buffer.get_mut(filled..).unwrap_or_default(),
        );
        match step {
            Ok(0) => return Ok(filled),
            Ok(count) => filled += count,
            // What has been read comes first; the error comes again.
            Err(_) if filled > 0 => return Ok(filled),
            Err(error) => return Err(error),
        }
    }
}

/// Reads from the TLS session, and into it as long as it has nothing to give.
fn read_decrypted<D: SideData>(
    source: &mut impl Read,
    session: &mut ConnectionCommon<D>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        // At the end of `source` this gives 0, and the session then fails instead of waiting.
        session.read_tls(source)?;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

fn write_tls<D: SideData>(
    sink: &mut impl Write,
    session: &mut ConnectionCommon<D>,
    bytes: &[u8],
) -> io::Result<usize> {
    let count = session.writer().write(bytes)?;
    while session.wants_write() {
        session.write_tls(sink)?;
    }
    Ok(count)
}

/// Reads and writes without waiting.
struct AtOnce<'a>(&'a mut PlainSocket);

impl Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl PlainSocket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Lost => Err(lost()),
        }
    }

    fn is_silent(&self) -> bool {
        let readable = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())),
            Self::Lost => Ok(()),
        };
        is_waiting(readable)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
            Self::Lost => Err(lost()),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Lost => Err(lost()),
        }
    }

    fn unregister(self) -> io::Result<Unregistered> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Unregistered::Tcp),
            Self::Unix(stream) => stream.into_std().map(Unregistered::Unix),
            Self::Lost => Err(lost()),
        }
    }
}

impl Unregistered {
    /// Registers it with the runtime of the caller.
    ///
    /// # Errors
    /// When that fails.
    pub fn register(self) -> io::Result<PlainSocket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(PlainSocket::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(PlainSocket::Unix),
        }
    }
}

impl Read for Unregistered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl AsyncRead for PlainSocket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl AsyncWrite for PlainSocket {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel needs no asking.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(context, buffer),
            Self::Tls(tls) => {
                flush_while_waiting(tls, context);
                Pin::new(&mut **tls).poll_read(context, buffer)
            }
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(context, bytes),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_flush(context),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(context),
        }
    }
}
