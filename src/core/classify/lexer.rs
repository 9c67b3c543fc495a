//! PostgreSQL's tokens (`src/backend/parser/scan.l`) with `standard_conforming_strings = on`.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// PostgreSQL cuts identifiers to this many bytes (`NAMEDATALEN - 1`).
const IDENTIFIER_BYTES: usize = 63;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An unquoted identifier or key word.
    Word,
    /// `"..."`.
    QuotedWord,
    /// Any string literal, with all its continuations.
    String,
    /// An unsigned number.
    Number,
    /// `$1`.
    Parameter,
    /// An operator of one or more characters, or `:=`.
    Operator,
    /// One of `, ( ) [ ] . ; :`.
    Symbol(u8),
    /// `::`.
    DoubleColon,
    /// `..`.
    TwoDots,
    /// `--` to the end of the line, or `/* */`.
    Comment,
}

impl Kind {
    /// Whether equal-kind neighbours in a list may be collapsed into one.
    pub(super) const fn is_constant(self) -> bool {
        matches!(self, Self::String | Self::Number | Self::Parameter)
    }
}

/// Where a token lies in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A character sequence that PostgreSQL would refuse, or that this lexer does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LexError;

/// The tokens of a text, comments included. After an error there are no more tokens.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.text
            .get(self.at.saturating_add(offset))
            .copied()
            .unwrap_or(0)
    }

    /// The end of the run of bytes that `accept` takes, from `from` on.
    fn run(&self, from: usize, accept: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        let length = rest.iter().position(|byte| !accept(*byte));
        from + length.unwrap_or(rest.len())
    }

    fn token_end(&self, first: u8) -> Result<(Kind, usize), LexError> {
        let second = self.byte(1);
        match first {
            b'\'' => self.plain_string(self.at).map(|end| (Kind::String, end)),
            b'"' => self.quoted_word(self.at),
            b'$' => self.dollar(second),
            b'-' if second == b'-' => Ok((Kind::Comment, self.line_end(self.at))),
            b'/' if second == b'*' => self.block_comment(self.at).map(|e| (Kind::Comment, e)),
            b'0'..=b'9' => Ok(self.number()),
            b'.' if second.is_ascii_digit() => Ok(self.number()),
            b'.' if second == b'.' => Ok((Kind::TwoDots, self.at + 2)),
            b':' if second == b':' => Ok((Kind::DoubleColon, self.at + 2)),
            b':' if second == b'=' => Ok((Kind::Operator, self.at + 2)),
            b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':' => {
                Ok((Kind::Symbol(first), self.at + 1))
            }
            _ if is_operator_byte(first) => Ok((Kind::Operator, self.operator())),
            _ if is_word_start(first) => self.word_or_prefixed_string(first, second),
            _ => Err(LexError),
        }
    }

    fn word_or_prefixed_string(&self, first: u8, second: u8) -> Result<(Kind, usize), LexError> {
        let string = |end| (Kind::String, end);
        match (first.to_ascii_lowercase(), second, self.byte(2)) {
            (b'e', b'\'', _) => self.escape_string(self.at + 1).map(string),
            (b'b' | b'x' | b'n', b'\'', _) => self.plain_string(self.at + 1).map(string),
            (b'u', b'&', b'\'') => self.plain_string(self.at + 2).map(string),
            (b'u', b'&', b'"') => self.quoted_word(self.at + 2),
            _ => Ok((Kind::Word, self.run(self.at, is_word_byte))),
        }
    }

    /// The end of a string without backslash escapes whose opening quote is at `open`.
    fn plain_string(&self, open: usize) -> Result<usize, LexError> {
        let mut from = open + 1;
        loop {
            let rest = self.text.get(from..).ok_or(LexError)?;
            let quote = from + memchr(b'\'', rest).ok_or(LexError)?;
            match self.after_quote(quote) {
                Ok(resume) => from = resume,
                Err(end) => return Ok(end),
            }
        }
    }

    fn escape_string(&self, open: usize) -> Result<usize, LexError> {
        let mut from = open + 1;
        loop {
            let rest = self.text.get(from..).ok_or(LexError)?;
            let stop = from + memchr2(b'\'', b'\\', rest).ok_or(LexError)?;
            if self.text.get(stop) == Some(&b'\\') {
                from = stop + 2;
                continue;
            }
            match self.after_quote(stop) {
                Ok(resume) => from = resume,
                Err(end) => return Ok(end),
            }
        }
    }

    /// After a quote at `quote`: `Ok` where the literal goes on, `Err` where it has ended.
    fn after_quote(&self, quote: usize) -> Result<usize, usize> {
        let end = quote + 1;
        if self.text.get(end) == Some(&b'\'') {
            return Ok(end + 1);
        }
        let mut at = end;
        let mut newline_seen = false;
        loop {
            match self.text.get(at) {
                Some(b'\n' | b'\r') => {
                    newline_seen = true;
                    at += 1;
                }
                Some(byte) if is_space(*byte) => at += 1,
                Some(b'-') if self.text.get(at + 1) == Some(&b'-') => at = self.line_end(at),
                Some(b'\'') if newline_seen => return Ok(at + 1),
                _ => return Err(end),
            }
        }
    }

    fn quoted_word(&self, open: usize) -> Result<(Kind, usize), LexError> {
        let mut from = open + 1;
        loop {
            let rest = self.text.get(from..).ok_or(LexError)?;
            let quote = from + memchr(b'"', rest).ok_or(LexError)?;
            if self.text.get(quote + 1) != Some(&b'"') {
                let empty = quote == open + 1;
                return if empty {
                    Err(LexError)
                } else {
                    Ok((Kind::QuotedWord, quote + 1))
                };
            }
            from = quote + 2;
        }
    }

    /// `$1` or a dollar-quoted string.
    fn dollar(&self, second: u8) -> Result<(Kind, usize), LexError> {
        if second.is_ascii_digit() {
            let end = self.run(self.at + 1, |byte| byte.is_ascii_digit());
            return Ok((Kind::Parameter, end));
        }
        let tag_end = match second {
            b'$' => self.at + 1,
            _ if is_word_start(second) => {
                self.run(self.at + 1, |byte| is_word_byte(byte) && byte != b'$')
            }
            _ => return Err(LexError),
        };
        if self.text.get(tag_end) != Some(&b'$') {
            return Err(LexError);
        }
        let tag = self.text.get(self.at..=tag_end).ok_or(LexError)?;
        let body = self.text.get(tag_end + 1..).ok_or(LexError)?;
        let found = memchr::memmem::find(body, tag).ok_or(LexError)?;
        Ok((Kind::String, tag_end + 1 + found + tag.len()))
    }

    fn line_end(&self, from: usize) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        from + memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())
    }

    /// The end of the comment that opens at `open`; comments nest.
    fn block_comment(&self, open: usize) -> Result<usize, LexError> {
        let mut depth = 1_usize;
        let mut at = open + 2;
        loop {
            let rest = self.text.get(at..).ok_or(LexError)?;
            at += memchr2(b'*', b'/', rest).ok_or(LexError)?;
            match (self.text.get(at), self.text.get(at + 1)) {
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return Ok(at);
                    }
                }
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    at += 2;
                }
                _ => at += 1,
            }
        }
    }

    /// Integers, decimals, exponents, and the 0x/0o/0b and `1_000` forms of PostgreSQL 16. Letters
    /// right after it are a word of their own, as they were before PostgreSQL 15.
    fn number(&self) -> (Kind, usize) {
        let radix =
            self.byte(0) == b'0' && matches!(self.byte(1).to_ascii_lowercase(), b'x' | b'o' | b'b');
        let end = if radix {
            self.run(self.at + 2, |byte| byte.is_ascii_hexdigit() || byte == b'_')
        } else {
            self.decimal()
        };
        (Kind::Number, end)
    }

    fn decimal(&self) -> usize {
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        let mut end = self.run(self.at, digits);
        let fraction = self.text.get(end) == Some(&b'.') && self.text.get(end + 1) != Some(&b'.');
        if fraction {
            end = self.run(end + 1, digits);
        }
        if matches!(self.text.get(end), Some(b'e' | b'E')) {
            let signed = matches!(self.text.get(end + 1), Some(b'+' | b'-'));
            let exponent = end + 1 + usize::from(signed);
            if self.text.get(exponent).is_some_and(u8::is_ascii_digit) {
                end = self.run(exponent, digits);
            }
        }
        end
    }

    /// The end of the operator at the current position, by the rules of `scan.l`: it stops before a
    /// comment, and loses trailing `+` and `-` unless it has a character SQL does not use.
    fn operator(&self) -> usize {
        let limit = self.run(self.at, is_operator_byte);
        let run = self.text.get(self.at..limit).unwrap_or_default();
        let comment = run
            .windows(2)
            .position(|pair| pair == b"--" || pair == b"/*");
        let mut length = comment.unwrap_or(run.len());
        let whole = run.get(..length).unwrap_or_default();
        if !whole.iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
            while length > 1 && matches!(run.get(length - 1), Some(b'+' | b'-')) {
                length -= 1;
            }
        }
        self.at + length.max(1)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Result<Span, LexError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.at = self.run(self.at, is_space);
        let start = self.at;
        let first = *self.text.get(start)?;
        match self.token_end(first) {
            Ok((kind, end)) => {
                self.at = end;
                Some(Ok(Span { kind, start, end }))
            }
            Err(error) => {
                self.at = self.text.len();
                Some(Err(error))
            }
        }
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

