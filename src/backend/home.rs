//! Homes: the connections whose process ids clients have been told.
//!
//! Invariant: counts of owners and what has been closed are hints for choices made under a pool's lock;
//! nothing is unsafe if they are a moment old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::backend::connection::{ConnectionId, WorkerId};
use crate::backend::startup::StartupParameters;

/// What is known of a connection apart from itself: outlives it.
#[derive(Debug)]
pub(in crate::backend) struct Residence {
    id: ConnectionId,
    process_id: i32,
    pub(in crate::backend) startup: Arc<StartupParameters>,
    worker: AtomicU16,
    owners: AtomicU32,
    /// The only session that may use it, [`ANYBODY`] or [`NOBODY`].
    only_for: AtomicU64,
    closed: AtomicBool,
}

const ANYBODY: u64 = 0;
/// The session that alone could use the connection has ended.
const NOBODY: u64 = u64::MAX;

impl Residence {
    pub(in crate::backend) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// How many sessions have it as their home.
    pub(in crate::backend) fn owners(&self) -> u32 {
        self.owners.load(Ordering::Relaxed)
    }

    /// Whether any session may have it as its home.
    pub(in crate::backend) fn is_for_all(&self) -> bool {
        self.only_for.load(Ordering::Relaxed) == ANYBODY
    }

    pub(in crate::backend) fn worker(&self) -> WorkerId {
        WorkerId(self.worker.load(Ordering::Relaxed))
    }
}

/// A connection's own part of its `Residence`, which says until when there is one.
#[derive(Debug)]
pub struct Anchor(Arc<Residence>);

impl Anchor {
    /// For a connection of the caller's worker with this name and process.
    pub(crate) fn new(
        (id, worker): (ConnectionId, WorkerId),
        process_id: i32,
        startup: &Arc<StartupParameters>,
    ) -> Self {
        Self(Arc::new(Residence {
            id,
            process_id,
            startup: Arc::clone(startup),
            worker: AtomicU16::new(worker.0),
            owners: AtomicU32::new(0),
            only_for: AtomicU64::new(ANYBODY),
            closed: AtomicBool::new(false),
        }))
    }

    /// The connection is another worker's now.
    pub(crate) fn moved(&self, worker: WorkerId) {
        self.0.worker.store(worker.0, Ordering::Relaxed);
    }

    /// Whether a living session has the connection as its home.
    pub(in crate::backend) fn is_owned(&self) -> bool {
        self.0.owners() > 0
    }

    /// Lets no other session use the connection any more, as something of this one's is left on it that
    /// cannot be removed. `home` is the session's, and says when it ends.
    pub fn keep_for(&self, home: &Home) {
        self.0.only_for.store(home.session, Ordering::Relaxed);
    }

    /// Whether the session with this home may use the connection.
    pub(in crate::backend) fn is_for(&self, home: Option<HomeKey>) -> bool {
        let only_for = self.0.only_for.load(Ordering::Relaxed);
        only_for == ANYBODY || home.is_some_and(|home| home.session == only_for)
    }

    /// Whether nobody may use the connection.
    pub(in crate::backend) fn is_left(&self) -> bool {
        self.0.only_for.load(Ordering::Relaxed) == NOBODY
    }

    pub(in crate::backend) fn residence(&self) -> &Arc<Residence> {
        &self.0
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

/// Which session asks for which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeKey {
    /// The connection.
    pub(in crate::backend) connection: ConnectionId,
    /// The session, to the pool.
    pub(in crate::backend) session: u64,
}

/// A session's claim to one connection, until it is dropped. The connection may end earlier.
#[derive(Debug)]
pub struct Home {
    residence: Arc<Residence>,
    /// Random, so that it is hardly ever [`ANYBODY`] or [`NOBODY`].
    session: u64,
}

impl Home {
    pub(in crate::backend) fn claim(residence: &Arc<Residence>) -> Self {
        residence.owners.fetch_add(1, Ordering::Relaxed);
        Self {
            residence: Arc::clone(residence),
            session: rand::random(),
        }
    }

    /// What the pool knows it by.
    pub fn key(&self) -> HomeKey {
        HomeKey {
            connection: self.residence.id,
            session: self.session,
        }
    }

    /// The connection.
    pub fn connection(&self) -> ConnectionId {
        self.residence.id
    }

    /// Its process on the node; 0 if the node named none.
    pub fn process_id(&self) -> i32 {
        self.residence.process_id
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let residence = &self.residence;
        residence.owners.fetch_sub(1, Ordering::Relaxed);
        if residence.only_for.load(Ordering::Relaxed) == self.session {
            residence.only_for.store(NOBODY, Ordering::Relaxed);
        }
    }
}
