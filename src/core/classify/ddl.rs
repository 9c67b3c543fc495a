//! What CREATE, ALTER and DROP touch, by their text.
//!
//! Invariants:
//! * A form that is not known here has [`CatalogEffect::MayChange`]: its reach cannot be told.
//! * A known form names every relation, function and type whose own rows of the catalog it may change
//!   in a way that the verdict of a read depends on. What reaches those is for the catalog to tell.

mod alter;

use std::sync::Arc;

use alter::Change;

use super::lexer::{Kind, Piece};
use super::references::operator_name;
use crate::core::catalog::is_server_type;
use crate::core::statement::{CatalogEffect, Logins, TouchedKind, TouchedName};

/// Objects on which no verdict depends; sorted.
const WITHOUT_READERS: [&str; 23] = [
    "access",
    "collation",
    "conversion",
    "data",
    "database",
    "default",
    "group",
    "language",
    "large",
    "procedural",
    "publication",
    "role",
    "server",
    "statistics",
    "subscription",
    "system",
    "tablespace",
    "text",
    "transform",
    "trigger",
    "trusted",
    "user",
    "wrapper",
];

/// The most names of one statement that are kept apart.
const NAMES: usize = 64;

/// The effect of CREATE, ALTER and DROP.
pub(super) fn effect(pieces: &[Piece<'_>]) -> CatalogEffect {
    let head = pieces.first().and_then(Piece::word);
    if head == Some("drop") {
        // A verdict is the strictest of all that a name may mean, so fewer meanings make it milder.
        return CatalogEffect::Removes;
    }
    // A name in escapes is not decoded.
    if pieces.iter().any(Piece::is_escaped_name) {
        return CatalogEffect::MayChange;
    }
    let mut reader = Reader {
        rest: pieces.get(1..).unwrap_or_default(),
        found: Vec::new(),
    };
    match head {
        Some("create") => {
            let known = reader.create();
            reader.effect(known)
        }
        Some("alter") => reader.alter(),
        _ => CatalogEffect::MayChange,
    }
}

/// Whether the statement changes as what roles log in (manual, "ALTER ROLE" and "DROP ROLE").
pub(super) fn logins(pieces: &[Piece<'_>]) -> Logins {
    let [command, kind, rest @ ..] = pieces else {
        return Logins::Kept;
    };
    let is_role = kind.is("role")
        || kind.is("group")
        || (kind.is("user") && !rest.first().is_some_and(|next| next.is("mapping")));
    // Settings are for connections that begin later, and members are looked up when they matter.
    let is_kept = |next: &Piece<'_>| {
        ["set", "reset", "in", "add"]
            .iter()
            .any(|word| next.is(word))
    };
    let changes = command.is("drop") || (command.is("alter") && !rest.get(1).is_some_and(is_kept));
    if is_role && changes {
        Logins::Changed
    } else {
        Logins::Kept
    }
}

/// The effect of DO: what its functions do is not seen, as in any other statement. The catalog's query
/// for procedures looks for the same words.
pub(super) fn block(sql: &[u8], pieces: &[Piece<'_>]) -> CatalogEffect {
    const DEFINING: [&str; 8] = [
        "alter", "call", "create", "drop", "execute", "import", "reassign", "\\",
    ];
    let language = pieces.iter().position(|piece| piece.is("language"));
    let language = language.and_then(|at| pieces.get(at + 1));
    let known = language.is_none_or(|name| name.is("plpgsql"));
    let text = match (pieces.first(), pieces.last()) {
        (Some(first), Some(last)) => sql.get(first.start..last.end).unwrap_or_default(),
        _ => sql,
    };
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    if known && !DEFINING.iter().any(|word| text.contains(word)) {
        CatalogEffect::None
    } else {
        CatalogEffect::MayChange
    }
}

/// The effect of CALL, by what stands behind the word.
pub(super) fn call(pieces: &[Piece<'_>]) -> CatalogEffect {
    if pieces.iter().any(Piece::is_escaped_name) {
        return CatalogEffect::MayChange;
    }
    let mut reader = Reader {
        rest: pieces,
        found: Vec::new(),
    };
    match (reader.name(), reader.rest.first()) {
        (Some(name), Some(next)) if next.is_symbol(b'(') => CatalogEffect::Calls(name.into()),
        (Some(_) | None, _) => CatalogEffect::MayChange,
    }
}

/// The effect of `SELECT ... INTO`.
pub(super) fn select_into(pieces: &[Piece<'_>]) -> CatalogEffect {
    let Some(into) = pieces.iter().position(|piece| piece.is("into")) else {
        return CatalogEffect::MayChange;
    };
    let mut reader = Reader {
        rest: pieces.get(into + 1..).unwrap_or_default(),
        found: Vec::new(),
    };
    reader.skip(&["unlogged"]);
    reader.skip(&["table"]);
    let known = reader.touch(TouchedKind::Rows);
    reader.effect(known)
}

/// Reads from the left; `None` from a step means that the form is not known.
#[derive(Debug)]
struct Reader<'p, 'a> {
    rest: &'p [Piece<'a>],
    found: Vec<TouchedName>,
}

impl<'p> Reader<'p, '_> {
    fn effect(self, known: Option<()>) -> CatalogEffect {
        match known {
            Some(()) if self.found.len() <= NAMES => CatalogEffect::Touches(Arc::from(self.found)),
            Some(()) | None => CatalogEffect::MayChange,
        }
    }

    /// Takes these words if they come next.
    fn skip(&mut self, words: &[&str]) -> bool {
        let here = self.rest.get(..words.len()).unwrap_or_default();
        let fits = here.len() == words.len() && here.iter().zip(words).all(|(p, word)| p.is(word));
        if fits {
            self.rest = self.rest.get(words.len()..).unwrap_or_default();
        }
        fits
    }

    fn word(&mut self) -> Option<&'p str> {
        let rest = self.rest;
        let (first, after) = rest.split_first()?;
        self.rest = after;
        first.word()
    }

    /// Takes a name with or without schemas; its last part. How others than ASCII letters are folded
    /// depends on the database.
    fn name(&mut self) -> Option<Box<str>> {
        loop {
            let (first, after) = self.rest.split_first()?;
            self.rest = after;
            if !first.is_name() {
                return None;
            }
            if !after.first().is_some_and(|dot| dot.is_symbol(b'.')) {
                let usable = first.text.is_ascii() && !first.text.is_empty();
                return usable.then(|| Box::from(&*first.text));
            }
            self.rest = after.get(1..).unwrap_or_default();
        }
    }

    fn touch(&mut self, kind: TouchedKind) -> Option<()> {
        let name = self.name()?;
        self.found.push(TouchedName { name, kind });
        Some(())
    }

    /// Moves behind the first of these words; whether there is one.
    fn seek(&mut self, word: &str) -> Option<()> {
        let at = self.rest.iter().position(|piece| piece.is(word))?;
        self.rest = self.rest.get(at + 1..).unwrap_or_default();
        Some(())
    }

    fn create(&mut self) -> Option<()> {
        let replaces = self.skip(&["or", "replace"]);
        let unlogged = self.skip(&["unlogged"]);
        self.skip(&["materialized"]);
        let foreign = self.skip(&["foreign"]);
        self.skip(&["recursive"]);
        self.skip(&["constraint"]);
        match self.word()? {
            "table" => {
                let certain = !self.skip(&["if", "not", "exists"]) && !unlogged && !foreign;
                let kind = if certain && new_table(self.rest) {
                    TouchedKind::NewTable
                } else {
                    TouchedKind::Rows
                };
                self.touch(kind)?;
                self.parents()
            }
            "view" if replaces => self.touch(TouchedKind::Relation),
            "view" | "sequence" => {
                self.skip(&["if", "not", "exists"]);
                self.touch(TouchedKind::Rows)
            }
            "function" | "procedure" | "aggregate" => self.touch(if replaces {
                TouchedKind::Routine
            } else {
                TouchedKind::NewRoutine
            }),
            // Its functions are immutable, and what they change is taken back where it is built.
            "index" | "unique" => Some(()),
            "trigger" => {
                self.name()?;
                self.seek("on")?;
                self.touch(TouchedKind::Code)
            }
            "rule" => {
                self.name()?;
                self.seek("on")?;
                self.seek("to")?;
                self.touch(TouchedKind::Rows)
            }
            "policy" => self.of_relation(),
            "domain" => self.touch(TouchedKind::Rows),
            "type" => self.create_type(),
            "schema" => self.create_schema(),
            "operator" => self.create_operator(),
            object => without_readers(object),
        }
    }

    /// The tables that a new one is read with.
    fn parents(&mut self) -> Option<()> {
        if self.skip(&["partition", "of"]) {
            self.touch(TouchedKind::Rows)?;
        }
        let inherits = self.rest.windows(2).position(|pair| match pair {
            [word, open] => word.is("inherits") && open.is_symbol(b'('),
            _ => false,
        });
        let Some(at) = inherits else { return Some(()) };
        self.rest = self.rest.get(at + 2..).unwrap_or_default();
        self.list()
    }

    /// A range comes with the type of several such and with functions of both names
    /// (`makeMultirangeTypeName`, `src/backend/catalog/pg_type.c`).
    fn create_type(&mut self) -> Option<()> {
        self.touch(TouchedKind::Rows)?;
        if self.rest.first().is_some_and(|open| open.is_symbol(b'(')) {
            // Functions may take it already (`CREATE TYPE name` alone comes first).
            let name = self.found.pop()?.name;
            let kind = TouchedKind::Relation;
            self.found.push(TouchedName { name, kind });
            return Some(());
        }
        if !self.skip(&["as", "range"]) {
            return Some(());
        }
        let name = self.found.last().map(|touched| touched.name.clone())?;
        let named = self.rest.iter().any(|p| p.is("multirange_type_name"));
        // A longer one is cut.
        if named || name.len() > 50 {
            return None;
        }
        let several = match name.find("range") {
            Some(at) => [name.get(..at)?, "multi", name.get(at..)?].concat(),
            None => format!("{name}_multirange"),
        };
        for name in [name, several.into()] {
            for kind in [TouchedKind::Rows, TouchedKind::NewRoutine] {
                let name = name.clone();
                self.found.push(TouchedName { name, kind });
            }
        }
        Some(())
    }

    /// A schema may be created with what is in it.
    fn create_schema(&self) -> Option<()> {
        let filled = |piece: &Piece<'_>| piece.is("create") || piece.is("grant");
        (!self.rest.iter().any(filled)).then_some(())
    }

    fn create_operator(&mut self) -> Option<()> {
        if self.skip(&["family"]) {
            return Some(());
        }
        if self.skip(&["class"]) {
            self.compares();
            return Some(());
        }
        let at = self.rest.iter().position(|p| p.kind == Kind::Operator)?;
        let path = self.rest.get(..at)?;
        if !path.iter().all(|p| p.is_name() || p.is_symbol(b'.')) {
            return None;
        }
        self.found.push(TouchedName {
            name: Box::from(operator_name(&self.rest.get(at)?.text)),
            kind: TouchedKind::Operator,
        });
        Some(())
    }

    /// Constructs that name no operator use another function to compare.
    fn compares(&mut self) {
        self.found.push(TouchedName {
            name: "=".into(),
            kind: TouchedKind::Operator,
        });
    }

    /// `name ON relation`.
    fn of_relation(&mut self) -> Option<()> {
        self.name()?;
        self.skip(&["on"]).then_some(())?;
        self.touch(TouchedKind::Rows)
    }

    fn alter(mut self) -> CatalogEffect {
        self.skip(&["materialized"]);
        self.skip(&["foreign"]);
        let Some(object) = self.word() else {
            return CatalogEffect::MayChange;
        };
        match self.changes(object) {
            Some(Change::Nothing) => CatalogEffect::Touches(Arc::default()),
            Some(Change::Lessens) => CatalogEffect::Removes,
            Some(Change::AddsCode) => {
                let known = self.widened(TouchedKind::Code);
                self.effect(known)
            }
            Some(Change::AddsColumns) => {
                let known = self.widened(TouchedKind::Columns);
                self.effect(known)
            }
            // CASCADE reaches what the text does not name.
            Some(Change::Adds) if !self.rest.iter().any(|piece| piece.is("cascade")) => {
                let known = self.altered(object);
                self.effect(known)
            }
            Some(Change::Adds) | None => CatalogEffect::MayChange,
        }
    }

    /// What ALTER may do to verdicts; `None` when that is not known.
    fn changes(&mut self, object: &str) -> Option<Change> {
        let rest = self.rest;
        Some(match object {
            "table" | "view" | "index" => alter::relation(rest),
            "type" => alter::data_type(rest),
            "domain" => alter::domain(rest),
            "sequence" => alter::sequence(rest),
            "policy" | "rule" | "function" | "procedure" | "routine" | "aggregate" => Change::Adds,
            "operator" => alter::operator(rest),
            _ => without_readers(object).map(|()| Change::Nothing)?,
        })
    }

    /// The relation or row type that has got more columns, or more code behind writes.
    fn widened(&mut self, kind: TouchedKind) -> Option<()> {
        self.skip(&["if", "exists"]);
        self.skip(&["only"]);
        self.touch(kind)
    }

    fn altered(&mut self, object: &str) -> Option<()> {
        match object {
            "table" | "view" | "sequence" | "index" | "type" | "domain" => {
                self.skip(&["if", "exists"]);
                self.skip(&["only"]);
                self.touch(TouchedKind::Relation)?;
                self.renamed(TouchedKind::Relation)?;
                self.kin()
            }
            "function" | "procedure" | "routine" | "aggregate" => {
                self.touch(TouchedKind::Routine)?;
                self.renamed(TouchedKind::Routine)
            }
            "policy" | "rule" => self.of_relation(),
            "operator" => {
                self.compares();
                Some(())
            }
            _ => None,
        }
    }

    /// The name behind `RENAME TO`, wherever it stands.
    fn renamed(&mut self, kind: TouchedKind) -> Option<()> {
        let tail = self.rest;
        while self.seek("rename").is_some() {
            if self.skip(&["to"]) {
                self.touch(kind)?;
            }
        }
        self.rest = tail;
        Some(())
    }

    /// The tables behind `ATTACH PARTITION` and `INHERIT`.
    fn kin(&mut self) -> Option<()> {
        let tail = self.rest;
        for (at, piece) in tail.iter().enumerate() {
            self.rest = tail.get(at + 1..).unwrap_or_default();
            let follows = self.rest.first().is_some_and(Piece::is_name);
            if (piece.is("partition") || piece.is("inherit")) && follows {
                self.touch(TouchedKind::Relation)?;
            }
        }
        Some(())
    }

    /// Names with commas between them.
    fn list(&mut self) -> Option<()> {
        loop {
            self.touch(TouchedKind::Rows)?;
            match self.rest.split_first() {
                Some((comma, after)) if comma.is_symbol(b',') => self.rest = after,
                Some(_) | None => return Some(()),
            }
        }
    }
}

fn without_readers(object: &str) -> Option<()> {
    WITHOUT_READERS.binary_search(&object).is_ok().then_some(())
}

/// Whether `name (columns)` is a table with columns of nothing but types that come with the server.
fn new_table(pieces: &[Piece<'_>]) -> bool {
    let open = pieces.iter().position(|piece| piece.is_symbol(b'('));
    let Some(open) = open else { return false };
    let path = pieces.get(..open).unwrap_or_default();
    let is_path = path.iter().enumerate().all(|(at, piece)| match at % 2 {
        0 => piece.is_name(),
        _ => piece.is_symbol(b'.'),
    });
    is_path
        && !pieces.iter().any(|piece| piece.is("inherits"))
        && alter::parts(pieces.get(open + 1..).unwrap_or_default()).all(column)
}

/// Whether an element of the list of columns is a constraint, or a column of such a type.
fn column(pieces: &[Piece<'_>]) -> bool {
    let [name, kind, ..] = pieces else {
        return pieces.is_empty();
    };
    let constraint = ["constraint", "check", "unique", "primary", "foreign"];
    let exclude = name.is("exclude") && (kind.is("using") || kind.is_symbol(b'('));
    if exclude || constraint.iter().any(|word| name.is(word)) {
        return true;
    }
    !name.is("like") && plain_column(pieces)
}

/// Whether it is a name and, unqualified, a type that comes with the server.
fn plain_column(pieces: &[Piece<'_>]) -> bool {
    let [name, kind, ..] = pieces else {
        return false;
    };
    let qualified = pieces.get(2).is_some_and(|dot| dot.is_symbol(b'.'));
    name.is_name() && !qualified && kind.word().is_some_and(is_server_type)
}

#[cfg(test)]
mod tests;
