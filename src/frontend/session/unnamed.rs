//! The unnamed prepared statement of a session.
//!
//! A Parse drops the one before it even when it fails, a Close drops it, and a node skips both behind an
//! error (`exec_parse_message` and `PostgresMain`, `src/backend/tcop/postgres.c`). What a segment makes of
//! the statement is therefore known when all of it has been answered.

use std::sync::Arc;

use crate::frontend::statements::Prepared;
use crate::protocol::replies::Verdict;

/// The unnamed statement, and what the segment under way does to it.
#[derive(Debug, Clone, Default)]
pub(super) struct UnnamedStatement {
    /// As if all that was sent had been carried out.
    latest: Option<Arc<Prepared>>,
    /// Before anything of the segment.
    before: Option<Arc<Prepared>>,
    /// What each Parse and Close of the segment leaves, in order.
    changes: Vec<Option<Arc<Prepared>>>,
}

impl UnnamedStatement {
    /// The statement that a message behind all others means.
    pub(super) const fn latest(&self) -> Option<&Arc<Prepared>> {
        self.latest.as_ref()
    }

    /// A Parse or a Close has been sent, or stands in the replies that pgweir makes.
    pub(super) fn change(&mut self, to: Option<Arc<Prepared>>) {
        if self.changes.is_empty() {
            self.before.clone_from(&self.latest);
        }
        self.changes.push(to.clone());
        self.latest = to;
    }

    /// It has become this one for certain.
    pub(super) fn set(&mut self, to: Option<Arc<Prepared>>) {
        self.latest = to;
        self.keep();
    }

    /// All of the segment was carried out.
    pub(super) fn keep(&mut self) {
        self.changes.clear();
        self.before = None;
    }

    /// What became of each change of the segment, as far as it was answered; the others were not carried
    /// out.
    pub(super) fn settle(&mut self, verdicts: &[Verdict]) {
        if self.changes.is_empty() {
            return;
        }
        let mut standing = self.before.take();
        for (change, verdict) in self.changes.drain(..).zip(verdicts) {
            match verdict {
                Verdict::Done => standing = change,
                Verdict::Failed => standing = None,
                Verdict::Skipped => {}
            }
        }
        self.latest = standing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::classification::ClassificationCache;
    use crate::frontend::statements::{StatementNumbers, StatementRegistry};

    fn settled(verdicts: &[Verdict]) -> Option<u64> {
        let registry = StatementRegistry::new(StatementNumbers::default());
        let text = ClassificationCache::default().find(b"SELECT 1").0;
        let parsed = || Arc::new(registry.unshared(b"SELECT 1", &[0, 0], &Arc::default(), &text));
        let (first, second, third) = (parsed(), parsed(), parsed());
        let mut unnamed = UnnamedStatement::default();
        unnamed.set(Some(Arc::clone(&first)));
        unnamed.change(Some(Arc::clone(&second)));
        unnamed.change(None);
        unnamed.change(Some(Arc::clone(&third)));
        assert_eq!(unnamed.latest().map(|one| one.id), Some(third.id));
        unnamed.settle(verdicts);
        let number = |id| {
            1 + [first.id, second.id, third.id]
                .iter()
                .position(|one| *one == id)
                .unwrap()
        };
        unnamed.latest().map(|one| number(one.id) as u64)
    }

    #[test]
    fn what_was_skipped_changes_nothing_and_what_failed_leaves_nothing() {
        use Verdict::{Done, Failed, Skipped};
        for (verdicts, expected) in [
            (&[Done, Done, Done][..], Some(3)),
            (&[Done, Done, Failed], None),
            (&[Done, Done, Skipped], None),
            (&[Done, Skipped, Skipped], Some(2)),
            (&[Failed, Skipped, Skipped], None),
            (&[Failed, Skipped, Done], Some(3)),
            (&[Skipped, Skipped, Skipped], Some(1)),
            (&[Done], Some(2)),
            (&[], Some(1)),
        ] {
            assert_eq!(settled(verdicts), expected, "{verdicts:?}");
        }
    }
}
