//! Keeps the catalog knowledge of every database in use current.
//!
//! Invariants:
//! * A replica is asked only when it is proved to be fresh as of the last DDL; else the primary is,
//!   with one statement at a time, so that no snapshot holds back its VACUUM for long.
//! * A catalog is published with the mark taken before its load began, so that DDL seen meanwhile
//!   stays doubtful.
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
use crate::core::snapshot::{Eligibility, Evidence, Incarnation, NodeId, NodeRole, NodeState};
use crate::world::{ClusterWorld, DatabaseCatalog, LoadFailure};

use rows::{Prepared, Reading, Remembered};

/// How old a catalog becomes when nobody was seen to change it: DDL that does not pass through
/// pgweir is noticed after this time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// The pause in DDL after which what it made doubtful is loaded although no read has wanted it.
const QUIET: Duration = Duration::from_millis(300);

/// How long to wait for a replica that is fresh enough to be asked; replication takes milliseconds.
const REPLICA_WAIT: Duration = Duration::from_secs(1);

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
    /// The node that was asked is not in recovery.
    #[error("the node is not a replica")]
    NotReplica,
    /// The replica that was asked is no longer known to be fresh.
    #[error("the replica is no longer known to be fresh")]
    NotFresh,
    /// The configured nodes do not contain the primary of the snapshot.
    #[error("the primary is not a configured node")]
    UnknownNode,
    /// It took longer than the deadline.
    #[error("the catalog was not loaded within its deadline")]
    Deadline,
}

impl CatalogError {
    /// What lies behind it, in the server's own words where it has said any.
    fn cause(&self) -> String {
        match self {
            Self::Connect(source) | Self::Query { source, .. } => match source.as_db_error() {
                Some(error) => error.message().to_owned(),
                None => source.to_string(),
            },
            Self::Socket(source) => source.to_string(),
            Self::TooLarge { .. }
            | Self::NotPrimary
            | Self::NotReplica
            | Self::NotFresh
            | Self::UnknownNode
            | Self::Deadline => String::new(),
        }
    }
}

impl CatalogError {
    fn failure(&self) -> LoadFailure {
        match self {
            Self::TooLarge { .. } | Self::Deadline => LoadFailure::Lasting,
            Self::Socket(_)
            | Self::Connect(_)
            | Self::Query { .. }
            | Self::NotPrimary
            | Self::NotReplica
            | Self::NotFresh
            | Self::UnknownNode => LoadFailure::Passing,
        }
    }
}

impl From<OpenError> for CatalogError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Socket(error) => Self::Socket(error),
            OpenError::Login(error) => Self::Connect(error),
        }
    }
}

/// Reads the catalog of the database that `client` is connected to, on a primary. Any role will do. The caller sets the deadline; after an error or when the future is dropped, the
/// connection must be closed.
///
/// # Errors
/// A query failed, the server is in recovery, or the catalog is larger than the limits.
pub async fn load(client: &Client) -> Result<Catalog, CatalogError> {
    let mut reading = Reading::new(client, Prepared::default());
    let mut nothing = Remembered::default();
    reading.load(NodeRole::Primary, &mut nothing).await
}

/// Loads the catalog of every database that is asked for in `world`: at once, again when a read wants
/// what DDL has touched or DDL has paused, and every minute. Never returns; all of its connections close when it is dropped.
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
    prepared: Prepared,
    driver: JoinHandle<()>,
    node: usize,
}

/// What a keeper has from its last load.
#[derive(Debug, Default)]
struct Kept {
    connection: Option<Connection>,
    remembered: Remembered,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A node to load from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    node: NodeId,
    role: NodeRole,
    incarnation: Option<Incarnation>,
}

impl Keeper {
    async fn run(self) {
        let mut kept = Kept::default();
        let mut pause = RETRY_PAUSES.0;
        let mut failing = None;
        loop {
            let due_early = tokio::select! {
                () = self.catalog.load_due(QUIET) => true,
                () = tokio::time::sleep(REFRESH_INTERVAL) => false,
                () = self.catalog.occupancy.is_to_be_left() => {
                    kept = Kept::default();
                    continue;
                }
            };
            let began = Instant::now();
            let mark = self.catalog.ddl_mark();
            let floor = if due_early {
                mark.at.unwrap_or(began)
            } else {
                kept = Kept::default();
                began
            };
            match self.load_once(&mut kept, floor).await {
                Ok(loaded) => {
                    self.catalog.note_load(began.elapsed());
                    self.catalog.publish(mark, loaded);
                    pause = RETRY_PAUSES.0;
                    failing = None;
                    // Under constant DDL a third of the time is left to others.
                    tokio::time::sleep(began.elapsed() / 2).await;
                }
                Err(error) => {
                    kept = Kept::default();
                    self.catalog.note_failed_load(error.failure());
                    self.report(&error, &mut failing);
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(RETRY_PAUSES.1);
                }
            }
        }
    }

