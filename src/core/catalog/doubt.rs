//! What DDL has made doubtful in a catalog since it was loaded.
//!
//! Invariant: a text for which nothing is doubtful has the verdict that it would have with the catalog
//! as it is after the DDL.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Catalog, EventTriggers, Extent, Known};
use crate::core::statement::TouchedKind;

/// The touched names that nothing loaded covers.
pub type TouchedNames = HashMap<Box<str>, TouchedKind>;

#[derive(Debug, Clone, Default)]
pub(super) enum Doubt {
    #[default]
    Nothing,
    /// Whatever names one of these, or reaches one.
    Names(Arc<TouchedNames>),
    /// Whatever names anything.
    Everything,
}

impl Catalog {
    pub(super) fn new(known: Known) -> Self {
        Self {
            known: Arc::new(known),
            doubt: Doubt::Nothing,
        }
    }

    /// The same knowledge, of which what has these names is doubtful.
    #[must_use]
    pub fn doubting(&self, names: TouchedNames) -> Self {
        let doubt = if names.is_empty() {
            Doubt::Nothing
        } else if names.keys().any(|name| self.is_used(name)) {
            Doubt::Everything
        } else {
            Doubt::Names(Arc::new(names))
        };
        Self {
            known: Arc::clone(&self.known),
            doubt,
        }
    }

    /// The same knowledge, of which everything is doubtful.
    #[must_use]
    pub fn doubting_everything(&self) -> Self {
        Self {
            known: Arc::clone(&self.known),
            doubt: Doubt::Everything,
        }
    }

    /// Whether DDL may do more than its text says.
    pub fn has_event_triggers(&self) -> bool {
        self.known.event_triggers == EventTriggers::Some
    }

    /// Whether everything is doubtful.
    pub fn doubts_everything(&self) -> bool {
        matches!(self.doubt, Doubt::Everything)
    }

    /// Whether a statement that holds this word anywhere cannot be judged. A type that comes with a
    /// relation or with another type has its name behind an underscore.
    pub fn doubts_word(&self, word: &str) -> bool {
        self.touched(word).is_some() || self.touched(word.trim_start_matches('_')).is_some()
    }

    /// Whether it cannot be told what a call of this name leaves behind.
    pub fn doubts_routine(&self, name: &str) -> bool {
        self.touched(name) == Some(TouchedKind::Routine)
    }

    /// Whether a relation of this name is, or reaches, one that is doubtful.
    pub fn doubts_relation(&self, name: &str) -> bool {
        let Doubt::Names(names) = &self.doubt else {
            return self.doubts_everything();
        };
        let entries = self.known.relations.get(name);
        names.contains_key(name)
            || is_implied_sequence(name)
            || entries.into_iter().flatten().any(|entry| {
                entry.extent == Extent::Cut
                    || entry
                        .reaches
                        .iter()
                        .any(|(_, name)| names.contains_key(name))
            })
    }

    fn touched(&self, name: &str) -> Option<TouchedKind> {
        match &self.doubt {
            Doubt::Nothing => None,
            Doubt::Names(names) => names.get(name).copied(),
            Doubt::Everything => Some(TouchedKind::Routine),
        }
    }

    /// Whether a change to what has this name may change the verdict of something with another name.
    /// Columns of a parent are those of its children.
    fn is_used(&self, name: &str) -> bool {
        let entries = self.known.relations.get(name);
        let mut below = entries
            .into_iter()
            .flatten()
            .flat_map(|entry| entry.reaches.iter());
        self.known.used.contains(name) || below.any(|(_, name)| self.known.used.contains(name))
    }
}

/// Whether a sequence may have got this name without its being written: from `serial` or an identity
/// column (`ChooseRelationName`, `src/backend/commands/indexcmds.c`).
fn is_implied_sequence(name: &str) -> bool {
    name.trim_end_matches(|digit: char| digit.is_ascii_digit())
        .ends_with("_seq")
}

#[cfg(test)]
mod tests {
    use super::super::{Persistence, RelationKind, RelationRow, Source, Target};
    use super::*;

    fn shop() -> Catalog {
        let mut builder = Catalog::builder_of_empty_database();
        let rows = [
            (30_000, "users", RelationKind::Table),
            (30_001, "active", RelationKind::View),
            (30_002, "secrets", RelationKind::Table),
            (30_003, "days", RelationKind::Table),
            (30_004, "day_1", RelationKind::Table),
            (30_005, "report", RelationKind::View),
        ];
        for (oid, name, kind) in rows {
            builder.relation(&RelationRow {
                oid,
                schema: "public",
                name,
                kind,
                persistence: Persistence::Permanent,
            });
        }
        for (source, target) in [
            (Source::View(30_001), 30_000),
            (Source::Policy(30_002), 30_000),
            (Source::Parent(30_003), 30_004),
            (Source::View(30_005), 30_003),
        ] {
            builder.reference(source, Target::Relation(target));
        }
        builder.build()
    }

    fn touched(name: &str) -> Catalog {
        shop().doubting([(name.into(), TouchedKind::Relation)].into())
    }

    #[test]
    fn what_reaches_a_touched_relation_is_doubtful_and_nothing_else() {
        for (name, expected) in [
            ("users", vec!["users", "active", "secrets"]),
            ("day_1", vec!["day_1", "days", "report"]),
            ("days", vec!["days", "report"]),
            ("active", vec!["active"]),
            ("new", vec![]),
        ] {
            let catalog = touched(name);
            let all = ["users", "active", "secrets", "days", "day_1", "report"];
            let found: Vec<&str> = all
                .into_iter()
                .filter(|name| catalog.doubts_relation(name))
                .collect();
            let mut expected = expected;
            expected.sort_by_key(|name| all.iter().position(|one| one == name));
            assert_eq!(found, expected, "{name}");
        }
        assert!(touched("new").doubts_relation("new"));
        assert!(touched("new").doubts_relation("new_id_seq1"));
        assert!(touched("new").doubts_word("_new"));
        assert!(!touched("new").doubts_word("users"));
    }

    #[test]
    fn a_touched_function_that_operators_call_makes_everything_doubtful() {
        use super::super::{FunctionRow, OperatorRow, Volatility};
        let mut builder = Catalog::builder_of_empty_database();
        for (oid, name) in [(40_000, "plus"), (40_001, "alone")] {
            builder.function(&FunctionRow {
                oid,
                schema: "public",
                name,
                volatility: Volatility::Stable,
                extension: None,
                types: &[],
                attribute_of_row: false,
            });
        }
        builder.operator(&OperatorRow {
            oid: 40_002,
            name: "<+>",
            function: 40_000,
        });
        let catalog = builder.build();
        let touch = |name: &str| catalog.doubting([(name.into(), TouchedKind::Routine)].into());
        assert!(touch("plus").doubts_everything());
        assert!(!touch("alone").doubts_everything());
        assert!(touch("alone").doubts_routine("alone"));
        assert!(catalog.doubting(TouchedNames::new()).doubt_is_nothing());
    }

    impl Catalog {
        fn doubt_is_nothing(&self) -> bool {
            matches!(self.doubt, Doubt::Nothing)
        }
    }
}
