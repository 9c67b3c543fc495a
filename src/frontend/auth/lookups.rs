//! Roles that the configuration does not name: found on the database, remembered for a while.
//!
//! Invariants:
//! * A name is asked for by one login at a time; the others wait for its answer.
//! * At most `ROLES_REMEMBERED` names are remembered, none longer than `auth.cache`. One with which
//!   nobody has logged in since the lookup is remembered as long as a name that does not exist, so that
//!   an outsider cannot tell the two by how long an answer takes.
//! * What a node or a client's wrong password has cast doubt on is asked for again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::roles::{Role, RolePassword};
use crate::credential::StoredPassword;
use crate::limits::{ROLES_REMEMBERED, ROLES_SWEEP_INTERVAL, UNPROVED_ROLE_LIFE};
use crate::world::{ClusterWorld, Unanswered};

/// Longest name of a role, in bytes (`NAMEDATALEN - 1`, `src/include/pg_config_manual.h`).
const NAME_BYTES: usize = 63;

/// Where roles of one cluster are found.
#[derive(Debug, Clone)]
pub struct RoleSource {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Where to ask.
    pub world: Arc<ClusterWorld>,
}

/// The roles that were looked up.
#[derive(Debug)]
pub(super) struct FoundRoles {
    /// `auth.cache`.
    life: Duration,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    entries: HashMap<Name, Arc<Entry>>,
    swept: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    cluster: Arc<str>,
    user: Arc<str>,
}

/// One lookup, perhaps under way.
#[derive(Debug, Default)]
struct Entry {
    outcome: OnceCell<Result<Outcome, Unanswered>>,
    proved: AtomicBool,
}

#[derive(Debug)]
struct Outcome {
    role: Option<Arc<Role>>,
    at: Instant,
}

/// What came of looking up one name.
#[derive(Debug)]
pub(super) struct Found {
    /// `None` if there is no such role, or none with a password.
    pub(super) role: Option<Arc<Role>>,
    /// Whether it may be out of date.
    pub(super) origin: Origin,
    name: Name,
    entry: Arc<Entry>,
}

/// When the database was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// For this login, or while it waited.
    Asked,
    /// Earlier.
    Remembered,
}

impl FoundRoles {
    pub(super) fn new(life: Duration) -> Self {
        Self {
            life,
            memory: Mutex::new(Memory {
                entries: HashMap::new(),
                swept: Instant::now(),
            }),
        }
    }

    /// How long a role is remembered.
    pub(super) const fn life(&self) -> Duration {
        self.life
    }

    /// What the database of `source` knows of `user`.
    ///
    /// # Errors
    /// When it cannot be asked.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the next who waits for the name asks.
    pub(super) async fn find(&self, source: &RoleSource, user: &str) -> Result<Found, Unanswered> {
        let name = Name {
            cluster: Arc::clone(&source.cluster),
            user: Arc::from(user),
        };
        let (entry, old) = self.entry(&name, Instant::now());
        let origin = if entry.outcome.initialized() {
            Origin::Remembered
        } else {
            Origin::Asked
        };
        let look_up = || async {
            let stored = if user.len() > NAME_BYTES {
                None
            } else {
                source.world.roles.ask(Arc::clone(&name.user)).await?
            };
            let role = stored.map(|stored| as_role(user, stored, old.as_ref()));
            let at = Instant::now();
            Ok(Outcome { role, at })
        };
        match entry.outcome.get_or_init(look_up).await {
            Ok(outcome) => Ok(Found {
                role: outcome.role.clone(),
                origin,
                name,
                entry: Arc::clone(&entry),
            }),
            Err(unanswered) => {
                self.forget(&name, &entry);
                Err(*unanswered)
            }
        }
    }

    /// Has the next login look the name up again, if what was found may be out of date.
    pub(super) fn note_failed(&self, found: &Found) {
        match found.origin {
            Origin::Remembered => self.forget(&found.name, &found.entry),
            Origin::Asked => {}
        }
    }

    /// The entry of `name`, with the role that was known before if it is a new one.
    fn entry(&self, name: &Name, now: Instant) -> (Arc<Entry>, Option<Arc<Role>>) {
        let mut memory = self.lock();
        let known = memory.entries.get(name).map(Arc::clone);
        if let Some(entry) = &known
            && entry.is_usable(self.life, now)
        {
            return (Arc::clone(entry), None);
        }
        memory.make_room(self.life, now);
        let entry = Arc::new(Entry::default());
        memory.entries.insert(name.clone(), Arc::clone(&entry));
        (entry, known.and_then(|old| old.role()))
    }

    fn forget(&self, name: &Name, entry: &Arc<Entry>) {
        let mut memory = self.lock();
        if memory
            .entries
            .get(name)
            .is_some_and(|found| Arc::ptr_eq(found, entry))
        {
            memory.entries.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    /// Somebody has logged in as what was found.
    pub(super) fn note_proved(&self) {
        self.entry.proved.store(true, Ordering::Release);
    }
}

impl Memory {
    /// Removes what is old now and then, or when there are too many; then what nobody has proved to
    /// be, and last what is oldest.
    fn make_room(&mut self, life: Duration, now: Instant) {
        let is_full = |memory: &Self| memory.entries.len() >= ROLES_REMEMBERED;
        let since = now.saturating_duration_since(self.swept);
        if !is_full(self) && since < ROLES_SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        self.entries.retain(|_, entry| entry.is_usable(life, now));
        if is_full(self) {
            self.entries
                .retain(|_, entry| entry.proved.load(Ordering::Acquire));
        }
        while is_full(self) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.at());
            let Some(name) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.entries.remove(&name);
        }
    }
}

impl Entry {
    /// Whether it is still being looked up, or what was found may be relied on.
    fn is_usable(&self, life: Duration, now: Instant) -> bool {
        let life = if self.proved.load(Ordering::Acquire) {
            life
        } else {
            life.min(UNPROVED_ROLE_LIFE)
        };
        match self.outcome.get() {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(outcome)) => {
                let refused = |role: &Arc<Role>| role.user.login.is_refused();
                now.saturating_duration_since(outcome.at) < life
                    && !outcome.role.as_ref().is_some_and(refused)
            }
        }
    }

    fn role(&self) -> Option<Arc<Role>> {
        self.outcome.get()?.as_ref().ok()?.role.clone()
    }

    fn at(&self) -> Option<Instant> {
        Some(self.outcome.get()?.as_ref().ok()?.at)
    }
}

/// The same role as before if nothing has changed; else another with the same server connections.
fn as_role(user: &str, stored: StoredPassword, old: Option<&Arc<Role>>) -> Arc<Role> {
    match old {
        Some(old) if old.password == RolePassword::Stored(stored.clone()) => Arc::clone(old),
        old => Role::found(user, stored, old),
    }
}

#[cfg(test)]
mod tests;
