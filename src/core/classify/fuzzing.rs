//! The inside of classification, for fuzz targets.

use super::lexer::{Kind, Lexer};
use super::normalise::{Normalised, by_lexer};
use super::{Analysis, looks};

/// What a token is to a fuzz target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A number.
    Number,
    /// A string literal.
    String,
    /// Anything else.
    Other,
}

/// The tokens of `sql` with where they begin and end; `false` if the lexer gave up behind them.
pub fn tokens(sql: &[u8]) -> (Vec<(Token, usize, usize)>, bool) {
    let mut tokens = Vec::new();
    for token in Lexer::new(sql) {
        let Ok(span) = token else {
            return (tokens, false);
        };
        let kind = match span.kind {
            Kind::Number => Token::Number,
            Kind::String => Token::String,
            Kind::Word
            | Kind::QuotedWord
            | Kind::Parameter
            | Kind::Operator
            | Kind::Symbol(_)
            | Kind::DoubleColon
            | Kind::TwoDots
            | Kind::Comment => Token::Other,
        };
        tokens.push((kind, span.start, span.end));
    }
    (tokens, true)
}

/// [`super::normalise`] without its short way.
pub fn normalise_by_lexer(sql: &[u8], out: &mut Vec<u8>) -> Normalised {
    by_lexer(sql, out)
}

/// What the tokens alone say, if they say that it may be a read.
pub fn by_tokens(sql: &[u8]) -> Option<Analysis> {
    looks::by_tokens(sql)
}

/// What sqlparser's tree says, if it understands the text.
pub fn by_parser(sql: &[u8]) -> Option<Analysis> {
    looks::by_parser(sql)
}
