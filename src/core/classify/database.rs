//! Statements that a database must be left for: the server refuses them while any connection to it is open
//! (`CountOtherDBBackends`, `src/backend/storage/ipc/procarray.c`), and a pool keeps some open that no client
//! uses.

use super::lexer::{Kind, Lexer, Piece};

/// Most tokens that are looked at.
const TOKENS: usize = 32;

/// The database that nobody may be connected to while `sql` runs, if that is one statement of these: DROP
/// DATABASE, ALTER DATABASE with RENAME or SET TABLESPACE, CREATE DATABASE with TEMPLATE (manual, SQL
/// commands).
pub fn database_to_leave(sql: &[u8]) -> Option<String> {
    let mut pieces = Vec::new();
    for token in Lexer::new(sql).take(TOKENS) {
        let span = token.ok()?;
        if span.kind != Kind::Comment {
            pieces.push(Piece::of(sql, span));
        }
    }
    let (command, rest) = pieces.split_first()?;
    let (database, rest) = rest.split_first()?;
    if !database.is("database") {
        return None;
    }
    let name = if command.is("drop") {
        match rest {
            [first, second, name, ..] if first.is("if") && second.is("exists") => name,
            [name, ..] => name,
            [] => return None,
        }
    } else if command.is("alter") {
        match rest {
            [name, rename, ..] if rename.is("rename") => name,
            [name, set, tablespace, ..] if set.is("set") && tablespace.is("tablespace") => name,
            _ => return None,
        }
    } else if command.is("create") {
        let at = rest.iter().position(|piece| piece.is("template"))?;
        match rest.get(at + 1..)? {
            [equals, name, ..] if *equals.text == *"=" => name,
            [name, ..] => name,
            [] => return None,
        }
    } else {
        return None;
    };
    (name.is_name() && !name.is_escaped_name()).then(|| name.text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_database_for_itself_names_it() {
        for (sql, name) in [
            ("DROP DATABASE shop", Some("shop")),
            (
                "drop database if exists \"My Shop\" with (force);",
                Some("My Shop"),
            ),
            ("/* end */ DROP DATABASE Shop", Some("shop")),
            ("ALTER DATABASE shop RENAME TO store", Some("shop")),
            ("ALTER DATABASE shop SET TABLESPACE fast", Some("shop")),
            ("CREATE DATABASE copy TEMPLATE shop", Some("shop")),
            (
                "CREATE DATABASE copy WITH OWNER app TEMPLATE = shop",
                Some("shop"),
            ),
            ("CREATE DATABASE copy", None),
            ("ALTER DATABASE shop SET work_mem = '1MB'", None),
            ("DROP TABLE shop", None),
            ("DROP DATABASE", None),
            ("CREATE DATABASE copy TEMPLATE", None),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(database_to_leave(sql.as_bytes()).as_deref(), name, "{sql}");
        }
    }
}