    /// Logs a failure once, until there is another one or a success.
    fn report(&self, error: &CatalogError, failing: &mut Option<String>) {
        let cause = error.cause();
        let text = format!("{error}: {cause}");
        if failing.as_ref() == Some(&text) {
            return;
        }
        *failing = Some(text);
        tracing::warn!(
            cluster = %self.cluster.name,
            database = %self.database,
            error = %error,
            cause,
            "catalog not loaded; reads of this database go to the primary until it is"
        );
    }

    fn note_replica(&self, error: &CatalogError) {
        tracing::debug!(
            cluster = %self.cluster.name,
            database = %self.database,
            error = %error,
            "catalog not loaded from a replica; the primary is asked"
        );
    }

    /// Loads everything that was acknowledged before `floor`.
    async fn load_once(&self, kept: &mut Kept, floor: Instant) -> Result<Catalog, CatalogError> {
        let preferred = kept.connection.as_ref().map(|open| open.node);
        if let Some(replica) = self.fresh_replica(floor, preferred).await {
            match self.load_from(replica, kept).await {
                Ok(catalog) if self.is_still(replica, floor) => return Ok(catalog),
                Ok(_) => self.note_replica(&CatalogError::NotFresh),
                Err(error) => self.note_replica(&error),
            }
        }
        let routing = &self.world.routing;
        let primary = Origin {
            node: routing.wait_for(|snapshot| snapshot.primary).await,
            role: NodeRole::Primary,
            incarnation: None,
        };
        self.load_from(primary, kept).await
    }

    /// A replica that has everything acknowledged before `floor`, if there is one soon.
    async fn fresh_replica(&self, floor: Instant, preferred: Option<usize>) -> Option<Origin> {
        let routing = &self.world.routing;
        if !routing.load().nodes.iter().any(may_serve) {
            return None;
        }
        self.world.demand.ask(floor);
        let found = routing.wait_for(|snapshot| {
            let mut fresh = snapshot.nodes.iter().filter(|node| is_fresh(node, floor));
            let kept = fresh
                .clone()
                .find(|node| Some(node.id.index()) == preferred);
            kept.or_else(|| fresh.next()).map(|node| Origin {
                node: node.id,
                role: NodeRole::Replica,
                incarnation: node.incarnation,
            })
        });
        tokio::time::timeout(REPLICA_WAIT, found).await.ok()
    }

    /// Whether the replica has lived on since it was chosen: what is rebuilt may be older.
    fn is_still(&self, replica: Origin, floor: Instant) -> bool {
        let snapshot = self.world.routing.load();
        let node = snapshot.node(replica.node);
        node.is_some_and(|node| node.incarnation == replica.incarnation && is_fresh(node, floor))
    }

    async fn load_from(&self, origin: Origin, kept: &mut Kept) -> Result<Catalog, CatalogError> {
        let node = origin.node.index();
        let usable = |open: &Connection| open.node == node && !open.client.is_closed();
        let work = async {
            let mut connected = match kept.connection.take().filter(usable) {
                Some(open) => open,
                None => connect_to(&self.cluster, node, &self.database).await?,
            };
            let prepared = std::mem::take(&mut connected.prepared);
            let mut reading = Reading::new(&connected.client, prepared);
            let loaded = reading.load(origin.role, &mut kept.remembered).await?;
            connected.prepared = reading.finish();
            kept.connection = Some(connected);
            Ok(loaded)
        };
        match tokio::time::timeout(LOAD_DEADLINE, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CatalogError::Deadline),
        }
    }
}

/// Whether the node is a replica that reads may be sent to which need a proof.
fn may_serve(node: &NodeState) -> bool {
    node.role == NodeRole::Replica
        && node.eligibility == Eligibility::Eligible
        && node.weight > 0
        && node.lag.fresh_as_of(Evidence::Proved).is_some()
}

fn is_fresh(node: &NodeState, floor: Instant) -> bool {
    let fresh_as_of = node.lag.fresh_as_of(Evidence::Proved);
    may_serve(node) && node.incarnation.is_some() && fresh_as_of.is_some_and(|at| at >= floor)
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
        prepared: Prepared::default(),
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
