//! Each of the two looks at a query by itself, to be compared in tests.

use super::analysis::Analysis;
use super::dispatch::{self, Proof, StatementFacts};
use super::lexer::{Kind, Lexer, Piece};
use super::query;
use crate::core::statement::{Hint, Reason};

/// The only statement of `sql`, which must be a query by its first word.
fn query(sql: &[u8]) -> Option<Vec<Piece<'_>>> {
    let spans: Vec<_> = Lexer::new(sql).collect::<Result<_, _>>().ok()?;
    let spans = spans.into_iter().filter(|span| span.kind != Kind::Comment);
    let pieces: Vec<Piece<'_>> = spans.map(|span| Piece::of(sql, span)).collect();
    let begins = pieces.iter().find(|piece| !piece.is_symbol(b'('))?.word()?;
    let whole = !pieces.iter().any(|piece| piece.is_symbol(b';'));
    (whole && matches!(begins, "select" | "with" | "values" | "table")).then_some(pieces)
}

fn alone(facts: StatementFacts) -> Analysis {
    Analysis {
        statements: Box::new([facts]),
        hint: Hint::default(),
    }
}

/// What the tokens alone say, if they say that it may be a read.
pub(super) fn by_tokens(sql: &[u8]) -> Option<Analysis> {
    dispatch::by_tokens(sql, &query(sql)?).map(alone)
}

/// What sqlparser's tree says, if it understands the text.
pub(super) fn by_parser(sql: &[u8]) -> Option<Analysis> {
    match query::prove(sql, &query(sql)?) {
        Ok(references) => Some(alone(StatementFacts::new(Proof::Query, references))),
        Err(Reason::ParseFailed) => None,
        Err(reason) => Some(alone(StatementFacts::plain(reason))),
    }
}
