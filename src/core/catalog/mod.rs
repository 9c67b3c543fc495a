//! What the catalog of one database says about functions, relations, operators and types.
//!
//! A [`Catalog`] holds verdicts, not rows: whoever builds it feeds plain rows to a
//! [`CatalogBuilder`], which follows views, policies, inheritance, casts and domains to whatever
//! they reach. Names are the catalog's own, case and all.
//!
//! Invariants:
//! * A name without a schema gets the strictest verdict of all schemas: `search_path` is not known.
//! * All overloads of a name count: argument types are not known.
//! * What is not in the catalog has no verdict, which is never taken for safe.

mod build;
mod builtin;
mod doubt;
mod loud;
mod patience;
mod plain;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::core::residue::SettingNames;
use crate::core::statement::{Asks, PinReason, Reason};

pub use build::{CatalogBuilder, LoudObject, Source, SourceRow, Target};

use doubt::Doubt;
pub use doubt::{TouchedNames, is_server_type};
pub use patience::is_worth_waiting;
pub use plain::is_plain_type;
use plain::{Bent, Shape};

/// The most rows of any one kind that a catalog may have; a larger one is not loaded, so that reads
/// of its database go to the primary. A row takes 100 to 200 bytes.
pub const ROWS_LIMIT: usize = 1_000_000;

/// The catalog knowledge of one database, with what DDL has made doubtful in it since. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    known: Arc<Known>,
    doubt: Doubt,
}

/// What was loaded.
#[derive(Debug, Default)]
struct Known {
    schemas: HashMap<Box<str>, SchemaId>,
    functions: HashMap<Box<str>, Vec<(SchemaId, FunctionVerdict)>>,
    relations: HashMap<Box<str>, Vec<RelationEntry>>,
    operators: HashMap<Box<str>, OperatorVerdict>,
    types: HashSet<Box<str>>,
    watched: HashMap<Box<str>, Reason>,
    /// Of the operators that a construct uses without naming them.
    comparisons: OperatorVerdict,
    /// Of the conversions that nobody writes.
    implicit_casts: OperatorVerdict,
    /// Placeholders that functions and triggers may set.
    settings: SettingNames,
    /// Names of functions and types that something else than a text refers to.
    used: HashSet<Box<str>>,
    /// Names of procedures of which none runs DDL.
    quiet_procedures: HashSet<Box<str>>,
    /// Names of relations, functions, operators and types behind which code may leave something in the
    /// session that runs it; with an empty one, behind all.
    loud: HashSet<Box<str>>,
    /// Whether code in the database asks for settings by name.
    asks_for_options: Asks,
    event_triggers: EventTriggers,
    type_names: TypeNames,
    bent: Bent,
}

/// Operators that a construct may use without naming them.
const COMPARISONS: [&str; 11] = [
    "=", "<>", "<", "<=", ">", ">=", "~~", "~~*", "!~~", "!~~*", "~",
];

/// Whether a name of a type that comes with the server is also that of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum TypeNames {
    #[default]
    Own,
    Redefined,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum EventTriggers {
    #[default]
    None,
    Some,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SchemaId(u32);

#[derive(Debug, Clone)]
struct RelationEntry {
    schema: SchemaId,
    persistence: Persistence,
    verdict: RelationVerdict,
    /// Relations behind a view, a policy or a parent, by schema and name.
    reaches: Box<[(SchemaId, Box<str>)]>,
    extent: Extent,
    shape: Shape,
}

/// Whether `reaches` is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Cut,
}

/// Whether a function may run on a replica, and what it leaves behind in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionVerdict {
    /// Why it must run on the primary; `None` when it is safe.
    pub reason: Option<Reason>,
    /// What keeps the session on its connection afterwards.
    pub pin: Option<PinReason>,
}

impl FunctionVerdict {
    /// Any node will do.
    pub const SAFE: Self = Self {
        reason: None,
        pin: None,
    };

