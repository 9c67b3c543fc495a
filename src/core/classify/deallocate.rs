//! DEALLOCATE names a statement that may have been prepared by a Parse message: the text names it
//! as the client does, and a node knows it by another name.

use super::lexer::{Kind, Lexer, Piece};

/// The statement's name, if `sql` is one `DEALLOCATE [PREPARE] name` and nothing else (manual,
/// "DEALLOCATE"). ALL is no name.
pub fn deallocated_name(sql: &[u8]) -> Option<String> {
    let starts = sql.trim_ascii_start().first()?;
    if !starts.eq_ignore_ascii_case(&b'd') {
        return None;
    }
    let mut pieces = Vec::new();
    for token in Lexer::new(sql) {
        let span = token.ok()?;
        if span.kind == Kind::Comment {
            continue;
        }
        pieces.push(Piece::of(sql, span));
        if pieces.len() > 4 {
            return None;
        }
    }
    if pieces.last()?.is_symbol(b';') {
        pieces.pop();
    }
    let (first, rest) = pieces.split_first()?;
    let name = match rest {
        [name] => name,
        [prepare, name] if prepare.is("prepare") => name,
        _ => return None,
    };
    let plain = first.is("deallocate") && name.is_name() && !name.is("all");
    (plain && !name.is_escaped_name()).then(|| name.text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_name_alone_is_a_name() {
        for (sql, name) in [
            ("DEALLOCATE s1", Some("s1")),
            (" deallocate prepare S1 ;", Some("s1")),
            ("DEALLOCATE \"S 1\"", Some("S 1")),
            ("/* why */ deallocate x", None),
            ("deallocate /* why */ x", Some("x")),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE PREPARE ALL", None),
            ("DEALLOCATE \"all\"", Some("all")),
            ("DEALLOCATE a; SELECT 1", None),
            ("DEALLOCATE", None),
            ("DELETE FROM t", None),
            ("", None),
        ] {
            assert_eq!(deallocated_name(sql.as_bytes()).as_deref(), name, "{sql}");
        }
    }
}
