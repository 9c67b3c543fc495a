//! How a client's socket is protected, and how that changes.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::tls::{Acceptor, Opening};
use crate::wire::socket::{PlainSocket, Socket};

/// Whether others can listen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// They can.
    None,
    /// What is sent does not leave the machine.
    Local,
    /// TLS.
    Encrypted,
}

/// A client's socket.
pub trait ClientSocket: AsyncRead + AsyncWrite + Unpin + Send + Sized {
    /// Does the TLS handshake; see [`Acceptor::accept`].
    ///
    /// # Errors
    /// When it fails, or the socket cannot be encrypted or is already.
    fn encrypt(
        self,
        acceptor: &Acceptor,
        opening: Opening<'_>,
        slots: &Semaphore,
    ) -> impl Future<Output = io::Result<Self>> + Send;

    /// Whether others can listen in.
    fn protection(&self) -> Protection;

    /// The certificate that the client has shown, in DER.
    fn certificate(&self) -> Option<&[u8]>;
}

impl ClientSocket for Socket {
    async fn encrypt(
        self,
        acceptor: &Acceptor,
        opening: Opening<'_>,
        slots: &Semaphore,
    ) -> io::Result<Self> {
        match self {
            Self::Plain(plain) => acceptor.accept(plain, opening, slots).await,
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn protection(&self) -> Protection {
        match self {
            Self::Plain(PlainSocket::Tcp(_) | PlainSocket::Lost) => Protection::None,
            Self::Plain(PlainSocket::Unix(_)) => Protection::Local,
            Self::Tls(_) => Protection::Encrypted,
        }
    }

    fn certificate(&self) -> Option<&[u8]> {
        self.peer_certificate()
    }
}
