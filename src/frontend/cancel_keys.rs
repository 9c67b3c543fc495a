//! Which client's cancel key stands for which statement on which node.
//!
//! Invariants:
//! * Live sessions with the same process id differ by their keys, which are random and compared in
//!   constant time, all of that id.
//! * An invented process id belongs to one live session, and to no process of any node.
//! * There are never more entries than the capacity; an entry ends with its [`Registration`].
//!
//! Must not connect to a node: whoever looks a target up does that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::backend::cancel::CancelTarget;
use crate::credential::same_bytes;
use crate::limits::CLIENTS_PER_PROCESS_ID;

/// Process ids that no process has: Linux gives none above `PID_MAX_LIMIT` (`linux/threads.h`), other
/// systems give lower ones.
const INVENTED: RangeInclusive<i32> = (1 << 22) + 1..=i32::MAX;

/// How long a client's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLength {
    /// 4 bytes: all clients up to protocol 3.1.
    Short,
    /// 32 bytes: protocol 3.2 (`MAX_CANCEL_KEY_LENGTH`, `src/include/storage/procsignal.h`).
    Long,
}

impl KeyLength {
    /// The length for an agreed minor version of protocol 3.
    pub const fn for_minor(minor: u16) -> Self {
        if minor >= 2 { Self::Long } else { Self::Short }
    }
}

/// The cancel keys of all live sessions.
#[derive(Debug)]
pub struct CancelKeys {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// By process id, never empty.
    slots: HashMap<i32, Vec<Arc<Slot>>>,
    /// How many there are.
    count: usize,
    /// The process id to invent next.
    next: i32,
    capacity: usize,
}

struct Slot {
    key: Box<[u8]>,
    running: Mutex<Running>,
}

/// What a session is doing, as far as a cancel request may concern it.
#[derive(Debug, Default)]
struct Running {
    target: Option<Arc<CancelTarget>>,
    asked: Asked,
    /// Told when a request comes while the session waits for a connection.
    waiting: Option<Arc<Notify>>,
}

/// Whether a cancel request has been passed on to the connection that a session is leaving. The
/// signal may come late: such a connection must not go to another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "a connection that was asked to cancel must not be used by another session"]
pub enum Asked {
    /// None has.
    #[default]
    No,
    /// At least one has.
    Yes,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl CancelKeys {
    /// No keys yet; at most `max_clients` at once.
    pub fn new(max_clients: usize) -> Self {
        let random: u32 = rand::random();
        let next = i32::try_from(random >> 1).unwrap_or_default();
        Self {
            table: Arc::new(Mutex::new(Table {
                slots: HashMap::new(),
                count: 0,
                next: next.max(*INVENTED.start()),
                capacity: max_clients,
            })),
        }
    }

    /// Changes how many keys there may be; those that exist stay.
    pub fn set_capacity(&self, max_clients: usize) {
        lock(&self.table).capacity = max_clients;
    }

    /// Invents a process id and makes a key for one session; `None` at the capacity.
    pub fn register(&self, length: KeyLength) -> Option<Registration> {
        let slot = Arc::new(Slot {
            key: match length {
                KeyLength::Short => rand::random::<[u8; 4]>().into(),
                KeyLength::Long => rand::random::<[u8; 32]>().into(),
            },
            running: Mutex::default(),
        });
        let process_id = lock(&self.table).insert(&slot)?;
        Some(Registration {
            table: Arc::clone(&self.table),
            process_id,
            slot,
        })
    }

    /// What the session with this process id and key runs at the moment; `None` when there is no
    /// such session, the key is wrong, or it runs nothing. A session that waits for a connection is
    /// told to stop waiting.
    pub fn lookup(&self, process_id: i32, key: &[u8]) -> Option<Arc<CancelTarget>> {
        let slot = lock(&self.table).find(process_id, key)?;
        let mut running = lock(&slot.running);
        match (&running.target, &running.waiting) {
            (Some(_), _) => running.asked = Asked::Yes,
            (None, Some(waiting)) => waiting.notify_one(),
            (None, None) => {}
        }
        running.target.clone()
    }

    /// How many sessions have a key.
    pub fn len(&self) -> usize {
        lock(&self.table).count
    }

    /// Whether no session has a key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    /// Puts `slot` under the next free invented process id; ends because there are fewer slots than ids.
    fn insert(&mut self, slot: &Arc<Slot>) -> Option<i32> {
        if self.count >= self.capacity.min(1 << 30) {
            return None;
        }
        loop {
            let process_id = self.next;
            self.next = process_id.checked_add(1).unwrap_or(*INVENTED.start());
            if let Entry::Vacant(free) = self.slots.entry(process_id) {
                free.insert(vec![Arc::clone(slot)]);
                self.count += 1;
                return Some(process_id);
            }
        }
    }

    /// The slot with this process id and key; compares all of the id, so that the time says nothing.
    fn find(&self, process_id: i32, key: &[u8]) -> Option<Arc<Slot>> {
        let slots = self.slots.get(&process_id)?.iter();
        let found = slots.fold(None, |found, slot| {
            let matches = same_bytes(key, &slot.key);
            if matches { Some(slot) } else { found }
        });
        found.map(Arc::clone)
    }

    /// Whether one more client with this key may be told the process id.
    fn may_share(&self, process_id: i32, key: &[u8]) -> bool {
        let slots = self.slots.get(&process_id).map_or(&[][..], Vec::as_slice);
        slots.len() < CLIENTS_PER_PROCESS_ID && slots.iter().all(|slot| !same_bytes(key, &slot.key))
    }

    fn remove(&mut self, process_id: i32, slot: &Arc<Slot>) {
        if let Entry::Occupied(mut slots) = self.slots.entry(process_id) {
            slots.get_mut().retain(|other| !Arc::ptr_eq(other, slot));
            if slots.get().is_empty() {
                slots.remove();
            }
        }
    }
}

/// One session's cancel key; the key ends when this is dropped.
#[derive(Debug)]
pub struct Registration {
    table: Arc<Mutex<Table>>,
    process_id: i32,
    slot: Arc<Slot>,
}

impl Registration {
    /// The process id for `BackendKeyData`; positive.
    pub const fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Takes the process id of a server connection in place of the invented one, before the client
    /// has been told; stays as it is when too many share that id, or one has the same key.
    pub fn take_process_id(&mut self, process_id: i32) {
        let mut table = lock(&self.table);
        if process_id > 0 && table.may_share(process_id, &self.slot.key) {
            table.remove(self.process_id, &self.slot);
            let slots = table.slots.entry(process_id).or_default();
            slots.push(Arc::clone(&self.slot));
            self.process_id = process_id;
        }
    }

