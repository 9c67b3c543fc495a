//! Pools of server connections: one per (node, database, user), at most `pool.size` each. So what one
//! role logs in with opens connections that only sessions of that role get.
//!
//! Invariants:
//! * No lock is held across an await, or while a connection is opened or closed.
//! * Whoever holds a [`Lease`] is the only user of its connection. Dropping it closes the socket;
//!   only [`Lease::give_back`] returns the connection.
//! * Waiting is first come, first served: a connection or free place goes straight to the one who
//!   has waited longest, or if an idle connection will not do for that one, to one behind it.
//! * A pool that is full is reported as [`CheckoutError::Timeout`] or
//!   [`CheckoutError::TooManyWaiters`], never as a failure of the node.
//!
//! Must not retry a failed connect: whether another node may serve is not decided here.

mod home;
mod lease;
mod node;
mod queue;
mod state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::connect::{Target, connect};
use crate::backend::connection::{BackendConnection, ConnectionId, ReportedParameters, WorkerId};
use crate::backend::custom::WantedNames;
use crate::backend::error::ConnectError;
use crate::backend::home::{Home, HomeKey};
use crate::backend::login::NodeLogin;
use crate::backend::startup::StartupParameters;
use crate::config::ClusterConfig;
use crate::core::snapshot::NodeId;
use crate::credential::hashing::Hashing;
use crate::limits::BACKEND_CONNECT_TIMEOUT;
use crate::metrics::{ClusterMetrics, EvictionCause, PoolState};

pub use lease::{Lease, PoolHandle};
use node::NodePools;

/// What a checkout asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The node.
    pub node: NodeId,
    /// The database.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
    /// What the connection must have been opened with.
    pub startup: Arc<StartupParameters>,
}

/// Which of several idle connections the caller likes best, and which will not do.
#[derive(Debug, Clone)]
pub struct Preference {
    /// The connection whose process id its client was told.
    pub home: Option<HomeKey>,
    /// The connection that it used last.
    pub last: Option<ConnectionId>,
    /// The worker thread that it runs on.
    pub worker: WorkerId,
    /// The names of customized options that it is to find there.
    pub names: WantedNames,
}

/// No connection was handed out.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// None became free within `pool.checkout_timeout`.
    #[error("no server connection became free within {0:?}")]
    Timeout(Duration),
    /// Too many clients wait for this pool already.
    #[error("too many clients are waiting for a server connection")]
    TooManyWaiters,
    /// The node has too many pools already.
    #[error("too many different databases and users")]
    TooManyPools,
    /// The pools are closing.
    #[error("the pools are closing")]
    Closed,
    /// There is no node with this id.
    #[error("no such node")]
    UnknownNode,
    /// A new connection could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// How many connections there are, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// In the pool.
    pub idle: usize,
    /// Handed out.
    pub active: usize,
    /// Being opened.
    pub connecting: usize,
    /// Not connections: clients that wait for one.
    pub waiting: usize,
}

impl PoolCounts {
    fn add(&mut self, other: Self) {
        self.idle += other.idle;
        self.active += other.active;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
    }
}

/// One pool, for the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The node.
    pub node: NodeId,
    /// The database.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
    /// What it holds.
    pub counts: PoolCounts,
}

/// Is told what the pools do; called without any lock held.
pub trait PoolObserver: Send + Sync + fmt::Debug {
    /// A checkout had to wait this long in the queue, successfully or not. Checkouts that found a
    /// connection or a free place at once are not reported.
    fn waited(&self, node: NodeId, wait: Duration);

    /// The state of all pools of one node, at every [`Pools::reap`].
    fn counted(&self, node: NodeId, counts: PoolCounts);

    /// An idle connection was closed to make room for another one.
    fn evicted(&self, node: NodeId, cause: EvictionCause);
}

impl PoolObserver for ClusterMetrics {
    fn waited(&self, _: NodeId, wait: Duration) {
        self.observe_pool_wait(wait);
    }

    fn evicted(&self, _: NodeId, cause: EvictionCause) {
        self.count_eviction(cause);
    }

