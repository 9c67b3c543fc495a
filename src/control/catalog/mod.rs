//! Keeps the catalog knowledge of every database in use current.
//!
//! Invariants:
//! * Only the primary is asked: a replica's catalog may be behind.
//! * A catalog is published with the mark taken before its load began, so that DDL seen meanwhile
//!   makes it old at once.
//! * Every step has a deadline and every retry a pause; without a catalog reads go to the primary.

mod rows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::Client;

use crate::backend::error::ConnectError;
use crate::config::ClusterConfig;
use crate::control::connect::{OpenError, connect};
use crate::core::catalog::Catalog;
use crate::world::{ClusterWorld, DatabaseCatalog};

/// How old a catalog becomes when nobody was seen to change it: DDL that does not pass through
/// pgweir is noticed after this time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// How long one load may take, connecting included.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The pause after a failure doubles between these.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Why a catalog could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server cannot be reached, or not encrypted as it has to be.
    #[error("cannot connect to the primary")]
    Socket(#[source] ConnectError),
    /// The server does not let the monitor's role in.
    #[error("cannot connect to the primary")]
    Connect(#[source] tokio_postgres::Error),
    /// A query failed.
    #[error("cannot read {what} of the catalog")]
    Query {
        /// What was read.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// There is more than `core::catalog::ROWS_LIMIT` of something.
    #[error("the catalog has too many {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// The node that was asked is in recovery.
    #[error("the node is not a primary")]
    NotPrimary,
    /// The configured nodes do not contain the primary of the snapshot.
    #[error("the primary is not a configured node")]
    UnknownNode,
    /// It took longer than the deadline.
    #[error("the catalog was not loaded within its deadline")]
    Deadline,
}

impl From<OpenError> for CatalogError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Socket(error) => Self::Socket(error),
            OpenError::Login(error) => Self::Connect(error),
        }
    }
}

/// Reads the catalog of the database that `client` is connected to, in one read-only transaction.
/// Any role will do. The caller sets the deadline; after an error or when the future is dropped, the
/// connection must be closed.
///
/// # Errors
/// A query failed, the server is in recovery, or the catalog is larger than the limits.
pub async fn load(client: &Client) -> Result<Catalog, CatalogError> {
    rows::load(client).await
}

/// Loads the catalog of every database that is asked for in `world`, at once and again after DDL and
/// every minute. Never returns; all of its connections close when it is dropped.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn keep_current(cluster: Arc<ClusterConfig>, world: Arc<ClusterWorld>) {
    let mut keepers = JoinSet::new();
    let mut started: Vec<Arc<str>> = Vec::new();
    loop {
        world.catalogs.more_than(started.len()).await;
        for (database, catalog) in world.catalogs.all() {
            if !started.contains(&database) {
                started.push(Arc::clone(&database));
                let keeper = Keeper {
                    cluster: Arc::clone(&cluster),
                    world: Arc::clone(&world),
                    database,
                    catalog,
                };
                keepers.spawn(keeper.run());
            }
        }
    }
}

/// Keeps one database's catalog.
#[derive(Debug)]
struct Keeper {
    cluster: Arc<ClusterConfig>,
    world: Arc<ClusterWorld>,
    database: Arc<str>,
    catalog: Arc<DatabaseCatalog>,
}

/// A connection with the task that drives it; both end together.
#[derive(Debug)]
struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    node: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Keeper {
    async fn run(self) {
        let mut connection = None;
        let mut pause = RETRY_PAUSES.0;
        loop {
            let due_early = tokio::select! {
                () = self.catalog.load_due() => true,
                () = tokio::time::sleep(REFRESH_INTERVAL) => false,
            };
            if !due_early {
                connection = None;
            }
            let began = Instant::now();
            match self.load_once(&mut connection).await {
                Ok(()) => {
                    pause = RETRY_PAUSES.0;
                    // Under constant DDL at most half of the time is spent loading.
                    tokio::time::sleep(began.elapsed()).await;
                }
                Err(error) => {
                    connection = None;
                    self.report(&error);
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(RETRY_PAUSES.1);
                }
            }
        }
    }

    fn report(&self, error: &CatalogError) {
        tracing::warn!(
            cluster = %self.cluster.name,
            database = %self.database,
            error = %error,
            cause = std::error::Error::source(error).map(tracing::field::display),
            "catalog not loaded; reads of this database go to the primary"
        );
    }

    async fn load_once(&self, connection: &mut Option<Connection>) -> Result<(), CatalogError> {
        let primary = self
            .world
            .routing
            .wait_for(|snapshot| snapshot.primary)
            .await
            .index();
        if connection
            .as_ref()
            .is_some_and(|c| c.node != primary || c.client.is_closed())
        {
            *connection = None;
        }
        let work = async {
            let connected = match connection.take() {
                Some(open) => open,
                None => self.connect(primary).await?,
            };
            let mark = self.catalog.ddl_mark();
            let loaded = load(&connected.client).await?;
            self.catalog.publish(mark, Arc::new(loaded));
            *connection = Some(connected);
            Ok(())
        };
        match tokio::time::timeout(LOAD_DEADLINE, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CatalogError::Deadline),
        }
    }

    async fn connect(&self, node: usize) -> Result<Connection, CatalogError> {
        connect_to(&self.cluster, node, &self.database).await
    }
}

async fn connect_to(
    cluster: &ClusterConfig,
    node: usize,
    database: &str,
) -> Result<Connection, CatalogError> {
    let node_config = cluster.nodes.get(node).ok_or(CatalogError::UnknownNode)?;
    let mut login = tokio_postgres::Config::new();
    login
        .user(&cluster.monitor.user)
        .password(cluster.monitor.password.expose())
        .dbname(database)
        .application_name("pgweir catalog");
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let connecting = connect(node_config, &cluster.server_tls, login, deadline);
    let (client, driver) = tokio::time::timeout_at(deadline.into(), connecting)
        .await
        .map_err(|_| CatalogError::Deadline)??;
    let driver = tokio::spawn(async move {
        // The client's own calls report what went wrong.
        let _ended = driver.await;
    });
    Ok(Connection {
        client,
        driver,
        node,
    })
}

/// Loads the catalog of `database` once, from whichever configured node is the primary.
///
/// # Errors
/// The last node's error when none of them is a primary that can be asked.
pub async fn load_from_primary(
    cluster: &ClusterConfig,
    database: &str,
) -> Result<Catalog, CatalogError> {
    let mut last = CatalogError::UnknownNode;
    for node in 0..cluster.nodes.len() {
        let attempt = async { load(&connect_to(cluster, node, database).await?.client).await };
        match tokio::time::timeout(LOAD_DEADLINE, attempt).await {
            Ok(Ok(catalog)) => return Ok(catalog),
            Ok(Err(error)) => last = error,
            Err(_) => last = CatalogError::Deadline,
        }
    }
    Err(last)
}
