//! One client's session: reads segments, has them routed, relays the replies.
//!
//! Invariants:
//! * A server connection is held only from the first message of a segment to the `ReadyForQuery`
//!   that says "idle", unless the session is pinned.
//! * A connection goes back to the pool only if nothing of this session is left on it that the pool
//!   does not know of; else it is closed.
//! * What the session must see is noted after the acknowledgement was received and before it is
//!   passed on to the next decision.
//!
//! Must not decide anything itself: [`crate::core`] does, and says why.

mod attempt;
mod audit;
mod block;
mod causality;
mod choose;
mod comparison;
mod copy;
mod crossing;
mod ddl;
mod explain;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod greeting;
mod inspect;
mod link;
mod long;
mod named;
mod names;
mod options;
mod outgoing;
mod own;
mod parked;
mod pause;
mod plan;
mod prologue;
mod put_off;
mod reach;
mod reading;
mod refusal;
mod reload;
mod replica_block;
mod reports;
mod serve;
mod settle;
mod shared_keys;
mod spare;
mod state;
mod streamed;
mod texts;
mod token;
mod train;
mod translate;
mod unknown;
mod unnamed;
mod until_write;

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::backend::cancel::CancelTarget;
use crate::backend::connection::{ConnectionId, ReportedParameters, WorkerId};
use crate::backend::custom::WantedNames;
use crate::backend::home::Home;
use crate::backend::pool::{PoolHandle, PoolKey};
use crate::backend::startup::StartupParameters;
use crate::config::Policies;
use crate::core::snapshot::NodeId;
use crate::core::statement::Consistency;
use crate::frontend::auth::SessionUser;
use crate::frontend::buffers::{Buffer, BufferPool, BufferSize};
use crate::frontend::cancel_keys::Registration;
use crate::frontend::causal_keys::KeyMark;
use crate::frontend::classification::{ClassificationCache, LearnedWrites};
use crate::frontend::cluster::ServedCluster;
use crate::frontend::ends;
use crate::frontend::error::ProxyError;
use crate::limits::{ABANDONED_CANCEL_TIMEOUT, SEGMENT_BYTES};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::segment::{Segment, find_segment};
use crate::published::Published;
use crate::wire::socket::Socket;
use crate::world::DatabaseCatalog;

use block::OpenBlock;
use inspect::{Doubt, Pin};
use link::{ClientSide, Link, Pause, Until};
use named::Change;
use parked::{Heard, hear};
use plan::Plan;
use refusal::segment_refusal;
use shared_keys::SharedVisit;
use spare::LinkMemory;
use state::SessionState;
use texts::SessionTexts;

/// What the sessions of one worker thread share.
#[derive(Debug)]
pub struct Worker {
    /// Which worker it is.
    pub id: WorkerId,
    /// Spare buffers.
    pub buffers: BufferPool,
    /// Classified texts; its lock is only ever taken by the worker's own thread.
    pub cache: Mutex<ClassificationCache>,
}

impl Worker {
    /// A worker with nothing cached.
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            buffers: BufferPool::default(),
            cache: Mutex::default(),
        }
    }
}

/// The clusters of the configuration in force, by name.
pub type ServedClusters = Vec<Arc<ServedCluster>>;

