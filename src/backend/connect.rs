//! Opens one server connection: TCP, startup packet, authentication, `ReadyForQuery`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout_at;

use crate::backend::authenticate::{KeyDerivation, Login, authenticate};
use crate::backend::connection::{
    BackendConnection, ConnectionId, ReportedParameters, WorkerId, parameter_status,
};
use crate::backend::error::{ConnectError, ServerError};
use crate::backend::startup::{StartupParameters, startup_packet};
use crate::backend::state::{AppliedSettings, PreparedNames};
use crate::config::{NodeConfig, Secret};
use crate::core::snapshot::NodeId;
use crate::limits::{BACKEND_STARTUP_MESSAGES, CANCEL_KEY_BYTES, STARTUP_REPLY_BYTES};
use crate::protocol::message::Reader;
use crate::wire::read_message;

/// Silence after which the kernel asks whether the node's host is still there, and between asking.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Where to, as whom, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The node's place in its cluster.
    pub id: NodeId,
    /// The node's address.
    pub node: &'a NodeConfig,
    /// The database.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
    /// The role's password; empty for none.
    pub password: &'a Secret,
    /// What else the startup packet says.
    pub startup: &'a Arc<StartupParameters>,
}

/// Opens a connection and registers it with the runtime of the caller, which is `worker`'s. The
/// caller names it `id`.
///
/// # Errors
/// When the node is not reached, refuses, breaks the protocol, or `deadline` passes.
///
/// # Cancel safety
/// When the future is dropped the socket is closed.
pub async fn connect(
    target: Target<'_>,
    derivation: &KeyDerivation,
    (id, worker): (ConnectionId, WorkerId),
    deadline: Instant,
) -> Result<BackendConnection, ConnectError> {
    let packet = startup_packet(target.user, target.database, target.startup)?;
    let login = Login {
        user: target.user,
        password: target.password,
        derivation,
    };
    let opening = async {
        let mut stream = connect_tcp(target.node, deadline).await?;
        let peer = stream.peer_addr().map_err(ConnectError::Tcp)?;
        let greeting = handshake(&mut stream, &packet, login).await?;
        Ok((stream, peer, greeting))
    };
    let (stream, peer, greeting) = timeout_at(deadline.into(), opening)
        .await
        .unwrap_or(Err(ConnectError::Timeout))?;
    let now = Instant::now();
    Ok(BackendConnection {
        id,
        node: target.id,
        peer,
        stream: stream.into(),
        worker,
        process_id: greeting.process_id,
        cancel_key: greeting.cancel_key,
        parameters: greeting.parameters,
        startup: Arc::clone(target.startup),
        opened_at: now,
        idle_since: now,
        generation: 0,
        settings: Arc::new(AppliedSettings::default()),
        prepared: PreparedNames::default(),
        unnamed_owner: None,
    })
}

/// Connects to the first address of the node that answers. Each address gets an equal share of the
/// time that is left, so that one dead address does not use it up.
pub(crate) async fn connect_tcp(
    node: &NodeConfig,
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let found = lookup_host((node.host.as_str(), node.port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(ConnectError::Resolve)?.collect();
    let mut last = ConnectError::Resolve(io::ErrorKind::NotFound.into());
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let attempt = tokio::time::timeout(left / shares, TcpStream::connect(address));
        match attempt.await {
            Ok(Ok(stream)) => {
                prepare_socket(&stream).map_err(ConnectError::Tcp)?;
                return Ok(stream);
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

/// What the node said before its first `ReadyForQuery`.
#[derive(Debug)]
struct Greeting {
    process_id: i32,
    cancel_key: Box<[u8]>,
    parameters: ReportedParameters,
}

/// Sends the startup packet, authenticates and reads up to `ReadyForQuery`. The caller sets the
/// deadline.
async fn handshake<S>(
    stream: &mut S,
    packet: &[u8],
    login: Login<'_>,
) -> Result<Greeting, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sent = async {
        stream.write_all(packet).await?;
        stream.flush().await
    };
    sent.await.map_err(ConnectError::Io)?;
    let mut stream = BufReader::new(stream);
    authenticate(&mut stream, login).await?;
    let greeting = read_greeting(&mut stream).await?;
    // The node has nothing to say after ReadyForQuery; what is buffered here would be lost.
    if !stream.buffer().is_empty() {
        return Err(ConnectError::Protocol("bytes after ReadyForQuery"));
    }
    Ok(greeting)
}

async fn read_greeting<S>(stream: &mut BufReader<S>) -> Result<Greeting, ConnectError>
where
    S: AsyncRead + Unpin,
{
    let (mut process_id, mut cancel_key) = (0, Box::default());
    let mut parameters = Vec::new();
    for _ in 0..BACKEND_STARTUP_MESSAGES {
        let message = read_message(stream, STARTUP_REPLY_BYTES).await?;
        match message.tag {
            b'S' => {
                let reported = parameter_status(&message.body);
                parameters.push(reported.ok_or(ConnectError::Protocol("malformed message"))?);
            }
            b'K' => (process_id, cancel_key) = key_data(&message.body)?,
            b'N' => {}
            b'E' => return Err(ConnectError::Server(ServerError::parse(&message.body)?)),
            b'Z' if message.body == b"I" => {
                return Ok(Greeting {
                    process_id,
                    cancel_key,
                    parameters: parameters.into(),
                });
            }
            _ => return Err(ConnectError::Protocol("unexpected message during start-up")),
        }
    }
    Err(ConnectError::Protocol("too many messages during start-up"))
}

fn key_data(body: &[u8]) -> Result<(i32, Box<[u8]>), ConnectError> {
    let mut reader = Reader::new(body);
    let process_id = reader.int32()?;
    let key = reader.rest();
    if !CANCEL_KEY_BYTES.contains(&key.len()) {
        return Err(ConnectError::Protocol("cancel key of impossible length"));
    }
    Ok((process_id, key.into()))
}

#[cfg(test)]
mod tests;
