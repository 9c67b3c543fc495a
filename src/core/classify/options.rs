//! What a text has to do with customized options: which it makes exist on the connection that it runs
//! on, and whether it may tell one without a value from one that does not exist.

use super::analysis::Analysis;
use super::apart::{Held, is_statement_apart};
use super::dispatch::{Proof, StatementFacts};
use super::judge::is_doubtful;
use super::lexer::{Kind, Piece};
use super::references::{Origin, References};
use super::session::{self, string_value};
use crate::core::catalog::Catalog;
use crate::core::residue::Others;
use crate::core::statement::{Asks, Made, NamedOption, OptionUse, Reason};

/// Longer names are not remembered, in bytes.
const NAME_BYTES: usize = 256;

/// The part of it that one statement's tokens tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct StatementOptions {
    /// Whether it asks for one, or for a setting whose name it does not tell.
    asks: Asks,
    names: Vec<NamedOption>,
    others: Others,
}

impl StatementOptions {
    /// `pieces` are the statement's tokens.
    pub(super) fn of(sql: &[u8], pieces: &[Piece<'_>]) -> Self {
        let mut found = Self::default();
        let Some((first, rest)) = pieces.split_first() else {
            return found;
        };
        match first.word() {
            Some("set") => found.add(&assigned_name(rest), Made::Surely),
            Some("reset") => found.add(&session::setting_name(rest).0, Made::Surely),
            Some("show") if is_customized(&session::setting_name(rest).0) => {
                found.asks = Asks::Itself;
            }
            Some("do") => found.look_into_strings(sql, pieces),
            Some("create" | "alter") => {
                found.look_into_strings(sql, pieces);
                found.look_for_clauses(rest);
            }
            _ => {}
        }
        let runs = runs_its_calls(pieces);
        for (at, piece) in pieces.iter().enumerate() {
            let arguments = pieces.get(at + 1..).unwrap_or_default();
            match &*piece.text {
                _ if !piece.is_name() => {}
                "current_setting" if !asks_for_servers(sql, arguments) => found.asks = Asks::Itself,
                "set_config" if runs => found.called(sql, arguments),
                _ => {}
            }
        }
        found
    }

    fn add(&mut self, name: &str, made: Made) {
        if !is_customized(name) {
            return;
        }
        if name.len() > NAME_BYTES {
            self.others = Others::Some;
        } else {
            let name = name.into();
            self.names.push(NamedOption { name, made });
        }
    }

    /// A call of `set_config` with these `arguments`, the parenthesis included.
    fn called(&mut self, sql: &[u8], arguments: &[Piece<'_>]) {
        match arguments {
            [open, name, ..] if open.is_symbol(b'(') => match literal(sql, name) {
                Some(value) if is_whole_argument(sql, name) => self.add(&value, Made::Perhaps),
                Some(_) | None => self.others = Others::Some,
            },
            // The arguments of a long text are not kept.
            [open] if open.is_symbol(b'(') => self.others = Others::Some,
            _ => {}
        }
    }

    /// `ALTER ROLE ... SET app.x = 1` and its like try the value.
    fn look_for_clauses(&mut self, pieces: &[Piece<'_>]) {
        for (at, piece) in pieces.iter().enumerate() {
            if piece.is("set") {
                let assigned = pieces.get(at + 1..).unwrap_or_default();
                self.add(&session::setting_name(assigned).0, Made::Perhaps);
            }
        }
    }

    /// The bodies of DO and of functions are strings.
    fn look_into_strings(&mut self, sql: &[u8], pieces: &[Piece<'_>]) {
        let strings = pieces.iter().filter(|piece| piece.kind == Kind::String);
        for string in strings {
            let text = sql.get(string.start..string.end).unwrap_or_default();
            let text = text.to_ascii_lowercase();
            if memchr::memmem::find(&text, b"current_setting").is_some() {
                self.asks = Asks::Itself;
            }
        }
    }
}

/// What `analysis` amounts to, in a database with this `catalog`; without one, any code may ask.
pub(super) fn judged(analysis: &Analysis, catalog: Option<&Catalog>) -> OptionUse {
    let mut judged = OptionUse {
        database: catalog.map_or(Asks::Code, Catalog::asks_for_options),
        ..OptionUse::default()
    };
    let mut names = Vec::new();
    for facts in &analysis.statements {
        judged.asks = judged.asks.max(asks(facts, catalog));
        names.extend(facts.options.names.iter().cloned());
        judged.others = judged.others.max(facts.options.others);
        if judged.asks == Asks::Nothing {
            judged.before = names.len();
        }
    }
    judged.names = names.into();
    judged
}

fn asks(facts: &StatementFacts, catalog: Option<&Catalog>) -> Asks {
    let of_session = matches!(
        facts.proof,
        Proof::Write(Reason::SessionState | Reason::TransactionControl)
    );
    let catalog = catalog.unwrap_or_else(|| Catalog::of_empty_database());
    let calls_nothing = facts.references.functions.is_empty();
    let is_apart = |catalog: &Catalog| {
        is_statement_apart(Held::Unnamed, facts, catalog)
            && !is_doubtful(catalog, &facts.references)
            && !names_unknown_relation(catalog, &facts.references)
    };
    if facts.options.asks != Asks::Nothing {
        facts.options.asks
    } else if (of_session && calls_nothing) || is_apart(catalog) {
        Asks::Nothing
    } else {
        Asks::Code
    }
}

/// Whether there is a relation among them that may be a view which the catalog does not know yet.
fn names_unknown_relation(catalog: &Catalog, references: &References) -> bool {
    references.relations.iter().any(|relation| {
        let schema = relation.name.schema.as_deref();
        relation.origin == Origin::Relation
            && catalog.relation(schema, &relation.name.name).is_none()
    })
}

/// Whether a setting with this lower-case name is a customized option of PostgreSQL's.
fn is_customized(name: &str) -> bool {
    name.contains('.') && !name.starts_with(session::PROXY_PREFIX)
}

/// The name that SET, with `pieces` right of the word, assigns.
fn assigned_name(pieces: &[Piece<'_>]) -> String {
    let scope = |piece: &Piece<'_>| piece.is("session") || piece.is("local");
    let scoped = match pieces {
        // `SET local.x = 1` names an option.
        [first, second, ..] => scope(first) && !second.is_symbol(b'.'),
        _ => false,
    };
    session::setting_name(pieces.get(usize::from(scoped)..).unwrap_or_default()).0
}

/// Whether the calls in a statement are run with it: not those that are explained or defined.
fn runs_its_calls(pieces: &[Piece<'_>]) -> bool {
    let explained = pieces.first().is_some_and(|first| first.is("explain"))
        && !pieces
            .iter()
            .any(|piece| piece.is("analyze") || piece.is("analyse"));
    let defined = pieces.first().is_some_and(|first| first.is("create"))
        && pieces
            .iter()
            .take(4)
            .any(|piece| piece.is("function") || piece.is("procedure"));
    !explained && !defined
}

/// Whether nothing but a comma follows the literal: lists of constants count as one piece.
fn is_whole_argument(sql: &[u8], literal: &Piece<'_>) -> bool {
    let after = sql.get(literal.end..).unwrap_or_default();
    after.trim_ascii_start().first() == Some(&b',')
}

/// The lower-case content of a string.
fn literal(sql: &[u8], piece: &Piece<'_>) -> Option<String> {
    let string = (piece.kind == Kind::String).then(|| sql.get(piece.start..piece.end))??;
    let mut value = string_value(std::str::from_utf8(string).ok()?)?;
    value.make_ascii_lowercase();
    Some(value)
}

/// Whether a call with these `arguments`, the parenthesis included, is of a setting that is not customized.
fn asks_for_servers(sql: &[u8], arguments: &[Piece<'_>]) -> bool {
    match arguments {
        [open, name, next, ..] if open.is_symbol(b'(') => {
            let alone = next.is_symbol(b')') || next.is_symbol(b',');
            alone && literal(sql, name).is_some_and(|name| !name.contains('.'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::classify::analyse;

    fn of(sql: &str) -> OptionUse {
        judged(&analyse(sql.as_bytes()), Some(Catalog::of_empty_database()))
    }

    fn names(sql: &str) -> Vec<String> {
        let used = of(sql).names;
        used.iter().map(|used| used.name.to_string()).collect()
    }

    #[test]
    fn what_is_set_for_however_long_exists_afterwards() {
        for sql in [
            "SET app.x = 1",
            "set session App.X to default",
            "SET LOCAL \"app\".x = 'a'",
            "RESET app.x",
            "SELECT set_config('App.x', $1, true)",
            "SELECT pg_catalog.set_config('app.x', 'a', false)",
            "INSERT INTO t SELECT set_config('app.x', v, true) FROM s",
            "EXPLAIN ANALYZE SELECT set_config('app.x', 'a', true)",
            "ALTER ROLE r SET app.x = 1",
            "CREATE FUNCTION f() RETURNS int SET app.x = 1 LANGUAGE sql AS 'SELECT 1'",
        ] {
            assert_eq!(names(sql), ["app.x"], "{sql}");
        }
        for sql in [
            "SET work_mem = 1",
            "SET pgweir.consistency = 'latest'",
            "SET LOCAL ROLE a",
            "SELECT 'app.x'",
            "EXPLAIN SELECT set_config('app.x', 'a', true)",
            "UPDATE t SET x = 1",
            "ALTER TABLE s.t SET SCHEMA a",
            "SET SESSION AUTHORIZATION a",
        ] {
            assert_eq!(of(sql).names.len(), 0, "{sql}");
        }
        assert_eq!(names("SET local.x = 1"), ["local.x"]);
        for sql in [
            "SELECT set_config($1, $2, true)",
            "SELECT set_config('app.' || $1, $2, true)",
            "SELECT set_config('app.x' || $1, 'a', true)",
        ] {
            let used = of(sql);
            assert_eq!((used.others, used.names.len()), (Others::Some, 0), "{sql}");
        }
        let long = format!(
            "SELECT {}1, set_config('app.x', 'a', true)",
            "a + ".repeat(200_000)
        );
        assert_eq!(of(&long).others, Others::Some);
    }

    #[test]
    fn only_customized_options_are_asked_for() {
        for sql in [
            "SELECT current_setting('app.x', true)",
            "SELECT current_setting(name) FROM pg_settings",
            "SHOW app.x",
            "DO $$ BEGIN PERFORM Current_Setting('app.x'); END $$",
            "PREPARE p AS SELECT current_setting($1)",
        ] {
            assert_eq!(of(sql).asks, Asks::Itself, "{sql}");
        }
        for sql in [
            "SELECT current_setting('server_version_num')",
            "SHOW server_version",
            "SELECT 1",
            "SELECT set_config('app.x', '1', true)",
            "SET app.x = 1",
            "BEGIN",
        ] {
            assert_eq!(of(sql).asks, Asks::Nothing, "{sql}");
        }
        for sql in ["DELETE FROM t", "SELECT f()", "SELECT * FROM t"] {
            assert_eq!(of(sql).asks, Asks::Code, "{sql}");
        }
    }

    #[test]
    fn names_in_front_of_what_asks_are_told_from_those_behind() {
        let both = of("SET app.x = 1; SELECT f(); SET app.y = 2");
        assert_eq!((both.names.len(), both.before), (2, 1));
        let none = of("SET app.x = 1; SET app.y = 2");
        assert_eq!((none.names.len(), none.before), (2, 2));
    }
}