/// Everything a session is made of.
#[derive(Debug)]
pub struct SessionParts {
    /// The client's socket, after the handshake.
    pub client: Socket,
    /// The worker it runs on.
    pub worker: Arc<Worker>,
    /// The clusters; replaced by a reload.
    pub clusters: Arc<Published<ServedClusters>>,
    /// The cluster that serves it.
    pub cluster: Arc<ServedCluster>,
    /// Its role.
    pub user: Arc<SessionUser>,
    /// Its database.
    pub database: Arc<str>,
    /// What its server connections are opened with.
    pub startup: Arc<StartupParameters>,
    /// `pgweir.` settings from the startup packet, without the prefix.
    pub settings: Vec<(String, String)>,
    /// Its cancel key.
    pub registration: Registration,
    /// Turns true when the process is to stop.
    pub shutdown: watch::Receiver<bool>,
    /// `limits.max_message`, in bytes.
    pub max_message_bytes: u32,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// Tells whether another session has used a connection since.
    id: u64,
    client: Socket,
    inbound: Buffer,
    /// How much of `inbound` is known to be whole messages.
    walked: usize,
    worker: Arc<Worker>,
    clusters: Arc<Published<ServedClusters>>,
    cluster: Arc<ServedCluster>,
    policies: Arc<Policies>,
    user: Arc<SessionUser>,
    key: PoolKey,
    catalog: Option<Arc<DatabaseCatalog>>,
    learned: Arc<LearnedWrites>,
    registration: Registration,
    shutdown: watch::Receiver<bool>,
    max_message_bytes: u32,
    state: SessionState,
    /// What the segment under way does to named statements.
    pending: Vec<Change>,
    /// The connection it holds.
    link: Option<Box<Link>>,
    /// The connection it keeps, though nothing holds it there.
    parked: Option<Box<Link>>,
    block: Option<Box<OpenBlock>>,
    /// What the segment or the block under way may do under causal keys.
    marks: Vec<KeyMark>,
    /// The same where keys are shared with other proxies.
    entered: Vec<SharedVisit>,
    pin: Option<Pin>,
    /// What is to be asked of the node before the session may leave it.
    doubt: Option<Box<Doubt>>,
    /// Names of its temporary objects, as far as its pin's reads depend on them.
    held: Vec<Box<str>>,
    /// What the client has been told of parameters.
    told: ReportedParameters,
    skipping: Skipping,
    next: Next,
    /// The connection whose process id the client was told.
    home: Option<Home>,
    /// The connection used last on each node, and how to cancel what runs there.
    recent: Vec<Recent>,
    loads: Vec<u32>,
    /// Memory for the next link.
    spare: LinkMemory,
    /// Memory for the next plan.
    spare_plan: Plan,
    /// Decides between equal replicas.
    picks: u64,
    /// Customized options that the segment is to find.
    wanted_options: WantedNames,
    /// A place among the displaced reads on the primary, from the choice to the connection.
    spilled: Option<OwnedSemaphorePermit>,
    /// Settings of the startup packet, until the greeting has checked them.
    startup_settings: Vec<(String, String)>,
}

/// A connection that the session used.
#[derive(Debug, Clone)]
struct Recent {
    node: NodeId,
    connection: ConnectionId,
    target: Arc<CancelTarget>,
    pool: PoolHandle,
}

/// Whether messages are skipped because of an error that pgweir raised in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skipping {
    No,
    UntilSync,
}

/// Whether the next segment may be sent together with those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Next {
    #[default]
    Coupled,
    /// It was sent with others once, and a replica has refused it.
    Alone,
}

/// Why a session ended.
#[derive(Debug)]
enum SessionEnd {
    /// The client said goodbye or closed its socket.
    Closed,
    /// The client is told why.
    Fatal(ProxyError),
    /// The client has gone while this was running.
    Abandoned(CancelTarget),
    /// The client has been told by the node.
    Told,
    /// The client gets a node's own `ErrorResponse` with this body.
    Refused(Box<[u8]>),
}

impl SessionEnd {
    /// For the log: an error's text may hold what the client wrote, so its SQLSTATE stands for it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Abandoned(_) => "abandoned",
            Self::Fatal(error) => error.sqlstate(),
            Self::Told => "told",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<ProxyError> for SessionEnd {
    fn from(error: ProxyError) -> Self {
        Self::Fatal(error)
    }
}

impl Session {
    /// A session that has not greeted its client yet.
    pub fn new(parts: SessionParts) -> Self {
        let policies = Arc::clone(parts.cluster.config.policies_for(&parts.user.name));
        let learned = parts.cluster.shared.learned(&parts.database);
        let key = PoolKey {
            node: NodeId(0),
            database: parts.database,
            user: Arc::from(parts.user.name.as_str()),
            startup: parts.startup.in_era(parts.cluster.shared.logins.era()),
        };
        Self {
            id: rand::random(),
            client: parts.client,
            inbound: Buffer::default(),
            walked: 0,
            worker: parts.worker,
            clusters: parts.clusters,
            cluster: parts.cluster,
            policies,
            user: parts.user,
            key,
            catalog: None,
            learned,
            registration: parts.registration,
            shutdown: parts.shutdown,
            max_message_bytes: parts.max_message_bytes,
            state: SessionState::default(),
            pending: Vec::new(),
            link: None,
            parked: None,
            block: None,
            marks: Vec::new(),
            entered: Vec::new(),
            pin: None,
            doubt: None,
            held: Vec::new(),
            told: ReportedParameters::default(),
            skipping: Skipping::No,
            next: Next::default(),
            home: None,
            recent: Vec::new(),
            loads: Vec::new(),
            spare: LinkMemory::default(),
            spare_plan: Plan::default(),
            picks: rand::random(),
            wanted_options: WantedNames::default(),
            spilled: None,
            startup_settings: parts.settings,
        }
    }

