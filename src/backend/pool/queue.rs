//! One pool: what is done about its state outside the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use super::lease::{Lease, Place, PlaceUse};
use super::node::NodeLife;
use super::state::{Offer, Room, State, Taken, Turn};
use super::{CheckoutError, PoolCounts, PoolKey, Preference, Shared};
use crate::backend::connect::{Target, connect};
use crate::backend::connection::{BackendConnection, ReportedParameters, WorkerId};
use crate::backend::error::ConnectError;
use crate::backend::home::Home;
use crate::backend::login::NodeLogin;
use crate::backend::startup::StartupParameters;
use crate::config::PoolConfig;
use crate::core::snapshot::NodeId;
use crate::limits::{BACKEND_CONNECT_TIMEOUT, WAITERS_PER_POOL};

/// The connections of one (node, database, user).
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    life: Arc<NodeLife>,
    node: NodeId,
    database: Arc<str>,
    user: Arc<str>,
    state: Mutex<State>,
    /// Told when an opening has ended, or a place is free.
    pub(super) settled: Notify,
}

impl Pool {
    pub(super) fn new(shared: &Arc<Shared>, life: &Arc<NodeLife>, key: &PoolKey) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            life: Arc::clone(life),
            node: key.node,
            database: Arc::clone(&key.database),
            user: Arc::clone(&key.user),
            state: Mutex::default(),
            settled: Notify::new(),
        })
    }

    pub(super) fn database(&self) -> &Arc<str> {
        &self.database
    }

    pub(super) fn user(&self) -> &Arc<str> {
        &self.user
    }

    pub(super) async fn checkout(
        self: &Arc<Self>,
        startup: &Arc<StartupParameters>,
        login: &NodeLogin,
        preference: &Preference,
        now: Instant,
    ) -> Result<Lease, CheckoutError> {
        loop {
            // Every turn of this loop but the last has closed a dead connection, and a pool has at
            // most `pool.size` of them.
            let turn = match self.take(startup, preference)? {
                Taken::Now(offer) => self.turn(offer),
                Taken::Later(ticket, turn) => self.wait(ticket, turn, now).await?,
            };
            match turn {
                Turn::Idle(lease) => {
                    if let Some(lease) = lease.checked(preference.worker) {
                        return Ok(lease);
                    }
                }
                Turn::Open(place) => {
                    let opening = self.open(place, startup, login, preference.worker);
                    return Ok(self.admit(opening.await?));
                }
            }
        }
    }

    pub(super) fn checkout_idle(
        self: &Arc<Self>,
        startup: &StartupParameters,
        preference: &Preference,
    ) -> Option<Lease> {
        loop {
            let idle = {
                let mut state = self.lock();
                if !state.waiters.is_empty() {
                    return None;
                }
                state.take_idle(startup, preference)?
            };
            if let Turn::Idle(lease) = self.turn(Offer::Idle(idle))
                && let Some(lease) = lease.checked(preference.worker)
            {
                return Some(lease);
            }
        }
    }

    /// What is there at once, or a place in the queue.
    fn take(
        self: &Arc<Self>,
        startup: &Arc<StartupParameters>,
        preference: &Preference,
    ) -> Result<Taken, CheckoutError> {
        let mut state = self.lock();
        if self.life.is_closed() {
            return Err(CheckoutError::Closed);
        }
        if state.waiters.is_empty()
            && let Some(offer) = state.offer(startup, preference, self.config(), Room::Made)
        {
            return Ok(Taken::Now(offer));
        }
        if state.waiters.len() >= WAITERS_PER_POOL {
            return Err(CheckoutError::TooManyWaiters);
        }
        let taken = state.enqueue(startup, preference);
        // What is idle will not do for those who wait already, and may do for this one.
        self.hand_over(state);
        Ok(taken)
    }

    /// Waits for the turn of `ticket`.
    async fn wait(
        self: &Arc<Self>,
        ticket: u64,
        mut turn: oneshot::Receiver<Turn>,
        now: Instant,
    ) -> Result<Turn, CheckoutError> {
        let queued = Queued { pool: self, ticket };
        let timeout = self.config().checkout_timeout;
        let deadline = now + timeout;
        let outcome = timeout_at(deadline.into(), &mut turn).await;
        let waited = Instant::now().saturating_duration_since(now);
        self.shared.observer.waited(self.node, waited);
        drop(queued);
        match outcome {
            Ok(Ok(turn)) => Ok(turn),
            // The sender is dropped without a turn only by `close`.
            Ok(Err(_)) => Err(CheckoutError::Closed),
            Err(_) => {
                // The turn may have come at the same moment as the deadline.
                turn.close();
                turn.try_recv().map_err(|_| CheckoutError::Timeout(timeout))
            }
        }
    }

    pub(super) async fn open(
        &self,
        place: Place,
        startup: &Arc<StartupParameters>,
        login: &NodeLogin,
        worker: WorkerId,
    ) -> Result<Opened, ConnectError> {
        let node = self.shared.cluster.nodes.get(self.node.index());
        let target = Target {
            id: self.node,
            node: node.ok_or(ConnectError::Protocol("no such node"))?,
            tls: &self.shared.cluster.server_tls,
            database: &self.database,
            user: &self.user,
            login,
            startup,
        };
        let generation = self.life.generation();
        let name = (self.shared.next_id(), worker);
        let deadline = Instant::now() + BACKEND_CONNECT_TIMEOUT;
        let opening = connect(target, &self.shared.hashing, name, deadline);
        let opened = opening.await.inspect_err(|error| login.note(error));
        let mut connection = Box::new(opened?);
        connection.generation = generation;
        Ok(Opened { connection, place })
    }

    /// Lets everybody know of a new connection.
    pub(super) fn admit(&self, opened: Opened) -> Lease {
        let Opened {
            connection,
            mut place,
        } = opened;
        self.lock().remember(&connection);
        place.opened();
        Lease::new(connection, place)
    }

    /// Takes back a clean connection whose place the pool counts again.
    pub(super) fn take_back(self: &Arc<Self>, connection: Box<BackendConnection>, now: Instant) {
        let mut state = self.lock();
        if !self.may_stay(&connection, now) {
            state.free(PlaceUse::Leased);
            self.hand_over(state);
            connection.terminate();
            return;
        }
        state.idle.push(connection);
        self.hand_over(state);
    }

    /// Whether nothing has happened to the node since the connection was opened.
    pub(super) fn is_current(&self, connection: &BackendConnection) -> bool {
        connection.generation == self.life.generation()
    }

    /// Whether an idle connection may be used again.
    fn may_stay(&self, connection: &BackendConnection, now: Instant) -> bool {
        let config = self.config();
        let age = now.saturating_duration_since(connection.opened_at);
        let idle = now.saturating_duration_since(connection.idle_since);
        self.is_current(connection)
            && !self.life.is_closed()
            && age < config.max_lifetime
            && idle < config.idle_timeout
    }

    /// Gives turns to those who wait, as long as there is something to give.
    fn hand_over<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        while let Some((waiter, offer)) = state.next_turn(self.config()) {
            drop(state);
            if let Err(unwanted) = waiter.send(self.turn(offer)) {
                self.undo(unwanted);
            }
            state = self.lock();
        }
    }

    /// The waiter has gone: its turn goes back to where it came from.
    fn undo(self: &Arc<Self>, turn: Turn) {
        match turn {
            Turn::Idle(lease) => {
                let connection = lease.into_connection();
                self.lock().idle.push(connection);
            }
            Turn::Open(place) => {
                place.forget();
                self.lock().free(PlaceUse::Opening);
            }
        }
    }

    pub(super) fn turn(self: &Arc<Self>, offer: Offer) -> Turn {
        let place = |used_for| Place::new(Arc::clone(self), used_for);
        match offer {
            Offer::Idle(connection) => Turn::Idle(Lease::new(connection, place(PlaceUse::Leased))),
            Offer::Open(evicted) => {
                if let Some(evicted) = evicted {
                    self.shared.observer.evicted(self.node, evicted.cause);
                    evicted.connection.terminate();
                }
                Turn::Open(place(PlaceUse::Opening))
            }
        }
    }

    /// Frees a place that was used for `used_for`.
    pub(super) fn free(self: &Arc<Self>, used_for: PlaceUse) {
        if used_for != PlaceUse::Returned {
            let mut state = self.lock();
            state.free(used_for);
            self.hand_over(state);
            self.settled.notify_waiters();
        }
    }

    /// A connection has been opened: another may be.
    pub(super) fn note_opened(self: &Arc<Self>) {
        let mut state = self.lock();
        state.opened();
        self.hand_over(state);
        self.settled.notify_waiters();
    }

    pub(super) fn reported(
        &self,
        startup: &StartupParameters,
    ) -> Option<(Instant, ReportedParameters)> {
        self.lock().reported(startup)
    }

    pub(super) fn close_idle(self: &Arc<Self>) {
        let mut state = self.lock();
        let idle = state.take_all_idle();
        self.hand_over(state);
        idle.into_iter().for_each(BackendConnection::terminate);
    }

    pub(super) fn close(self: &Arc<Self>) {
        let waiters = std::mem::take(&mut self.lock().waiters);
        drop(waiters);
        self.close_idle();
    }

    /// Closes idle connections that are too old or dead.
    pub(super) fn reap(self: &Arc<Self>, now: Instant) -> PoolCounts {
        let mut state = self.lock();
        let reaped = state.take_idle_unless(|idle| {
            idle.is_usable() && !idle.anchor.is_left() && self.may_stay(idle, now)
        });
        let counts = state.counts();
        self.hand_over(state);
        reaped.into_iter().for_each(BackendConnection::terminate);
        counts
    }

    pub(super) fn counts(&self) -> PoolCounts {
        self.lock().counts()
    }

    pub(super) fn config(&self) -> &PoolConfig {
        &self.shared.cluster.pool
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that the pool does not know of yet.
#[derive(Debug)]
pub(super) struct Opened {
    // Declared first: as in a lease.
    connection: Box<BackendConnection>,
    place: Place,
}

impl Opened {
    /// Makes it somebody's home.
    pub(super) fn home(&self) -> Home {
        Home::claim(self.connection.anchor.residence())
    }
}

/// A place in the queue; dropping it leaves the queue.
struct Queued<'a> {
    pool: &'a Arc<Pool>,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let left = state.leave(self.ticket);
        // Who is next in the queue may be content with what this one could not use.
        self.pool.hand_over(state);
        drop(left);
    }
}
