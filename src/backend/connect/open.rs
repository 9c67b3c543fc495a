//! From a node's configuration to a socket, encrypted if it is to be.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::backend::error::ConnectError;
use crate::config::{NodeConfig, ServerTls};
use crate::tls::Connector;
use crate::wire::socket::{PlainSocket, Socket};

/// Silence after which the kernel asks whether the node's host is still there, and between asking.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// `SSLRequest` (manual, "Message Formats"): length and `NEGOTIATE_SSL_CODE`.
const SSL_REQUEST: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x2f";

/// `ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION`: no line of `pg_hba.conf` lets us in this way.
const NOT_AUTHORIZED: &str = "28000";

/// Where one connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAddress {
    /// TCP, after name resolution.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How another connection to the same process is encrypted.
#[derive(Debug, Clone)]
pub struct NodeEncryption {
    connector: Connector,
    host: Arc<str>,
}

/// A socket that leads to a node, on which nothing has been said but to encrypt it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    pub(crate) address: NodeAddress,
    /// `None` if the socket is plain.
    pub(crate) encryption: Option<NodeEncryption>,
    /// What may be tried if the node refuses us on it.
    pub(crate) fallback: Fallback,
}

/// What may be tried if the node refuses us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Nothing.
    None,
    /// The same without encryption.
    Plain,
}

impl Fallback {
    /// Whether libpq's `prefer` would try again without encryption after the node, before it asked
    /// for a password or took it, answered with an error with this SQLSTATE
    /// (`CONNECTION_AWAITING_RESPONSE` in `src/interfaces/libpq/fe-connect.c`).
    pub(crate) fn applies(self, sqlstate: &str) -> bool {
        match self {
            Self::None => false,
            Self::Plain => sqlstate == NOT_AUTHORIZED,
        }
    }
}

/// Connects to the node and encrypts the connection as `tls` says. Unix sockets are never encrypted,
/// as with libpq.
pub(crate) async fn open(
    node: &NodeConfig,
    tls: &ServerTls,
    deadline: Instant,
) -> Result<Opened, ConnectError> {
    let plain = open_plain(node, deadline).await?;
    let (connector, refused) = match (tls, &plain.address) {
        (ServerTls::Disable, _) | (_, NodeAddress::Unix(_)) => return Ok(plain),
        (ServerTls::Prefer(_), NodeAddress::Tcp(_)) => (tls.connector(), Refused::Accepted),
        (ServerTls::Require(_), NodeAddress::Tcp(_)) => (tls.connector(), Refused::Fatal),
    };
    let (Some(connector), Socket::Plain(socket)) = (connector, plain.socket) else {
        return Err(ConnectError::Protocol("no way to encrypt the connection"));
    };
    let encryption = NodeEncryption {
        connector: connector.clone(),
        host: Arc::from(node.host.as_str()),
    };
    let (socket, encryption, fallback) = match (encryption.encrypt(socket).await, refused) {
        (Ok(Answer::Encrypted(socket)), Refused::Accepted) => {
            (socket, Some(encryption), Fallback::Plain)
        }
        (Ok(Answer::Encrypted(socket)), Refused::Fatal) => {
            (socket, Some(encryption), Fallback::None)
        }
        (Ok(Answer::Refused(socket)), Refused::Accepted) => {
            (Socket::Plain(socket), None, Fallback::None)
        }
        (Ok(Answer::Refused(_)), Refused::Fatal) => return Err(ConnectError::NoTls),
        (Err(ConnectError::Tls(_)), Refused::Accepted) => {
            return open_plain(node, deadline).await;
        }
        (Err(error), Refused::Accepted | Refused::Fatal) => return Err(error),
    };
    Ok(Opened {
        socket,
        address: plain.address,
        encryption,
        fallback,
    })
}

/// What it means that a node cannot encrypt.
#[derive(Debug, Clone, Copy)]
enum Refused {
    Accepted,
    Fatal,
}

/// What a node makes of an `SSLRequest`.
enum Answer {
    Encrypted(Socket),
    Refused(PlainSocket),
}

impl NodeEncryption {
    /// Encrypts another connection to `host`, which must not be refused.
    pub(crate) async fn require(&self, socket: PlainSocket) -> Result<Socket, ConnectError> {
        match self.encrypt(socket).await? {
            Answer::Encrypted(socket) => Ok(socket),
            Answer::Refused(_) => Err(ConnectError::NoTls),
        }
    }

    /// Asks the node to encrypt the connection. Not a byte behind its answer is read before TLS
    /// begins, so that nothing that was not encrypted is taken for what was (CVE-2021-23222).
    async fn encrypt(&self, mut socket: PlainSocket) -> Result<Answer, ConnectError> {
        let request = async {
            socket.write_all(&SSL_REQUEST).await?;
            socket.read_u8().await
        };
        match request.await.map_err(ConnectError::Io)? {
            b'S' => {
                let encrypted = self.connector.connect(&self.host, socket).await;
                encrypted.map(Answer::Encrypted).map_err(ConnectError::Tls)
            }
            b'N' => Ok(Answer::Refused(socket)),
            // An error here is not to be shown: nobody has proved to be the node (CVE-2024-10977).
            _ => Err(ConnectError::Protocol("no answer to an SSL request")),
        }
    }
}

/// Connects to the node without encryption: to its Unix socket, or to the first of its addresses
/// that answers.
pub(crate) async fn open_plain(
    node: &NodeConfig,
    deadline: Instant,
) -> Result<Opened, ConnectError> {
    let (socket, address) = if let Some(path) = node.socket() {
        (open_unix(&path).await?.into(), NodeAddress::Unix(path))
    } else {
        let (stream, address) = open_tcp(node, deadline).await?;
        (stream.into(), NodeAddress::Tcp(address))
    };
    Ok(Opened {
        socket,
        address,
        encryption: None,
        fallback: Fallback::None,
    })
}

/// Connects to an address that a connection led to before.
pub(crate) async fn open_again(address: &NodeAddress) -> Result<PlainSocket, ConnectError> {
    match address {
        NodeAddress::Tcp(address) => TcpStream::connect(address)
            .await
            .map(PlainSocket::Tcp)
            .map_err(ConnectError::Tcp),
        NodeAddress::Unix(path) => open_unix(path).await.map(PlainSocket::Unix),
    }
}

async fn open_unix(path: &Path) -> Result<UnixStream, ConnectError> {
    UnixStream::connect(path).await.map_err(ConnectError::Tcp)
}

/// Each address gets an equal share of the time that is left, so that one dead address does not use
/// it up.
async fn open_tcp(
    node: &NodeConfig,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let found = lookup_host((node.host.as_str(), node.port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(ConnectError::Resolve)?.collect();
    let mut last = ConnectError::Resolve(io::ErrorKind::NotFound.into());
    for (tried, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let attempt = tokio::time::timeout(left / shares, TcpStream::connect(address));
        match attempt.await {
            Ok(Ok(stream)) => {
                prepare_socket(&stream).map_err(ConnectError::Tcp)?;
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = ConnectError::Tcp(error),
            Err(_) => last = ConnectError::Timeout,
        }
    }
    Err(last)
}

fn prepare_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
