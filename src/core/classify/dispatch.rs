//! One statement to its facts, by its leading words.

use super::copy::copy;
use super::ddl;
use super::lexer::Piece;
use super::options::StatementOptions;
use super::query;
use super::references::{self, Form, References};
use super::route;
use super::session::{self, Outcome};
use super::tokens;
use super::transaction::{self, Clarity};
use crate::core::residue::SettingNames;
use crate::core::statement::{
    CatalogEffect, Logins, PinReason, Reason, SessionEffect, TransactionControl,
};

/// What the text says of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatementFacts {
    pub(super) proof: Proof,
    pub(super) transaction: TransactionControl,
    pub(super) session: SessionEffect,
    pub(super) catalog: CatalogEffect,
    pub(super) references: References,
    /// Placeholders that it may set.
    pub(super) configures: SettingNames,
    /// What it has to do with customized options.
    pub(super) options: StatementOptions,
    pub(super) logins: Logins,
}

/// Whether the statement can be a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is, if everything it names is safe.
    Query,
    /// It is, if everything that any word of it could name is safe: only its tokens are understood.
    Tokens,
    /// It is, whatever the catalog says.
    Read(Reason),
    /// It is not; what it calls may pin the session.
    Write(Reason),
    /// It is not, and of what it calls only built-in functions of the session matter: the others
    /// are names that are being defined.
    Definition(Reason),
}

impl StatementFacts {
    pub(super) fn new(proof: Proof, references: References) -> Self {
        Self {
            proof,
            transaction: TransactionControl::None,
            session: SessionEffect::None,
            catalog: CatalogEffect::None,
            references,
            configures: SettingNames::default(),
            options: StatementOptions::default(),
            logins: Logins::Kept,
        }
    }

    /// Notes the placeholders that the text may set.
    fn configuring(mut self, sql: &[u8], pieces: &[Piece<'_>]) -> Self {
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
            let text = sql.get(first.start..last.end).unwrap_or_default();
            self.configures = SettingNames::in_source(&String::from_utf8_lossy(text));
        }
        self
    }

    /// A statement that is refused unread and leaves the session in doubt.
    pub(super) fn doubtful(reason: Reason) -> Self {
        Self::plain(reason).pinned(PinReason::NotUnderstood)
    }

    /// Adds that the text breaks off in a way that is not understood.
    pub(super) fn spoil(&mut self, reason: Reason) {
        self.proof = Proof::Write(reason);
        self.session = SessionEffect::Pins(PinReason::NotUnderstood);
        self.widen_effect();
    }

    pub(super) fn plain(reason: Reason) -> Self {
        Self::new(Proof::Write(reason), References::default())
    }

    fn pinned(self, reason: PinReason) -> Self {
        Self {
            session: SessionEffect::Pins(reason),
            ..self
        }
    }

    pub(super) fn watching_counters(self) -> Self {
        Self {
            session: SessionEffect::WatchesCounters,
            ..self
        }
    }

    fn with_effect(self, catalog: CatalogEffect) -> Self {
        Self { catalog, ..self }
    }

    /// Not all of the statement was read: names may be missing.
    fn widen_effect(&mut self) {
        if self.catalog != CatalogEffect::None {
            self.catalog = CatalogEffect::MayChange;
        }
    }

    /// The same facts where a look at the tokens alone proves nothing.
    pub(super) fn without_tokens(self) -> Self {
        match self.proof {
            Proof::Tokens => Self {
                proof: Proof::Write(Reason::ParseFailed),
                ..self
            },
            Proof::Query | Proof::Read(_) | Proof::Write(_) | Proof::Definition(_) => self,
        }
    }

    /// The same facts for a text that is too long to be read whole.
    pub(super) fn cut_short(mut self) -> Self {
        if self.transaction != TransactionControl::None {
            return self;
        }
        self.widen_effect();
        self.proof = match self.proof {
            Proof::Query | Proof::Tokens | Proof::Read(_) | Proof::Write(_) => {
                Proof::Write(Reason::TooLong)
            }
            Proof::Definition(_) => Proof::Definition(Reason::TooLong),
        };
        if matches!(
            self.session,
            SessionEffect::Setting(_) | SessionEffect::Proxy(_)
        ) {
            self.session = SessionEffect::Pins(PinReason::Setting);
        }
        self
    }
}

