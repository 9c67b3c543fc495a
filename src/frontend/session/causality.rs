//! What a session with a causal key has to do with the others that have it.
//!
//! Before anything of a segment is sent, it is marked under its keys; the marks stand until its
//! transaction has ended and what came of it is noted. So whoever has the key is bound from a moment
//! before the client can know of anything.

use std::sync::Arc;
use std::time::Instant;

use super::link::Link;
use super::plan::Plan;
use super::{Session, now};
use crate::core::causality::keys::{Effect, Place, Visit};
use crate::core::guarantee::Floor;
use crate::core::snapshot::{Evidence, NodeRole};
use crate::core::statement::Consistency;
use crate::frontend::causal_keys::KeyMark;
use crate::frontend::error::{Limit, ProxyError};
use crate::limits::CAUSAL_KEYS_PER_TRANSACTION;

impl Session {
    /// Whether the segment, or the session, has a key.
    pub(super) fn is_keyed(&self, plan: &Plan) -> bool {
        plan.has_keys || self.state.own().key.is_some()
    }

    /// The keys of the segment: those of its comments, else the session's.
    pub(super) fn keys<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Arc<str>> {
        let uncommented = plan.texts.iter().any(|text| text.hint.key.is_none());
        let own = self.state.own().key.as_ref();
        // A long segment is sent before its texts are known.
        let own = own.filter(|_| uncommented || plan.texts.is_empty());
        let commented = plan.texts.iter().filter_map(|text| text.hint.key.as_ref());
        own.into_iter().chain(commented)
    }

    /// `floor` and what the keys of the segment bind it to.
    pub(super) fn keyed_floor(
        &self,
        floor: Floor,
        plan: &Plan,
        (mode, arrived): (Consistency, Instant),
    ) -> Floor {
        if mode != Consistency::Session || !self.is_keyed(plan) {
            return floor;
        }
        let shared = &self.cluster.shared;
        let policy = &self.policies.consistency;
        // What is shared needs a proof, whoever has written it.
        let floor = Floor {
            evidence: Evidence::Proved,
            ..self.shared_floor(floor)
        };
        self.keys(plan).fold(floor, |floor, key| {
            floor.and(shared.keys.floor(key, shared.list, policy, arrived))
        })
    }

    /// Marks what is about to be sent over `link`.
    ///
    /// # Errors
    /// When the transaction has too many keys.
    pub(super) fn mark_keys(&mut self, link: &Link, plan: &Plan) -> Result<(), ProxyError> {
        if !self.is_keyed(plan) {
            return Ok(());
        }
        let shared = Arc::clone(&self.cluster.shared);
        let visit = Visit {
            place: Place::of(link.route.node, link.route.role, link.incarnation),
            nodes: shared.list,
        };
        let mut new = Vec::new();
        for key in self.keys(plan) {
            let is_marked = |mark: &KeyMark| mark.is_of(key, visit);
            if self.marks.iter().any(is_marked) || new.iter().any(is_marked) {
                continue;
            }
            if self.marks.len() + new.len() >= CAUSAL_KEYS_PER_TRANSACTION {
                return Err(ProxyError::LimitExceeded {
                    limit: Limit::CausalKeys,
                });
            }
            new.push(shared.keys.begin(key, visit, now()));
        }
        self.marks.append(&mut new);
        Ok(())
    }

    /// Whether the segment has a key that its transaction block on a replica was not begun under: it
    /// may have to see more than the replica has.
    pub(super) fn meets_new_key(&self, plan: &Plan) -> bool {
        self.is_keyed(plan)
            && self
                .keys(plan)
                .any(|key| !self.marks.iter().any(|mark| mark.has_key(key)))
    }

    /// The transaction has ended at `at`.
    pub(super) fn end_marks(&mut self, role: NodeRole, wrote: Effect, at: Instant) {
        let effect = match role {
            NodeRole::Replica => Effect::Read,
            NodeRole::Primary | NodeRole::Unknown => wrote,
        };
        for mark in self.marks.drain(..) {
            mark.end(effect, at);
        }
        self.leave_shared(effect, at);
    }

    /// No transaction is open that the marks could belong to: nobody knows what came of theirs.
    pub(super) fn drop_stray_marks(&mut self) {
        let any = !self.marks.is_empty() || !self.entered.is_empty();
        if any && self.block.is_none() && self.link.is_none() {
            self.marks.clear();
            self.entered.clear();
        }
    }
}
