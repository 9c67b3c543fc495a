//! Causal keys: what all sessions with the same key have written and seen together.
//!
//! Invariants:
//! * A statement is noted under its key before it is sent. As long as it is under way, others with
//!   the key must see all that was acknowledged before they arrived, for its answer may have reached
//!   its client already. So nothing is acknowledged before it is known here.
//! * What is forgotten (evicted, expired, never known since the start) was noted before an instant
//!   that is kept: a key that is not known binds its reads to that instant. So forgetting never makes
//!   a read stale.
//! * Bounded in number and bytes. Records of statements under way are kept beyond that; there are no
//!   more of them than there are statements under way.
//!
//! Must not look at a clock: instants come as arguments.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::guarantee::{Floor, SessionGuarantee};
use crate::core::policy::ConsistencyPolicy;
use crate::core::snapshot::{Incarnation, NodeId, NodeRole};
use crate::core::statement::Consistency;
use crate::limits::{CAUSAL_KEY_BYTES, CAUSAL_KEY_OVERHEAD_BYTES};

/// `key` as one, if it can be one: neither empty nor longer than `CAUSAL_KEY_BYTES`.
pub fn usable_key(key: &str) -> Option<Arc<str>> {
    (!key.is_empty() && key.len() <= CAUSAL_KEY_BYTES).then(|| Arc::from(key))
}

/// Where a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a replica in the life it has.
    Replica(NodeId, Incarnation),
    /// On the primary, or on a node of an unknown life.
    Elsewhere,
}

impl Place {
    /// The place of a statement on `node`.
    pub const fn of(node: NodeId, role: NodeRole, life: Option<Incarnation>) -> Self {
        match (role, life) {
            (NodeRole::Replica, Some(life)) => Self::Replica(node, life),
            (NodeRole::Replica, None) | (NodeRole::Primary | NodeRole::Unknown, _) => {
                Self::Elsewhere
            }
        }
    }
}

/// Which list of nodes ids are of: it grows when a reload changes the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct NodeList(pub u32);

/// One statement, or one transaction block, under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Where it runs.
    pub place: Place,
    /// Which list of nodes its id is of.
    pub nodes: NodeList,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has read.
    Read,
    /// It may have written; or nobody knows.
    Wrote,
}

/// What the members of one key have written and seen.
#[derive(Debug, Default)]
struct KeyRecord {
    guarantee: SessionGuarantee,
    /// Statements under way outside replicas.
    elsewhere: u32,
    /// Statements under way on replicas; hardly ever more than one.
    on_replicas: Vec<(NodeId, Incarnation, u32)>,
    /// Which list the node ids in it are of.
    nodes: NodeList,
}

impl KeyRecord {
    /// A key of which nothing is known but that it may have been forgotten.
    fn bound_to(forgotten: Instant) -> Self {
        let mut record = Self::default();
        record.guarantee.on_seen(forgotten);
        record
    }

    /// Ids of an older list mean nothing any more: what they stood for binds every node.
    fn follow(&mut self, nodes: NodeList) {
        if nodes > self.nodes {
            self.nodes = nodes;
            self.guarantee.leave_home();
            for (_, _, count) in self.on_replicas.drain(..) {
                self.elsewhere = self.elsewhere.saturating_add(count);
            }
        }
    }

    fn is_under_way(&self) -> bool {
        self.elsewhere > 0 || !self.on_replicas.is_empty()
    }

    /// The count of statements under way where `visit` is.
    fn begin(&mut self, visit: Visit) {
        self.follow(visit.nodes);
        match visit.place {
            Place::Replica(node, life) if visit.nodes == self.nodes => {
                let here = self
                    .on_replicas
                    .iter_mut()
                    .find(|(at, in_life, _)| *at == node && *in_life == life);
                match here {
                    Some((_, _, count)) => *count = count.saturating_add(1),
                    None => self.on_replicas.push((node, life, 1)),
                }
            }
            Place::Replica(..) | Place::Elsewhere => {
                self.elsewhere = self.elsewhere.saturating_add(1);
            }
        }
    }

    fn end(&mut self, visit: Visit, effect: Effect, at: Instant) {
        self.follow(visit.nodes);
        let of_this_list = visit.nodes == self.nodes;
        match visit.place {
            Place::Replica(node, life) if of_this_list => {
                for (under_way_at, in_life, count) in &mut self.on_replicas {
                    if *under_way_at == node && *in_life == life {
                        *count = count.saturating_sub(1);
                    }
                }
                self.on_replicas.retain(|(_, _, count)| *count > 0);
            }
            Place::Replica(..) | Place::Elsewhere => {
                self.elsewhere = self.elsewhere.saturating_sub(1);
            }
        }
        match (effect, visit.place) {
            (Effect::Wrote, _) => {
                self.guarantee.on_write_acknowledged(at);
                self.guarantee.on_seen(at);
            }
            (Effect::Read, Place::Replica(node, life)) if of_this_list => {
                let role = NodeRole::Replica;
                self.guarantee.on_read_completed(node, role, Some(life), at);
            }
            (Effect::Read, Place::Replica(..) | Place::Elsewhere) => self.guarantee.on_seen(at),
        }
    }