/// The facts of the statement made of `pieces`, which must not be empty and hold no comments.
pub(super) fn statement(sql: &[u8], pieces: &[Piece<'_>]) -> StatementFacts {
    if let Some((control, clarity)) = transaction::control(pieces) {
        let facts = StatementFacts {
            transaction: control,
            catalog: transaction::effect(sql, pieces),
            ..StatementFacts::plain(Reason::TransactionControl)
        };
        return match clarity {
            Clarity::Clear => facts,
            Clarity::Doubtful => facts.pinned(PinReason::NotUnderstood),
        };
    }
    let Some((first, rest)) = pieces.split_first() else {
        return StatementFacts::doubtful(Reason::ParseFailed);
    };
    if first.is_symbol(b'(') {
        return query_facts(sql, pieces);
    }
    let Some(word) = first.word() else {
        return StatementFacts::doubtful(Reason::ParseFailed);
    };
    match word {
        "select" | "with" | "values" | "table" => query_facts(sql, pieces),
        "update" if session::updates_settings(rest) => {
            calling(sql, pieces, Reason::Write).pinned(PinReason::Setting)
        }
        "insert" | "update" | "delete" | "merge" => calling(sql, pieces, Reason::Write),
        "truncate" => writing(rest),
        "copy" => copy(sql, rest),
        "lock" => StatementFacts::plain(Reason::LockTable),
        "explain" => route::explained(sql, pieces).unwrap_or_else(|| explain(sql, rest)),
        "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "checkpoint" | "refresh" => {
            StatementFacts::plain(Reason::Maintenance)
        }
        "set" => outcome(session::set(sql, rest)),
        "reset" => outcome(session::reset(rest)),
        "show" => outcome(session::show(rest)),
        "discard" => outcome(session::discard(rest)),
        _ => session_statement(sql, word, pieces, rest),
    }
}

