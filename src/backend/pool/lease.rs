//! Ownership of one connection, and of one place in a pool.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::queue::Pool;
use super::{CheckoutError, Preference};
use crate::backend::connection::{BackendConnection, WorkerId};
use crate::backend::login::NodeLogin;
use crate::backend::startup::StartupParameters;

/// One pool, for a session that comes back to it: saves looking it up by its names.
#[derive(Debug, Clone)]
pub struct PoolHandle(Arc<Pool>);

impl PoolHandle {
    /// Like [`Pools::checkout`](super::Pools::checkout) for this pool's node, database and user.
    ///
    /// # Errors
    /// When none becomes free in time, opening fails, or a bound is reached.
    ///
    /// # Cancel safety
    /// As [`Pools::checkout`](super::Pools::checkout).
    pub async fn checkout(
        &self,
        startup: &Arc<StartupParameters>,
        login: &NodeLogin,
        preference: &Preference,
        now: Instant,
    ) -> Result<Lease, CheckoutError> {
        self.0.checkout(startup, login, preference, now).await
    }
}

/// The use of one connection. Dropping it closes the socket and frees the place in the pool.
#[must_use = "dropping a lease closes its connection"]
pub struct Lease {
    // Declared first: the socket is closed before the place is given to somebody else.
    connection: Box<BackendConnection>,
    place: Place,
}

impl Lease {
    pub(super) fn new(connection: Box<BackendConnection>, place: Place) -> Self {
        Self { connection, place }
    }

    /// The lease, if its connection can be used; registers the socket with the runtime of the
    /// caller, which is `worker`'s, if it is not there yet.
    pub(super) fn checked(self, worker: WorkerId) -> Option<Self> {
        let Self {
            mut connection,
            place,
        } = self;
        if !place.pool.is_current(&connection) {
            return None;
        }
        if connection.worker != worker {
            connection = connection.adopt(worker)?;
        } else if !connection.is_usable() {
            return None;
        }
        Some(Self { connection, place })
    }

    /// The connection alone; the pool counts its place.
    pub(super) fn into_connection(self) -> Box<BackendConnection> {
        let Self { connection, place } = self;
        place.forget();
        connection
    }

    /// The pool that it is from.
    pub fn pool(&self) -> PoolHandle {
        PoolHandle(Arc::clone(&self.place.pool))
    }

    /// Returns the connection to its pool. Only for a connection that is ready for the next
    /// session: nothing outstanding, outside a transaction block, everything read, and no state but
    /// what `settings`, `prepared` and `unnamed_owner` say.
    pub fn give_back(self, now: Instant) {
        let Self {
            mut connection,
            place,
        } = self;
        connection.idle_since = now;
        place.forget().take_back(connection, now);
    }
}

impl Deref for Lease {
    type Target = BackendConnection;

    fn deref(&self) -> &BackendConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut BackendConnection {
        &mut self.connection
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.connection).finish()
    }
}

/// What a place in the pool is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceUse {
    /// A connection is being opened.
    Opening,
    /// A connection is handed out.
    Leased,
    /// The pool counts it itself again.
    Returned,
}

/// One of the `pool.size` places; dropping it frees it. Never dropped while the pool is locked.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    used_for: PlaceUse,
}

impl Place {
    pub(super) fn new(pool: Arc<Pool>, used_for: PlaceUse) -> Self {
        Self { pool, used_for }
    }

    /// The connection has been opened.
    pub(super) fn opened(&mut self) {
        if self.used_for == PlaceUse::Opening {
            self.used_for = PlaceUse::Leased;
            self.pool.note_opened();
        }
    }

    /// Leaves the counting to the pool.
    pub(super) fn forget(mut self) -> Arc<Pool> {
        self.used_for = PlaceUse::Returned;
        Arc::clone(&self.pool)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.free(self.used_for);
    }
}
