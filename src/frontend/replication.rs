//! A client that speaks the replication protocol: `pg_basebackup`, `pg_receivewal`, `pg_recvlogical`,
//! a standby.
//!
//! It gets a connection of its own to the primary, opened with its parameters and as its role, so that
//! the node itself decides whether it may replicate. From then on every byte is passed on, both ways
//! at once.
//!
//! Invariants:
//! * Nothing is read from a side while what came from it before is still to be written, so memory is
//!   bounded and a slow peer slows the other down.
//! * No deadline ends a stream: both ends watch each other (`wal_sender_timeout`), and both sockets
//!   have keepalive.
//! * A message of pgweir's own goes out only between two messages of the node.
//!
//! Must not look into the messages.

mod stream;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::auth::SessionUser;
use super::cancel_keys::Registration;
use super::cluster::ServedCluster;
use super::ends;
use super::error::ProxyError;
use crate::backend::cancel::CancelTarget;
use crate::backend::connection::{BackendConnection, WorkerId};
use crate::backend::error::{ConnectError, ConnectFault};
use crate::backend::pool::PoolKey;
use crate::backend::startup::StartupParameters;
use crate::core::snapshot::NodeId;
use crate::core::statement::PinReason;
use crate::limits::FAREWELL_TIMEOUT;
use crate::protocol::backend::tag;
use crate::wire::socket::Socket;

use stream::Streams;

/// `ReadyForQuery` outside a transaction.
const READY: [u8; 6] = [tag::READY_FOR_QUERY, 0, 0, 0, 5, b'I'];

/// Everything that a client with the replication protocol is made of.
#[derive(Debug)]
pub struct ReplicationClient {
    /// The client's socket, after the handshake.
    pub client: Socket,
    /// The cluster that serves it.
    pub cluster: Arc<ServedCluster>,
    /// Its role.
    pub user: Arc<SessionUser>,
    /// The database it named.
    pub database: Arc<str>,
    /// What its server connection is opened with, the wanted protocol included.
    pub startup: Arc<StartupParameters>,
    /// Its cancel key.
    pub registration: Registration,
    /// The worker it runs on.
    pub worker: WorkerId,
    /// Turns true when the process is to stop.
    pub shutdown: watch::Receiver<bool>,
}

/// Why a client is not served any more.
#[derive(Debug)]
enum End {
    /// One of the sides has closed its connection, or was lost.
    Closed,
    /// The client is told why.
    Fatal(ProxyError),
    /// The client gets the node's own `ErrorResponse` with this body.
    Refused(Box<[u8]>),
}

impl ReplicationClient {
    /// Serves the client until one of the sides leaves, the primary changes, or the process stops.
    pub async fn run(mut self) {
        let end = match self.serve().await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        let _ = self.registration.clear_target();
        tracing::debug!(user = self.user.name, ?end, "replication ended");
        let farewell = match end {
            End::Closed => return,
            End::Fatal(error) => error.fatal_response(),
            End::Refused(body) => ends::refusal(&body),
        };
        ends::part(&mut self.client, &farewell).await;
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let mut connection = self.open().await?;
        self.cluster.metrics.count_pin(PinReason::Replication);
        let target = Arc::new(CancelTarget::from(&connection));
        self.registration.take_process_id(connection.process_id);
        self.registration.set_target(target);
        self.greet(&connection).await.map_err(|_| End::Closed)?;
        let node = connection.node;
        let mut streams = Streams::new(&mut self.client, &mut connection.stream);
        let world = &self.cluster.world;
        let moved = world.routing.wait_for(|snapshot| {
            let primary = snapshot.primary;
            primary.is_some_and(|now| now != node).then_some(())
        });
        let why = tokio::select! {
            () = streams.relay() => return Err(End::Closed),
            _ = self.shutdown.wait_for(|stop| *stop) => ProxyError::ShuttingDown,
            () = moved => ProxyError::PrimaryChanged,
        };
        let deadline = Instant::now() + FAREWELL_TIMEOUT;
        match timeout_at(deadline.into(), streams.finish_message()).await {
            Ok(Ok(())) => Err(End::Fatal(why)),
            Ok(Err(_)) | Err(_) => Err(End::Closed),
        }
    }

    /// Opens the connection to the primary.
    async fn open(&self) -> Result<BackendConnection, End> {
        let node = self.primary().await?;
        let key = PoolKey {
            node,
            database: Arc::clone(&self.database),
            user: Arc::from(self.user.name.as_str()),
            startup: Arc::clone(&self.startup),
        };
        let pools = &self.cluster.pools;
        let opened = pools.open_apart(&key, &self.user.login, self.worker);
        opened.await.map_err(|error| {
            if let ConnectError::Server(error) = &error {
                return End::Refused(error.body().into());
            }
            let reason = &error as &dyn std::error::Error;
            tracing::warn!(error = reason, "no server connection for replication");
            End::Fatal(match error.fault() {
                ConnectFault::NodeSaturated => ProxyError::TooManyClients,
                ConnectFault::NodeUnavailable | ConnectFault::RequestRefused => {
                    ProxyError::NoNodeAvailable
                }
            })
        })
    }

    async fn primary(&self) -> Result<NodeId, End> {
        let world = &self.cluster.world;
        loop {
            let (primary, measured) = {
                let known = world.routing.load();
                (known.primary, known.is_measured())
            };
            match primary {
                Some(node) => return Ok(node),
                None if !measured && world.becomes_measured().await => {}
                None => return Err(End::Fatal(ProxyError::NoNodeAvailable)),
            }
        }
    }

    /// Sends what stands between `AuthenticationOk` and the first `ReadyForQuery`.
    async fn greet(&mut self, connection: &BackendConnection) -> io::Result<()> {
        let mut out = Vec::new();
        for (name, value) in connection.parameters.iter() {
            ends::write_parameter(&mut out, name, value);
        }
        ends::write_cancel_key(&mut out, &self.registration);
        out.extend_from_slice(&READY);
        self.client.write_all(&out).await?;
        self.client.flush().await
    }
}
