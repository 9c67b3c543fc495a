//! Finds texts in the worker's cache and judges them for one session.

use std::sync::{Arc, PoisonError};

use super::{Session, plan};
use crate::core::statement::{Classification, Reason};
use crate::frontend::classification::{CachedText, Circumstances};
use crate::metrics::CacheOutcome;

/// Finds texts in the worker's cache and judges them for one session.
pub(super) struct SessionTexts<'a> {
    pub(super) session: &'a Session,
}

impl plan::Texts for SessionTexts<'_> {
    fn find(&mut self, sql: &[u8]) -> Arc<CachedText> {
        let (text, outcome) = self.session.find(sql);
        self.session.cluster.metrics.count_classify_cache(outcome);
        text
    }

    fn judge(&mut self, text: &CachedText) -> Arc<Classification> {
        let session = self.session;
        let classification = session.verdict(text);
        if classification.reason == Reason::CatalogUnknown
            && let Some(kept) = &session.catalog
        {
            kept.want();
        }
        session
            .cluster
            .metrics
            .count_classified(classification.reason);
        classification
    }
}

/// The same for a text that is asked about and not run: nothing is counted or called for.
pub(super) struct SilentTexts<'a> {
    pub(super) session: &'a Session,
}

impl plan::Texts for SilentTexts<'_> {
    fn find(&mut self, sql: &[u8]) -> Arc<CachedText> {
        self.session.find(sql).0
    }

    fn judge(&mut self, text: &CachedText) -> Arc<Classification> {
        self.session.verdict(text)
    }
}

impl Session {
    fn find(&self, sql: &[u8]) -> (Arc<CachedText>, CacheOutcome) {
        let cache = self.worker.cache.lock();
        cache.unwrap_or_else(PoisonError::into_inner).find(sql)
    }

    fn verdict(&self, text: &CachedText) -> Arc<Classification> {
        let begun_under = self.block.as_ref().and_then(|it| it.begun_under.clone());
        let catalog = begun_under.or_else(|| self.catalog.as_ref()?.latest());
        text.judge(Circumstances {
            catalog: catalog.as_ref(),
            policies: &self.policies,
            learned: &self.learned,
        })
    }
}
