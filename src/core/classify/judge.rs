//! Facts, catalog and lists to a verdict.

use super::analysis::Analysis;
use super::dispatch::{Proof, StatementFacts};
use super::options;
use super::references::is_grammar_form;
use super::references::{Comparisons, Form, FunctionUse, Name, Origin, References, RelationUse};
use crate::core::catalog::{Catalog, FunctionVerdict, OperatorVerdict, RelationVerdict};
use crate::core::policy::RoutingPolicy;
use crate::core::residue::SettingNames;
use crate::core::statement::{
    AccessMode, CatalogEffect, Classification, PinReason, Reason, SessionEffect, StatementVerdict,
};

/// Weighs `analysis` against what is known of the database and what is configured. Without a
/// catalog every read that names anything goes to the primary, and so does one that names or reaches
/// what is doubtful in it.
pub fn judge(
    analysis: &Analysis,
    catalog: Option<&Catalog>,
    policy: &RoutingPolicy,
) -> Classification {
    let judge = Judge { catalog, policy };
    let statements: Box<[StatementVerdict]> = analysis
        .statements
        .iter()
        .map(|facts| judge.statement(facts))
        .collect();
    let strictest = statements
        .iter()
        .find(|verdict| verdict.access == AccessMode::ReadWrite)
        .or(statements.first());
    let effect = statements.iter().fold(CatalogEffect::None, |all, verdict| {
        all.and(&verdict.catalog)
    });
    let mut classification = Classification {
        access: strictest.map_or(AccessMode::ReadOnly, |verdict| verdict.access),
        reason: strictest.map_or(Reason::Empty, |verdict| verdict.reason),
        catalog: effect,
        hint: analysis.hint.clone(),
        options: options::judged(analysis, catalog),
        logins: analysis
            .statements
            .iter()
            .map(|facts| facts.logins)
            .max()
            .unwrap_or_default(),
        statements,
    };
    if analysis.hint.route_primary.is_some() && classification.access == AccessMode::ReadOnly {
        classification.access = AccessMode::ReadWrite;
        classification.reason = Reason::Hint;
    }
    classification
}

#[derive(Debug, Clone, Copy)]
struct Judge<'a> {
    catalog: Option<&'a Catalog>,
    policy: &'a RoutingPolicy,
}