    fn counted(&self, node: NodeId, counts: PoolCounts) {
        for (state, count) in [
            (PoolState::Idle, counts.idle),
            (PoolState::Active, counts.active),
            (PoolState::Connecting, counts.connecting),
        ] {
            let gauge = self.pool_connections(node, state);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl PoolObserver for Unobserved {
    fn waited(&self, _: NodeId, _: Duration) {}
    fn counted(&self, _: NodeId, _: PoolCounts) {}
    fn evicted(&self, _: NodeId, _: EvictionCause) {}
}

/// What all pools of a cluster share.
#[derive(Debug)]
struct Shared {
    cluster: Arc<ClusterConfig>,
    observer: Arc<dyn PoolObserver>,
    hashing: Hashing,
    next_id: AtomicU64,
}

impl Shared {
    fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

/// All server connections to the nodes of one cluster.
#[derive(Debug)]
pub struct Pools {
    shared: Arc<Shared>,
    /// By `NodeId`.
    nodes: Box<[NodePools]>,
}

impl Pools {
    /// Empty pools for the nodes of `cluster`; `hashing` derives keys from passwords.
    pub fn new(
        cluster: Arc<ClusterConfig>,
        observer: Arc<dyn PoolObserver>,
        hashing: Hashing,
    ) -> Self {
        let ids = (0..=u16::MAX).map(NodeId).zip(&cluster.nodes);
        let nodes = ids.map(|(id, _)| NodePools::new(id)).collect();
        let shared = Shared {
            cluster,
            observer,
            hashing,
            next_id: AtomicU64::new(1),
        };
        Self {
            shared: Arc::new(shared),
            nodes,
        }
    }

    /// Hands out an idle connection, or opens one, or waits for one. `now` is the current instant;
    /// `login` is used only when a connection is opened.
    ///
    /// Waits at most `pool.checkout_timeout` for its turn and then, if a connection must be opened,
    /// at most `BACKEND_CONNECT_TIMEOUT` for that.
    ///
    /// # Errors
    /// When none becomes free in time, opening fails, or a bound is reached.
    ///
    /// # Cancel safety
    /// When the future is dropped, its place in the queue is given up; a connection that it was opening
    /// or that has just been handed to it is closed.
    pub async fn checkout(
        &self,
        key: &PoolKey,
        login: &NodeLogin,
        preference: &Preference,
        now: Instant,
    ) -> Result<Lease, CheckoutError> {
        let pool = self.node(key.node)?.pool(&self.shared, key)?;
        pool.checkout(&key.startup, login, preference, now).await
    }

    /// Like [`Self::checkout`], but only an idle connection; never waits, never opens one.
    /// To be called inside the runtime of the preferred worker, as [`Self::checkout`] is.
    pub fn checkout_idle(&self, key: &PoolKey, preference: &Preference) -> Option<Lease> {
        let pool = self.node(key.node).ok()?.find(&key.database, &key.user)?;
        pool.checkout_idle(&key.startup, preference)
    }

    /// Opens a connection that belongs to no pool and is not counted: it is the caller's until it is
    /// dropped.
    ///
    /// # Errors
    /// When there is no such node, or it cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// When the future is dropped the socket is closed.
    pub async fn open_apart(
        &self,
        key: &PoolKey,
        login: &NodeLogin,
        worker: WorkerId,
    ) -> Result<BackendConnection, ConnectError> {
        let shared = &self.shared;
        let node = shared.cluster.nodes.get(key.node.index());
        let target = Target {
            id: key.node,
            node: node.ok_or(ConnectError::Protocol("no such node"))?,
            tls: &shared.cluster.server_tls,
            database: &key.database,
            user: &key.user,
            login,
            startup: &key.startup,
        };
        let deadline = Instant::now() + BACKEND_CONNECT_TIMEOUT;
        let name = (shared.next_id(), worker);
        let opened = connect(target, &shared.hashing, name, deadline).await;
        opened.inspect_err(|error| login.note(error))
    }

    /// The connection that a new session of the caller's worker is to tell its client of: one that is
    /// nobody's home, else a new one if the pool has room, else the one with the fewest owners.
    /// `None` if there is none by `deadline`, and none can be opened.
    ///
    /// # Cancel safety
    /// As [`Self::checkout`].
    pub async fn home(
        &self,
        key: &PoolKey,
        login: &NodeLogin,
        worker: WorkerId,
        deadline: Instant,
    ) -> Option<Home> {
        let pool = self.node(key.node).ok()?.pool(&self.shared, key).ok()?;
        pool.home(&key.startup, login, worker, deadline).await
    }

    /// Closes the idle connections of `node`; those in use are closed when they come back. For when
    /// the node's role, timeline or incarnation has changed.
    pub fn close_idle(&self, node: NodeId) {
        if let Ok(node) = self.node(node) {
            node.start_generation();
        }
    }

    /// Closes the idle connections to `database`, of every node and user.
    pub fn leave_database(&self, database: &str) {
        for pool in self
            .nodes
            .iter()
            .flat_map(|node| node.of_database(database))
        {
            pool.close_idle();
        }
    }

    /// What the newest connection with this database, user and start-up parameters, to whichever
    /// node, has reported; `None` if there was none since the pools of its node were last closed.
    pub fn startup_parameters(
        &self,
        database: &str,
        user: &str,
        startup: &StartupParameters,
    ) -> Option<ReportedParameters> {
        let pools = self
            .nodes
            .iter()
            .filter_map(|node| node.find(database, user));
        let reported = pools.filter_map(|pool| pool.reported(startup));
        reported.max_by_key(|(at, _)| *at).map(|(_, list)| list)
    }

    /// Closes connections that have been idle or alive too long, or whose node has closed them, and
    /// reports the counts to the observer. To be called every second or so.
    pub fn reap(&self, now: Instant) {
        for node in &self.nodes {
            let counts = node.reap(now);
            self.shared.observer.counted(node.id(), counts);
        }
    }

    /// Closes everything: idle connections now, those in use when they come back. Waiting and
    /// further checkouts fail with [`CheckoutError::Closed`].
    pub fn close_all(&self) {
        for node in &self.nodes {
            node.close();
        }
    }

    /// The counts of one node; zeros for a node that does not exist.
    pub fn counts(&self, node: NodeId) -> PoolCounts {
        let mut sum = PoolCounts::default();
        for status in self.node(node).map(NodePools::status).unwrap_or_default() {
            sum.add(status.counts);
        }
        sum
    }

    /// Every pool.
    pub fn status(&self) -> Vec<PoolStatus> {
        self.nodes.iter().flat_map(NodePools::status).collect()
    }

    fn node(&self, id: NodeId) -> Result<&NodePools, CheckoutError> {
        self.nodes.get(id.index()).ok_or(CheckoutError::UnknownNode)
    }
}

#[cfg(test)]
mod tests;