    /// The key for `BackendKeyData`: 4 or 32 bytes.
    pub fn key(&self) -> &[u8] {
        &self.slot.key
    }

    /// Says on which server connection the session runs now, or that it runs nowhere. Costs one
    /// mutex that only a cancel request contends for.
    pub fn set_target(&self, target: Arc<CancelTarget>) {
        lock(&self.slot.running).target = Some(target);
    }

    /// Says that the session runs nowhere any more, before it gives its connection back.
    pub fn clear_target(&self) -> Asked {
        let mut running = lock(&self.slot.running);
        running.target = None;
        std::mem::take(&mut running.asked)
    }

    /// What the session is told by when it is to stop waiting for a connection.
    pub fn waiter(&self) -> Waiter {
        Waiter(Arc::clone(&self.slot))
    }
}

/// Lets a cancel request reach a session that waits for a connection.
#[derive(Debug)]
pub struct Waiter(Arc<Slot>);

impl Waiter {
    /// Ends when the client asks to cancel what the session waits for.
    ///
    /// # Cancel safety
    /// Dropping it ends the wait: later requests find nothing to cancel.
    pub async fn cancelled(self) {
        let notify = Arc::new(Notify::new());
        lock(&self.0.running).waiting = Some(Arc::clone(&notify));
        let _waiting = Waiting(&self.0);
        notify.notified().await;
    }
}

/// A session waits until this is dropped.
struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.running).waiting = None;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.remove(self.process_id, &self.slot);
        table.count -= 1;
    }
}

