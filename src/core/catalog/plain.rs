//! What means the same whatever temporary objects a session has.
//!
//! A bare name of a relation or a type means a temporary one first; names of functions and operators
//! never do (`src/backend/catalog/namespace.c`). But a function may look up names that it is given, or
//! that are in its source.

use std::collections::HashSet;

use super::{Catalog, TypeNames};

/// What reading a relation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A table of nothing but plain values.
    Plain,
    /// The same, and it comes with the server.
    PlainOfServer,
    /// One that comes with the server: no code of users, but names are looked up.
    OfServer,
    Other,
}

/// What may look up names in a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Bent {
    /// Functions of the server, by name.
    pub(super) functions: HashSet<Box<str>>,
    /// Functions of users that may be written like columns or like the server's.
    pub(super) hidden: HashSet<Box<str>>,
    /// Operators of users that may be given values of types of the server.
    pub(super) operators: HashSet<Box<str>>,
    /// What users have made of conversions and comparisons between types of the server.
    pub(super) implied: Implied,
}

/// Whether code of users runs where a text names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Implied {
    /// It does not.
    #[default]
    OfServer,
    /// It may.
    OfUsers,
}

/// Types whose values are relations or types, or have such in them, read and written as names: `regclass`,
/// `regtype`, `regprocedure`, `regoperator` and their arrays (`src/include/catalog/pg_type.dat`). What else
/// has names is not looked for among temporary objects (`src/backend/catalog/namespace.c`).
const NAMES_OF_OBJECTS: [u32; 8] = [2202, 2204, 2205, 2206, 2207, 2209, 2210, 2211];

/// Whether values of the type with this object id are those of a type that comes with the server, and no
/// names of objects. 0 stands for whatever the text says.
pub fn is_plain_type(oid: u32) -> bool {
    oid < FIRST_USER_OID && !NAMES_OF_OBJECTS.contains(&oid)
}

/// `FirstNormalObjectId` (`src/include/access/transam.h`).
const FIRST_USER_OID: u32 = 16_384;

/// Words of functions that look up names, or show them as a session would write them.
const ABOUT_NAMES: [&str; 10] = [
    "current_schema",
    "description",
    "format_type",
    "has_",
    "privilege",
    "reg",
    "row_security",
    "to_xml",
    "ts_rewrite",
    "ts_stat",
];

/// Whether a function of the server with this name may look up names of objects.
pub(super) fn names_objects(name: &str) -> bool {
    // Regular expressions and the statistics of regression are none of these.
    let patterns = name.contains("regexp") || name.starts_with("regr_");
    name.starts_with("pg_") || (!patterns && ABOUT_NAMES.iter().any(|word| name.contains(word)))
}

impl Catalog {
    /// Whether relations of this name are tables of nothing but plain values, if it is not that of a
    /// temporary one of the session's own.
    pub fn is_plain_table(&self, schema: Option<&str>, name: &str) -> bool {
        let mut entries = self.entries(schema, name).peekable();
        let known = entries.peek().is_some() || self.is_new_table(name);
        known && entries.all(|entry| entry.shape == Shape::Plain)
    }

    /// Whether relations of this name come with the server.
    pub fn is_relation_of_server(&self, schema: Option<&str>, name: &str) -> bool {
        let mut entries = self.entries(schema, name).peekable();
        entries.peek().is_some()
            && !self.is_new_table(name)
            && entries.all(|entry| matches!(entry.shape, Shape::OfServer | Shape::PlainOfServer))
    }

    /// Whether relations of this name are tables of plain values that come with the server.
    pub fn is_plain_table_of_server(&self, schema: Option<&str>, name: &str) -> bool {
        let mut entries = self.entries(schema, name).peekable();
        entries.peek().is_some()
            && !self.is_new_table(name)
            && entries.all(|entry| entry.shape == Shape::PlainOfServer)
    }

    /// Whether every function of this name comes with the server.
    pub fn is_function_of_server(&self, name: &str) -> bool {
        self.function_is_only_in("pg_catalog", name)
    }

    /// Whether a function of the server with this name may look up names of objects.
    pub fn may_look_up(&self, name: &str) -> bool {
        self.known.bent.functions.contains(name)
    }

    /// Whether the word may call a function of users though it does not look like that.
    pub fn hides_function(&self, word: &str) -> bool {
        self.known.bent.hidden.contains(word)
    }

    /// Whether the names of types that come with the server mean those and no others.
    pub fn has_plain_type_names(&self) -> bool {
        self.known.type_names == TypeNames::Own
    }

    /// Whether every operator of this name that takes values of the server's types comes with it.
    pub fn is_plain_operator(&self, name: &str) -> bool {
        !self.known.bent.operators.contains(name)
    }

    /// Whether what compares without naming an operator, and conversions that nobody writes, are those of
    /// the server between its types.
    pub fn has_plain_comparisons(&self) -> bool {
        let mut named = super::COMPARISONS.iter();
        self.known.bent.implied == Implied::OfServer
            && named.all(|name| self.is_plain_operator(name))
    }
}