impl Judge<'_> {
    fn statement(self, facts: &StatementFacts) -> StatementVerdict {
        let calls = self.calls(facts);
        let (access, reason) = match facts.proof {
            Proof::Query => match self.query(&facts.references, calls) {
                Some(reason) => (AccessMode::ReadWrite, reason),
                None => (AccessMode::ReadOnly, Reason::Read),
            },
            Proof::Tokens => match self.query(&facts.references, self.strictest(&facts.references))
            {
                Some(reason) => (AccessMode::ReadWrite, reason),
                None => (AccessMode::ReadOnly, Reason::Read),
            },
            Proof::Read(reason) => (AccessMode::ReadOnly, reason),
            Proof::Write(reason) | Proof::Definition(reason) => (AccessMode::ReadWrite, reason),
        };
        let session = match (&facts.session, calls.pin) {
            (
                SessionEffect::None
                | SessionEffect::WatchesCounters
                | SessionEffect::Pins(PinReason::SqlPrepare),
                Some(reason),
            ) => left_behind(reason, &facts.configures),
            (SessionEffect::Pins(reason), _) => left_behind(*reason, &facts.configures),
            (SessionEffect::None | SessionEffect::WatchesCounters, None)
                if access == AccessMode::ReadWrite && self.runs_loud_code(facts) =>
            {
                SessionEffect::Pins(PinReason::CodeBehindWrite)
            }
            (effect, _) => effect.clone(),
        };
        StatementVerdict {
            access,
            reason,
            transaction: facts.transaction,
            session,
            catalog: self.effect(facts),
        }
    }

    /// Whether code that is not named may leave something behind: triggers, defaults, checks, views.
    fn runs_loud_code(self, facts: &StatementFacts) -> bool {
        let References {
            words, operators, ..
        } = &facts.references;
        match (facts.proof, self.catalog) {
            (Proof::Write(reason), None) => may_write(reason),
            (Proof::Write(reason), Some(catalog)) => {
                // Not every word of a long text was kept.
                let cut = reason == Reason::TooLong && catalog.has_loud_code();
                let doubtful = may_write(reason) && catalog.doubts_writes(words);
                cut || doubtful || catalog.is_loud(words, operators)
            }
            (Proof::Query | Proof::Tokens | Proof::Definition(_), Some(catalog)) => {
                catalog.is_loud(words, operators)
            }
            (Proof::Query | Proof::Tokens | Proof::Definition(_), None) | (Proof::Read(_), _) => {
                false
            }
        }
    }

    /// What the statement may change in the catalog: a procedure that is not known, anything.
    fn effect(self, facts: &StatementFacts) -> CatalogEffect {
        let CatalogEffect::Calls(name) = &facts.catalog else {
            return facts.catalog.clone();
        };
        let known = self.catalog.filter(|catalog| catalog.runs_no_ddl(name));
        known.map_or(CatalogEffect::MayChange, |_| facts.catalog.clone())
    }

    /// Why a query may not run on a replica; `None` when it may.
    fn query(self, references: &References, calls: FunctionVerdict) -> Option<Reason> {
        if let Some(reason) = calls
            .reason
            .filter(|reason| *reason != Reason::CatalogUnknown)
        {
            return Some(reason);
        }
        let Some(catalog) = self.catalog.filter(|catalog| !catalog.doubts_everything()) else {
            return names_anything(references).then_some(Reason::CatalogUnknown);
        };
        if is_doubtful(catalog, references) {
            return Some(Reason::CatalogUnknown);
        }
        references
            .relations
            .iter()
            .find_map(|relation| self.relation(catalog, relation))
            .or_else(|| {
                references
                    .operators
                    .iter()
                    .find_map(|name| operator(catalog, name))
            })
            .or_else(|| implied(catalog, references))
            .or_else(|| {
                references
                    .types
                    .iter()
                    .find_map(|name| unknown_type(catalog, name))
            })
            .or_else(|| {
                references
                    .words
                    .iter()
                    .find_map(|word| catalog.watched(word))
            })
    }

    /// The strictest verdict of all calls.
    fn calls(self, facts: &StatementFacts) -> FunctionVerdict {
        let calls = facts.references.functions.iter();
        calls
            .map(|call| match facts.proof {
                Proof::Query => self.call(call),
                // What looks like a call there may be none.
                Proof::Tokens | Proof::Read(_) | Proof::Write(_) => self.call_in_write(call),
                Proof::Definition(_) => call_in_definition(call),
            })
            .reduce(FunctionVerdict::and)
            .unwrap_or(FunctionVerdict::SAFE)
    }

    /// The strictest verdict of all that may be calls, as they are judged in a query.
    fn strictest(self, references: &References) -> FunctionVerdict {
        let calls = references.functions.iter();
        calls
            .map(|call| match call.form {
                Form::Mention => self.mention(call),
                Form::Bare | Form::Exact | Form::Harmless => self.call(call),
            })
            .reduce(FunctionVerdict::and)
            .unwrap_or(FunctionVerdict::SAFE)
    }

    /// A word that may be the name of a function, an attribute of a row or anything else.
    fn mention(self, word: &FunctionUse) -> FunctionVerdict {
        match self.known(word) {
            Some(_) => self.call(word),
            None => FunctionVerdict::SAFE,
        }
    }

    fn call(self, call: &FunctionUse) -> FunctionVerdict {
        let known = self.known(call);
        if self
            .policy
            .write_functions
            .iter()
            .any(|entry| names(entry, &call.name))
        {
            let pin = known.and_then(|verdict| verdict.pin);
            return FunctionVerdict::refused(Reason::ListedFunction, pin);
        }
        if self.is_listed_read(call) {
            return FunctionVerdict::SAFE;
        }
        let doubtful = self.catalog.is_some_and(|catalog| {
            // What an older catalog says of the session holds until the function itself is touched.
            !catalog.doubts_everything() && catalog.doubts_routine(&call.name.name)
        });
        if doubtful {
            let now =
                FunctionVerdict::refused(Reason::CatalogUnknown, Some(PinReason::UnknownCode));
            return known.map_or(now, |verdict| verdict.and(now));
        }
        if let Some(verdict) = known {
            return verdict;
        }
        match self.catalog.filter(|catalog| !catalog.doubts_everything()) {
            _ if call.form == Form::Bare && is_grammar_form(&call.name.name) => {
                FunctionVerdict::SAFE
            }
            Some(catalog) if call.name.schema.is_none() && catalog.knows_type(&call.name.name) => {
                FunctionVerdict::SAFE
            }
            Some(_) => {
                FunctionVerdict::refused(Reason::UnknownFunction, Some(PinReason::UnknownCode))
            }
            None => FunctionVerdict::refused(Reason::CatalogUnknown, Some(PinReason::UnknownCode)),
        }
    }

    /// What the catalog says of a call, with what only the call itself shows.
    fn known(self, call: &FunctionUse) -> Option<FunctionVerdict> {
        let catalog = self.catalog.unwrap_or_else(|| Catalog::of_empty_database());
        let verdict = catalog.function(call.name.schema.as_deref(), &call.name.name)?;
        Some(match (call.form, &*call.name.name) {
            (Form::Harmless, "set_config") => FunctionVerdict {
                pin: None,
                ..verdict
            },
            (Form::Harmless, _) => FunctionVerdict::SAFE,
            (Form::Bare | Form::Exact | Form::Mention, _) => verdict,
        })
    }

    /// A name that no catalog knows is most often the column list of an alias here, unless it is
    /// written in escapes.
    fn call_in_write(self, call: &FunctionUse) -> FunctionVerdict {
        if call.form == Form::Mention {
            return FunctionVerdict::SAFE;
        }
        let escaped = call
            .name
            .name
            .get(..3)
            .is_some_and(|s| s.eq_ignore_ascii_case("u&\""));
        match (self.catalog, self.known(call)) {
            (Some(catalog), None) if !escaped && !catalog.doubts_routine(&call.name.name) => {
                FunctionVerdict::SAFE
            }
            _ => self.call(call),
        }
    }

    /// An entry with a schema vouches for a bare name only if no other schema has it.
    fn is_listed_read(self, call: &FunctionUse) -> bool {
        self.policy.read_functions.iter().any(|entry| {
            match (entry.split_once('.'), &call.name.schema) {
                (None, _) => *entry == *call.name.name,
                (Some((schema, name)), Some(written)) => {
                    *schema == **written && *name == *call.name.name
                }
                (Some((schema, name)), None) => {
                    *name == *call.name.name
                        && self.catalog.is_some_and(|catalog| {
                            !catalog.doubts_routine(name)
                                && catalog.function_is_only_in(schema, name)
                        })
                }
            }
        })
    }

    fn relation(self, catalog: &Catalog, relation: &RelationUse) -> Option<Reason> {
        let Name { schema, name } = &relation.name;
        let schema = schema.as_deref();
        if schema.is_some_and(|schema| schema.starts_with("pg_temp")) {
            return Some(Reason::TemporaryRelation);
        }
        let listed = !self.policy.primary_tables.is_empty()
            && (self
                .policy
                .primary_tables
                .iter()
                .any(|entry| names(entry, &relation.name))
                || catalog.relation_reaches(schema, name, |schema, name| {
                    let found = Name {
                        schema: Some(schema.into()),
                        name: name.into(),
                    };
                    self.policy
                        .primary_tables
                        .iter()
                        .any(|entry| names(entry, &found))
                }));
        if listed {
            return Some(Reason::ListedRelation);
        }
        match (catalog.relation(schema, name), relation.origin) {
            (Some(RelationVerdict::Safe), _) | (None, Origin::PerhapsCte) => None,
            (Some(RelationVerdict::Refused(reason)), _) => Some(reason),
            (None, Origin::Relation) => Some(Reason::UnknownRelation),
        }
    }
}