pub(super) const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_word_byte(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_operator_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

/// A token with its text: a word folded as PostgreSQL folds it, an operator as written, and nothing
/// for constants, whose value must not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) kind: Kind,
    pub(super) text: Cow<'a, str>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<'a> Piece<'a> {
    pub(super) fn of(sql: &'a [u8], span: Span) -> Self {
        let raw = sql.get(span.start..span.end).unwrap_or_default();
        let text = match span.kind {
            Kind::Word => fold(raw),
            Kind::QuotedWord => unquote(raw),
            Kind::Operator => String::from_utf8_lossy(raw),
            Kind::String
            | Kind::Number
            | Kind::Parameter
            | Kind::Symbol(_)
            | Kind::DoubleColon
            | Kind::TwoDots
            | Kind::Comment => Cow::Borrowed(""),
        };
        Self {
            kind: span.kind,
            text,
            start: span.start,
            end: span.end,
        }
    }

    /// Whether this is the unquoted word `word` (lower-case).
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    /// Whether this is the symbol `symbol`.
    pub(super) fn is_symbol(&self, symbol: u8) -> bool {
        self.kind == Kind::Symbol(symbol)
    }

    /// Whether this is `U&"..."`, whose name is written in escapes.
    pub(super) fn is_escaped_name(&self) -> bool {
        self.kind == Kind::QuotedWord && self.text.len() == self.end - self.start
    }

    /// Whether this is a name, quoted or not.
    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::QuotedWord)
    }

    /// The word, if it is unquoted.
    pub(super) fn word(&self) -> Option<&str> {
        (self.kind == Kind::Word).then_some(&*self.text)
    }
}

fn fold(raw: &[u8]) -> Cow<'_, str> {
    let text = truncated(String::from_utf8_lossy(raw));
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        text
    }
}

fn unquote(raw: &[u8]) -> Cow<'_, str> {
    if raw.first() != Some(&b'"') {
        // U&"..." is kept as written: a name in escapes matches nothing that the catalog knows.
        return String::from_utf8_lossy(raw);
    }
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    let text = String::from_utf8_lossy(inner);
    if text.contains("\"\"") {
        truncated(Cow::Owned(text.replace("\"\"", "\"")))
    } else {
        truncated(text)
    }
}

/// PostgreSQL's `truncate_identifier`.
fn truncated(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= IDENTIFIER_BYTES {
        return text;
    }
    let end = (0..=IDENTIFIER_BYTES)
        .rev()
        .find(|end| text.is_char_boundary(*end));
    Cow::Owned(text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned())
}
