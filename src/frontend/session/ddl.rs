//! Notes what DDL may have changed in the catalog, also that of transactions which are prepared here and
//! committed by whichever session.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use super::plan::Plan;
use super::serve::Extent;
use crate::core::classify::database_to_leave;
use crate::core::statement::{CatalogEffect, TwoPhaseStep};
use crate::protocol::replies::Outcome;

/// How often it is looked whether the last client has left a database, and the pause between.
const LEAVING_LOOKS: usize = 20;
const LEAVING_PAUSE: Duration = Duration::from_millis(25);

impl Session {
    /// The database that must be left for what the segment does, if it is that.
    pub(super) fn database_to_leave(&self, plan: &Plan, extent: Extent) -> Option<String> {
        if self.block.is_some() || !plan.is_one_definition() {
            return None;
        }
        self.only_text(extent).and_then(database_to_leave)
    }

    /// Closes what pgweir keeps open to a database that no client uses. The last one may just be leaving;
    /// the server waits some seconds too.
    pub(super) async fn leave_database(&self, database: &str) {
        let Some(catalog) = self.cluster.world.catalogs.find(database) else {
            // Nobody has counted who is there.
            return;
        };
        for _ in 0..LEAVING_LOOKS {
            if catalog.occupancy.is_empty() {
                self.cluster.pools.leave_database(database);
                return catalog.leave();
            }
            tokio::time::sleep(LEAVING_PAUSE).await;
        }
    }

    /// Notes what a segment has done in a block, which behind it has `done` this. The node has answered
    /// everything.
    pub(super) fn change_catalog(&self, plan: &Plan, done: &CatalogEffect, outcome: Outcome) {
        for text in &plan.executed {
            if let CatalogEffect::TwoPhase(step, name) = &text.catalog {
                self.note_two_phase((*step, name), done, outcome);
            } else {
                self.invalidate_catalog(&text.catalog);
            }
        }
    }

    /// Notes that this may have been changed.
    pub(super) fn invalidate_catalog(&self, effect: &CatalogEffect) {
        if *effect == CatalogEffect::None {
            return;
        }
        self.cluster.shared.statements.begin_generation();
        if let Some(catalog) = &self.catalog {
            catalog.invalidate(effect);
        }
    }

    /// Whether tables, or anything else in the catalog, may change while a text with this effect runs.
    pub(super) fn may_change_catalog(&self, effect: &CatalogEffect) -> bool {
        match effect {
            CatalogEffect::None
            | CatalogEffect::TwoPhase(TwoPhaseStep::Prepare | TwoPhaseStep::Rollback, _) => false,
            CatalogEffect::TwoPhase(TwoPhaseStep::Commit, name) => {
                self.effect_of_prepared(name) != CatalogEffect::None
            }
            CatalogEffect::Removes
            | CatalogEffect::Touches(_)
            | CatalogEffect::Calls(_)
            | CatalogEffect::MayChange => true,
        }
    }

    fn note_two_phase(
        &self,
        (step, name): (TwoPhaseStep, &Arc<str>),
        done: &CatalogEffect,
        outcome: Outcome,
    ) {
        let prepared = self.catalog.as_ref().map(|catalog| &catalog.prepared);
        let failed = [Outcome::ERROR, Outcome::FATAL, Outcome::ROLLED_BACK];
        match step {
            TwoPhaseStep::Prepare if failed.iter().any(|one| outcome.has(*one)) => {}
            TwoPhaseStep::Prepare => {
                if let Some(prepared) = prepared {
                    prepared.note(name, done.clone());
                }
                return;
            }
            // One that has failed changes nothing, but what became of the transaction is not known.
            TwoPhaseStep::Commit => self.invalidate_catalog(&self.effect_of_prepared(name)),
            TwoPhaseStep::Rollback => {}
        }
        if let Some(prepared) = prepared {
            prepared.forget(name);
        }
    }

    fn effect_of_prepared(&self, name: &str) -> CatalogEffect {
        let catalog = self.catalog.as_ref();
        catalog.map_or(CatalogEffect::MayChange, |catalog| {
            catalog.prepared.effect_of(name)
        })
    }
}
