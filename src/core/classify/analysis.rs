//! What a text says by itself, whatever the catalog says.

use std::collections::HashSet;

use super::counters;
use super::dispatch::{self, StatementFacts};
use super::hint::{self, Place};
use super::lexer::{Kind, Lexer, Piece, Span};
use super::limits::{CLASSIFY_KEPT_TOKENS, CLASSIFY_SCAN_BYTES, CLASSIFY_STATEMENTS};
use super::options::StatementOptions;
use super::references::Origin;
use crate::core::statement::{Hint, Reason, RoutePrimary, SessionEffect};
use crate::limits::CLASSIFY_TEXT_BYTES;

/// The facts of one text that do not depend on the catalog. Shared between sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    pub(super) statements: Box<[StatementFacts]>,
    pub(super) hint: Hint,
}

impl Analysis {
    /// The facts of a text that nobody has read: it may be anything.
    pub fn unread() -> Self {
        Self {
            statements: Box::new([StatementFacts::doubtful(Reason::TooLong)]),
            hint: Hint::default(),
        }
    }

    /// The relations that are read, as written: a name stands for a relation, or for a query of
    /// WITH where that name is one.
    pub fn relations(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        let all = self
            .statements
            .iter()
            .flat_map(|facts| &facts.references.relations);
        all.filter(|relation| relation.origin == Origin::Relation)
            .map(|relation| (relation.name.schema.as_deref(), &*relation.name.name))
    }

    /// Roughly how much memory it takes, in bytes; for caches that are bounded by bytes.
    pub fn heap_bytes(&self) -> usize {
        let each = |facts: &StatementFacts| {
            let names = facts.references.words.len()
                + facts.references.functions.len()
                + facts.references.relations.len()
                + facts.references.operators.len()
                + facts.references.types.len();
            size_of::<StatementFacts>() + names * 64
        };
        size_of::<Self>() + self.statements.iter().map(each).sum::<usize>()
    }
}

/// Collects the facts of `sql`, which may be any bytes. Never panics; time is linear in the length
/// up to `CLASSIFY_SCAN_BYTES` and constant beyond.
pub fn analyse(sql: &[u8]) -> Analysis {
    if sql.len() > CLASSIFY_SCAN_BYTES {
        return Analysis::unread();
    }
    let extent = if sql.len() > CLASSIFY_TEXT_BYTES {
        Extent::Heads
    } else {
        Extent::Whole
    };
    let mut collector = Collector::new(sql, extent);
    for token in Lexer::new(sql) {
        let Ok(span) = token else {
            collector.fail(Reason::ParseFailed);
            break;
        };
        collector.take(span);
        if collector.statements.len() >= CLASSIFY_STATEMENTS {
            collector.fail(Reason::TooLong);
            break;
        }
    }
    collector.finish()
}

/// How much of a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// The first tokens of each statement, and every call: enough for what it leaves behind.
    Heads,
}

/// Cuts a text into statements.
#[derive(Debug)]
struct Collector<'a> {
    sql: &'a [u8],
    extent: Extent,
    statements: Vec<StatementFacts>,
    pieces: Vec<Piece<'a>>,
    /// The last token, where `pieces` does not hold it.
    skipped: Option<Piece<'a>>,
    /// The functions in `pieces` beyond the leading tokens.
    called: HashSet<Box<str>>,
    overflowed: bool,
    /// Parentheses that are open.
    depth: usize,
    /// BEGIN ATOMIC and CASE that are open in the body of a function.
    bodies: usize,
    comments: Vec<Span>,
    /// Where the first token begins and the last one ends, semicolons apart.
    tokens: Option<(usize, usize)>,
}

impl<'a> Collector<'a> {
    fn new(sql: &'a [u8], extent: Extent) -> Self {
        Self {
            sql,
            extent,
            statements: Vec::new(),
            pieces: Vec::new(),
            skipped: None,
            called: HashSet::new(),
            overflowed: false,
            depth: 0,
            bodies: 0,
            comments: Vec::new(),
            tokens: None,
        }
    }

    fn take(&mut self, span: Span) {
        if span.kind == Kind::Comment {
            self.comment(span);
            return;
        }
        let piece = Piece::of(self.sql, span);
        if piece.is_symbol(b';') && !self.inside_definition() {
            self.end_statement();
            return;
        }
        if piece.is_symbol(b'(') {
            self.depth += 1;
        } else if piece.is_symbol(b')') {
            self.depth = self.depth.saturating_sub(1);
        } else if span.kind == Kind::Word {
            self.follow_body(&piece);
        }
        self.tokens.get_or_insert((span.start, span.end)).1 = span.end;
        self.keep(piece);
    }

