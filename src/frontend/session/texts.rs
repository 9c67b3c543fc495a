//! Finds texts in the worker's cache and judges them for one session.

use std::sync::{Arc, PoisonError};

use super::{Session, plan};
use crate::core::statement::{Classification, Reason};
use crate::frontend::classification::{CachedText, Circumstances};

/// Finds texts in the worker's cache and judges them for one session.
pub(super) struct SessionTexts<'a> {
    pub(super) session: &'a Session,
}

impl plan::Texts for SessionTexts<'_> {
    fn find(&mut self, sql: &[u8]) -> Arc<CachedText> {
        let cache = &self.session.worker.cache;
        let (text, outcome) = cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .find(sql);
        self.session.cluster.metrics.count_classify_cache(outcome);
        text
    }

    fn judge(&mut self, text: &CachedText) -> Arc<Classification> {
        let block = self.session.block.as_ref();
        let kept = self.session.catalog.as_ref();
        let catalog = block
            .and_then(|block| block.begun_under.clone())
            .or_else(|| kept?.latest());
        let classification = text.judge(Circumstances {
            catalog: catalog.as_ref(),
            policies: &self.session.policies,
            learned: &self.session.learned,
        });
        if classification.reason == Reason::CatalogUnknown
            && let Some(kept) = kept
        {
            kept.want();
        }
        self.session
            .cluster
            .metrics
            .count_classified(classification.reason);
        classification
    }
}
