//! From rows of the catalog to verdicts.

mod loud;
mod names;
mod plain;
mod routines;
mod used;

use std::collections::{HashMap, HashSet};

pub use self::loud::{LoudObject, SourceRow};
use self::names::written_names;
use self::plain::{REACH_LIMIT, reachable};
use self::routines::verdict;
use super::builtin::{self, SYSTEM_SCHEMA};
use super::plain::Shape;
use super::{
    COMPARISONS, CastContext, CastRow, Catalog, EventTriggers, Extent, FunctionRow,
    FunctionVerdict, Known, OperatorRow, OperatorVerdict, Persistence, RelationEntry, RelationKind,
    RelationRow, RelationVerdict, SchemaId, TypeRow, Volatility,
};
use crate::core::residue::SettingNames;
use crate::core::statement::{Asks, PinReason, Reason};

/// What refers to something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A view, by its query.
    View(u32),
    /// A relation, by a row security policy that is in force.
    Policy(u32),
    /// A table, by a partition or a child that is read along with it.
    Parent(u32),
    /// A domain, by a CHECK constraint.
    Type(u32),
}

/// What is referred to, by oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A function or aggregate.
    Function(u32),
    /// An operator.
    Operator(u32),
    /// A relation.
    Relation(u32),
    /// A type that a value is converted to.
    Type(u32),
}

#[derive(Debug, Clone)]
struct Function {
    schema: SchemaId,
    name: Box<str>,
    verdict: FunctionVerdict,
    types: Box<[u32]>,
    volatility: Volatility,
    attribute_of_row: bool,
}

#[derive(Debug, Clone)]
struct Operator {
    name: Box<str>,
    function: u32,
}

#[derive(Debug, Clone)]
struct Type {
    name: Box<str>,
    parts: Box<[u32]>,
    function: u32,
}

#[derive(Debug, Clone)]
struct Relation {
    schema: SchemaId,
    name: Box<str>,
    persistence: Persistence,
    kind: RelationKind,
    verdict: RelationVerdict,
}

/// Collects rows; [`Self::build`] draws the conclusions.
#[derive(Debug, Clone, Default)]
pub struct CatalogBuilder {
    schemas: HashMap<Box<str>, SchemaId>,
    functions: HashMap<u32, Function>,
    operators: HashMap<u32, Operator>,
    types: HashMap<u32, Type>,
    relations: HashMap<u32, Relation>,
    references: Vec<(Source, Target)>,
    casts: Vec<CastRow>,
    comparison_functions: Vec<u32>,
    unsafe_types: HashSet<u32>,
    settings: SettingNames,
    supported: Vec<u32>,
    odd_columns: HashSet<u32>,
    quiet_procedures: HashSet<Box<str>>,
    loud_objects: Vec<LoudObject>,
    loud: HashSet<Box<str>>,
    asks_for_options: Asks,
    event_triggers: EventTriggers,
}

impl CatalogBuilder {
    fn schema(&mut self, name: &str) -> SchemaId {
        if let Some(known) = self.schemas.get(name) {
            return *known;
        }
        let id = SchemaId(u32::try_from(self.schemas.len()).unwrap_or(u32::MAX));
        self.schemas.insert(name.into(), id);
        id
    }

    /// Adds a function.
    pub fn function(&mut self, row: &FunctionRow<'_>) {
        let schema = self.schema(row.schema);
        self.functions.insert(
            row.oid,
            Function {
                schema,
                name: row.name.into(),
                verdict: verdict(row),
                types: row.types.into(),
                volatility: row.volatility,
                attribute_of_row: row.attribute_of_row,
            },
        );
    }

