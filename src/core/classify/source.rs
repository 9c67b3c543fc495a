//! What the source of a function says of what a call leaves behind in the session.

use super::lexer::{Kind, Lexer, Piece};
use super::references::last_argument;
use crate::core::catalog::{Catalog, Volatility};
use crate::core::statement::PinReason;

/// What a function is written in, as far as its source can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// SQL or PL/pgSQL.
    Read,
    /// Any other: nobody here knows what it does.
    Other,
}

/// Words that begin a statement which the session shows afterwards, or which runs others that are not
/// seen; sorted. SET is one too.
const LEAVING: [&str; 8] = [
    "deallocate",
    "discard",
    "do",
    "listen",
    "load",
    "prepare",
    "reset",
    "unlisten",
];

/// Words that do so wherever they stand; sorted. `EXECUTE` runs a text that is made at run time.
const LEAVING_ANYWHERE: [&str; 3] = ["execute", "temp", "temporary"];

/// Words behind which a statement begins.
const BEFORE_STATEMENT: [&str; 4] = ["begin", "else", "loop", "then"];

/// Words with which SET ends with its transaction.
const OF_TRANSACTION: [&str; 3] = ["local", "constraints", "transaction"];

/// Whether a call of the function leaves nothing behind in its session, but for what the functions and the
/// writes leave that it names. One that is not volatile cannot run other statements than queries.
pub fn leaves_nothing(source: &str, language: Language, volatility: Volatility) -> bool {
    match (language, volatility) {
        (Language::Other, Volatility::Volatile) => false,
        (Language::Other, Volatility::Stable | Volatility::Immutable) => true,
        (Language::Read, _) => {
            pieces(source.as_bytes()).is_some_and(|pieces| is_quiet(&pieces, volatility))
        }
    }
}

/// The tokens of a source; `None` if it is cut in another way where backslashes escape quotes.
fn pieces(source: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    for token in Lexer::new(source) {
        let span = token.ok()?;
        let raw = source.get(span.start..span.end).unwrap_or_default();
        let plain = span.kind == Kind::String && raw.first() == Some(&b'\'');
        if plain && raw.windows(2).any(|pair| pair == b"\\'") {
            return None;
        }
        if span.kind != Kind::Comment {
            pieces.push(Piece::of(source, span));
        }
    }
    Some(pieces)
}

fn is_quiet(pieces: &[Piece<'_>], volatility: Volatility) -> bool {
    let mut places = pieces.iter().enumerate();
    places.all(|(at, piece)| {
        let after = pieces.get(at + 1..).unwrap_or_default();
        let statement = volatility == Volatility::Volatile
            && (is_leaving_word(piece, after) || (begins(pieces, at) && is_leaving(piece, after)));
        !statement && !is_leaving_call(piece, after)
    })
}

/// Whether a statement may begin at `at`.
fn begins(pieces: &[Piece<'_>], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| pieces.get(before));
    before.is_none_or(|before| {
        before.is_symbol(b';')
            || BEFORE_STATEMENT.iter().any(|word| before.is(word))
            // A label.
            || (before.kind == Kind::Operator && before.text.ends_with(">>"))
    })
}

/// Whether a statement that begins with `piece` leaves something behind.
fn is_leaving(piece: &Piece<'_>, after: &[Piece<'_>]) -> bool {
    let Some(word) = piece.word() else {
        return false;
    };
    let next = after.first();
    // An assignment to a variable of this name.
    if next.is_some_and(|next| matches!(&*next.text, "=" | ":=")) {
        return false;
    }
    let for_good = || !next.is_some_and(|next| OF_TRANSACTION.iter().any(|word| next.is(word)));
    LEAVING.binary_search(&word).is_ok() || (word == "set" && for_good())
}

fn is_leaving_word(piece: &Piece<'_>, after: &[Piece<'_>]) -> bool {
    let holds = piece.is("with") && after.first().is_some_and(|next| next.is("hold"));
    let word = piece.word();
    holds
        || word.is_some_and(|word| LEAVING_ANYWHERE.binary_search(&word).is_ok())
        || (piece.is_name() && piece.text.starts_with("pg_temp"))
        || piece.is_escaped_name()
}

/// Whether it is the name of a function of the server that does, in front of its arguments. Numbers of
/// sequences are there to stay.
fn is_leaving_call(piece: &Piece<'_>, after: &[Piece<'_>]) -> bool {
    let Some((open, arguments)) = after.split_first() else {
        return false;
    };
    if !piece.is_name() || !open.is_symbol(b'(') {
        return false;
    }
    let known = Catalog::of_empty_database().function(Some("pg_catalog"), &piece.text);
    match known.and_then(|verdict| verdict.pin) {
        None | Some(PinReason::Sequence) => false,
        Some(PinReason::Setting) => {
            let last = last_argument(arguments);
            !matches!(last, Some([only]) if only.is("true"))
        }
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests;
