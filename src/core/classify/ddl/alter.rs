//! Which forms of ALTER a verdict may depend on.

use super::super::lexer::Piece;
use super::plain_column;

/// What a form of ALTER may do to verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Nothing.
    Nothing,
    /// It takes something away.
    Lessens,
    /// It adds a default or a constraint, which writes run.
    AddsCode,
    /// It adds columns, or changes their types, to types that come with the server.
    AddsColumns,
    /// It may add something.
    Adds,
}

/// What stands between commas, up to the parenthesis that closes the list or to its end.
pub(super) fn parts<'p, 'a>(pieces: &'p [Piece<'a>]) -> impl Iterator<Item = &'p [Piece<'a>]> {
    let mut depth = 0_usize;
    let close = pieces.iter().position(|piece| {
        let closes = depth == 0 && (piece.is_symbol(b')') || piece.is_symbol(b']'));
        depth = nested(depth, piece);
        closes
    });
    let mut depth = 0_usize;
    let list = pieces.get(..close.unwrap_or(pieces.len()));
    list.unwrap_or_default().split(move |piece| {
        depth = nested(depth, piece);
        depth == 0 && piece.is_symbol(b',')
    })
}

fn nested(depth: usize, piece: &Piece<'_>) -> usize {
    if piece.is_symbol(b'(') || piece.is_symbol(b'[') {
        depth + 1
    } else if piece.is_symbol(b')') || piece.is_symbol(b']') {
        depth.saturating_sub(1)
    } else {
        depth
    }
}

/// ALTER TYPE, right of that word.
pub(super) fn data_type(pieces: &[Piece<'_>]) -> Change {
    match words(behind_name(pieces), 2).as_slice() {
        ["add" | "rename", "value"] => Change::Nothing,
        _ => relation(pieces),
    }
}

/// ALTER DOMAIN, right of that word.
pub(super) fn domain(pieces: &[Piece<'_>]) -> Change {
    match words(behind_name(pieces), 1).as_slice() {
        ["add"] => Change::Adds,
        _ => relation(pieces),
    }
}

/// ALTER TABLE, VIEW or INDEX, right of that word.
pub(super) fn relation(pieces: &[Piece<'_>]) -> Change {
    if words(Some(pieces), 3) == ["all", "in", "tablespace"] {
        return Change::Nothing;
    }
    let actions = parts(behind_name(pieces).unwrap_or_default());
    actions.map(action).max().unwrap_or(Change::Adds)
}

/// What stands right of `[IF EXISTS] [ONLY] schema.name [*]`.
fn behind_name<'p, 'a>(pieces: &'p [Piece<'a>]) -> Option<&'p [Piece<'a>]> {
    let words = |from: usize, count: usize| words(pieces.get(from..), count);
    let mut at = 0;
    if words(at, 2) == ["if", "exists"] {
        at += 2;
    }
    if words(at, 1) == ["only"] {
        at += 1;
    }
    at += 1;
    while pieces.get(at).is_some_and(|dot| dot.is_symbol(b'.')) {
        at += 2;
    }
    if pieces.get(at).is_some_and(|star| star.text == "*") {
        at += 1;
    }
    pieces.get(at..)
}

fn action(pieces: &[Piece<'_>]) -> Change {
    match words(Some(pieces), 2).as_slice() {
        ["add", "unique" | "primary"]
        | ["alter" | "rename", "constraint"]
        | [
            "owner" | "cluster" | "replica" | "validate" | "reset" | "force" | "depends",
            ..,
        ]
        | ["no", "force" | "depends"]
        | [
            "set",
            "(" | "without" | "tablespace" | "access" | "not",
        ]
        // What is disabled counts too.
        | ["enable" | "disable", "trigger"] => Change::Nothing,
        ["add", "constraint" | "check" | "foreign"] | ["set", "default"] => Change::AddsCode,
        ["add" | "alter", "attribute"] => Change::Adds,
        ["add", _] => added(pieces.get(1..).unwrap_or_default()),
        ["rename", column] if *column != "to" => renamed(pieces),
        ["alter", column] => {
            let skipped = if *column == "column" { 3 } else { 2 };
            of_column(pieces.get(skipped..).unwrap_or_default())
        }
        ["drop" | "detach", ..] | ["no", "inherit"] | ["disable", "row"] => Change::Lessens,
        _ => Change::Adds,
    }
}

/// What stands behind ADD, if it is no constraint.
fn added(pieces: &[Piece<'_>]) -> Change {
    let mut column = pieces;
    if words(Some(column), 1) == ["column"] {
        column = column.get(1..).unwrap_or_default();
    }
    if words(Some(column), 3) == ["if", "not", "exists"] {
        column = column.get(3..).unwrap_or_default();
    }
    if plain_column(column) {
        Change::AddsColumns
    } else {
        Change::Adds
    }
}

/// `RENAME [COLUMN] name TO name`: a column has the type that it had.
fn renamed(pieces: &[Piece<'_>]) -> Change {
    let from = if words(Some(pieces), 2) == ["rename", "column"] {
        2
    } else {
        1
    };
    match pieces.get(from..).unwrap_or_default() {
        [old, to, new] if old.is_name() && to.is("to") && new.is_name() => Change::Nothing,
        _ => Change::Adds,
    }
}

/// What stands behind the name of a column.
fn of_column(pieces: &[Piece<'_>]) -> Change {
    match words(Some(pieces), 2).as_slice() {
        ["type", _] if plain_column(pieces) => Change::AddsColumns,
        ["set", "data"] if plain_column(pieces.get(2..).unwrap_or_default()) => Change::AddsColumns,
        ["set", "data"] => Change::Adds,
        ["set", "default" | "expression"] => Change::AddsCode,
        ["set" | "reset" | "drop" | "add" | "restart", ..] => Change::Nothing,
        _ => Change::Adds,
    }
}

/// ALTER SEQUENCE, right of that word: a sequence is read on the primary whatever its numbers are.
pub(super) fn sequence(pieces: &[Piece<'_>]) -> Change {
    if pieces
        .iter()
        .any(|piece| piece.is("rename") || piece.is("schema"))
    {
        Change::Adds
    } else {
        Change::Nothing
    }
}

/// ALTER OPERATOR, right of that word: an operator keeps its function; a family may get another.
pub(super) fn operator(pieces: &[Piece<'_>]) -> Change {
    let family = pieces.first().is_some_and(|piece| piece.is("family"));
    if family && pieces.iter().any(|piece| piece.is("add")) {
        Change::Adds
    } else {
        Change::Nothing
    }
}

/// The first tokens, a parenthesis as itself, anything else that is no word as nothing.
fn words<'p>(pieces: Option<&'p [Piece<'_>]>, count: usize) -> Vec<&'p str> {
    let pieces = pieces.unwrap_or_default().iter().take(count);
    pieces
        .map(|piece| {
            if piece.is_symbol(b'(') {
                "("
            } else {
                piece.word().unwrap_or_default()
            }
        })
        .collect()
}
