//! Opens one server connection: socket, TLS, startup packet, authentication, `ReadyForQuery`.

mod open;

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout_at;

use crate::backend::authenticate::{Channel, Login, authenticate};
use crate::backend::connection::{
    BackendConnection, ConnectionId, ReportedParameters, WorkerId, parameter_status,
};
use crate::backend::custom::NamesOfConnection;
use crate::backend::error::{ConnectError, ServerError};
use crate::backend::home::Anchor;
use crate::backend::login::NodeLogin;
use crate::backend::startup::{StartupParameters, startup_packet};
use crate::backend::state::{AppliedSettings, PreparedNames};
use crate::config::{NodeConfig, ServerTls};
use crate::core::snapshot::NodeId;
use crate::credential::hashing::Hashing;
use crate::limits::{BACKEND_STARTUP_MESSAGES, CANCEL_KEY_BYTES, STARTUP_REPLY_BYTES};
use crate::protocol::message::Reader;
use crate::tls::certificate::end_point;
use crate::wire::read_message;

pub use open::{NodeAddress, NodeEncryption};
pub(crate) use open::{Opened, open, open_again, open_plain};

/// Where to, as whom, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The node's place in its cluster.
    pub id: NodeId,
    /// The node's address.
    pub node: &'a NodeConfig,
    /// How the connection is encrypted.
    pub tls: &'a ServerTls,
    /// The database.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
    /// What the role logs in with.
    pub login: &'a NodeLogin,
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
    hashing: &Hashing,
    (id, worker): (ConnectionId, WorkerId),
    deadline: Instant,
) -> Result<BackendConnection, ConnectError> {
    let opening = log_in(target, hashing, deadline);
    let (opened, greeting) = timeout_at(deadline.into(), opening)
        .await
        .unwrap_or(Err(ConnectError::Timeout))?;
    let now = Instant::now();
    Ok(BackendConnection {
        id,
        node: target.id,
        peer: opened.address,
        encryption: opened.encryption,
        stream: opened.socket,
        worker,
        process_id: greeting.process_id,
        cancel_key: greeting.cancel_key,
        parameters: greeting.parameters,
        startup: Arc::clone(target.startup),
        anchor: Anchor::new((id, worker), greeting.process_id, target.startup),
        opened_at: now,
        idle_since: now,
        generation: 0,
        settings: Arc::new(AppliedSettings::default()),
        custom: NamesOfConnection::default(),
        prepared: PreparedNames::default(),
        unnamed_owner: None,
        last_session: 0,
    })
}

async fn log_in(
    target: Target<'_>,
    hashing: &Hashing,
    deadline: Instant,
) -> Result<(Opened, Greeting), ConnectError> {
    let packet = startup_packet(target.user, target.database, target.startup)?;
    let mut opened = open(target.node, target.tls, deadline).await?;
    let certificate = opened.socket.peer_certificate();
    let login = Login {
        user: target.user,
        with: target.login,
        hashing,
        channel: match certificate {
            None => Channel::Plain,
            Some(certificate) => Channel::Encrypted(end_point(certificate)),
        },
    };
    match handshake(&mut opened.socket, &packet, &login).await {
        Err(ConnectError::Server(error)) if opened.fallback.applies(error.sqlstate()) => {
            let mut plain = open_plain(target.node, deadline).await?;
            let login = Login {
                channel: Channel::Plain,
                ..login
            };
            let greeting = handshake(&mut plain.socket, &packet, &login).await?;
            Ok((plain, greeting))
        }
        outcome => Ok((opened, outcome?)),
    }
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
    login: &Login<'_>,
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
