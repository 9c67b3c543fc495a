//! Looks up roles that the configuration does not name (`auth.query`).
//!
//! Invariants:
//! * One connection of a cluster, to the primary or, while there is none, to a replica that reads may
//!   be sent to; at most [`ROLE_LOOKUPS`] queries at once on it.
//! * Every step has a deadline. What cannot be answered is given up at once, so that whoever asked
//!   learns it.
//! * What is found is never logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{timeout, timeout_at};
use tokio_postgres::{Client, Row, Statement};

use crate::backend::error::ConnectError;
use crate::config::{ClusterConfig, RoleLookup};
use crate::control::connect::{OpenError, connect};
use crate::core::snapshot::{Eligibility, NodeId, NodeRole};
use crate::credential::StoredPassword;
use crate::limits::{ROLE_LOOKUP_IDLE, ROLE_LOOKUP_PAUSE, ROLE_LOOKUP_STEP, ROLE_LOOKUPS};
use crate::world::{ClusterWorld, RoleQuestion};

/// How often at most a failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why a role could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum RoleLookupError {
    /// There is no primary, and no replica that reads may be sent to.
    #[error("there is no node to ask")]
    NoNode,
    /// The node cannot be reached, or not encrypted as it has to be.
    #[error("cannot connect")]
    Socket(#[source] ConnectError),
    /// The node does not let the role in that asks.
    #[error("cannot log in")]
    Connect(#[source] tokio_postgres::Error),
    /// The query failed.
    #[error("the query failed")]
    Query(#[source] tokio_postgres::Error),
    /// The query has not one parameter, or its answer is not one row of name and password.
    #[error(
        "the query must take a name as $1 and answer with one row: name and password, or the password"
    )]
    Shape,
    /// It took longer than [`ROLE_LOOKUP_STEP`].
    #[error("there was no answer in time")]
    Deadline,
}

impl From<OpenError> for RoleLookupError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Socket(error) => Self::Socket(error),
            OpenError::Login(error) => Self::Connect(error),
        }
    }
}

/// Answers what is asked of `world`, if the cluster's roles are looked up. Ends only in that case; its
/// connection closes when it is dropped.
///
/// # Cancel safety
/// May be dropped at any time; who waits for an answer then gets none.
pub async fn answer_lookups(cluster: Arc<ClusterConfig>, world: Arc<ClusterWorld>) {
    let Some(lookup) = &cluster.role_lookup else {
        return;
    };
    let mut inbox = world.roles.inbox().await;
    let mut desk = Desk {
        cluster: &cluster,
        lookup,
        world: &world,
        connection: None,
        failed_at: None,
        logged_at: None,
        under_way: JoinSet::new(),
    };
    desk.serve(&mut inbox).await;
}

