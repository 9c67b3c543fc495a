//! From an accepted socket to an authenticated client.
//!
//! `Accepted` → `Negotiated` → `Started` → `Authenticated`: each step consumes the one before, so
//! nothing can be done out of order. A cancel request leaves as another [`Outcome`].
//!
//! Invariants:
//! * Nothing is read ahead: after the handshake the next byte of the socket is the session's.
//! * One deadline covers everything from accept to `AuthenticationOk`.
//! * Every length is checked before anything is allocated for it.
//! * Whoever is refused is told why, in one `ErrorResponse`, and nothing about others.
//!
//! Must not talk to a node.
//!
//! Flow: manual, "Message Flow"; `src/backend/tcop/backend_startup.c`.

mod conduit;
mod encryption;

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::auth::{Applicant, Authenticator, Channel, Progress, RoleSource, SessionUser};
use super::cluster::ServedCluster;
use super::error::ProxyError;
use crate::config::{ClientTls, Config, DatabasePattern};
use crate::protocol::startup::{
    CancelRequest, FirstPacket, Parameter, REPEATED_GSSENC_REQUEST, REPEATED_SSL_REQUEST,
    Replication, StartupMessage, agreed_minor, write_negotiation,
};

use crate::tls::certificate::Certificate;
use crate::tls::{Acceptor, Opening};

use conduit::{Conduit, FirstBytes};
pub use encryption::{ClientSocket, Protection};

/// The database name that is kept for pgweir itself.
const RESERVED_DATABASE: &str = "pgweir";

/// Under which terms a client is received.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Databases, limits and encryption.
    pub config: &'a Config,
    /// Roles and method; of the same configuration.
    pub authenticator: &'a Authenticator,
    /// Where roles are looked up that it does not have.
    pub clusters: &'a [Arc<ServedCluster>],
    /// Whether there is room for it.
    pub admission: Admission,
    /// Permits for TLS handshakes.
    pub tls_slots: &'a Semaphore,
    /// When the handshake must be over.
    pub deadline: Instant,
}

/// Whether there is room for another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It counts towards `limits.max_clients`.
    Admitted,
    /// `limits.max_clients` is reached: it may cancel a statement or be told so.
    Full,
}

/// What a handshake led to.
#[derive(Debug)]
pub enum Outcome<S> {
    /// A client to serve; it has `AuthenticationOk` and waits for the rest of the greeting.
    Session(Authenticated<S>),
    /// A cancel request. The client takes the end of `stream` for "done", so drop it after the
    /// node has been asked; nothing is ever written to it.
    Cancel {
        /// Which statement.
        request: CancelRequest,
        /// The client's socket.
        stream: S,
    },
}