/// Nothing panics while one of these locks is held, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(process_id: i32) -> Arc<CancelTarget> {
        Arc::new(CancelTarget {
            peer: crate::backend::connect::NodeAddress::Tcp("127.0.0.1:5432".parse().unwrap()),
            encryption: None,
            process_id,
            key: Box::new([1, 2, 3, 4]),
        })
    }

    #[test]
    fn only_the_right_key_finds_the_target_and_only_while_it_is_set() {
        let keys = CancelKeys::new(10);
        let session = keys.register(KeyLength::Short).unwrap();
        let (process_id, key) = (session.process_id(), session.key().to_vec());
        assert_eq!((process_id > 0, key.len()), (true, 4));
        assert!(keys.lookup(process_id, &key).is_none());

        session.set_target(target(42));
        assert_eq!(keys.lookup(process_id, &key).unwrap().process_id, 42);
        let mut wrong = key.clone();
        wrong[3] ^= 1;
        for bad in [&wrong[..], &key[..3], &[], &[key.clone(), vec![0]].concat()] {
            assert!(keys.lookup(process_id, bad).is_none(), "{bad:?}");
        }
        assert!(keys.lookup(process_id.wrapping_add(1), &key).is_none());

        assert_eq!(session.clear_target(), Asked::Yes);
        assert!(keys.lookup(process_id, &key).is_none());
        session.set_target(target(42));
        drop(session);
        assert!(keys.lookup(process_id, &key).is_none());
        assert!(keys.is_empty());
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_ids_do_not_repeat_among_the_living() {
        let keys = CancelKeys::new(3);
        let sessions: Vec<_> = (0..3)
            .map(|_| keys.register(KeyLength::Long).unwrap())
            .collect();
        assert!(keys.register(KeyLength::Long).is_none());
        let mut ids: Vec<_> = sessions.iter().map(Registration::process_id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert_eq!(sessions[0].key().len(), 32);
        keys.set_capacity(4);
        assert!(keys.register(KeyLength::for_minor(0)).is_some());
    }

    #[test]
    fn invented_ids_start_again_after_the_last_and_skip_those_in_use() {
        let keys = CancelKeys::new(10);
        let first = *INVENTED.start();
        lock(&keys.table).next = i32::MAX;
        let sessions = [(); 2].map(|()| keys.register(KeyLength::Short).unwrap());
        lock(&keys.table).next = i32::MAX;
        let skipping = keys.register(KeyLength::Short).unwrap();
        let ids = sessions.each_ref().map(Registration::process_id);
        assert_eq!(ids, [i32::MAX, first]);
        assert_eq!(skipping.process_id(), first + 1);
    }

    #[test]
    fn sessions_with_the_same_process_id_are_told_apart_by_their_keys() {
        let keys = CancelKeys::new(10);
        let mut sessions = [(); 3].map(|()| keys.register(KeyLength::Short).unwrap());
        let invented = sessions.each_ref().map(Registration::process_id);
        for (session, running) in sessions.iter_mut().zip(1..) {
            session.take_process_id(4711);
            session.set_target(target(running));
        }
        for (session, running) in sessions.iter().zip(1..) {
            assert_eq!(session.process_id(), 4711);
            let found = keys.lookup(4711, session.key());
            assert_eq!(found.unwrap().process_id, running);
        }
        for (id, session) in invented.into_iter().zip(&sessions) {
            assert!(keys.lookup(id, session.key()).is_none(), "the old id ends");
        }
        assert_eq!(keys.len(), 3);
        let [first, second, third] = sessions;
        let key = second.key().to_vec();
        drop(second);
        assert!(keys.lookup(4711, &key).is_none());
        assert!(keys.lookup(4711, first.key()).is_some());
        assert_eq!(first.clear_target(), Asked::Yes);
        assert_eq!(third.clear_target(), Asked::Yes);
        drop((first, third));
        assert!(keys.is_empty() && lock(&keys.table).slots.is_empty());
    }

    #[test]
    fn an_id_that_cannot_be_shared_is_not_taken() {
        let keys = CancelKeys::new(2 * CLIENTS_PER_PROCESS_ID);
        let register = || keys.register(KeyLength::Short).unwrap();
        let mut nameless = register();
        nameless.take_process_id(0);
        assert!(INVENTED.contains(&nameless.process_id()));
        let mut sharing: Vec<_> = (0..=CLIENTS_PER_PROCESS_ID).map(|_| register()).collect();
        for session in &mut sharing {
            session.take_process_id(1);
        }
        let refused = sharing.iter().filter(|one| one.process_id() != 1).count();
        assert_eq!(lock(&keys.table).slots[&1].len() + refused, sharing.len());
        assert!((1..3).contains(&refused), "{refused}");
        let twin = Arc::clone(&sharing[0].slot);
        assert!(!lock(&keys.table).may_share(1, &twin.key));
        assert!(lock(&keys.table).may_share(2, &twin.key));
    }
}
