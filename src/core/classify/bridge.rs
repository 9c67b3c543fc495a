//! Our tokens as sqlparser's, so that both see the same text.

use sqlparser::tokenizer::Token;

use super::lexer::{Kind, Piece};

/// The token; `None` for what sqlparser has no token for.
pub(super) fn token(piece: &Piece<'_>) -> Option<Token> {
    Some(match piece.kind {
        Kind::Word => Token::make_word(&piece.text, None),
        Kind::QuotedWord if piece.is_escaped_name() => return None,
        Kind::QuotedWord => Token::make_word(&piece.text, Some('"')),
        // No decision may depend on the value of a constant.
        Kind::String => Token::SingleQuotedString(String::new()),
        Kind::Number => Token::Number("1".into(), false),
        Kind::Parameter => Token::Placeholder("$1".into()),
        Kind::Operator => operator(&piece.text),
        Kind::Symbol(byte) => symbol(byte)?,
        Kind::DoubleColon => Token::DoubleColon,
        Kind::TwoDots | Kind::Comment => return None,
    })
}

fn symbol(byte: u8) -> Option<Token> {
    Some(match byte {
        b',' => Token::Comma,
        b'(' => Token::LParen,
        b')' => Token::RParen,
        b'[' => Token::LBracket,
        b']' => Token::RBracket,
        b'.' => Token::Period,
        b';' => Token::SemiColon,
        b':' => Token::Colon,
        _ => return None,
    })
}

fn operator(text: &str) -> Token {
    match text {
        "=" => Token::Eq,
        "<>" | "!=" => Token::Neq,
        "<" => Token::Lt,
        ">" => Token::Gt,
        "<=" => Token::LtEq,
        ">=" => Token::GtEq,
        "+" => Token::Plus,
        "-" => Token::Minus,
        "*" => Token::Mul,
        "/" => Token::Div,
        "%" => Token::Mod,
        "||" => Token::StringConcat,
        "&" => Token::Ampersand,
        "|" => Token::Pipe,
        "^" => Token::Caret,
        "=>" | ":=" => Token::RArrow,
        "#" => Token::Sharp,
        "~" => Token::Tilde,
        "~*" => Token::TildeAsterisk,
        "!~" => Token::ExclamationMarkTilde,
        "!~*" => Token::ExclamationMarkTildeAsterisk,
        "<<" => Token::ShiftLeft,
        ">>" => Token::ShiftRight,
        "&&" => Token::Overlap,
        "@" => Token::AtSign,
        "|/" => Token::PGSquareRoot,
        "||/" => Token::PGCubeRoot,
        "->" => Token::Arrow,
        "->>" => Token::LongArrow,
        "#>" => Token::HashArrow,
        "#>>" => Token::HashLongArrow,
        "@>" => Token::AtArrow,
        "<@" => Token::ArrowAt,
        "#-" => Token::HashMinus,
        "@?" => Token::AtQuestion,
        "@@" => Token::AtAt,
        "?" => Token::Question,
        "?&" => Token::QuestionAnd,
        "?|" => Token::QuestionPipe,
        // Which operator it is does not matter for the shape of the tree.
        other => Token::CustomBinaryOperator(other.to_owned()),
    }
}
