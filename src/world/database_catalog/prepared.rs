//! What transactions may have changed in the catalog that were prepared and are not committed yet.
//!
//! Invariant: of a name that is not known here, anything may have been changed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::statement::CatalogEffect;
use crate::limits::PREPARED_TRANSACTIONS;

/// The prepared transactions of one database that pgweir has seen being prepared, the newest
/// [`PREPARED_TRANSACTIONS`] of them.
#[derive(Debug, Default)]
pub struct PreparedTransactions(Mutex<VecDeque<(Arc<str>, CatalogEffect)>>);

impl PreparedTransactions {
    /// Notes that PREPARE TRANSACTION has succeeded, and what was done before it.
    pub fn note(&self, name: &Arc<str>, effect: CatalogEffect) {
        // By the time of the commit, a procedure that was called may be another one.
        let effect = if matches!(effect, CatalogEffect::Calls(_)) {
            CatalogEffect::MayChange
        } else {
            effect
        };
        let mut known = self.lock();
        known.retain(|(other, _)| other != name);
        if known.len() >= PREPARED_TRANSACTIONS {
            known.pop_front();
        }
        known.push_back((Arc::clone(name), effect));
    }

    /// What COMMIT PREPARED of this name may change.
    pub fn effect_of(&self, name: &str) -> CatalogEffect {
        let known = self.lock();
        let found = known.iter().rev().find(|(other, _)| &**other == name);
        found.map_or(CatalogEffect::MayChange, |(_, effect)| effect.clone())
    }

    /// Forgets the name, which is free for another transaction.
    pub fn forget(&self, name: &str) {
        self.lock().retain(|(other, _)| &**other != name);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Arc<str>, CatalogEffect)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_being_prepared_is_known_and_not_without_bound() {
        let prepared = PreparedTransactions::default();
        assert_eq!(prepared.effect_of("a"), CatalogEffect::MayChange);
        prepared.note(&"a".into(), CatalogEffect::None);
        prepared.note(&"b".into(), CatalogEffect::Removes);
        assert_eq!(prepared.effect_of("a"), CatalogEffect::None);
        assert_eq!(prepared.effect_of("b"), CatalogEffect::Removes);
        prepared.note(&"a".into(), CatalogEffect::Removes);
        assert_eq!(prepared.effect_of("a"), CatalogEffect::Removes);
        prepared.forget("a");
        assert_eq!(prepared.effect_of("a"), CatalogEffect::MayChange);
        prepared.note(&"a".into(), CatalogEffect::Calls("p".into()));
        assert_eq!(prepared.effect_of("a"), CatalogEffect::MayChange);
        for number in 0..PREPARED_TRANSACTIONS {
            prepared.note(&number.to_string().into(), CatalogEffect::None);
        }
        assert_eq!(prepared.lock().len(), PREPARED_TRANSACTIONS);
        assert_eq!(prepared.effect_of("b"), CatalogEffect::MayChange);
        assert_eq!(prepared.effect_of("0"), CatalogEffect::None);
    }
}