/// Why there is no outcome. A [`ProxyError`] has been sent to the client already.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client is gone, or its socket failed.
    #[error("the client closed the connection during the handshake")]
    Closed(#[source] io::Error),
    /// No startup message came before the deadline; nothing was sent, as in PostgreSQL.
    #[error("no startup message before the deadline")]
    Silent,
    /// TLS could not be agreed on; nothing that is not encrypted was sent.
    #[error("negotiating TLS with the client")]
    Tls(#[source] io::Error),
    /// The client was told.
    #[error("client refused")]
    Refused(#[source] ProxyError),
}

impl From<ProxyError> for HandshakeError {
    fn from(error: ProxyError) -> Self {
        Self::Refused(error)
    }
}

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Authenticated<S> {
    /// Nothing after the handshake's last message has been read from it.
    pub stream: S,
    /// The role.
    pub user: Arc<SessionUser>,
    /// The database, as the client wrote it; served by `cluster`.
    pub database: String,
    /// Index into `Config::clusters`.
    pub cluster: usize,
    /// Which protocol it is to speak.
    pub replication: Replication,
    /// Startup parameters for the server, in order, with `options` as far as it is not pgweir's.
    pub parameters: Vec<Parameter>,
    /// `pgweir.` settings from parameters and `options`, in order, not yet checked.
    pub settings: Vec<Parameter>,
    /// The minor version of protocol 3 that is spoken.
    pub minor: u16,
}

/// The index of the cluster that serves `database`: the one that names it, else the one that takes
/// all others.
pub fn cluster_for(config: &Config, database: &str) -> Option<usize> {
    if database == RESERVED_DATABASE {
        return None;
    }
    let serving = |wanted: &dyn Fn(&DatabasePattern) -> bool| {
        let mut clusters = config.clusters.iter();
        clusters.position(|cluster| cluster.databases.iter().any(wanted))
    };
    let named = |pattern: &DatabasePattern| match pattern {
        DatabasePattern::Name(name) => name == database,
        DatabasePattern::AllOthers => false,
    };
    serving(&named).or_else(|| serving(&|pattern| *pattern == DatabasePattern::AllOthers))
}

/// The index of the cluster that serves the client. A walsender without a database may name any: tools
/// name none, or `replication`; then it is the only cluster.
fn cluster_of(config: &Config, startup: &StartupMessage) -> Option<usize> {
    let named = cluster_for(config, &startup.database);
    match startup.replication {
        Replication::Physical if startup.database != RESERVED_DATABASE => {
            named.or((config.clusters.len() == 1).then_some(0))
        }
        Replication::Physical | Replication::None | Replication::Database => named,
    }
}

/// Where the client's role is looked up; `None` if it is not, or no cluster serves the client.
fn role_source(terms: &Terms<'_>, startup: &StartupMessage) -> Option<RoleSource> {
    let at = cluster_of(terms.config, startup)?;
    let config = terms.config.clusters.get(at)?;
    config.role_lookup.as_ref()?;
    let mut clusters = terms.clusters.iter();
    let served = clusters.find(|served| served.config.name == config.name)?;
    Some(RoleSource {
        cluster: Arc::clone(&config.name),
        world: Arc::clone(&served.world),
    })
}

/// Runs the whole handshake on `stream`.
///
/// # Errors
/// When the client goes away, is too slow or is refused; it has been told, where that is possible.
///
/// # Cancel safety
/// Not cancel-safe: drop the connection too.
pub async fn receive<S>(stream: S, terms: Terms<'_>) -> Result<Outcome<S>, HandshakeError>
where
    S: ClientSocket,
{
    match Accepted::new(stream, terms.deadline)
        .negotiate(&terms)
        .await?
    {
        Negotiation::Cancel { request, stream } => Ok(Outcome::Cancel { request, stream }),
        Negotiation::Session(negotiated) => {
            let started = negotiated.start(&terms).await?;
            let authenticated = started.authenticate(&terms).await?;
            Ok(Outcome::Session(authenticated))
        }
    }
}

/// A client that has said nothing yet.
#[derive(Debug)]
struct Accepted<S> {
    conduit: Conduit<S>,
}

/// Where the first packets led to.
enum Negotiation<S> {
    Session(Negotiated<S>),
    Cancel { request: CancelRequest, stream: S },
}

/// A client with which encryption is settled and whose startup message is there.
struct Negotiated<S> {
    conduit: Conduit<S>,
    startup: StartupMessage,
}

/// A client whose protocol version is settled and for which there is room.
struct Started<S> {
    conduit: Conduit<S>,
    startup: StartupMessage,
}

impl<S: ClientSocket> Accepted<S> {
    fn new(stream: S, deadline: Instant) -> Self {
        Self {
            conduit: Conduit::new(stream, deadline),
        }
    }

    /// Encrypts the connection if the client asks for it and may have it, until the real first
    /// packet comes. Each kind of encryption may be asked for once.
    async fn negotiate(self, terms: &Terms<'_>) -> Result<Negotiation<S>, HandshakeError> {
        let mut conduit = self.conduit;
        let mut requests = Requests::default();
        loop {
            let acceptor = match conduit.protection() {
                Protection::None => terms.config.client_tls.acceptor(),
                Protection::Local | Protection::Encrypted => None,
            };
            match next_step(&mut conduit, &mut requests, acceptor).await {
                Ok(Step::Startup(startup)) => {
                    return Ok(Negotiation::Session(Negotiated { conduit, startup }));
                }
                Ok(Step::Cancel(request)) => {
                    let stream = conduit.into_stream();
                    return Ok(Negotiation::Cancel { request, stream });
                }
                Ok(Step::Again) => {}
                Ok(Step::Encrypt(acceptor, begun)) => {
                    requests = Requests::spent();
                    let opening = match &begun {
                        None => Opening::Requested,
                        Some(read) => Opening::Direct(read),
                    };
                    conduit = conduit.encrypt(acceptor, opening, terms.tls_slots).await?;
                }
                Err(error) => return Err(conduit.refuse(error).await),
            }
        }
    }
}

/// Reads one first packet, and answers it if it asks for encryption.
async fn next_step<'a, S: ClientSocket>(
    conduit: &mut Conduit<S>,
    requests: &mut Requests,
    acceptor: Option<&'a Acceptor>,
) -> Result<Step<'a>, HandshakeError> {
    let packet = match (
        conduit.read_first_bytes(requests.opening()).await?,
        acceptor,
    ) {
        (FirstBytes::Packet(packet), _) => packet,
        (FirstBytes::Tls(begun), Some(acceptor)) => {
            return Ok(Step::Encrypt(acceptor, Some(begun.to_vec())));
        }
        // As in PostgreSQL, there is no answer that the client would understand.
        (FirstBytes::Tls(_), None) => {
            return Err(HandshakeError::Tls(io::ErrorKind::Unsupported.into()));
        }
    };
    match (packet, acceptor) {
        (FirstPacket::Startup(startup), _) => Ok(Step::Startup(startup)),
        (FirstPacket::Cancel(request), _) => Ok(Step::Cancel(request)),
        (FirstPacket::SslRequest, Some(acceptor)) => {
            requests.ssl.spend(REPEATED_SSL_REQUEST.into())?;
            conduit.write(b"S").await?;
            Ok(Step::Encrypt(acceptor, None))
        }
        (FirstPacket::SslRequest, None) => {
            requests.ssl.spend(REPEATED_SSL_REQUEST.into())?;
            conduit.write(b"N").await?;
            Ok(Step::Again)
        }
        (FirstPacket::GssEncryptionRequest, _) => {
            requests.gssenc.spend(REPEATED_GSSENC_REQUEST.into())?;
            conduit.write(b"N").await?;
            Ok(Step::Again)
        }
    }
}

/// What follows from a first packet.
enum Step<'a> {
    Startup(StartupMessage),
    Cancel(CancelRequest),
    /// It was refused, and another follows.
    Again,
    /// TLS follows, or has begun with these bytes.
    Encrypt(&'a Acceptor, Option<Vec<u8>>),
}

/// Which encryption requests may still come.
#[derive(Default)]
struct Requests {
    ssl: Request,
    gssenc: Request,
}

/// Whether an encryption request may still come.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Request {
    #[default]
    Allowed,
    Spent,
}