    /// What a read that arrived at `arrived` must see for the key's sake.
    fn floor(&self, nodes: NodeList, policy: &ConsistencyPolicy, arrived: Instant) -> Floor {
        let mut floor = self
            .guarantee
            .floor(policy, Consistency::Session, None, arrived);
        let bound = Some(arrived);
        if nodes != self.nodes && (floor.home.is_some() || self.is_under_way()) {
            return Floor {
                everywhere: bound,
                elsewhere: None,
                home: None,
                ..floor
            };
        }
        match (self.elsewhere, self.on_replicas.as_slice(), floor.home) {
            (0, [], _) => {}
            // Another read on the same replica comes after what the first one showed.
            (0, [(node, life, _)], home) if home.is_none_or(|home| home == (*node, *life)) => {
                floor.home = Some((*node, *life));
                floor.elsewhere = bound;
            }
            _ => floor.everywhere = bound,
        }
        floor
    }
}

/// The bounds of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBounds {
    /// The most keys.
    pub keys: usize,
    /// The most bytes, keys and records together.
    pub bytes: usize,
    /// A key is remembered at least this long after it was used, as far as there is room, and at most
    /// twice as long while the table is in use.
    pub ttl: Duration,
}

/// Keys with what their members have written and seen.
///
/// When the newer half is full or old, it becomes the older half, and the older half is forgotten.
#[derive(Debug)]
pub struct KeyTable {
    bounds: KeyBounds,
    newer: Half,
    older: Half,
    turned: Instant,
    /// All that was forgotten was noted before.
    forgotten: Instant,
}

#[derive(Debug, Default)]
struct Half {
    records: HashMap<Arc<str>, KeyRecord>,
    bytes: usize,
    /// The latest instant noted in it.
    noted: Option<Instant>,
}

impl KeyTable {
    /// A table that knows nothing of what was before `now`.
    pub fn new(bounds: KeyBounds, now: Instant) -> Self {
        Self {
            bounds,
            newer: Half::default(),
            older: Half::default(),
            turned: now,
            forgotten: now,
        }
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.newer.records.len() + self.older.records.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A statement is about to be sent.
    pub fn begin(&mut self, key: &Arc<str>, visit: Visit, now: Instant) {
        self.record(key, now).begin(visit);
    }

    /// A statement noted by [`Self::begin`] has ended at `at`, which is no earlier than the receipt of
    /// the node's answer.
    pub fn end(&mut self, key: &Arc<str>, visit: Visit, effect: Effect, at: Instant) {
        self.record(key, at).end(visit, effect, at);
        self.newer.noted = self.newer.noted.max(Some(at));
    }

    /// What a read with `key` that arrived at `arrived` must see for the key's sake.
    pub fn floor(
        &self,
        key: &str,
        nodes: NodeList,
        policy: &ConsistencyPolicy,
        arrived: Instant,
    ) -> Floor {
        let known = self.newer.records.get(key);
        match known.or_else(|| self.older.records.get(key)) {
            Some(record) => record.floor(nodes, policy, arrived),
            None => Floor {
                everywhere: Some(self.forgotten),
                ..Floor::default()
            },
        }
    }

    /// The record of `key`, in the newer half.
    fn record(&mut self, key: &Arc<str>, now: Instant) -> &mut KeyRecord {
        self.turn_if_due(now);
        if !self.newer.records.contains_key(key) {
            let known = self.older.records.remove(key);
            let record = known.unwrap_or_else(|| KeyRecord::bound_to(self.forgotten));
            self.newer.insert(Arc::clone(key), record);
        }
        self.newer.records.entry(Arc::clone(key)).or_default()
    }

    fn turn_if_due(&mut self, now: Instant) {
        let full = self.newer.records.len() >= (self.bounds.keys / 2).max(1)
            || self.newer.bytes >= self.bounds.bytes / 2;
        let old = now.saturating_duration_since(self.turned) >= self.bounds.ttl;
        if !full && !old {
            return;
        }
        self.turned = now;
        let gone = std::mem::replace(&mut self.older, std::mem::take(&mut self.newer));
        self.forgotten = gone
            .noted
            .map_or(self.forgotten, |at| at.max(self.forgotten));
        // What is under way has not been noted yet.
        let kept = gone.records.into_iter();
        for (key, record) in kept.filter(|(_, record)| record.is_under_way()) {
            self.newer.noted = self.newer.noted.max(gone.noted);
            self.newer.insert(key, record);
        }
    }
}

impl Half {
    fn insert(&mut self, key: Arc<str>, record: KeyRecord) {
        self.bytes += key.len() + CAUSAL_KEY_OVERHEAD_BYTES;
        self.records.insert(key, record);
    }
}

#[cfg(test)]
mod tests;
