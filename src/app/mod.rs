//! Composition: builds every ring from a configuration and runs it.
//!
//! One thread accepts, measures and serves HTTP; each worker thread has a runtime of its own, on
//! which a session lives with all its sockets.

mod clusters;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::admin::{self, AdminState};
use crate::config::{self, Config, ListenAddress, ProcessEnvironment};
use crate::credential::hashing::Hashing;
use crate::frontend::auth::Authenticator;
use crate::frontend::cancel_keys::CancelKeys;
use crate::frontend::listener::{Listener, Seats};
use crate::limits::{DRAIN_TIMEOUT, REAP_INTERVAL, TLS_HANDSHAKES};
use crate::metrics::Metrics;
use crate::published::Published;

use clusters::RunningClusters;
use worker::{Running, WorkerThread};

/// Why the process ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No runtime or thread could be made.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
    /// A signal handler could not be installed.
    #[error("installing a signal handler")]
    Signal(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: ListenAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs the proxy that `config`, read from `path`, describes, until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start.
pub fn run(config: Config, path: PathBuf) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    let result = runtime.block_on(App::start(config, path)?.run());
    // What still runs on other threads ends with the process.
    runtime.shutdown_background();
    result
}

/// The whole process.
#[derive(Debug)]
struct App {
    path: PathBuf,
    metrics: Arc<Metrics>,
    running: Arc<Published<Running>>,
    clusters: RunningClusters,
    seats: Arc<Seats>,
    workers: Vec<WorkerThread>,
    shutdown: watch::Sender<bool>,
}

impl App {
    fn start(config: Config, path: PathBuf) -> Result<Self, Error> {
        let metrics = Metrics::new();
        let hashing = || Hashing::start().map_err(Error::Thread);
        let clusters =
            RunningClusters::new(Arc::clone(&metrics), hashing()?, config.causality.clone());
        let seats = Seats::new(config.limits.max_clients);
        let (shutdown, stops) = watch::channel(false);
        let workers = config.workers;
        let running = Arc::new(Published::new(Running {
            authenticator: Arc::new(Authenticator::new(&config, hashing()?)),
            config: Arc::new(config),
        }));
        let keys = Arc::new(CancelKeys::new(running.load().config.limits.max_clients));
        let tls_slots = Arc::new(Semaphore::new(TLS_HANDSHAKES));
        let served = clusters.served();
        let workers = (0..workers)
            .map(|id| {
                let context = worker::Context {
                    running: Arc::clone(&running),
                    clusters: Arc::clone(&served),
                    keys: Arc::clone(&keys),
                    metrics: Arc::clone(&metrics),
                    tls_slots: Arc::clone(&tls_slots),
                    shutdown: stops.clone(),
                };
                WorkerThread::start(id, context)
            })
            .collect::<Result<_, _>>()
            .map_err(Error::Thread)?;
        Ok(Self {
            path,
            metrics,
            running,
            clusters,
            seats,
            workers,
            shutdown,
        })
    }

    async fn run(mut self) -> Result<(), Error> {
        let mut signals = Signals::install()?;
        let running = self.running.load_full();
        self.clusters.follow(&running.config);
        running.authenticator.warm().await;
        let mut tasks = JoinSet::new();
        self.listen(&running.config, &mut tasks)?;
        self.serve_http(&running.config, &mut tasks).await?;
        let mut reap = tokio::time::interval(REAP_INTERVAL);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.reload.recv() => self.reload(),
                _ = reap.tick() => self.clusters.reap(Instant::now()),
            }
        }
        self.drain(&mut signals).await;
        tasks.shutdown().await;
        Ok(())
    }

    fn listen(&self, config: &Config, tasks: &mut JoinSet<()>) -> Result<(), Error> {
        for address in &config.listen {
            let listener = Listener::bind(address).map_err(|source| Error::Listen {
                address: address.clone(),
                source,
            })?;
            tracing::info!(address = %listener.address(), "listening");
            let handles = self.workers.iter().map(WorkerThread::handle).collect();
            tasks.spawn(listener.run(handles, Arc::clone(&self.seats), self.shutdown.subscribe()));
        }
        Ok(())
    }

    async fn serve_http(&self, config: &Config, tasks: &mut JoinSet<()>) -> Result<(), Error> {
        let Some(address) = config.http else {
            return Ok(());
        };
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen {
                address: ListenAddress::Tcp(address),
                source,
            })?;
        tracing::info!(address = %address, "serving metrics and health");
        let state = AdminState {
            metrics: Arc::clone(&self.metrics),
            clusters: self.clusters.shown(),
        };
        tasks.spawn(admin::serve(listener, state));
        Ok(())
    }

    /// All or nothing: a bad file changes nothing.
    fn reload(&mut self) {
        let config = match config::load(&self.path, &ProcessEnvironment) {
            Ok(config) => config,
            Err(errors) => {
                tracing::error!(%errors, "configuration not reloaded");
                return;
            }
        };
        let old = self.running.load_full();
        let keeps = config.listen == old.config.listen
            && config.http == old.config.http
            && config.workers == old.config.workers
            && config.causality == old.config.causality
            && config.log == old.config.log;
        if !keeps {
            tracing::warn!(
                "listen, http, workers, causality and log change at the next start only"
            );
        }
        self.seats.set_max_clients(config.limits.max_clients);
        self.clusters.follow(&config);
        let authenticator = Arc::new(old.authenticator.reloaded(&config));
        let warming = Arc::clone(&authenticator);
        tokio::spawn(async move { warming.warm().await });
        self.running.store(Arc::new(Running {
            authenticator,
            config: Arc::new(config),
        }));
        tracing::info!(path = %self.path.display(), "configuration reloaded");
    }

    /// Lets sessions end their transactions; a second signal or the deadline ends the wait.
    async fn drain(&mut self, signals: &mut Signals) {
        let clients = self.seats.admitted();
        tracing::info!(clients, "stopping: transactions under way may end");
        // All receivers may be gone already, if every worker has stopped.
        self.shutdown.send_replace(true);
        let ended = async {
            for worker in &mut self.workers {
                worker.ended().await;
            }
        };
        tokio::select! {
            () = ended => tracing::info!("stopped"),
            () = tokio::time::sleep(DRAIN_TIMEOUT) => {
                tracing::warn!(clients = self.seats.admitted(), "stopped with transactions open");
            }
            _ = signals.terminate.recv() => tracing::warn!("stopped at once"),
            _ = signals.interrupt.recv() => tracing::warn!("stopped at once"),
        }
    }
}

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn install() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(Error::Signal);
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            reload: install(SignalKind::hangup())?,
        })
    }
}

/// How long a client may take from accept to a failed cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
