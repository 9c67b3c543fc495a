//! One worker thread: a runtime with the sessions that live on it.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::CANCEL_TIMEOUT;
use crate::backend::connection::WorkerId;
use crate::backend::startup::StartupParameters;
use crate::config::Config;
use crate::frontend::auth::Authenticator;
use crate::frontend::cancel_keys::{CancelKeys, KeyLength};
use crate::frontend::error::ProxyError;
use crate::frontend::handshake::{Authenticated, HandshakeError, Outcome, Terms, receive};
use crate::frontend::listener::{ClientAddress, Incoming, WorkerHandle};
use crate::frontend::replication::ReplicationClient;
use crate::frontend::session::{ServedClusters, Session, SessionParts, Worker};
use crate::limits::{WORKER_QUEUE, WORKER_STACK_BYTES};
use crate::metrics::Metrics;
use crate::protocol::startup::{CancelRequest, Replication};
use crate::published::Published;
use crate::wire::socket::Socket;

/// The configuration in force, with what was derived from it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) config: Arc<Config>,
    pub(super) authenticator: Arc<Authenticator>,
}

/// What every worker needs.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) running: Arc<Published<Running>>,
    pub(super) clusters: Arc<Published<ServedClusters>>,
    pub(super) keys: Arc<CancelKeys>,
    pub(super) metrics: Arc<Metrics>,
    /// Permits for TLS handshakes with clients.
    pub(super) tls_slots: Arc<Semaphore>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// The app's side of a worker thread.
#[derive(Debug)]
pub(super) struct WorkerThread {
    handle: WorkerHandle,
    ended: oneshot::Receiver<()>,
}

impl WorkerThread {
    pub(super) fn start(id: usize, context: Context) -> io::Result<Self> {
        let (handle, incoming) = WorkerHandle::channel(WORKER_QUEUE);
        let (ends, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let id = WorkerId(u16::try_from(id).unwrap_or(u16::MAX));
        thread::Builder::new()
            .name(format!("worker-{}", id.0))
            .stack_size(WORKER_STACK_BYTES)
            .spawn(move || {
                runtime.block_on(serve(id, context, incoming));
                // The app may have stopped waiting.
                let _ = ends.send(());
            })?;
        Ok(Self { handle, ended })
    }

    pub(super) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Resolves when the last session has ended after a shutdown.
    pub(super) async fn ended(&mut self) {
        // A thread that is gone has ended too.
        drop((&mut self.ended).await);
    }
}

async fn serve(id: WorkerId, context: Context, mut incoming: mpsc::Receiver<Incoming>) {
    let worker = Arc::new(Worker::new(id));
    let mut shutdown = context.shutdown.clone();
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(ended) = clients.join_next() => log_panic(ended),
            next = incoming.recv() => {
                let Some(next) = next else { break };
                let client = serve_client(next, Arc::clone(&worker), context.clone());
                clients.spawn(client);
            }
        }
    }
    while let Some(ended) = clients.join_next().await {
        log_panic(ended);
    }
}

/// A fault of one session ends that session only.
fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session ended by a fault of pgweir");
    }
}

async fn serve_client(incoming: Incoming, worker: Arc<Worker>, context: Context) {
    let Ok(stream) = incoming.stream.register() else {
        return;
    };
    let running = context.running.load_full();
    let timeout = running.config.limits.startup_timeout;
    let deadline = incoming.accepted_at + timeout;
    let admission = incoming.seat.admission();
    let clusters = context.clusters.load_full();
    let terms = Terms {
        config: &running.config,
        authenticator: &running.authenticator,
        clusters: &clusters,
        admission,
        tls_slots: &context.tls_slots,
        deadline,
    };
    match Box::pin(receive(Socket::from(stream), terms)).await {
        Ok(Outcome::Session(client)) => {
            let opened = open(client, worker, &context, &running.config);
            drop((running, clusters));
            let Some(opened) = opened else { return };
            context.metrics.clients().inc();
            let _counted = Counted(Arc::clone(&context.metrics));
            match opened {
                Opened::Session(session) => session.run().await,
                // Boxed: every session would keep room for what hardly any is.
                Opened::Replication(client) => Box::pin(client.run()).await,
            }
        }
        Ok(Outcome::Cancel { request, stream }) => {
            cancel(&request, &context.keys).await;
            drop(stream);
        }
        Err(error) => log_refusal(&error, incoming.peer),
    }
}

/// Counts one client until it is dropped.
struct Counted(Arc<Metrics>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients().dec();
    }
}

/// What an authenticated client is served by.
enum Opened {
    Session(Box<Session>),
    Replication(Box<ReplicationClient>),
}

fn open(
    client: Authenticated<Socket>,
    worker: Arc<Worker>,
    context: &Context,
    config: &Config,
) -> Option<Opened> {
    let name = &config.clusters.get(client.cluster)?.name;
    let clusters = context.clusters.load();
    let cluster = clusters
        .iter()
        .find(|cluster| cluster.config.name == *name)?;
    let registration = context.keys.register(KeyLength::for_minor(client.minor))?;
    let pairs = client
        .parameters
        .into_iter()
        .map(|parameter| (parameter.name, parameter.value));
    let own = client
        .settings
        .into_iter()
        .map(|parameter| (parameter.name, parameter.value));
    let startup = StartupParameters::new(pairs);
    if client.replication != Replication::None {
        return Some(Opened::Replication(Box::new(ReplicationClient {
            client: client.stream,
            cluster: Arc::clone(cluster),
            user: client.user,
            database: Arc::from(client.database),
            startup: Arc::new(startup.speaking(client.replication)),
            registration,
            worker: worker.id,
            shutdown: context.shutdown.clone(),
        })));
    }
    let max_message = config.limits.max_message_bytes;
    let session = Session::new(SessionParts {
        client: client.stream,
        worker,
        clusters: Arc::clone(&context.clusters),
        cluster: Arc::clone(cluster),
        user: client.user,
        database: Arc::from(client.database),
        startup: Arc::new(startup),
        settings: own.collect(),
        registration,
        shutdown: context.shutdown.clone(),
        max_message_bytes: u32::try_from(max_message).unwrap_or(u32::MAX),
    });
    Some(Opened::Session(Box::new(session)))
}

async fn cancel(request: &CancelRequest, keys: &CancelKeys) {
    let Some(target) = keys.lookup(request.process_id, &request.key) else {
        return;
    };
    let deadline = std::time::Instant::now() + CANCEL_TIMEOUT;
    if let Err(error) = target.cancel(deadline).await {
        tracing::warn!(%error, "could not pass on a cancel request");
    }
}

fn log_refusal(error: &HandshakeError, peer: ClientAddress) {
    match error {
        HandshakeError::Refused(
            ProxyError::AuthenticationFailed { .. } | ProxyError::CertificateRefused { .. },
        ) => {
            tracing::info!(%peer, error = error as &dyn std::error::Error, "login refused");
        }
        HandshakeError::Refused(_)
        | HandshakeError::Closed(_)
        | HandshakeError::Tls(_)
        | HandshakeError::Silent => {
            tracing::debug!(%peer, error = error as &dyn std::error::Error, "no session");
        }
    }
}
