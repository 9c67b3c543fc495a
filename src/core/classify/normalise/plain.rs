//! The same normalisation for plain texts, several times faster.
//!
//! It knows words, whole numbers, `$1`, simple string literals and the commonest symbols. Whatever
//! else it meets, it gives up and the lexer decides; so it never gives another output than the lexer
//! does (a property test holds the two together).

use super::{NUMBER, PARAMETER, STRING, begins_shared_text};

/// What was written last, as far as a constant may or may not follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Other,
    Constant,
    /// A constant and a comma: a list, which the lexer's way cuts to one.
    ConstantComma,
}

/// Appends the normalised text to `out`; `None` when the text is not plain.
pub(super) fn normalise(sql: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut at = skip_space(sql, 0);
    let first = word_end(sql, at);
    if !begins_shared_text(sql.get(at..first)?) {
        return None;
    }
    let mut last = Last::Other;
    while let Some(&byte) = sql.get(at) {
        let start = at;
        last = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at = write_word(sql, at, out)?;
                Last::Other
            }
            b'0'..=b'9' => {
                at = constant(sql, digits_end(sql, at), last)?;
                out.push(NUMBER);
                Last::Constant
            }
            b'$' => {
                let end = digits_end(sql, at + 1);
                at = constant(sql, (end > at + 1).then_some(end)?, last)?;
                out.push(PARAMETER);
                Last::Constant
            }
            b'\'' => {
                at = constant(sql, string_end(sql, at)?, last)?;
                out.push(STRING);
                Last::Constant
            }
            b';' => return (skip_space(sql, at + 1) == sql.len()).then_some(()),
            _ => {
                at = symbol(sql, at, byte)?;
                out.push(byte);
                if byte == b',' && last == Last::Constant {
                    Last::ConstantComma
                } else {
                    Last::Other
                }
            }
        };
        debug_assert!(at > start);
        let next = skip_space(sql, at);
        if next > at && sql.get(next).is_some_and(|byte| *byte != b';') {
            out.push(b' ');
        }
        at = next;
    }
    Some(())
}

fn skip_space(sql: &[u8], at: usize) -> usize {
    let rest = sql.get(at..).unwrap_or_default();
    at + rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        .count()
}

fn word_end(sql: &[u8], at: usize) -> usize {
    let rest = sql.get(at..).unwrap_or_default();
    at + rest
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
        .count()
}

fn digits_end(sql: &[u8], at: usize) -> usize {
    let rest = sql.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn write_word(sql: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let end = word_end(sql, at);
    let from = out.len();
    out.extend_from_slice(sql.get(at..end)?);
    let word = out.get_mut(from..)?;
    word.make_ascii_lowercase();
    // What it answers depends on its literal.
    if word == b"current_setting" || word == b"set_config" {
        return None;
    }
    // A prefix of a literal, or a word with a dollar sign in it.
    match sql.get(end) {
        Some(b'\'' | b'$' | b'"' | b'&' | 0x80..) => None,
        Some(_) | None => Some(end),
    }
}

/// The end of a constant that may stand here, and is not glued to what follows.
fn constant(sql: &[u8], end: usize, last: Last) -> Option<usize> {
    let glued = sql.get(end).is_some_and(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'\'' | b'"' | b'.' | 0x80..)
    });
    (last == Last::Other && !glued).then_some(end)
}

/// Behind the closing quote of a literal without quotes in it.
fn string_end(sql: &[u8], at: usize) -> Option<usize> {
    let body = sql.get(at + 1..)?;
    Some(at + 2 + memchr::memchr(b'\'', body)?)
}

fn symbol(sql: &[u8], at: usize, byte: u8) -> Option<usize> {
    let next = sql.get(at + 1).copied();
    let plain = match byte {
        b'-' => next != Some(b'-'),
        b'/' => next != Some(b'*'),
        b'.' => !next.is_some_and(|next| next.is_ascii_digit() || next == b'.'),
        b',' | b'(' | b')' | b'*' | b'=' | b'<' | b'>' | b'+' | b'%' => true,
        _ => false,
    };
    plain.then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Normalised, Writer};
    use super::*;

    /// What the lexer's way makes of it.
    fn slow(sql: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Writer::new(sql, &mut out).run()?;
        Some(out)
    }

    fn fast(sql: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        normalise(sql, &mut out)?;
        Some(out)
    }

    #[test]
    fn plain_texts_take_the_short_way() {
        for (sql, expected) in [
            (
                "SELECT abalance FROM t WHERE aid = 42;",
                "select abalance from t where aid = \x02",
            ),
            (
                "select  a.b,\n c from t where n='bob' and x<$1 ",
                "select a.b, c from t where n=\x01 and x<\x03",
            ),
        ] {
            assert_eq!(
                fast(sql.as_bytes()).as_deref(),
                Some(expected.as_bytes()),
                "{sql}"
            );
            assert_eq!(
                super::super::normalise(sql.as_bytes(), &mut Vec::new()),
                Normalised::Literals
            );
        }
    }

    #[test]
    fn doubtful_texts_do_not() {
        for sql in [
            "select E'x'",
            "select 'a''b'",
            "select 1.5",
            "select 1e3",
            "select 'a' 'b'",
            "select 1 -- c",
            "select /* c */ 1",
            "select 1; select 2",
            "select $$x$$",
            "select \"a\"",
            "set x = 1",
            "select current_setting('x')",
            "select set_config('a.b', '1', false)",
            "select 1, 2",
            "select a$1",
            "select é",
            "",
            "select 'open",
        ] {
            assert_eq!(fast(sql.as_bytes()), None, "{sql}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_short_way_never_differs_from_the_long_one(
            text in "(select|SELECT|with|update)( |[a-zA-Z_]{1,4}| |'[a-z ]{0,3}'|[0-9]{1,3}|\\$[0-9]|[,.()*=<>+%;/$'\"\\\\|:&-]|\n| ){0,14}"
        ) {
            if let Some(fast) = fast(text.as_bytes()) {
                prop_assert_eq!(Some(fast), slow(text.as_bytes()));
            }
        }
    }
}
