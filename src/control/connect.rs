//! Connections of our own to nodes: over the sockets that sessions get, with the same encryption.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Connection};

use crate::backend::connect::{Opened, open, open_plain};
use crate::backend::error::ConnectError;
use crate::config::{NodeConfig, ServerTls};
use crate::tls::certificate::end_point;
use crate::wire::socket::Socket;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No socket, or it could not be encrypted.
    #[error(transparent)]
    Socket(#[from] ConnectError),
    /// The node refuses us or breaks the protocol.
    #[error(transparent)]
    Login(#[from] tokio_postgres::Error),
}

/// Connects to `node` as `login` says, apart from host and port. The caller sets a deadline for the
/// whole; each address of the node gets its share of the time up to `deadline`.
///
/// # Errors
/// See [`OpenError`].
///
/// # Cancel safety
/// When the future is dropped the socket is closed.
pub(super) async fn connect(
    node: &NodeConfig,
    tls: &ServerTls,
    mut login: Config,
    deadline: Instant,
) -> Result<(Client, Connection<Socket, NodeStream>), OpenError> {
    // The socket is as encrypted as it is to be; the library only has to learn what it is bound to.
    login
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let Opened {
        socket, fallback, ..
    } = open(node, tls, deadline).await?;
    match login.connect_raw(socket, Prepared).await {
        Err(error)
            if error
                .code()
                .is_some_and(|code| fallback.applies(code.code())) =>
        {
            let plain = open_plain(node, deadline).await?;
            Ok(login.connect_raw(plain.socket, Prepared).await?)
        }
        outcome => Ok(outcome?),
    }
}

/// Hands the library a socket that needs no handshake any more.
struct Prepared;

impl TlsConnect<Socket> for Prepared {
    type Stream = NodeStream;
    type Error = io::Error;
    type Future = Ready<io::Result<NodeStream>>;

    fn connect(self, socket: Socket) -> Self::Future {
        ready(Ok(NodeStream(socket)))
    }
}

/// A node's socket, encrypted or not, with what SCRAM can be bound to.
#[derive(Debug)]
pub(super) struct NodeStream(Socket);

impl TlsStream for NodeStream {
    fn channel_binding(&self) -> ChannelBinding {
        match self.0.peer_certificate().and_then(end_point) {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point),
            None => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
