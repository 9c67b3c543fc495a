//! One cache key for texts that differ only in literals.

mod plain;

use super::hint;
use super::lexer::{Kind, Lexer, Span};
use crate::limits::CLASSIFY_TEXT_BYTES;

/// Stand for constants in a normalised text; no other byte of it has these values.
const STRING: u8 = 0x01;
const NUMBER: u8 = 0x02;
const PARAMETER: u8 = 0x03;

/// What [`normalise`] made of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Normalised {
    /// The output stands for every text that gives the same output: their classifications are
    /// equal.
    Literals,
    /// The classification may depend on a literal; it must not be shared. The output is undefined.
    AsIs,
}

/// Writes `sql` to `out` with literals and parameters replaced by markers, lists of them cut to one,
/// comments (but for hints) dropped, key words in lower case and white space folded.
///
/// Only for single statements that begin with SELECT, WITH, VALUES, INSERT, UPDATE, DELETE or MERGE:
/// what others mean may stand in a literal (SET, COPY).
pub fn normalise(sql: &[u8], out: &mut Vec<u8>) -> Normalised {
    out.clear();
    if sql.len() > CLASSIFY_TEXT_BYTES {
        return Normalised::AsIs;
    }
    out.reserve(sql.len());
    if plain::normalise(sql, out).is_some() {
        return Normalised::Literals;
    }
    by_lexer(sql, out)
}

/// The way that understands every text.
pub(super) fn by_lexer(sql: &[u8], out: &mut Vec<u8>) -> Normalised {
    out.clear();
    match Writer::new(sql, out).run() {
        Some(()) => Normalised::Literals,
        None => Normalised::AsIs,
    }
}

#[derive(Debug)]
struct Writer<'a> {
    sql: &'a [u8],
    out: &'a mut Vec<u8>,
    /// Where the last written token ended in `sql`.
    last_end: usize,
    list: List,
    stage: Stage,
}

/// How far the statement has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Inside,
    /// A semicolon was seen.
    Ended,
}

/// The constant that the output ends with, perhaps with a comma behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    None,
    Constant { kind: Kind, out_end: usize },
    Comma { kind: Kind, out_end: usize },
}

impl<'a> Writer<'a> {
    fn new(sql: &'a [u8], out: &'a mut Vec<u8>) -> Self {
        Self {
            sql,
            out,
            last_end: 0,
            list: List::None,
            stage: Stage::Start,
        }
    }

    fn run(mut self) -> Option<()> {
        for token in Lexer::new(self.sql) {
            self.token(token.ok()?)?;
        }
        (self.stage != Stage::Start).then_some(())
    }

    fn token(&mut self, span: Span) -> Option<()> {
        let raw = self.sql.get(span.start..span.end)?;
        if span.kind == Kind::Comment {
            if hint::is_addressed(raw) {
                self.write(span, raw);
                self.list = List::None;
            }
            return Some(());
        }
        // A second statement behind a semicolon may be anything.
        if self.stage == Stage::Ended || (self.stage == Stage::Start && span.kind != Kind::Word) {
            return None;
        }
        match span.kind {
            Kind::Word => {
                if self.stage == Stage::Start && !begins_shared_text(raw) {
                    return None;
                }
                if names_setting(raw) {
                    return None;
                }
                let from = self.write(span, raw);
                self.out.get_mut(from..)?.make_ascii_lowercase();
            }
            Kind::QuotedWord => {
                if raw.iter().any(|byte| *byte <= PARAMETER)
                    || names_setting(raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default())
                {
                    return None;
                }
                self.write(span, raw);
            }
            Kind::String => self.constant(span, STRING)?,
            Kind::Number => self.constant(span, NUMBER)?,
            Kind::Parameter => self.constant(span, PARAMETER)?,
            Kind::Symbol(b';') => {
                self.stage = Stage::Ended;
                return Some(());
            }
            Kind::Symbol(_) | Kind::Operator | Kind::DoubleColon | Kind::TwoDots => {
                self.write(span, raw);
            }
            Kind::Comment => {}
        }
        self.stage = Stage::Inside;
        self.follow_list(span);
        Some(())
    }

    /// Appends `raw`, behind a space if there was a gap; returns where it begins.
    fn write(&mut self, span: Span, raw: &[u8]) -> usize {
        if span.start > self.last_end && !self.out.is_empty() {
            self.out.push(b' ');
        }
        let from = self.out.len();
        self.out.extend_from_slice(raw);
        self.last_end = span.end;
        from
    }

    fn constant(&mut self, span: Span, marker: u8) -> Option<()> {
        // `'a' 'b'` and `1a` mean different things to different versions.
        if matches!(self.list, List::Constant { .. }) {
            return None;
        }
        self.write(span, &[marker]);
        let glued = self.sql.get(span.end).is_some_and(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'\'' | 0x80..)
        });
        (!glued).then_some(())
    }

    /// Keeps one constant of a list.
    fn follow_list(&mut self, span: Span) {
        self.list = match (self.list, span.kind) {
            (List::Comma { kind, out_end }, constant) if constant == kind => {
                self.out.truncate(out_end);
                List::Constant { kind, out_end }
            }
            (_, kind) if kind.is_constant() => List::Constant {
                kind,
                out_end: self.out.len(),
            },
            (List::Constant { kind, out_end }, Kind::Symbol(b',')) => List::Comma { kind, out_end },
            _ => List::None,
        };
    }
}

/// The functions whose literal is the name of a setting.
fn names_setting(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"current_setting") || word.eq_ignore_ascii_case(b"set_config")
}

fn begins_shared_text(word: &[u8]) -> bool {
    const WORDS: [&[u8]; 7] = [
        b"select", b"with", b"values", b"insert", b"update", b"delete", b"merge",
    ];
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known))
}
