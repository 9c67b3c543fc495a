//! What means the same whatever temporary objects a session has.

use std::collections::{HashMap, HashSet};

use super::super::Volatility;
use super::super::plain::{Bent, Implied, Shape, is_plain_type, names_objects};
use super::super::{COMPARISONS, Persistence, RelationKind, RelationVerdict};
use super::builtin::SYSTEM_SCHEMA;
use super::{CatalogBuilder, FIRST_USER_OID, Operator, Source};

impl CatalogBuilder {
    /// What does not: by the functions of the server that look names up, and by what users have made of
    /// operators and casts between the server's types.
    pub(super) fn bent(&self) -> Bent {
        let system = self.schemas.get(SYSTEM_SCHEMA);
        let server = self
            .functions
            .values()
            .filter(|f| Some(&f.schema) == system);
        let looks_up = server.filter(|function| {
            let of_objects = |oid: &u32| *oid < FIRST_USER_OID && !is_plain_type(*oid);
            names_objects(&function.name) || function.types.iter().any(of_objects)
        });
        let users = self.functions.iter().filter(|(oid, _)| is_users(**oid));
        // A name in the server's own schema does not tell whose function it is.
        let hidden =
            users.filter(|(_, found)| found.attribute_of_row || Some(&found.schema) == system);
        let operators = self.operators.values();
        let of_users = operators.filter(|found| self.is_bent(found));
        let casts = self.casts.iter().map(|cast| cast.function);
        // One that is immutable looks nothing up, and an index can have no other.
        let compares = self.comparison_functions.iter().filter(|oid| {
            let found = self.functions.get(oid);
            found.is_none_or(|found| found.volatility != Volatility::Immutable)
        });
        let mut implied = casts.chain(compares.copied());
        Bent {
            functions: looks_up.map(|found| found.name.clone()).collect(),
            hidden: hidden.map(|(_, found)| found.name.clone()).collect(),
            operators: of_users.map(|found| found.name.clone()).collect(),
            implied: if implied.any(|oid| self.is_users_on_server_types(oid)) {
                Implied::OfUsers
            } else {
                Implied::OfServer
            },
        }
    }

    /// Whether an operator of users may be chosen for values of the server's types: with literals of no
    /// type any may be, but for those between texts, which come first (`func_select_candidate`,
    /// `src/backend/parser/parse_func.c`).
    fn is_bent(&self, found: &Operator) -> bool {
        is_users(found.function)
            && (self.is_users_on_server_types(found.function)
                || !COMPARISONS.contains(&&*found.name))
    }

    /// Whether a user's function may be called with nothing but values of the server's types.
    fn is_users_on_server_types(&self, oid: u32) -> bool {
        let types = |oid: u32| self.functions.get(&oid).map(|found| &found.types);
        let of_users = types(oid).is_some_and(|all| all.iter().any(|ty| *ty >= FIRST_USER_OID));
        is_users(oid) && !of_users
    }

    pub(super) fn with_policies(&self) -> HashSet<u32> {
        let sources = self.references.iter().map(|(source, _)| *source);
        sources
            .filter_map(|source| match source {
                Source::Policy(oid) => Some(oid),
                Source::View(_) | Source::Parent(_) | Source::Type(_) => None,
            })
            .collect()
    }

    /// What reading the relation runs, but for what is below it.
    pub(super) fn shape(&self, oid: u32, with_policies: &HashSet<u32>) -> Shape {
        let Some(relation) = self.relations.get(&oid) else {
            return Shape::Other;
        };
        let safe = relation.persistence == Persistence::Permanent
            && relation.verdict == RelationVerdict::Safe;
        let plain = relation.kind == RelationKind::Table
            && !self.odd_columns.contains(&oid)
            && !with_policies.contains(&oid);
        match (is_users(oid), safe, plain) {
            (true, true, true) => Shape::Plain,
            (false, true, true) => Shape::PlainOfServer,
            (false, true, false) => Shape::OfServer,
            (_, false, _) | (true, true, false) => Shape::Other,
        }
    }
}

const fn is_users(oid: u32) -> bool {
    oid >= FIRST_USER_OID
}

/// The most relations behind one view that are kept.
pub(super) const REACH_LIMIT: usize = 1_000;

pub(super) fn reachable(from: u32, edges: &HashMap<u32, Vec<u32>>) -> HashSet<u32> {
    let mut seen = HashSet::new();
    let mut left: Vec<u32> = edges.get(&from).cloned().unwrap_or_default();
    while let Some(next) = left.pop() {
        if seen.len() < REACH_LIMIT && seen.insert(next) {
            left.extend(edges.get(&next).into_iter().flatten());
        }
    }
    seen
}