/// What a connection may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// A packet or TLS.
    Any,
    /// A packet.
    Packet,
}

impl Requests {
    const fn spent() -> Self {
        Self {
            ssl: Request::Spent,
            gssenc: Request::Spent,
        }
    }

    /// TLS without a request comes first or not at all.
    fn opening(&self) -> Beginning {
        if self.ssl == Request::Allowed && self.gssenc == Request::Allowed {
            Beginning::Any
        } else {
            Beginning::Packet
        }
    }
}

impl Request {
    fn spend(&mut self, repeated: ProxyError) -> Result<(), ProxyError> {
        match std::mem::replace(self, Self::Spent) {
            Self::Allowed => Ok(()),
            Self::Spent => Err(repeated),
        }
    }
}

impl<S: ClientSocket> Negotiated<S> {
    /// Refuses the client when it must encrypt and did not, or when there is no room; else settles
    /// the protocol version.
    async fn start(mut self, terms: &Terms<'_>) -> Result<Started<S>, HandshakeError> {
        self.conduit.announce_errors();
        let settled = match self.check_protection(&terms.config.client_tls) {
            Ok(()) => self.settle_version(terms.admission).await,
            Err(error) => Err(error.into()),
        };
        match settled {
            Ok(()) => Ok(Started {
                conduit: self.conduit,
                startup: self.startup,
            }),
            Err(error) => Err(self.conduit.refuse(error).await),
        }
    }