/// Tries whether `auth.query` works: asks the nodes of `cluster` in turn for the role that asks itself,
/// until one answers. What is found does not matter.
///
/// # Errors
/// The last node's error when none answers.
pub async fn try_lookup(cluster: &ClusterConfig) -> Result<(), RoleLookupError> {
    let Some(lookup) = &cluster.role_lookup else {
        return Ok(());
    };
    let mut last = RoleLookupError::NoNode;
    for node in (0..=u16::MAX).map(NodeId).take(cluster.nodes.len()) {
        let tried = async {
            let connection = Connection::open(cluster, lookup, node).await?;
            connection.look_up(&lookup.user).await
        };
        match tried.await {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Who answers.
struct Desk<'a> {
    cluster: &'a ClusterConfig,
    lookup: &'a RoleLookup,
    world: &'a ClusterWorld,
    connection: Option<Arc<Connection>>,
    failed_at: Option<Instant>,
    logged_at: Option<Instant>,
    under_way: JoinSet<Result<(), RoleLookupError>>,
}

impl Desk<'_> {
    async fn serve(&mut self, inbox: &mut mpsc::Receiver<RoleQuestion>) {
        loop {
            let room = self.under_way.len() < ROLE_LOOKUPS;
            let idle = self.under_way.is_empty();
            tokio::select! {
                Some(ended) = self.under_way.join_next() => {
                    if let Ok(Err(error)) = ended {
                        self.report(&error);
                    }
                }
                question = inbox.recv(), if room => match question {
                    Some(question) => self.take(question).await,
                    None => return,
                },
                () = tokio::time::sleep(ROLE_LOOKUP_IDLE), if idle && self.connection.is_some() => {
                    self.connection = None;
                }
            }
        }
    }

    /// Has a question answered, or drops it.
    async fn take(&mut self, question: RoleQuestion) {
        if question.answer.is_closed() {
            return;
        }
        let connection = match self.connected().await {
            Ok(Some(connection)) => connection,
            Ok(None) => return,
            Err(error) => {
                self.failed_at = Some(Instant::now());
                self.report(&error);
                return;
            }
        };
        self.under_way.spawn(async move {
            let RoleQuestion { user, answer } = question;
            let stored = connection.look_up(&user).await?;
            // Whoever asked may have gone meanwhile.
            drop(answer.send(stored));
            Ok(())
        });
    }

    /// A connection to the right node; `None` just after one could not be had.
    async fn connected(&mut self) -> Result<Option<Arc<Connection>>, RoleLookupError> {
        let node = self.node().await.ok_or(RoleLookupError::NoNode)?;
        if let Some(open) = &self.connection
            && open.node == node
            && open.is_usable()
        {
            return Ok(Some(Arc::clone(open)));
        }
        self.connection = None;
        if self
            .failed_at
            .is_some_and(|at| at.elapsed() < ROLE_LOOKUP_PAUSE)
        {
            return Ok(None);
        }
        let opened = Connection::open(self.cluster, self.lookup, node).await?;
        let opened = Arc::new(opened);
        self.connection = Some(Arc::clone(&opened));
        self.failed_at = None;
        Ok(Some(opened))
    }

    /// The primary; else a replica that reads may be sent to.
    async fn node(&self) -> Option<NodeId> {
        let found = || {
            let snapshot = self.world.routing.load();
            let mut nodes = snapshot.nodes.iter();
            let serves = |role, eligibility| {
                role == NodeRole::Replica && eligibility == Eligibility::Eligible
            };
            let replica = nodes.find(|node| serves(node.role, node.eligibility));
            snapshot.primary.or_else(|| replica.map(|node| node.id))
        };
        match found() {
            Some(node) => Some(node),
            None if self.world.becomes_measured().await => found(),
            None => None,
        }
    }

    fn report(&mut self, error: &RoleLookupError) {
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        self.logged_at = Some(Instant::now());
        tracing::warn!(
            cluster = %self.cluster.name,
            error = error as &dyn std::error::Error,
            "could not look up a role"
        );
    }
}

/// A connection with the task that drives it; both end together.
struct Connection {
    client: Client,
    query: Statement,
    driver: JoinHandle<()>,
    node: NodeId,
    /// A query was not answered in time.
    stuck: AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(
        cluster: &ClusterConfig,
        lookup: &RoleLookup,
        node: NodeId,
    ) -> Result<Self, RoleLookupError> {
        let config = cluster.nodes.get(node.index());
        let config = config.ok_or(RoleLookupError::NoNode)?;
        let mut login = tokio_postgres::Config::new();
        login
            .user(&lookup.user)
            .password(lookup.password.expose())
            .dbname(&lookup.database)
            .application_name("pgweir roles");
        let deadline = Instant::now() + ROLE_LOOKUP_STEP;
        let opening = async {
            let (client, driver) = connect(config, &cluster.server_tls, login, deadline).await?;
            let driver = tokio::spawn(async move {
                // The client's own calls report what went wrong.
                let _ended = driver.await;
            });
            let prepared = client.prepare(&lookup.query).await;
            let query = match prepared {
                Ok(query) if query.params().len() == 1 => Ok(query),
                Ok(_) => Err(RoleLookupError::Shape),
                Err(error) => Err(RoleLookupError::Query(error)),
            };
            let query = query.inspect_err(|_| driver.abort())?;
            Ok(Self {
                client,
                query,
                driver,
                node,
                stuck: AtomicBool::new(false),
            })
        };
        let opened = timeout_at(deadline.into(), opening).await;
        opened.unwrap_or(Err(RoleLookupError::Deadline))
    }

    fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.stuck.load(Ordering::Acquire)
    }

    /// What is stored of the password of `user`.
    async fn look_up(&self, user: &str) -> Result<Option<StoredPassword>, RoleLookupError> {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&user];
        let asking = self.client.query(&self.query, &parameters);
        let answered = timeout(ROLE_LOOKUP_STEP, asking).await.map_err(|_| {
            self.stuck.store(true, Ordering::Release);
            RoleLookupError::Deadline
        });
        let rows = answered?.map_err(RoleLookupError::Query)?;
        match rows.as_slice() {
            [] => Ok(None),
            [row] => read(row, user),
            [_, _, ..] => Err(RoleLookupError::Shape),
        }
    }
}

/// Name and password, or the password alone, as PgBouncer's `auth_query` has them.
fn read(row: &Row, user: &str) -> Result<Option<StoredPassword>, RoleLookupError> {
    let text = |column| {
        let read = row.try_get::<_, Option<&str>>(column);
        read.map_err(|_| RoleLookupError::Shape)
    };
    let stored = match row.len() {
        1 => text(0)?,
        2 if text(0)?.is_none_or(|name| name != user) => None,
        2 => text(1)?,
        _ => return Err(RoleLookupError::Shape),
    };
    Ok(stored.and_then(StoredPassword::parse))
}