    /// Serves the client until it leaves, is lost, or the process stops.
    pub async fn run(mut self) {
        let end = match self.serve_client().await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        tracing::debug!(user = self.user.name, end = end.label(), "session ended");
        // Before the client knows: its next session finds all places free.
        (self.link, self.parked, self.home) = (None, None, None);
        let farewell = match end {
            SessionEnd::Closed | SessionEnd::Told => return,
            SessionEnd::Abandoned(target) => {
                if let Err(error) = target.cancel(now() + ABANDONED_CANCEL_TIMEOUT).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cancelling for a client that has gone");
                }
                return;
            }
            SessionEnd::Fatal(error) => error.fatal_response(),
            SessionEnd::Refused(body) => ends::refusal(&body),
        };
        ends::part(&mut self.client, &farewell).await;
    }

    async fn serve_client(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        self.greet().await?;
        loop {
            match self.next_segment().await? {
                Segment::Whole(length, end) => self.serve(length, end).await?,
                Segment::TooLong(whole) => self.serve_long(whole).await?,
                Segment::Partial => {}
            }
        }
    }

    /// Waits for the next segment.
    async fn next_segment(&mut self) -> Result<Segment, SessionEnd> {
        loop {
            let found = find_segment(
                self.inbound.filled(),
                &mut self.walked,
                self.max_message_bytes,
                SEGMENT_BYTES,
            );
            match found.map_err(segment_refusal)? {
                Segment::Partial => self.read_more().await?,
                found @ (Segment::Whole(..) | Segment::TooLong(_)) => return Ok(found),
            }
        }
    }

    /// Reads from the client; meanwhile passes on what the node sends unasked.
    async fn read_more(&mut self) -> Result<(), SessionEnd> {
        if self.inbound.is_full() {
            self.inbound.grow(2 * SEGMENT_BYTES);
        }
        if self.link.is_some() {
            return self.read_linked().await;
        }
        loop {
            self.worker
                .buffers
                .take_back(BufferSize::Client, &mut self.inbound);
            // A block that has no connection yet has begun for the client all the same.
            let may_stop = self.block.is_none();
            let heard = tokio::select! {
                biased;
                _ = self.shutdown.wait_for(|stop| *stop), if may_stop => {
                    return Err(ProxyError::ShuttingDown.into());
                }
                heard = hear(&mut self.client, self.parked.as_deref_mut()) => heard?,
            };
            if heard == Heard::Node {
                return self.read_parked().await;
            }
            self.worker
                .buffers
                .lend(BufferSize::Client, &mut self.inbound);
            let (inbound, client) = (&mut self.inbound, &mut self.client);
            // Readiness may be left over from an earlier read. Waiting here would keep the buffer
            // and not notice that the process stops.
            let read =
                std::future::poll_fn(|context| Poll::Ready(inbound.poll_fill(client, context)));
            match read.await {
                Poll::Pending => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(SessionEnd::Closed),
                Poll::Ready(Ok(_)) => return Ok(()),
            }
        }
    }

    async fn read_linked(&mut self) -> Result<(), SessionEnd> {
        self.worker
            .buffers
            .lend(BufferSize::Client, &mut self.inbound);
        let Some(mut link) = self.link.take() else {
            return Ok(());
        };
        self.worker
            .buffers
            .lend(BufferSize::Server, link.server_buffer());
        let client = ClientSide {
            stream: &mut self.client,
            inbound: &mut self.inbound,
        };
        // A pinned session may stay for ever; one in a block may end it first.
        let may_stop = self.block.is_none();
        let paused = tokio::select! {
            paused = link.relay(client, Until::Input) => paused,
            _ = self.shutdown.wait_for(|stop| *stop), if may_stop => {
                return Err(ProxyError::ShuttingDown.into());
            }
        };
        self.worker
            .buffers
            .take_back(BufferSize::Server, link.server_buffer());
        match paused {
            Ok(Pause::Input | Pause::Answered | Pause::HeldError(..) | Pause::Compared(_)) => {
                self.link = Some(link);
                Ok(())
            }
            Err(error) => Err(self.lost(&link, &error)),
        }
    }

    fn node_name(&self, node: NodeId) -> Arc<str> {
        let nodes = &self.cluster.config.nodes;
        nodes
            .get(node.index())
            .map_or_else(|| Arc::from("?"), |node| Arc::clone(&node.name))
    }

    fn consistency(&self) -> Consistency {
        self.state.consistency(self.policies.consistency.default)
    }

    fn status(&self) -> TransactionStatus {
        match &self.link {
            Some(link) => link.scanner.status,
            None => self.unlinked_status(),
        }
    }
}

/// The instant of a decision or of an acknowledgement: the session's only clock.
fn now() -> Instant {
    Instant::now()
}