    fn check_protection(&self, tls: &ClientTls) -> Result<(), ProxyError> {
        match (tls, self.conduit.protection()) {
            (ClientTls::Require(_), Protection::None) => Err(ProxyError::EncryptionRequired),
            (ClientTls::Require(_), Protection::Local | Protection::Encrypted)
            | (ClientTls::Disable | ClientTls::Prefer(_), _) => Ok(()),
        }
    }

    async fn settle_version(&mut self, admission: Admission) -> Result<(), HandshakeError> {
        match admission {
            Admission::Admitted => {}
            Admission::Full => return Err(ProxyError::TooManyClients.into()),
        }
        let mut negotiation = Vec::new();
        write_negotiation(&mut negotiation, &self.startup);
        if negotiation.is_empty() {
            return Ok(());
        }
        self.conduit.write(&negotiation).await
    }
}

impl<S: ClientSocket> Started<S> {
    /// Asks for proof, finds the cluster, and sends `AuthenticationOk`. Which databases there are
    /// is told only to those who have proved who they are.
    async fn authenticate(mut self, terms: &Terms<'_>) -> Result<Authenticated<S>, HandshakeError> {
        match self.prove(terms).await {
            Ok((user, cluster)) => Ok(Authenticated {
                stream: self.conduit.into_stream(),
                user,
                database: self.startup.database,
                cluster,
                replication: self.startup.replication,
                parameters: self.startup.parameters,
                settings: self.startup.settings,
                minor: agreed_minor(self.startup.minor),
            }),
            Err(error) => Err(self.conduit.refuse(error).await),
        }
    }

    /// What the encrypted connection itself proves.
    fn channel<'a>(&self, tls: &'a ClientTls) -> Channel<'a> {
        let binding = match self.conduit.protection() {
            Protection::Encrypted => tls.acceptor().and_then(Acceptor::binding),
            Protection::None | Protection::Local => None,
        };
        let certificate = self.conduit.certificate();
        Channel {
            binding,
            certificate: certificate.map(|der| Certificate::parse(der)?.common_name()),
        }
    }

    async fn prove(
        &mut self,
        terms: &Terms<'_>,
    ) -> Result<(Arc<SessionUser>, usize), HandshakeError> {
        let config = terms.config;
        let channel = self.channel(&config.client_tls);
        let mut progress = terms.authenticator.begin(Applicant {
            user: &self.startup.user,
            channel: &channel,
            source: role_source(terms, &self.startup),
            deadline: terms.deadline,
        })?;
        loop {
            match progress {
                Progress::Ask { request, exchange } => {
                    self.conduit.write(&request).await?;
                    let answer = self.conduit.read_answer().await?;
                    progress = self.conduit.in_time(exchange.answer(&answer)).await??;
                }
                Progress::Proved { user, last } => {
                    let database = &self.startup.database;
                    let cluster = cluster_of(config, &self.startup).ok_or_else(|| {
                        let database = database.clone();
                        ProxyError::UnknownDatabase { database }
                    })?;
                    self.conduit.write(&last).await?;
                    return Ok((user, cluster));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
