//! Causal keys of the simulated sessions: who shares one, and what its members know together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::random::Random;
use super::world::{Event, World, small};
use super::{Bug, Commits};
use crate::core::causality::keys::{Effect, KeyBounds, KeyTable, NodeList, Place, Visit};
use crate::core::guarantee::Floor;
use crate::core::snapshot::{Incarnation, NodeId, NodeRole};

/// How long after an answer has gone to its client it may be noted at most, in microseconds.
const NOTED_WITHIN: u64 = 300;

thread_local! {
    static NAMES: [Arc<str>; 2] = ["user-1", "user-2"].map(Arc::from);
}

/// The keys of one schedule.
pub(super) struct Keys {
    table: KeyTable,
    names: [Arc<str>; 2],
    /// What the clients with each key have been told.
    pub(super) knows: [Commits; 2],
}

impl Keys {
    pub(super) fn new(epoch: Instant, random: &mut Random) -> Self {
        let bounds = KeyBounds {
            keys: random.of(&[1, 2, 100]),
            bytes: 1 << 20,
            ttl: Duration::from_millis(random.of(&[1, 20, 1000])),
        };
        Self {
            table: KeyTable::new(bounds, epoch),
            names: NAMES.with(Clone::clone),
            knows: [0; 2],
        }
    }
}

/// The key of one client, and its statements that are not noted yet.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyUse {
    key: usize,
    under_way: Option<Visit>,
    answered: Vec<(Visit, Effect)>,
}

impl KeyUse {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            key: usize::from(random.one_in(3)),
            ..Self::default()
        }
    }
}

impl World {
    /// A statement of `client` is about to be sent.
    pub(super) fn mark(
        &mut self,
        client: usize,
        (node, role): (NodeId, NodeRole),
        life: Option<Incarnation>,
    ) {
        let now = self.proxy.instant(self.now);
        let (Some(keys), Some(used)) = (&mut self.keys, &mut self.clients[client].key) else {
            return;
        };
        let visit = Visit {
            place: Place::of(node, role, life),
            nodes: NodeList::default(),
        };
        used.under_way = Some(visit);
        if self.bug != Bug::KeyMarkedAfterwards {
            keys.table.begin(&keys.names[used.key], visit, now);
        }
    }

    /// The client has been told `commits`; the key notes it a little later.
    pub(super) fn unmark(&mut self, client: usize, commits: Commits, effect: Effect) {
        let (Some(keys), Some(used)) = (&mut self.keys, &mut self.clients[client].key) else {
            return;
        };
        keys.knows[used.key] |= commits;
        if let Some(visit) = used.under_way.take() {
            used.answered.push((visit, effect));
            self.within(0, NOTED_WITHIN, Event::KeyNotes(small(client)));
        }
    }

    pub(super) fn key_notes(&mut self, client: usize) {
        let now = self.proxy.instant(self.now);
        let (Some(keys), Some(used)) = (&mut self.keys, &mut self.clients[client].key) else {
            return;
        };
        if used.answered.is_empty() {
            return;
        }
        let (visit, effect) = used.answered.remove(0);
        let name = &keys.names[used.key];
        if self.bug == Bug::KeyMarkedAfterwards {
            keys.table.begin(name, visit, now);
        }
        keys.table.end(name, visit, effect, now);
    }

    /// `floor` and what the client's key binds it to.
    pub(super) fn keyed_floor(&self, client: usize, floor: Floor, arrived: Instant) -> Floor {
        let (Some(keys), Some(used)) = (&self.keys, &self.clients[client].key) else {
            return floor;
        };
        let policy = &self.proxy.consistency;
        let nodes = NodeList::default();
        let name = &keys.names[used.key];
        floor.and(keys.table.floor(name, nodes, policy, arrived))
    }

    /// What the members of the client's key have been told.
    pub(super) fn known_to_key(&self, client: usize) -> Commits {
        match (&self.keys, &self.clients[client].key) {
            (Some(keys), Some(used)) => keys.knows[used.key],
            (_, _) => 0,
        }
    }
}