    /// Adds what a call runs beside the function: support functions of an aggregate, argument defaults.
    pub fn calls(&mut self, function: u32, called: &[u32]) {
        self.supported
            .extend(called.iter().filter(|oid| **oid != 0));
        let supported = called
            .iter()
            .filter_map(|oid| self.functions.get(oid))
            .map(|function| function.verdict)
            .reduce(FunctionVerdict::and);
        if let (Some(caller), Some(supported)) = (self.functions.get_mut(&function), supported) {
            caller.verdict = caller.verdict.and(supported);
        }
    }

    /// Adds an operator; function 0 is taken for safe.
    pub fn operator(&mut self, row: &OperatorRow<'_>) {
        let operator = Operator {
            name: row.name.into(),
            function: row.function,
        };
        self.operators.insert(row.oid, operator);
    }

    /// Adds a function that an index or a sort of some type calls to compare or to hash.
    pub fn comparison_function(&mut self, function: u32) {
        self.comparison_functions.push(function);
    }

    /// Adds a type; input function 0 is taken for safe.
    pub fn type_row(&mut self, row: &TypeRow<'_>) {
        self.types.insert(
            row.oid,
            Type {
                name: row.name.into(),
                parts: row.parts.into(),
                function: row.function,
            },
        );
    }

    /// Adds a cast.
    pub fn cast(&mut self, row: &CastRow) {
        self.casts.push(*row);
    }

    /// Adds a relation.
    pub fn relation(&mut self, row: &RelationRow<'_>) {
        let schema = self.schema(row.schema);
        let refused = match (row.persistence, row.kind) {
            (_, RelationKind::Sequence) => Some(Reason::Sequence),
            (Persistence::Temporary, _) => Some(Reason::TemporaryRelation),
            (Persistence::Unlogged, _) => Some(Reason::UnloggedRelation),
            (Persistence::Permanent, RelationKind::Foreign) => Some(Reason::ForeignRelation),
            (Persistence::Permanent, kind) if row.schema == SYSTEM_SCHEMA => {
                builtin::relation(row.name, kind)
            }
            (Persistence::Permanent, RelationKind::Table | RelationKind::View) => None,
        };
        self.relations.insert(
            row.oid,
            Relation {
                schema,
                name: row.name.into(),
                persistence: row.persistence,
                kind: row.kind,
                verdict: refused.map_or(RelationVerdict::Safe, RelationVerdict::Refused),
            },
        );
    }

    /// Adds that a relation has a column of a type that does not come with the server, or whose values
    /// are names of objects.
    pub fn odd_column(&mut self, relation: u32) {
        self.odd_columns.insert(relation);
    }

    /// Adds that one thing refers to another.
    pub fn reference(&mut self, source: Source, target: Target) {
        self.references.push((source, target));
    }

    /// Adds that there is an event trigger that is not disabled.
    pub fn event_trigger(&mut self) {
        self.event_triggers = EventTriggers::Some;
    }

    /// The verdicts.
    pub fn build(mut self) -> Catalog {
        self.settle_types();
        self.settle_relations();
        let mut catalog = Known {
            settings: std::mem::take(&mut self.settings),
            used: self.used(),
            quiet_procedures: std::mem::take(&mut self.quiet_procedures),
            loud: std::mem::take(&mut self.loud),
            asks_for_options: self.asks_for_options(),
            event_triggers: self.event_triggers,
            type_names: self.type_names(),
            bent: self.bent(),
            ..Known::default()
        };
        // Where a type of the users' is one of both, what has a value of it is refused by that type.
        let unsafe_implicit_cast = self.casts.iter().any(|cast| {
            cast.context == CastContext::Implicit
                && cast.source.max(cast.target) < FIRST_USER_OID
                && self.refuses_function(cast.function)
        });
        if unsafe_implicit_cast {
            catalog.implicit_casts = OperatorVerdict::Refused;
        }
        self.name_operators(&mut catalog);
        self.name_watched(&mut catalog);
        self.name_relations(&mut catalog);
        for function in self.functions.into_values() {
            let entries = catalog.functions.entry(function.name).or_default();
            match entries
                .iter_mut()
                .find(|(schema, _)| *schema == function.schema)
            {
                Some((_, verdict)) => *verdict = verdict.and(function.verdict),
                None => entries.push((function.schema, function.verdict)),
            }
        }
        catalog.types = self.types.into_values().map(|found| found.name).collect();
        catalog.schemas = self.schemas;
        Catalog::new(catalog)
    }

