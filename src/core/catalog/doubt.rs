//! What DDL has made doubtful in a catalog since it was loaded.
//!
//! Invariant: a text for which nothing is doubtful has the verdict that it would have with the catalog
//! as it is after the DDL.

use std::collections::HashMap;
use std::sync::Arc;

use super::{COMPARISONS, Catalog, EventTriggers, Extent, Known, TypeNames};
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
    pub fn doubting(&self, mut names: TouchedNames) -> Self {
        let mut types = names
            .iter()
            .filter(|(_, kind)| !matches!(kind, TouchedKind::Code | TouchedKind::NewRoutine));
        let redefines = types.any(|(name, _)| is_server_type(name));
        if self.known.type_names == TypeNames::Redefined || redefines {
            // New columns are perhaps not what they seem.
            for kind in names
                .values_mut()
                .filter(|kind| **kind != TouchedKind::Code)
            {
                *kind = kind.and(TouchedKind::Relation);
            }
        }
        let doubt = if names.is_empty() {
            Doubt::Nothing
        } else if names.iter().any(|(name, kind)| self.spreads(name, *kind)) {
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
        self.is_doubtful(word) || self.is_doubtful(word.trim_start_matches('_'))
    }

    /// Whether it cannot be told what operators of this name run.
    pub fn doubts_operator(&self, name: &str) -> bool {
        self.is_doubtful(name)
    }

    /// Whether it cannot be told what a construct runs that compares without naming an operator.
    pub fn doubts_comparisons(&self) -> bool {
        match &self.doubt {
            Doubt::Nothing => false,
            Doubt::Names(_) => COMPARISONS.iter().any(|name| self.is_doubtful(name)),
            Doubt::Everything => true,
        }
    }

    /// Whether it cannot be told what a call of this name leaves behind.
    pub fn doubts_routine(&self, name: &str) -> bool {
        matches!(
            self.touched(name),
            Some(TouchedKind::NewRoutine | TouchedKind::Routine)
        )
    }

    /// Whether DDL has touched any routine whose name is known.
    pub fn doubts_some_routine(&self) -> bool {
        match &self.doubt {
            Doubt::Nothing | Doubt::Everything => false,
            Doubt::Names(names) => names
                .values()
                .any(|kind| matches!(kind, TouchedKind::NewRoutine | TouchedKind::Routine)),
        }
    }

    /// Whether it cannot be told what runs behind a write whose text has these words. Code that was there
    /// is bound to other code by name, and tables to others by keys, views and triggers; but where no code
    /// leaves anything behind, a table alone brings none.
    pub fn doubts_writes(&self, words: &[Box<str>]) -> bool {
        let Doubt::Names(names) = &self.doubt else {
            return self.doubts_everything();
        };
        let reaches = |kind: &TouchedKind| match kind {
            TouchedKind::Operator | TouchedKind::NewRoutine | TouchedKind::Routine => true,
            TouchedKind::Code
            | TouchedKind::Columns
            | TouchedKind::NewTable
            | TouchedKind::Rows
            | TouchedKind::Relation => self.has_loud_code(),
        };
        names.values().any(reaches) || words.iter().any(|word| names.contains_key(word))
    }

    /// Whether no procedure of this name runs DDL. What an older catalog says of that holds until the
    /// name itself is touched.
    pub fn runs_no_ddl(&self, procedure: &str) -> bool {
        let touched = match &self.doubt {
            Doubt::Names(names) => names.contains_key(procedure),
            Doubt::Nothing | Doubt::Everything => false,
        };
        !touched && self.known.quiet_procedures.contains(procedure)
    }

    /// Whether a relation of this name is, or reaches, one that is doubtful.
    pub fn doubts_relation(&self, name: &str) -> bool {
        let Doubt::Names(names) = &self.doubt else {
            return self.doubts_everything();
        };
        if names.values().all(|kind| *kind <= TouchedKind::NewTable) {
            // Nothing that was there before reaches a table that is new.
            return is_implied_sequence(name);
        }
        let entries = self.known.relations.get(name);
        self.is_doubtful(name)
            || is_implied_sequence(name)
            || entries.into_iter().flatten().any(|entry| {
                entry.extent == Extent::Cut
                    || entry.reaches.iter().any(|(_, name)| self.is_doubtful(name))
            })
    }

    /// Whether there is a new table of this name, which any node has.
    pub(super) fn is_new_table(&self, name: &str) -> bool {
        self.touched(name) == Some(TouchedKind::NewTable)
    }

    fn is_doubtful(&self, name: &str) -> bool {
        match self.touched(name) {
            None | Some(TouchedKind::Code | TouchedKind::Columns | TouchedKind::NewTable) => false,
            Some(
                TouchedKind::Rows
                | TouchedKind::Relation
                | TouchedKind::Operator
                | TouchedKind::NewRoutine
                | TouchedKind::Routine,
            ) => true,
        }
    }

    fn touched(&self, name: &str) -> Option<TouchedKind> {
        match &self.doubt {
            Doubt::Nothing => None,
            Doubt::Names(names) => names.get(name).copied(),
            Doubt::Everything => Some(TouchedKind::Routine),
        }
    }

    /// Whether a change to what has this name may change the verdict of something with another name.
    fn spreads(&self, name: &str, kind: TouchedKind) -> bool {
        match kind {
            // What refers to something was bound to it when that was made.
            TouchedKind::Code
            | TouchedKind::Columns
            | TouchedKind::NewTable
            | TouchedKind::Rows
            | TouchedKind::Operator
            | TouchedKind::NewRoutine => false,
            TouchedKind::Relation | TouchedKind::Routine => self.is_used(name),
        }
    }

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

/// Types that come with the server, whose conversions are safe; sorted. Among them are the names that
/// the grammar itself has for some.
const SERVER_TYPES: [&str; 59] = [
    "bigint",
    "bigserial",
    "bit",
    "bool",
    "boolean",
    "box",
    "bpchar",
    "bytea",
    "char",
    "character",
    "cidr",
    "circle",
    "date",
    "daterange",
    "dec",
    "decimal",
    "double",
    "float",
    "float4",
    "float8",
    "inet",
    "int",
    "int2",
    "int4",
    "int4range",
    "int8",
    "int8range",
    "integer",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "nchar",
    "numeric",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "real",
    "serial",
    "smallint",
    "smallserial",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsvector",
    "uuid",
    "varchar",
];

/// Whether an unqualified, unquoted name of a type most likely means one that comes with the server: a
/// type of somebody else's with this name is in no catalog for which nothing is doubtful.
pub fn is_server_type(name: &str) -> bool {
    SERVER_TYPES.binary_search(&name).is_ok()
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