    /// Only the primary, for this reason.
    pub const fn refused(reason: Reason, pin: Option<PinReason>) -> Self {
        Self {
            reason: Some(reason),
            pin,
        }
    }

    /// The strictest of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            reason: self.reason.or(other.reason),
            pin: self.pin.or(other.pin),
        }
    }
}

/// Whether a relation may be read on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationVerdict {
    /// Any node has its rows.
    Safe,
    /// Only the primary, for this reason.
    Refused(Reason),
}

/// Whether an operator's functions may run on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OperatorVerdict {
    /// All of them.
    #[default]
    Safe,
    /// Not all of them.
    Refused,
}

/// `pg_proc.provolatile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    /// `i`.
    Immutable,
    /// `s`.
    Stable,
    /// `v`, or anything unknown.
    Volatile,
}

/// `pg_class.relkind`, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// Ordinary and partitioned tables, materialized views.
    Table,
    /// Views.
    View,
    /// Foreign tables.
    Foreign,
    /// Sequences.
    Sequence,
}

/// `pg_class.relpersistence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// `p`.
    Permanent,
    /// `u`.
    Unlogged,
    /// `t`.
    Temporary,
}

/// A row of `pg_proc`.
#[derive(Debug, Clone, Copy)]
pub struct FunctionRow<'a> {
    /// `oid`.
    pub oid: u32,
    /// The schema's name.
    pub schema: &'a str,
    /// `proname`.
    pub name: &'a str,
    /// `provolatile`.
    pub volatility: Volatility,
    /// The extension it belongs to.
    pub extension: Option<&'a str>,
    /// Argument and result types.
    pub types: &'a [u32],
    /// Whether its first argument is a row, so that `row.name` may call it.
    pub attribute_of_row: bool,
}

/// A row of `pg_operator`.
#[derive(Debug, Clone, Copy)]
pub struct OperatorRow<'a> {
    /// `oid`.
    pub oid: u32,
    /// `oprname`.
    pub name: &'a str,
    /// `oprcode`.
    pub function: u32,
}

/// A row of `pg_type`.
#[derive(Debug, Clone, Copy)]
pub struct TypeRow<'a> {
    /// `oid`.
    pub oid: u32,
    /// `typname`.
    pub name: &'a str,
    /// Base, element, subtype and attribute types.
    pub parts: &'a [u32],
    /// `typinput`.
    pub function: u32,
}

/// A row of `pg_class`.
#[derive(Debug, Clone, Copy)]
pub struct RelationRow<'a> {
    /// `oid`.
    pub oid: u32,
    /// The schema's name.
    pub schema: &'a str,
    /// `relname`.
    pub name: &'a str,
    /// `relkind`.
    pub kind: RelationKind,
    /// `relpersistence`.
    pub persistence: Persistence,
}

/// A row of `pg_cast`.
#[derive(Debug, Clone, Copy)]
pub struct CastRow {
    /// `castsource`.
    pub source: u32,
    /// `casttarget`.
    pub target: u32,
    /// `castfunc`, which is not 0.
    pub function: u32,
    /// `castcontext`.
    pub context: CastContext,
}

/// `pg_cast.castcontext`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CastContext {
    /// Applied without being written.
    Implicit,
    /// Written, or applied by assignment.
    Written,
}