/// Whether a statement that is no read for this reason may write rows.
fn may_write(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Write
            | Reason::ModifyingCte
            | Reason::CopyWrite
            | Reason::ExplainAnalyzeWrite
            | Reason::ParseFailed
            | Reason::NotUtf8
            | Reason::TooLong
    )
}

fn left_behind(reason: PinReason, configures: &SettingNames) -> SessionEffect {
    if *configures == SettingNames::default() {
        SessionEffect::Pins(reason)
    } else {
        SessionEffect::MayConfigure(reason, configures.clone())
    }
}

/// Whether a configured `name` or `schema.name` may mean `used`.
fn names(entry: &str, used: &Name) -> bool {
    match (entry.split_once('.'), &used.schema) {
        (Some((schema, name)), Some(written)) => *schema == **written && *name == *used.name,
        (Some((_, name)), None) => *name == *used.name,
        (None, _) => *entry == *used.name,
    }
}

/// Only what PostgreSQL itself keeps for the session: the other names are being defined, and a
/// default with `nextval` is not called.
fn call_in_definition(call: &FunctionUse) -> FunctionVerdict {
    let built_in = call
        .name
        .schema
        .as_deref()
        .is_none_or(|schema| schema == "pg_catalog");
    Catalog::of_empty_database()
        .function(Some("pg_catalog"), &call.name.name)
        .filter(|verdict| built_in && verdict.reason != Some(Reason::Sequence))
        .unwrap_or(FunctionVerdict::SAFE)
}

fn names_anything(references: &References) -> bool {
    !(references.relations.is_empty()
        && references.functions.is_empty()
        && references.operators.is_empty()
        && references.types.is_empty())
}

/// Whether DDL has touched something that is named, or that is reached by what is named.
pub(super) fn is_doubtful(catalog: &Catalog, references: &References) -> bool {
    let mut relations = references.relations.iter();
    relations.any(|relation| catalog.doubts_relation(&relation.name.name))
        || references
            .words
            .iter()
            .any(|word| catalog.doubts_word(word))
        || references
            .operators
            .iter()
            .any(|name| catalog.doubts_operator(name))
        || (references.comparisons == Comparisons::Implied && catalog.doubts_comparisons())
}

fn operator(catalog: &Catalog, name: &str) -> Option<Reason> {
    match catalog.operator(name) {
        Some(OperatorVerdict::Safe) => None,
        // A named argument, not an operator.
        None if name == "=>" || name == ":=" => None,
        Some(OperatorVerdict::Refused) | None => Some(Reason::UnsafeOperator),
    }
}

fn implied(catalog: &Catalog, references: &References) -> Option<Reason> {
    let compares = references.comparisons == Comparisons::Implied;
    if compares && catalog.has_unsafe_comparison() {
        return Some(Reason::UnsafeOperator);
    }
    (catalog.has_unsafe_implicit_cast() && names_anything(references)).then_some(Reason::UnsafeType)
}

fn unknown_type(catalog: &Catalog, name: &Name) -> Option<Reason> {
    (!catalog.knows_type(&name.name)).then_some(Reason::UnsafeType)
}