    /// Whether a semicolon does not end the statement: in `CREATE RULE ... DO (a; b)` and in the
    /// bodies of functions. Anywhere else an open parenthesis is an error of syntax.
    fn inside_definition(&self) -> bool {
        let creates = self.pieces.first().is_some_and(|first| first.is("create"));
        creates && (self.depth > 0 || self.bodies > 0)
    }

    fn comment(&mut self, span: Span) {
        let text = self.sql.get(span.start..span.end).unwrap_or_default();
        if hint::is_addressed(text) && self.comments.len() < CLASSIFY_KEPT_TOKENS {
            self.comments.push(span);
        }
    }

    /// Follows `BEGIN ATOMIC ... END` of SQL-standard function bodies, which hold semicolons.
    fn follow_body(&mut self, piece: &Piece<'a>) {
        if !self.pieces.first().is_some_and(|first| first.is("create")) {
            return;
        }
        let opens = piece.is("atomic")
            && self
                .skipped
                .as_ref()
                .or(self.pieces.last())
                .is_some_and(|last| last.is("begin"));
        if opens || (self.bodies > 0 && piece.is("case")) {
            self.bodies += 1;
        } else if piece.is("end") {
            self.bodies = self.bodies.saturating_sub(1);
        }
    }

    fn keep(&mut self, piece: Piece<'a>) {
        if self.collapses(&piece) {
            self.pieces.pop();
            return;
        }
        match self.extent {
            Extent::Whole => self.pieces.push(piece),
            Extent::Heads if self.pieces.len() < CLASSIFY_KEPT_TOKENS => self.pieces.push(piece),
            Extent::Heads => {
                let called = self.skipped.take().filter(Piece::is_name);
                match called {
                    Some(name) if piece.is_symbol(b'(') => self.keep_call(name, piece),
                    _ => self.skipped = Some(piece),
                }
            }
        }
    }

    /// Keeps a call as its name and parenthesis, once, for what it may leave behind.
    fn keep_call(&mut self, name: Piece<'a>, open: Piece<'a>) {
        if self.called.contains(&*name.text) {
            return;
        }
        if self.called.len() >= CLASSIFY_KEPT_TOKENS {
            self.overflowed = true;
            return;
        }
        self.called.insert(name.text.as_ref().into());
        self.pieces.extend([name, open]);
    }

    /// Whether `piece` is a constant behind one of the same kind and a comma: `1, 2` counts as `1`,
    /// here as in [`normalise`](super::normalise).
    fn collapses(&self, piece: &Piece<'_>) -> bool {
        match self.pieces.as_slice() {
            [.., constant, comma] => {
                self.skipped.is_none()
                    && piece.kind.is_constant()
                    && constant.kind == piece.kind
                    && comma.is_symbol(b',')
            }
            _ => false,
        }
    }

    fn end_statement(&mut self) {
        self.depth = 0;
        self.bodies = 0;
        self.skipped = None;
        self.called.clear();
        let overflowed = std::mem::take(&mut self.overflowed);
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.is_empty() {
            return;
        }
        let mut facts = match self.extent {
            Extent::Whole => {
                let facts = dispatch::statement(self.sql, &pieces);
                if facts.session == SessionEffect::None && counters::are_named(&pieces) {
                    facts.watching_counters()
                } else {
                    facts
                }
            }
            Extent::Heads if overflowed => StatementFacts::doubtful(Reason::TooLong),
            Extent::Heads => dispatch::statement(self.sql, &pieces).cut_short(),
        };
        facts.options = StatementOptions::of(self.sql, &pieces);
        self.statements.push(facts);
    }

    /// Ends with a statement that is not understood.
    fn fail(&mut self, reason: Reason) {
        let started = !self.pieces.is_empty();
        self.end_statement();
        match self.statements.last_mut().filter(|_| started) {
            Some(last) => last.spoil(reason),
            None => self.statements.push(StatementFacts::doubtful(reason)),
        }
    }

    fn place(&self, comment: Span) -> Place {
        match self.tokens {
            Some((first, last)) if comment.start > first && comment.start < last => Place::Inside,
            Some(_) | None => Place::Edge,
        }
    }

    fn finish(mut self) -> Analysis {
        self.end_statement();
        let mut hint = Hint::default();
        for span in &self.comments {
            let comment = self.sql.get(span.start..span.end).unwrap_or_default();
            hint::apply(&mut hint, comment, self.place(*span));
        }
        if self.comments.len() >= CLASSIFY_KEPT_TOKENS {
            hint.route_primary = Some(RoutePrimary);
        }
        // Tokens alone do not tell where the statements of a batch end for PostgreSQL.
        let batch = self.statements.len() > 1;
        let statements = self.statements.into_iter();
        Analysis {
            statements: statements
                .map(|facts| {
                    if batch {
                        facts.without_tokens().without_explanation()
                    } else {
                        facts
                    }
                })
                .collect(),
            hint,
        }
        .with_hints_of_explained()
    }
}
