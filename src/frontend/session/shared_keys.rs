//! Causal keys that are shared with other proxies: entered before a statement is sent, left when its
//! transaction has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::plan::{Plan, Settings};
use super::{Session, now};
use crate::core::causality::keys::{Effect, usable_key};
use crate::core::causality::positions::{PositionLog, Reached, SystemPosition};
use crate::core::guarantee::Floor;
use crate::core::statement::{ProxyStatement, SessionEffect};
use crate::frontend::error::ProxyError;
use crate::limits::POSITION_TIMEOUT;
use crate::metrics::StoreOutcome;
use crate::world::{ClusterWorld, Others, SharedKey};

/// A key that the transaction under way has entered.
#[derive(Debug)]
pub(super) struct SharedVisit {
    key: Arc<str>,
    world: Arc<ClusterWorld>,
    entry: Entry,
    /// What other proxies have told binds reads to this instant.
    bound: Instant,
    left_at: Option<Instant>,
}

/// Whether the store was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Told,
    Untold,
}

impl Drop for SharedVisit {
    fn drop(&mut self) {
        if self.entry == Entry::Told {
            let covers = self.left_at.unwrap_or_else(Instant::now);
            self.world.store.leave(Arc::clone(&self.key), covers);
        }
    }
}

impl Session {
    /// Enters the keys of the segment that the transaction under way has not entered yet.
    ///
    /// # Errors
    /// When another proxy has seen a primary that this one does not find.
    pub(super) async fn enter_shared(&mut self, plan: &Plan) -> Result<(), ProxyError> {
        let Some(ttl) = self.cluster.shared.keys.shared_for() else {
            return Ok(());
        };
        let mut keys: Vec<Arc<str>> = self.keys(plan).cloned().collect();
        if plan.settings == Settings::Some {
            keys.extend(keys_set(plan));
        }
        for key in keys {
            if !self.entered.iter().any(|visit| visit.key == key) {
                let visit = self.enter(key, ttl).await?;
                self.entered.push(visit);
            }
        }
        Ok(())
    }

    async fn enter(&self, key: Arc<str>, ttl: Duration) -> Result<SharedVisit, ProxyError> {
        let world = Arc::clone(&self.cluster.world);
        let shared = world.store.enter(&key).await;
        let metrics = &self.cluster.metrics;
        let mut visit = SharedVisit {
            key,
            world,
            entry: Entry::Untold,
            // What others have told is not known: all that was acknowledged up to now.
            bound: now(),
            left_at: None,
        };
        let Some(shared) = shared else {
            metrics.count_causal_store(StoreOutcome::Unavailable);
            return Ok(visit);
        };
        metrics.count_causal_store(StoreOutcome::Answered);
        visit.entry = Entry::Told;
        visit.bound = bound(&visit.world, &shared, ttl).await?;
        Ok(visit)
    }

    /// `floor` and what other proxies have told.
    pub(super) fn shared_floor(&self, floor: Floor) -> Floor {
        let bound = self.entered.iter().map(|visit| visit.bound).max();
        Floor {
            everywhere: floor.everywhere.max(bound),
            ..floor
        }
    }

    /// The transaction has ended at `at`.
    pub(super) fn leave_shared(&mut self, effect: Effect, at: Instant) {
        for mut visit in self.entered.drain(..) {
            visit.left_at = Some(at);
            if (visit.entry, effect) == (Entry::Untold, Effect::Wrote) {
                let metrics = &self.cluster.metrics;
                metrics.count_causal_store(StoreOutcome::Unpublished);
            }
        }
    }
}

/// The keys that statements of the segment set.
fn keys_set(plan: &Plan) -> impl Iterator<Item = Arc<str>> {
    let statements = plan.texts.iter().flat_map(|text| text.statements.iter());
    statements.filter_map(|statement| match &statement.session {
        SessionEffect::Proxy(
            ProxyStatement::Set { name, value } | ProxyStatement::SetLocal { name, value },
        ) if name == "key" => usable_key(value),
        SessionEffect::Proxy(_)
        | SessionEffect::None
        | SessionEffect::Setting(_)
        | SessionEffect::LocalSetting(_)
        | SessionEffect::WatchesCounters
        | SessionEffect::DiscardAll
        | SessionEffect::DeallocateAll
        | SessionEffect::Pins(_)
        | SessionEffect::MayConfigure(..) => None,
    })
}

/// The instant as of which a replica must be fresh to have all that `shared` tells of.
async fn bound(
    world: &ClusterWorld,
    shared: &SharedKey,
    ttl: Duration,
) -> Result<Instant, ProxyError> {
    let received = now();
    if shared.others == Others::UnderWay {
        return Ok(received);
    }
    // What is older may be missing.
    let complete = received.checked_sub(ttl.min(shared.complete_for));
    let mut bound = complete.unwrap_or(received);
    for position in &shared.positions {
        bound = bound.max(instant(world, *position, received).await?);
    }
    Ok(bound)
}

async fn instant(
    world: &ClusterWorld,
    position: SystemPosition,
    received: Instant,
) -> Result<Instant, ProxyError> {
    let judge = |log: &PositionLog| match log.reached(position) {
        Reached::By(instant) => Some(instant),
        // The primary has it by now, or what has survived of it.
        Reached::NotYet | Reached::EarlierTimeline | Reached::OtherSystem | Reached::Unknown => {
            Some(received)
        }
        // The primary that this process knows is none any more.
        Reached::LaterTimeline => None,
    };
    if let Some(instant) = world.positions.look(judge) {
        return Ok(instant);
    }
    world.demand.ask(received);
    let found = timeout(POSITION_TIMEOUT, world.positions.wait_for(judge)).await;
    found.map_err(|_| ProxyError::NoNodeAvailable)
}