fn session_statement(
    sql: &[u8],
    word: &str,
    pieces: &[Piece<'_>],
    rest: &[Piece<'_>],
) -> StatementFacts {
    let state = || StatementFacts::plain(Reason::SessionState);
    match word {
        "listen" => state().pinned(PinReason::Listen),
        "unlisten" | "notify" | "fetch" | "move" | "close" => state(),
        "deallocate" => deallocate(rest),
        "declare" => declare(sql, rest),
        "prepare" => state().pinned(PinReason::SqlPrepare),
        "load" => state().pinned(PinReason::Load),
        "execute" => StatementFacts::plain(Reason::Code).pinned(PinReason::SqlPrepare),
        "do" => StatementFacts::plain(Reason::Code)
            .pinned(PinReason::UnknownCode)
            .with_effect(ddl::block(sql, rest))
            .configuring(sql, pieces),
        "call" => StatementFacts::plain(Reason::Code)
            .pinned(PinReason::UnknownCode)
            .with_effect(ddl::call(rest))
            .configuring(sql, pieces),
        "create" | "alter" | "drop" | "import" | "reassign" => definition(sql, pieces),
        "grant" | "revoke" | "comment" | "security" => StatementFacts::plain(Reason::Ddl),
        _ => StatementFacts::doubtful(Reason::ParseFailed),
    }
}

fn outcome(outcome: Outcome) -> StatementFacts {
    let proof = if outcome.reason == Reason::Show {
        Proof::Read(Reason::Show)
    } else {
        Proof::Write(outcome.reason)
    };
    StatementFacts {
        transaction: outcome.transaction,
        session: outcome.session,
        ..StatementFacts::new(proof, References::default())
    }
}

/// A name may be that of a statement that was prepared by a Parse message.
fn deallocate(rest: &[Piece<'_>]) -> StatementFacts {
    let rest = match rest {
        [prepare, rest @ ..] if prepare.is("prepare") && !rest.is_empty() => rest,
        _ => rest,
    };
    let facts = StatementFacts::plain(Reason::SessionState);
    match rest {
        [all] if all.is("all") => StatementFacts {
            session: SessionEffect::DeallocateAll,
            ..facts
        },
        _ => facts.pinned(PinReason::SqlPrepare),
    }
}

/// A statement that writes and calls no function by name.
pub(super) fn writing(pieces: &[Piece<'_>]) -> StatementFacts {
    StatementFacts::new(Proof::Write(Reason::Write), references::words_only(pieces))
}

/// A statement that is no read, with the functions it calls.
pub(super) fn calling(sql: &[u8], pieces: &[Piece<'_>], reason: Reason) -> StatementFacts {
    with_settings(
        StatementFacts::new(Proof::Write(reason), references::calls_only(sql, pieces)),
        sql,
        pieces,
    )
}

/// Adds the names that `set_config` is called with.
fn with_settings(facts: StatementFacts, sql: &[u8], pieces: &[Piece<'_>]) -> StatementFacts {
    let mut calls = facts.references.functions.iter();
    if calls.any(|call| &*call.name.name == "set_config" && call.form != Form::Harmless) {
        facts.configuring(sql, pieces)
    } else {
        facts
    }
}

fn query_facts(sql: &[u8], pieces: &[Piece<'_>]) -> StatementFacts {
    match query::prove(sql, pieces) {
        Ok(references) => read(StatementFacts::new(Proof::Query, references), sql, pieces),
        Err(Reason::ParseFailed) => {
            by_tokens(sql, pieces).unwrap_or_else(|| calling(sql, pieces, Reason::ParseFailed))
        }
        Err(Reason::SelectInto) => select_into(calling(sql, pieces, Reason::SelectInto), pieces),
        Err(reason) => calling(sql, pieces, reason),
    }
}

/// The facts of a query of which only the tokens are understood; `None` if it may be no query.
pub(super) fn by_tokens(sql: &[u8], pieces: &[Piece<'_>]) -> Option<StatementFacts> {
    let references = tokens::prove(sql, pieces)?;
    Some(read(
        StatementFacts::new(Proof::Tokens, references),
        sql,
        pieces,
    ))
}

fn read(facts: StatementFacts, sql: &[u8], pieces: &[Piece<'_>]) -> StatementFacts {
    let mut relations = facts.references.relations.iter();
    let lists_statements =
        relations.any(|relation| &*relation.name.name == "pg_prepared_statements");
    let facts = with_settings(facts, sql, pieces);
    if lists_statements {
        facts.pinned(PinReason::SqlPrepare)
    } else {
        facts
    }
}

fn select_into(facts: StatementFacts, pieces: &[Piece<'_>]) -> StatementFacts {
    let temporary = pieces.windows(2).any(|pair| match pair {
        [into, next] => into.is("into") && is_temporary_word(next),
        _ => false,
    });
    let local = pieces.windows(3).any(|three| match three {
        [into, _, next] => into.is("into") && is_temporary_word(next),
        _ => false,
    });
    if temporary || local || names_temporary_schema(pieces) {
        facts.pinned(PinReason::TemporaryObject)
    } else {
        facts.with_effect(ddl::select_into(pieces))
    }
}

fn is_temporary_word(piece: &Piece<'_>) -> bool {
    piece.is("temp") || piece.is("temporary")
}

fn names_temporary_schema(pieces: &[Piece<'_>]) -> bool {
    pieces
        .iter()
        .any(|piece| piece.is_name() && piece.text.starts_with("pg_temp"))
}

/// CREATE, ALTER, DROP and their like.
fn definition(sql: &[u8], pieces: &[Piece<'_>]) -> StatementFacts {
    let creates = pieces.first().is_some_and(|piece| piece.is("create"));
    // CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMP ... [RECURSIVE] VIEW
    let temporary = creates && pieces.iter().take(5).any(is_temporary_word);
    if temporary || names_temporary_schema(pieces) {
        let facts = calling(sql, pieces, Reason::Ddl).pinned(PinReason::TemporaryObject);
        return if creates {
            facts
        } else {
            facts.with_effect(ddl::effect(pieces))
        };
    }
    let runs_query = creates
        && pieces.windows(3).any(begins_query)
        && pieces
            .iter()
            .take(4)
            .any(|piece| piece.is("table") || piece.is("materialized"));
    let calls = references::calls_only(sql, pieces);
    let proof = if runs_query {
        Proof::Write(Reason::Ddl)
    } else {
        Proof::Definition(Reason::Ddl)
    };
    let executes = |pair: &[Piece<'_>]| match pair {
        [first, second] => first.is("as") && second.is("execute"),
        _ => false,
    };
    let effect = ddl::effect(pieces);
    if runs_query && pieces.windows(2).any(executes) {
        // What looks like a call is the statement's name with its parameters.
        StatementFacts::new(proof, References::default())
            .with_effect(effect)
            .pinned(PinReason::SqlPrepare)
    } else {
        StatementFacts {
            logins: ddl::logins(pieces),
            ..StatementFacts::new(proof, calls).with_effect(effect)
        }
    }
}

/// `AS SELECT`, `AS (SELECT`, and their like.
fn begins_query(three: &[Piece<'_>]) -> bool {
    let query = |piece: &Piece<'_>| {
        ["select", "with", "values", "table", "execute"]
            .iter()
            .any(|word| piece.is(word))
    };
    match three {
        [word, next, after] => {
            word.is("as") && (query(next) || (next.is_symbol(b'(') && query(after)))
        }
        _ => false,
    }
}

fn declare(sql: &[u8], rest: &[Piece<'_>]) -> StatementFacts {
    let facts = calling(sql, rest, Reason::SessionState);
    let head = rest.iter().take_while(|piece| !piece.is("for"));
    let words: Vec<Option<&str>> = head.map(Piece::word).collect();
    if words
        .windows(2)
        .any(|pair| pair == [Some("with"), Some("hold")])
    {
        facts.pinned(PinReason::HeldCursor)
    } else {
        facts
    }
}

/// EXPLAIN, with `rest` right of the word.
fn explain(sql: &[u8], rest: &[Piece<'_>]) -> StatementFacts {
    let (analyses, explained) = explain_options(rest);
    let inner = match explained.first() {
        Some(first) if !first.is("explain") => statement(sql, explained),
        _ => return StatementFacts::doubtful(Reason::ParseFailed),
    };
    if inner.transaction != TransactionControl::None {
        return StatementFacts::doubtful(Reason::ParseFailed);
    }
    match (inner.proof, analyses) {
        (Proof::Query, _) | (Proof::Tokens, Analyses::No) => inner,
        (Proof::Tokens, Analyses::Yes) => inner.without_tokens(),
        (Proof::Read(_), _) => StatementFacts::doubtful(Reason::ParseFailed),
        (Proof::Write(_) | Proof::Definition(_), Analyses::Yes) => StatementFacts {
            proof: Proof::Write(match inner.proof {
                Proof::Write(
                    reason @ (Reason::ParseFailed | Reason::TooLong | Reason::NotUtf8),
                ) => reason,
                Proof::Query
                | Proof::Tokens
                | Proof::Read(_)
                | Proof::Write(_)
                | Proof::Definition(_) => Reason::ExplainAnalyzeWrite,
            }),
            ..inner
        },
        // Planning changes neither the session nor the catalog.
        (Proof::Write(reason) | Proof::Definition(reason), Analyses::No) => {
            let facts = StatementFacts::plain(reason);
            if inner.session == SessionEffect::Pins(PinReason::SqlPrepare) {
                facts.pinned(PinReason::SqlPrepare)
            } else {
                facts
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Analyses {
    Yes,
    No,
}

/// Whether EXPLAIN runs the statement, and the statement's tokens.
fn explain_options<'p, 'a>(rest: &'p [Piece<'a>]) -> (Analyses, &'p [Piece<'a>]) {
    let words = rest
        .iter()
        .take_while(|piece| piece.is("analyze") || piece.is("analyse") || piece.is("verbose"));
    let count = words.count();
    if count > 0 {
        let analyses = rest.iter().take(count).any(|piece| !piece.is("verbose"));
        let explained = rest.get(count..).unwrap_or_default();
        return (
            if analyses {
                Analyses::Yes
            } else {
                Analyses::No
            },
            explained,
        );
    }
    // A parenthesis may also open the statement itself.
    let option_list = rest.first().is_some_and(|piece| piece.is_symbol(b'('))
        && rest.get(1).and_then(Piece::word).is_some_and(|word| {
            !matches!(
                word,
                "select" | "with" | "values" | "table" | "insert" | "update" | "delete"
            )
        });
    let close = rest.iter().position(|piece| piece.is_symbol(b')'));
    match (option_list, close) {
        (true, Some(close)) => {
            let options = rest.get(1..close).unwrap_or_default();
            (
                analyze_option(options),
                rest.get(close + 1..).unwrap_or_default(),
            )
        }
        _ => (Analyses::No, rest),
    }
}

/// ANALYZE without a value, or with any but FALSE and OFF, means yes; so does a value we cannot see.
fn analyze_option(options: &[Piece<'_>]) -> Analyses {
    let mut analyses = Analyses::No;
    for option in options.split(|piece| piece.is_symbol(b',')) {
        let name = option.first().filter(|name| name.is_name());
        if name.is_some_and(|name| matches!(&*name.text, "analyze" | "analyse")) {
            let off = option
                .get(1)
                .is_some_and(|value| value.is("false") || value.is("off"));
            analyses = if off { Analyses::No } else { Analyses::Yes };
        }
    }
    analyses
}
