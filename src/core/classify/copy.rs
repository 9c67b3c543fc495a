//! COPY: a read if it goes to the client and copies what a query or a relation shows.

use super::dispatch::{Proof, StatementFacts, calling, writing};
use super::lexer::Piece;
use super::query;
use super::references::{Name, Origin, References, RelationUse};
use crate::core::statement::Reason;

/// COPY, with `rest` right of the word.
pub(super) fn copy(sql: &[u8], rest: &[Piece<'_>]) -> StatementFacts {
    let Some((source, tail)) = copy_source(rest) else {
        return calling(sql, rest, Reason::CopyWrite);
    };
    let to_client = tail.first().is_some_and(|piece| piece.is("to"))
        && tail
            .get(1)
            .is_some_and(|piece| piece.is("stdout") || piece.is("stdin"));
    let from_client = tail.first().is_some_and(|piece| piece.is("from"))
        && tail
            .get(1)
            .is_some_and(|piece| piece.is("stdin") || piece.is("stdout"));
    if from_client {
        return writing(rest);
    }
    if !to_client {
        return calling(sql, rest, Reason::CopyWrite);
    }
    match source {
        Source::Relation(name) => StatementFacts::new(
            Proof::Query,
            References {
                relations: Box::new([name]),
                ..References::default()
            },
        ),
        Source::Query(pieces) => {
            let modifies = pieces
                .first()
                .and_then(Piece::word)
                .is_some_and(|word| matches!(word, "insert" | "update" | "delete" | "merge"));
            if modifies {
                return calling(sql, pieces, Reason::CopyWrite);
            }
            match query::prove(sql, pieces) {
                Ok(references) => StatementFacts::new(Proof::Query, references),
                Err(reason) => calling(sql, pieces, reason),
            }
        }
    }
}

/// What COPY copies.
#[derive(Debug)]
enum Source<'p, 'a> {
    Relation(RelationUse),
    Query(&'p [Piece<'a>]),
}

/// The source and what stands right of it: TO or FROM.
fn copy_source<'p, 'a>(rest: &'p [Piece<'a>]) -> Option<(Source<'p, 'a>, &'p [Piece<'a>])> {
    if rest.first()?.is_symbol(b'(') {
        let close = matching(rest)?;
        return Some((Source::Query(rest.get(1..close)?), rest.get(close + 1..)?));
    }
    let rest = match rest {
        [binary, next, ..] if binary.is("binary") && next.is_name() => rest.get(1..)?,
        _ => rest,
    };
    let parts = rest
        .iter()
        .enumerate()
        .take_while(|(at, piece)| {
            if at % 2 == 0 {
                piece.is_name()
            } else {
                piece.is_symbol(b'.')
            }
        })
        .count();
    let name = rest.get(parts.checked_sub(1)?)?;
    let schema = parts.checked_sub(3).and_then(|at| rest.get(at));
    let relation = RelationUse {
        name: Name {
            schema: schema.map(|schema| Box::from(&*schema.text)),
            name: Box::from(&*name.text),
        },
        origin: Origin::Relation,
    };
    let tail = rest.get(parts..)?;
    let tail = match tail.first() {
        Some(open) if open.is_symbol(b'(') => tail.get(matching(tail)? + 1..)?,
        _ => tail,
    };
    Some((Source::Relation(relation), tail))
}

/// The index of the parenthesis that closes the first one.
fn matching(pieces: &[Piece<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    pieces.iter().position(|piece| {
        if piece.is_symbol(b'(') {
            depth += 1;
        } else if piece.is_symbol(b')') {
            depth = depth.saturating_sub(1);
        }
        depth == 0
    })
}
