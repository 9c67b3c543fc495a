//! What CREATE, ALTER and DROP touch, by their text.
//!
//! Invariants:
//! * A form that is not known here has [`CatalogEffect::MayChange`]: its reach cannot be told.
//! * A known form names every relation, function and type whose own rows of the catalog it may change
//!   in a way that the verdict of a read depends on. What reaches those is for the catalog to tell.

use std::sync::Arc;

use super::lexer::Piece;
use crate::core::statement::{CatalogEffect, TouchedKind, TouchedName};

/// Objects on which no verdict depends.
const WITHOUT_READERS: [&str; 8] = [
    "database",
    "group",
    "publication",
    "role",
    "statistics",
    "subscription",
    "tablespace",
    "user",
];

/// The most names of one statement that are kept apart.
const NAMES: usize = 64;

/// The effect of CREATE, ALTER and DROP.
pub(super) fn effect(pieces: &[Piece<'_>]) -> CatalogEffect {
    // A name in escapes is not decoded; CASCADE reaches what the text does not name.
    let hidden = |piece: &Piece<'_>| piece.is_escaped_name() || piece.is("cascade");
    if pieces.iter().any(hidden) {
        return CatalogEffect::MayChange;
    }
    let mut reader = Reader {
        rest: pieces.get(1..).unwrap_or_default(),
        found: Vec::new(),
    };
    let known = match pieces.first().and_then(Piece::word) {
        Some("create") => reader.create(),
        Some("alter") => reader.alter(),
        Some("drop") => reader.drop(),
        _ => None,
    };
    reader.effect(known)
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
    let known = reader.touch(TouchedKind::Relation);
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
        self.skip(&["or", "replace"]);
        self.skip(&["unlogged"]);
        self.skip(&["materialized"]);
        self.skip(&["foreign"]);
        self.skip(&["recursive"]);
        self.skip(&["constraint"]);
        match self.word()? {
            "table" => {
                self.skip(&["if", "not", "exists"]);
                self.touch(TouchedKind::Relation)?;
                self.parents()
            }
            "view" | "sequence" => {
                self.skip(&["if", "not", "exists"]);
                self.touch(TouchedKind::Relation)
            }
            "function" | "procedure" | "aggregate" => self.touch(TouchedKind::Routine),
            // Neither an index nor a trigger is seen by a read.
            "index" | "unique" | "trigger" => Some(()),
            "rule" => {
                self.name()?;
                self.seek("on")?;
                self.seek("to")?;
                self.touch(TouchedKind::Relation)
            }
            "policy" => self.of_relation(),
            "domain" => self.touch(TouchedKind::Relation),
            "type" => self.create_type(),
            "schema" => self.create_schema(),
            object => self.without_readers(object),
        }
    }

    /// The tables that a new one is read with.
    fn parents(&mut self) -> Option<()> {
        if self.skip(&["partition", "of"]) {
            self.touch(TouchedKind::Relation)?;
        }
        let inherits = self.rest.windows(2).position(|pair| match pair {
            [word, open] => word.is("inherits") && open.is_symbol(b'('),
            _ => false,
        });
        let Some(at) = inherits else { return Some(()) };
        self.rest = self.rest.get(at + 2..).unwrap_or_default();
        self.list()
    }

    /// An enumeration or a row; ranges come with functions and more types.
    fn create_type(&mut self) -> Option<()> {
        self.touch(TouchedKind::Relation)?;
        let row = self.skip(&["as"]) && self.rest.first().is_some_and(|open| open.is_symbol(b'('));
        (row || self.skip(&["enum"])).then_some(())
    }

    /// A schema may be created with what is in it.
    fn create_schema(&self) -> Option<()> {
        let filled = |piece: &Piece<'_>| piece.is("create") || piece.is("grant");
        (!self.rest.iter().any(filled)).then_some(())
    }

    fn without_readers(&self, object: &str) -> Option<()> {
        let mapping = self.rest.first().is_some_and(|next| next.is("mapping"));
        (WITHOUT_READERS.binary_search(&object).is_ok() && !mapping).then_some(())
    }

    /// `name ON relation`.
    fn of_relation(&mut self) -> Option<()> {
        self.name()?;
        self.skip(&["on"]).then_some(())?;
        self.touch(TouchedKind::Relation)
    }

    fn alter(&mut self) -> Option<()> {
        self.skip(&["materialized"]);
        self.skip(&["foreign"]);
        match self.word()? {
            "table" | "view" | "sequence" | "index" => {
                self.skip(&["if", "exists"]);
                self.skip(&["only"]);
                if self.skip(&["all", "in", "tablespace"]) {
                    return Some(());
                }
                self.touch(TouchedKind::Relation)?;
                self.renamed(TouchedKind::Relation)?;
                self.kin()
            }
            "function" | "procedure" | "routine" | "aggregate" => {
                self.touch(TouchedKind::Routine)?;
                self.renamed(TouchedKind::Routine)
            }
            "policy" | "rule" => self.of_relation(),
            "trigger" | "statistics" | "publication" | "subscription" => Some(()),
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

    /// What is dropped alone takes nothing else along.
    fn drop(&mut self) -> Option<()> {
        self.skip(&["materialized"]);
        self.skip(&["foreign"]);
        match self.word()? {
            "table" | "view" | "sequence" | "type" | "domain" => {
                self.skip(&["if", "exists"]);
                self.list()
            }
            "function" | "procedure" | "routine" | "aggregate" => {
                self.skip(&["if", "exists"]);
                self.routines()
            }
            "index" | "trigger" | "schema" => Some(()),
            "policy" | "rule" => {
                self.skip(&["if", "exists"]);
                self.of_relation()
            }
            object => self.without_readers(object),
        }
    }

    /// Names with commas between them.
    fn list(&mut self) -> Option<()> {
        loop {
            self.touch(TouchedKind::Relation)?;
            match self.rest.split_first() {
                Some((comma, after)) if comma.is_symbol(b',') => self.rest = after,
                Some(_) | None => return Some(()),
            }
        }
    }

    /// Names with arguments in parentheses, or without, and commas between them.
    fn routines(&mut self) -> Option<()> {
        loop {
            self.touch(TouchedKind::Routine)?;
            self.arguments()?;
            match self.rest.split_first() {
                Some((comma, after)) if comma.is_symbol(b',') => self.rest = after,
                Some(_) | None => return Some(()),
            }
        }
    }

    fn arguments(&mut self) -> Option<()> {
        if !self.rest.first().is_some_and(|open| open.is_symbol(b'(')) {
            return Some(());
        }
        let mut depth = 0_usize;
        let close = self.rest.iter().position(|piece| {
            if piece.is_symbol(b'(') {
                depth += 1;
            } else if piece.is_symbol(b')') {
                depth = depth.saturating_sub(1);
            }
            depth == 0
        })?;
        self.rest = self.rest.get(close + 1..).unwrap_or_default();
        Some(())
    }
}

#[cfg(test)]
mod tests;