    fn refuses_function(&self, oid: u32) -> bool {
        self.functions
            .get(&oid)
            .map_or(is_missing(oid), |function| {
                // A parameter goes with its session, so that views and policies may read it.
                function.verdict.reason.is_some() && &*function.name != "current_setting"
            })
    }

    fn refuses_operator(&self, oid: u32) -> bool {
        self.operators.get(&oid).map_or(is_missing(oid), |found| {
            self.refuses_function(found.function)
        })
    }

    /// Marks types that run something unsafe, and the functions that take or return them, until
    /// nothing changes.
    fn settle_types(&mut self) {
        loop {
            let before = self.unsafe_types.len();
            let checks = self
                .references
                .iter()
                .filter_map(|(source, target)| match source {
                    Source::Type(oid) => self.refuses(*target).then_some(*oid),
                    Source::View(_) | Source::Policy(_) | Source::Parent(_) => None,
                });
            let refused = self
                .casts
                .iter()
                .filter(|cast| self.refuses_function(cast.function));
            let casts = refused.flat_map(|cast| match cast.context {
                CastContext::Implicit if cast.source >= FIRST_USER_OID => {
                    [cast.target, cast.source]
                }
                CastContext::Implicit | CastContext::Written => [cast.target; 2],
            });
            let own = self.types.iter().filter_map(|(oid, found)| {
                let parts = found
                    .parts
                    .iter()
                    .any(|part| self.unsafe_types.contains(part));
                (parts || self.refuses_function(found.function)).then_some(*oid)
            });
            let found: Vec<u32> = checks.chain(casts).chain(own).collect();
            self.unsafe_types.extend(found);
            if self.unsafe_types.len() == before {
                return;
            }
            // A cast may be to a built-in type, whose own functions stay what they are.
            for function in self.functions.values_mut() {
                let user_types = function.types.iter().filter(|oid| **oid >= FIRST_USER_OID);
                if user_types
                    .into_iter()
                    .any(|oid| self.unsafe_types.contains(oid))
                {
                    let refused =
                        FunctionVerdict::refused(Reason::UnsafeType, Some(PinReason::UnknownCode));
                    function.verdict = function.verdict.and(refused);
                }
            }
        }
    }

    fn refuses(&self, target: Target) -> bool {
        match target {
            Target::Function(oid) => self.refuses_function(oid),
            Target::Operator(oid) => self.refuses_operator(oid),
            Target::Type(oid) => {
                let missing = is_missing(oid) && !self.types.contains_key(&oid);
                missing || self.unsafe_types.contains(&oid)
            }
            Target::Relation(oid) => self.relations.get(&oid).map_or(is_missing(oid), |found| {
                found.verdict != RelationVerdict::Safe
            }),
        }
    }

    /// Carries verdicts from what relations refer to up to them, until nothing changes.
    fn settle_relations(&mut self) {
        loop {
            let mut found: Vec<(u32, Reason)> = Vec::new();
            for (source, target) in &self.references {
                let (oid, reason) = match source {
                    Source::Type(_) => continue,
                    Source::View(oid) => (*oid, Reason::UnsafeView),
                    Source::Policy(oid) => (*oid, Reason::UnsafePolicy),
                    Source::Parent(oid) => (*oid, self.reason_of(*target)),
                };
                let safe_so_far = self
                    .relations
                    .get(&oid)
                    .is_some_and(|relation| relation.verdict == RelationVerdict::Safe);
                if safe_so_far && self.refuses(*target) {
                    found.push((oid, reason));
                }
            }
            if found.is_empty() {
                return;
            }
            for (oid, reason) in found {
                if let Some(relation) = self.relations.get_mut(&oid) {
                    relation.verdict = RelationVerdict::Refused(reason);
                }
            }
        }
    }

