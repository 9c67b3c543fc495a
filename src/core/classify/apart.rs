//! Whether a read can mean what its session has on one connection only.

use super::Analysis;
use super::dispatch::{Proof, StatementFacts};
use super::references::{Form, References, is_grammar_form};
use crate::core::catalog::{Catalog, is_server_type};

/// What a session has on one connection only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<'a> {
    /// What nothing but code and the server's own statements reach: locks, cursors, prepared statements,
    /// numbers of sequences.
    Unnamed,
    /// Temporary relations and types with these names too.
    Temporary(&'a [Box<str>]),
}

/// Whether nothing in the text can mean what is held: it calls no code of users, whose sources may look
/// anything up, and beside temporary objects it is made of tables with plain values, of the server's own
/// types, and of functions that look no names up.
pub fn is_apart_from(held: Held<'_>, analysis: &Analysis, catalog: &Catalog) -> bool {
    let mut statements = analysis.statements.iter();
    statements.all(|facts| is_statement_apart(held, facts, catalog))
}

/// The same of one statement.
pub(super) fn is_statement_apart(
    held: Held<'_>,
    facts: &StatementFacts,
    catalog: &Catalog,
) -> bool {
    match facts.proof {
        Proof::Query => is_apart(held, &facts.references, catalog),
        Proof::Read(_) => true,
        // Of tokens alone it is not known what is named how.
        Proof::Tokens | Proof::Write(_) | Proof::Definition(_) => false,
    }
}

fn is_apart(held: Held<'_>, references: &References, catalog: &Catalog) -> bool {
    let calls_none = |word: &str| !catalog.hides_function(word);
    references
        .words
        .iter()
        .all(|word| calls_none(word) && is_plain_word(held, word, references, catalog))
        && references.relations.iter().all(|relation| {
            let (schema, name) = (relation.name.schema.as_deref(), &relation.name.name);
            // Without an entry it is a query of WITH, or the read is none.
            catalog.relation(schema, name).is_none()
                || catalog.is_plain_table(schema, name)
                || catalog.is_plain_table_of_server(schema, name)
                || (held == Held::Unnamed && catalog.is_relation_of_server(schema, name))
        })
        && references
            .functions
            .iter()
            .all(|call| is_plain_call(held, &call.name.name, call.form, catalog))
        && references
            .operators
            .iter()
            .all(|name| catalog.is_plain_operator(name))
        && references
            .types
            .iter()
            .all(|name| is_plain_type_name(held, &name.name))
        && catalog.has_plain_comparisons()
        && catalog.has_plain_type_names()
}

fn is_plain_word(held: Held<'_>, word: &str, references: &References, catalog: &Catalog) -> bool {
    let in_from = || {
        let mut relations = references.relations.iter();
        relations.any(|relation| *relation.name.name == *word)
    };
    let hidden = !word.is_ascii()
        || word
            .get(..2)
            .is_some_and(|two| two.eq_ignore_ascii_case("u&"));
    let users_type = catalog.knows_type(word) && !is_plain_type_name(held, word) && !in_from();
    let names_held = match held {
        Held::Unnamed => false,
        Held::Temporary(names) => {
            let element = word.trim_start_matches('_');
            names
                .iter()
                .any(|name| **name == *element || **name == *word)
                || word == "current_schema"
                || catalog.may_look_up(word)
        }
    };
    !(hidden || users_type || names_held || word.starts_with("pg_temp"))
}

fn is_plain_call(held: Held<'_>, name: &str, form: Form, catalog: &Catalog) -> bool {
    let grammar = form == Form::Bare && (is_grammar_form(name) || is_plain_type_name(held, name));
    let looks_up = held != Held::Unnamed && catalog.may_look_up(name);
    (catalog.is_function_of_server(name) && !looks_up)
        || (grammar && catalog.function(None, name).is_none())
}

/// Whether the name is that of a type that comes with the server, which is the same everywhere unless its
/// values are names of temporary objects.
fn is_plain_type_name(held: Held<'_>, name: &str) -> bool {
    let of_objects = matches!(name, "regclass" | "regproc" | "regprocedure" | "regtype");
    is_server_type(name) || (held == Held::Unnamed && of_objects)
}

#[cfg(test)]
mod tests;