impl Catalog {
    /// The catalog of a database in which nobody has created anything (PostgreSQL 15).
    pub fn of_empty_database() -> &'static Self {
        builtin::empty_database_catalog()
    }

    /// Whether functions, views, policies, triggers or defaults ask for settings by name.
    pub fn asks_for_options(&self) -> Asks {
        self.known.asks_for_options
    }

    /// Placeholders that functions may set, those that triggers call included.
    pub fn settings_of_functions(&self) -> &SettingNames {
        &self.known.settings
    }

    /// A builder that already holds what an empty database contains.
    pub fn builder_of_empty_database() -> CatalogBuilder {
        builtin::empty_database()
    }

    fn schema_matches(&self, wanted: Option<&str>, found: SchemaId) -> bool {
        wanted.is_none_or(|wanted| self.known.schemas.get(wanted) == Some(&found))
    }

    /// The strictest verdict of the functions of this name; `None` when there are none.
    pub fn function(&self, schema: Option<&str>, name: &str) -> Option<FunctionVerdict> {
        self.known
            .functions
            .get(name)?
            .iter()
            .filter(|(found, _)| self.schema_matches(schema, *found))
            .map(|(_, verdict)| *verdict)
            .reduce(FunctionVerdict::and)
    }

    /// Whether every function of this name is in `schema`.
    pub fn function_is_only_in(&self, schema: &str, name: &str) -> bool {
        self.known.functions.get(name).is_some_and(|entries| {
            entries
                .iter()
                .all(|(found, _)| self.schema_matches(Some(schema), *found))
        })
    }

    fn entries<'c>(
        &'c self,
        schema: Option<&'c str>,
        name: &str,
    ) -> impl Iterator<Item = &'c RelationEntry> {
        let all = self
            .known
            .relations
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        // A session that has a temporary table of its own is pinned, so that a bare name of any
        // other means the permanent relation if there is one.
        let permanent = |entry: &RelationEntry| entry.persistence != Persistence::Temporary;
        let any_permanent =
            schema.is_none() && (all.iter().any(permanent) || self.is_new_table(name));
        all.iter()
            .filter(move |entry| self.schema_matches(schema, entry.schema))
            .filter(move |entry| !any_permanent || permanent(entry))
    }

    /// The strictest verdict of the relations of this name; `None` when there are none.
    pub fn relation(&self, schema: Option<&str>, name: &str) -> Option<RelationVerdict> {
        let new = self.is_new_table(name).then_some(RelationVerdict::Safe);
        self.entries(schema, name)
            .map(|entry| entry.verdict)
            .chain(new)
            .reduce(|one, other| match one {
                RelationVerdict::Safe => other,
                RelationVerdict::Refused(_) => one,
            })
    }

    /// Whether a relation of this name is, or reads, one that `accept` takes by schema and name.
    pub fn relation_reaches(
        &self,
        schema: Option<&str>,
        name: &str,
        accept: impl Fn(&str, &str) -> bool,
    ) -> bool {
        let schema_name = |id: SchemaId| {
            let found = self.known.schemas.iter().find(|(_, found)| **found == id);
            found.map_or("", |(name, _)| name)
        };
        self.entries(schema, name).any(|entry| {
            accept(schema_name(entry.schema), name)
                || entry
                    .reaches
                    .iter()
                    .any(|(id, name)| accept(schema_name(*id), name))
        })
    }

    /// The strictest verdict of the operators of this name; `None` when there are none.
    pub fn operator(&self, name: &str) -> Option<OperatorVerdict> {
        self.known.operators.get(name).copied()
    }

    /// Whether there is a type of this name in any schema.
    pub fn knows_type(&self, name: &str) -> bool {
        self.known.types.contains(name)
    }

    /// Why a statement that holds this word anywhere must run on the primary: it is the name of a
    /// type or of a function of rows that is not safe, and may be used without parentheses.
    pub fn watched(&self, word: &str) -> Option<Reason> {
        if self.known.watched.is_empty() {
            None
        } else {
            self.known.watched.get(word).copied()
        }
    }

    /// Whether comparing values (`IN`, `ORDER BY`, `DISTINCT`) may run a function that is not safe.
    pub fn has_unsafe_comparison(&self) -> bool {
        self.known.comparisons == OperatorVerdict::Refused
    }

    /// Whether a conversion that nobody writes may run a function that is not safe.
    pub fn has_unsafe_implicit_cast(&self) -> bool {
        self.known.implicit_casts == OperatorVerdict::Refused
    }
}
