//! Transaction control in every spelling (`TransactionStmt` in `src/backend/parser/gram.y`).

use super::lexer::{Kind, Piece};
use crate::core::statement::{
    AccessMode, CatalogEffect, Chain, Isolation, TransactionControl, TransactionModes, TwoPhaseStep,
};

/// The name of a prepared transaction is shorter (`GIDSIZE`, `src/include/access/xact.h`).
const NAME_BYTES: usize = 200;

/// Whether every word of a statement was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clarity {
    Clear,
    /// PostgreSQL may refuse it, or knows a form that we do not.
    Doubtful,
}

/// What the statement does to the block; `None` when it is not transaction control.
pub(super) fn control(pieces: &[Piece<'_>]) -> Option<(TransactionControl, Clarity)> {
    let (first, rest) = pieces.split_first()?;
    let second = rest.first().and_then(Piece::word);
    let clear = |control| Some((control, Clarity::Clear));
    match first.word()? {
        "begin" => Some(begin(skip_noise(rest))),
        // START needs the noise word.
        "start" if second == Some("transaction") => Some(begin(rest.get(1..)?)),
        "commit" | "rollback" if second == Some("prepared") => clear(TransactionControl::TwoPhase),
        "commit" | "end" => Some(end(TransactionControl::Commit, skip_noise(rest))),
        "rollback" => Some(rollback(skip_noise(rest))),
        "abort" => Some(end(TransactionControl::Rollback, skip_noise(rest))),
        "savepoint" | "release" => clear(TransactionControl::Savepoint),
        "prepare" if second == Some("transaction") => clear(TransactionControl::TwoPhase),
        _ => None,
    }
}

/// What transaction control does to the catalog: COMMIT PREPARED has what was prepared take place.
pub(super) fn effect(sql: &[u8], pieces: &[Piece<'_>]) -> CatalogEffect {
    let [first, second, rest @ ..] = pieces else {
        return CatalogEffect::None;
    };
    let step = match (first.word(), second.word()) {
        (Some("prepare"), Some("transaction")) => TwoPhaseStep::Prepare,
        (Some("commit"), Some("prepared")) => TwoPhaseStep::Commit,
        (Some("rollback"), Some("prepared")) => TwoPhaseStep::Rollback,
        _ => return CatalogEffect::None,
    };
    match (two_phase_name(sql, rest), step) {
        (Some(name), step) => CatalogEffect::TwoPhase(step, name.into()),
        (None, TwoPhaseStep::Commit) => CatalogEffect::MayChange,
        // It remains unknown what a name stands for that is not read here.
        (None, TwoPhaseStep::Prepare | TwoPhaseStep::Rollback) => CatalogEffect::None,
    }
}

/// The name of a prepared transaction, if it is written so that it means the same to every session.
fn two_phase_name<'a>(sql: &'a [u8], rest: &[Piece<'_>]) -> Option<&'a str> {
    let [literal] = rest else { return None };
    let raw = sql.get(literal.start..literal.end)?;
    let name = raw.strip_prefix(b"'")?.strip_suffix(b"'")?;
    let odd = name.iter().any(|byte| matches!(byte, b'\'' | b'\\'));
    let fits = !odd && name.len() < NAME_BYTES;
    std::str::from_utf8(name).ok().filter(|_| fits)
}

/// Skips WORK or TRANSACTION.
fn skip_noise<'p, 'a>(pieces: &'p [Piece<'a>]) -> &'p [Piece<'a>] {
    match pieces.split_first() {
        Some((first, rest)) if first.is("work") || first.is("transaction") => rest,
        _ => pieces,
    }
}

fn begin(pieces: &[Piece<'_>]) -> (TransactionControl, Clarity) {
    let (modes, clarity) = modes(pieces);
    (TransactionControl::Begin(modes), clarity)
}

fn rollback(pieces: &[Piece<'_>]) -> (TransactionControl, Clarity) {
    if pieces.first().is_some_and(|piece| piece.is("to")) {
        return (TransactionControl::Savepoint, Clarity::Clear);
    }
    end(TransactionControl::Rollback, pieces)
}

/// `[AND [NO] CHAIN]`.
fn end(
    control: fn(Chain) -> TransactionControl,
    pieces: &[Piece<'_>],
) -> (TransactionControl, Clarity) {
    let words: Vec<Option<&str>> = pieces.iter().take(4).map(Piece::word).collect();
    match words.as_slice() {
        [] | [Some("and"), Some("no"), Some("chain")] => (control(Chain::NoChain), Clarity::Clear),
        [Some("and"), Some("chain")] => (control(Chain::Chain), Clarity::Clear),
        _ => (control(Chain::NoChain), Clarity::Doubtful),
    }
}

/// The transaction modes at the start of BEGIN's or SET TRANSACTION's arguments.
pub(super) fn modes(mut pieces: &[Piece<'_>]) -> (TransactionModes, Clarity) {
    let mut modes = TransactionModes::default();
    while !pieces.is_empty() {
        let head: Vec<&str> = pieces
            .iter()
            .take(4)
            .map(|piece| piece.word().unwrap_or_default())
            .collect();
        let taken = match head.as_slice() {
            ["isolation", "level", "serializable", ..] => {
                modes.isolation = Some(Isolation::Serializable);
                3
            }
            ["isolation", "level", "repeatable", "read", ..] => {
                modes.isolation = Some(Isolation::RepeatableRead);
                4
            }
            [
                "isolation",
                "level",
                "read",
                "committed" | "uncommitted",
                ..,
            ] => {
                modes.isolation = Some(Isolation::ReadCommitted);
                4
            }
            ["read", "only", ..] => {
                modes.access = Some(AccessMode::ReadOnly);
                2
            }
            ["read", "write", ..] => {
                modes.access = Some(AccessMode::ReadWrite);
                2
            }
            ["deferrable", ..] => 1,
            ["not", "deferrable", ..] => 2,
            _ if pieces
                .first()
                .is_some_and(|piece| piece.kind == Kind::Symbol(b',')) =>
            {
                1
            }
            _ => return (modes, Clarity::Doubtful),
        };
        pieces = pieces.get(taken..).unwrap_or_default();
    }
    (modes, Clarity::Clear)
}