    /// Why a child may not be read on a replica; its parent may not for the same reason.
    fn reason_of(&self, child: Target) -> Reason {
        let Target::Relation(oid) = child else {
            return Reason::UnsafeView;
        };
        match self.relations.get(&oid).map(|relation| relation.verdict) {
            Some(RelationVerdict::Refused(reason)) => reason,
            Some(RelationVerdict::Safe) | None => Reason::UnsafeView,
        }
    }

    fn name_operators(&self, catalog: &mut Known) {
        for (oid, operator) in &self.operators {
            let refused = self.refuses_operator(*oid);
            let verdict = if refused {
                OperatorVerdict::Refused
            } else {
                OperatorVerdict::Safe
            };
            let entry = catalog
                .operators
                .entry(operator.name.clone())
                .or_insert(verdict);
            if refused {
                *entry = OperatorVerdict::Refused;
            }
        }
        let mut named = COMPARISONS
            .iter()
            .filter_map(|name| catalog.operators.get(*name));
        let unsafe_comparison = named.any(|verdict| *verdict == OperatorVerdict::Refused)
            || self
                .comparison_functions
                .iter()
                .any(|oid| self.refuses_function(*oid));
        if unsafe_comparison {
            catalog.comparisons = OperatorVerdict::Refused;
        }
    }

    fn name_watched(&self, catalog: &mut Known) {
        for oid in &self.unsafe_types {
            if let Some(found) = self.types.get(oid) {
                for name in written_names(&found.name) {
                    catalog.watched.insert((*name).into(), Reason::UnsafeType);
                }
                catalog
                    .watched
                    .insert(found.name.clone(), Reason::UnsafeType);
            }
        }
        for function in self
            .functions
            .values()
            .filter(|function| function.attribute_of_row)
        {
            if let Some(reason) = function.verdict.reason {
                catalog
                    .watched
                    .entry(function.name.clone())
                    .or_insert(reason);
            }
        }
    }

    fn name_relations(&self, catalog: &mut Known) {
        let mut edges: HashMap<u32, Vec<u32>> = HashMap::new();
        for (source, target) in &self.references {
            let (
                Source::View(from) | Source::Parent(from) | Source::Policy(from),
                Target::Relation(to),
            ) = (source, target)
            else {
                continue;
            };
            edges.entry(*from).or_default().push(*to);
        }
        let with_policies = self.with_policies();
        for (oid, relation) in &self.relations {
            let below = reachable(*oid, &edges);
            let extent = if below.len() < REACH_LIMIT {
                Extent::Whole
            } else {
                Extent::Cut
            };
            let own = self.shape(*oid, &with_policies);
            let alike = |oid: &u32| self.shape(*oid, &with_policies) == own;
            let shape = if below.iter().all(alike) {
                own
            } else {
                Shape::Other
            };
            let reaches = below.into_iter().filter_map(|oid| {
                self.relations
                    .get(&oid)
                    .map(|found| (found.schema, found.name.clone()))
            });
            let entry = RelationEntry {
                schema: relation.schema,
                persistence: relation.persistence,
                verdict: relation.verdict,
                reaches: reaches.collect(),
                extent,
                shape,
            };
            catalog
                .relations
                .entry(relation.name.clone())
                .or_default()
                .push(entry);
        }
    }
}

/// `FirstNormalObjectId` of `src/include/access/transam.h`.
const FIRST_USER_OID: u32 = 16_384;

/// Whether something with this oid that was not loaded is one that somebody has created since: the
/// rows of different kinds are not of one instant.
const fn is_missing(oid: u32) -> bool {
    oid >= FIRST_USER_OID
}

#[cfg(test)]
mod tests;
