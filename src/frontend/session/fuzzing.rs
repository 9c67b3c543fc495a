//! The inside of a session, for fuzz targets.

use std::sync::Arc;

use super::inspect;
use super::plan::{Plan, Texts};
use super::state::{OwnSettings, SessionState};
use crate::config::Policies;
use crate::core::catalog::Catalog;
use crate::core::residue::Residue;
use crate::core::segment::Begun;
use crate::core::statement::{Classification, Consistency};
use crate::frontend::classification::{
    CachedText, Circumstances, ClassificationCache, LearnedWrites,
};
use crate::protocol::message::Malformed;

/// Finds and judges texts as a worker does.
#[derive(Debug)]
pub struct Planner {
    cache: ClassificationCache,
    learned: LearnedWrites,
    policies: Arc<Policies>,
    catalog: Option<Arc<Catalog>>,
}

impl Texts for Planner {
    fn find(&mut self, sql: &[u8]) -> Arc<CachedText> {
        self.cache.find(sql).0
    }

    fn judge(&mut self, text: &CachedText) -> Arc<Classification> {
        text.judge(Circumstances {
            catalog: self.catalog.as_ref(),
            policies: &self.policies,
            learned: &self.learned,
        })
    }
}

impl Planner {
    /// Knows `catalog` and no text yet.
    pub fn new(policies: Arc<Policies>, catalog: Option<Arc<Catalog>>) -> Self {
        Self {
            cache: ClassificationCache::default(),
            learned: LearnedWrites::default(),
            policies,
            catalog,
        }
    }

    /// What the session plans for the whole messages in `bytes`: how many texts it names and runs;
    /// `None` if it refuses them.
    pub fn plan(&mut self, bytes: &[u8]) -> Option<(usize, usize)> {
        let state = SessionState::default();
        let plan = Plan::default().of(bytes, &state, self).ok()?;
        let _ = plan.target(Consistency::Session, Begun::No);
        Some((plan.texts.len(), plan.executed.len()))
    }
}

/// What the rows of an inspection say.
///
/// # Errors
/// When a row is not as it was asked for.
pub fn residue(rows: &[Box<[u8]>]) -> Result<Residue, Malformed> {
    inspect::residue(rows, "app")
}

/// Whether `pgweir.name` takes this value.
pub fn takes_setting(name: &str, value: &str) -> bool {
    OwnSettings::default().set(name, value).is_ok()
}
