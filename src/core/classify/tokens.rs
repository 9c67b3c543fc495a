//! A second look at a query that sqlparser does not understand, by its tokens alone.
//!
//! PostgreSQL has forms that sqlparser lacks: `GROUPING SETS (GROUPING SETS (...))`, frame exclusion,
//! VARIADIC, the functions of SQL/XML, ROWS FROM, SEARCH and CYCLE. A text with such a form is a read if
//! nothing in it could be anything else, whatever its grammar turns out to be:
//!
//! * it begins with SELECT, WITH, VALUES or TABLE, and no key word of a statement that writes, or of a
//!   locking clause, stands anywhere in it unless quoted (`simple_select`, `common_table_expr` and
//!   `for_locking_clause` of `src/backend/parser/gram.y` have no other way to write);
//! * every word is looked up as the name of a relation, of a function and of a type, in every schema,
//!   and none of them is one that only the primary may serve;
//! * every name in front of `(` is a known function, a form of the grammar, or provably an alias;
//! * every name where FROM expects a relation is a known relation or a query of WITH.
//!
//! Invariant: it never calls a text a read that sqlparser's tree would have shown not to be one.

use std::collections::{HashMap, HashSet};

use super::lexer::{Kind, Piece};
use super::references::{
    self, Comparisons, Form, FunctionUse, Name, Origin, References, RelationUse,
};

/// Key words that only statements other than queries have, or clauses that make one a write; sorted.
const WRITING: [&str; 37] = [
    "alter",
    "call",
    "checkpoint",
    "cluster",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "grant",
    "import",
    "insert",
    "into",
    "listen",
    "load",
    "lock",
    "merge",
    "notify",
    "nowait",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "revoke",
    "rollback",
    "savepoint",
    "share",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Words after which these forms of the grammar have `(` without a call, beside those of
/// `references.rs`; sorted.
const FORMS: [&str; 13] = [
    "asymmetric",
    "document",
    "groups",
    "placing",
    "preceding",
    "range",
    "repeatable",
    "rows",
    "second",
    "symmetric",
    "uescape",
    "variadic",
    "varying",
];

/// Reserved words that end a FROM clause; sorted.
const BEHIND_FROM: [&str; 10] = [
    "fetch",
    "for",
    "group",
    "having",
    "limit",
    "offset",
    "order",
    "returning",
    "where",
    "window",
];

/// Everything that `pieces` could name, if they can be nothing but a query.
pub(super) fn prove(sql: &[u8], pieces: &[Piece<'_>]) -> Option<References> {
    std::str::from_utf8(sql).ok()?;
    let begins = pieces.iter().find(|piece| !piece.is_symbol(b'('))?;
    let may_read = pieces.iter().all(may_stand_in_a_read);
    if !is_query_word(begins) || !may_read || locks(pieces) {
        return None;
    }
    let walk = Walk::along(pieces)?;
    let mut references = references::of(sql, pieces, HashMap::new());
    references.functions = references::distinct(walk.functions(sql));
    references.relations =
        references::distinct(walk.relations.iter().cloned().chain(words(pieces)));
    references.comparisons = Comparisons::Implied;
    Some(references)
}

fn is_query_word(piece: &Piece<'_>) -> bool {
    piece
        .word()
        .is_some_and(|word| matches!(word, "select" | "with" | "values" | "table"))
}

/// How PostgreSQL folds letters beyond ASCII depends on the server's encoding and locale.
fn may_stand_in_a_read(piece: &Piece<'_>) -> bool {
    match piece.kind {
        Kind::Word => piece.text.is_ascii() && WRITING.binary_search(&&*piece.text).is_err(),
        Kind::QuotedWord => !piece.is_escaped_name(),
        Kind::Symbol(byte) => byte != b';',
        Kind::String | Kind::Number | Kind::Parameter | Kind::Operator | Kind::DoubleColon => true,
        Kind::TwoDots | Kind::Comment => false,
    }
}

/// FOR with what makes it a locking clause; UPDATE and SHARE are refused wherever they stand.
fn locks(pieces: &[Piece<'_>]) -> bool {
    pieces.windows(2).any(|pair| match pair {
        [word, next] => word.is("for") && (next.is("no") || next.is("key")),
        _ => false,
    })
}

/// Every word, as the name of a relation. Whether it is one is not known, so that only what the catalog
/// has against a relation of this name counts.
fn words(pieces: &[Piece<'_>]) -> impl Iterator<Item = RelationUse> {
    let names = pieces.iter().filter(|piece| piece.is_name());
    names.map(|piece| RelationUse {
        name: Name {
            // A temporary relation is one by its schema, which may stand before or behind a dot.
            schema: piece
                .text
                .starts_with("pg_temp")
                .then(|| Box::from(&*piece.text)),
            name: Box::from(&*piece.text),
        },
        origin: Origin::PerhapsCte,
    })
}

/// What the tokens of one level of parentheses belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Arguments, a list, or an expression.
    Expression,
    /// A query outside FROM and WITH.
    Query,
    /// WITH, up to the query itself.
    With,
    /// FROM, where a relation or its like is expected.
    Item,
    /// FROM, right of one.
    Behind,
    /// FROM, right of ON or TABLESAMPLE.
    Condition,
}

impl Clause {
    const fn is_from(self) -> bool {
        matches!(self, Self::Item | Self::Behind | Self::Condition)
    }
}

/// Follows the clauses, to find what stands where a relation is expected, and what cannot be a call.
#[derive(Debug)]
struct Walk<'p, 'a> {
    pieces: &'p [Piece<'a>],
    /// The clause, and the token that opened it, for each level.
    levels: Vec<(Clause, usize)>,
    relations: Vec<RelationUse>,
    /// Where what follows the name of the last relation begins.
    behind: usize,
    /// Names in front of `(` that are aliases.
    aliases: HashSet<usize>,
    /// Names of queries in WITH.
    queries: HashSet<&'p str>,
}

impl<'p, 'a> Walk<'p, 'a> {
    /// `None` if parentheses do not match, or FROM holds what is no relation.
    fn along(pieces: &'p [Piece<'a>]) -> Option<Self> {
        let mut walk = Self {
            pieces,
            levels: vec![(Clause::Query, 0)],
            relations: Vec::new(),
            behind: 0,
            aliases: HashSet::new(),
            queries: HashSet::new(),
        };
        let mut at = 0;
        while let Some(piece) = pieces.get(at) {
            at = walk.step(at, piece)?;
        }
        walk.admit_queries();
        (walk.levels.len() == 1 && walk.clause() != Clause::Item).then_some(walk)
    }

    fn piece(&self, at: usize) -> Option<&'p Piece<'a>> {
        self.pieces.get(at)
    }

    fn opens(&self, at: usize) -> bool {
        self.piece(at).is_some_and(|piece| piece.is_symbol(b'('))
    }

    fn before(&self, at: usize, steps: usize) -> Option<&'p Piece<'a>> {
        self.piece(at.checked_sub(steps)?)
    }

    fn clause(&self) -> Clause {
        self.levels
            .last()
            .map_or(Clause::Expression, |(clause, _)| *clause)
    }

    fn enter(&mut self, clause: Clause) {
        if let Some(level) = self.levels.last_mut() {
            level.0 = clause;
        }
    }

    /// Takes the token at `at`; where to go on.
    fn step(&mut self, at: usize, piece: &'p Piece<'a>) -> Option<usize> {
        match piece.kind {
            Kind::Word | Kind::QuotedWord => return self.name(at, piece),
            Kind::Symbol(b'(') if self.needs_query(at) && !self.begins_query(at) => return None,
            Kind::Symbol(b'(') if self.clause() == Clause::Item => {
                self.enter(Clause::Behind);
                self.levels.push((Clause::Item, at));
            }
            Kind::Symbol(b'(' | b'[') => self.levels.push((Clause::Expression, at)),
            Kind::Symbol(b')' | b']') => self.close(at)?,
            Kind::Symbol(b',') if self.clause().is_from() => self.enter(Clause::Item),
            // FROM expects a name.
            _ if self.clause() == Clause::Item => return None,
            Kind::Symbol(_)
            | Kind::String
            | Kind::Number
            | Kind::Parameter
            | Kind::Operator
            | Kind::DoubleColon
            | Kind::TwoDots
            | Kind::Comment => {}
        }
        Some(at + 1)
    }

    fn close(&mut self, at: usize) -> Option<()> {
        let (clause, open) = self.levels.pop()?;
        // FROM expects a name.
        if clause == Clause::Item {
            return None;
        }
        let square = self.piece(open)?.is_symbol(b'[');
        let matches = square == self.piece(at)?.is_symbol(b']');
        // WITH name (columns) AS (query)
        if let Some(name) = open.checked_sub(1)
            && self.defines_query(at + 1)
            && let Some(piece) = self.piece(name).filter(|piece| piece.is_name())
        {
            self.aliases.insert(name);
            self.queries.insert(&piece.text);
        }
        (matches && !self.levels.is_empty()).then_some(())
    }

    /// Whether a parenthesis at `at` may only open a query.
    fn needs_query(&self, at: usize) -> bool {
        let word = self.before(at, 1).and_then(Piece::word).unwrap_or_default();
        let subquery = matches!(word, "exists" | "array" | "materialized");
        subquery || (word == "as" && self.clause() == Clause::With)
    }

    /// Whether a query begins at `at`, perhaps in parentheses.
    fn begins_query(&self, at: usize) -> bool {
        let mut at = at;
        while self.opens(at) {
            at += 1;
        }
        self.piece(at).is_some_and(is_query_word)
    }

    /// Whether `AS [[NOT] MATERIALIZED] (query` begins at `at`. A list of column definitions cannot begin
    /// like a query.
    fn defines_query(&self, at: usize) -> bool {
        let is = |at: usize, word: &str| self.piece(at).is_some_and(|piece| piece.is(word));
        if !is(at, "as") {
            return false;
        }
        let mut at = at + 1;
        at += usize::from(is(at, "not"));
        at += usize::from(is(at, "materialized"));
        self.opens(at) && self.begins_query(at)
    }

    /// Takes a name or key word; where to go on. `None` if it stands where it cannot.
    fn name(&mut self, at: usize, piece: &'p Piece<'a>) -> Option<usize> {
        let next = at + 1;
        let before = self.before(at, 1);
        if before.is_some_and(|dot| dot.is_symbol(b'.')) {
            return Some(next);
        }
        if self.defines_query(next) {
            self.queries.insert(&piece.text);
        }
        let begins = before.is_none_or(|open| open.is_symbol(b'('));
        let clause = self.clause();
        if clause == Clause::Item && !(begins && self.begins_query(at)) {
            return Some(self.item(at));
        }
        let may_begin = begins || matches!(clause, Clause::Query | Clause::With);
        let entered = match (piece.word().unwrap_or_default(), clause) {
            ("with", _) if begins => Clause::With,
            ("select", _) if may_begin => Clause::Query,
            ("values", _) if self.opens(next) && may_begin => Clause::Query,
            ("table", _) if may_begin => Clause::Item,
            ("select" | "table", _) => return None,
            ("values", _) if self.opens(next) => return None,
            ("from", Clause::Expression) => return Some(next),
            ("from", _) if self.compares(at) => return Some(next),
            ("from", _) => Clause::Item,
            ("union" | "except" | "intersect", _) if !self.combines(next) => return None,
            ("union" | "except" | "intersect", _) => Clause::Query,
            (word, Clause::Behind | Clause::Condition)
                if BEHIND_FROM.binary_search(&word).is_ok() =>
            {
                Clause::Query
            }
            ("join", Clause::Behind | Clause::Condition) => Clause::Item,
            ("on" | "tablesample", Clause::Behind) => Clause::Condition,
            (_, Clause::Behind) if self.opens(next) => {
                if !self.may_name_columns(at, piece) {
                    return None;
                }
                self.aliases.insert(at);
                return Some(next);
            }
            _ => return Some(next),
        };
        self.enter(entered);
        Some(next)
    }

    /// Whether the name at `at`, right of a relation and in front of `(`, is its alias or USING.
    fn may_name_columns(&self, at: usize, piece: &Piece<'_>) -> bool {
        let behind_all_of_it = self.before(at, 1).is_some_and(|before| {
            // `relation * alias (columns)`
            let star = at == self.behind + 1 && before.kind == Kind::Operator && before.text == "*";
            let mark = before.is_symbol(b')') || star;
            mark || before.is("as") || before.is("ordinality")
        });
        piece.is("using") || at == self.behind || behind_all_of_it
    }

    /// Whether the other query of a UNION or its like begins at `at`; WITH would need parentheses.
    fn combines(&self, at: usize) -> bool {
        let word = self.piece(at).and_then(Piece::word).unwrap_or_default();
        let query = at + usize::from(matches!(word, "all" | "distinct"));
        let with = self.piece(query).is_some_and(|piece| piece.is("with"));
        !with && self.begins_query(query)
    }

    /// Whether FROM at `at` is that of IS [NOT] DISTINCT FROM.
    fn compares(&self, at: usize) -> bool {
        let is = |steps, word| self.before(at, steps).is_some_and(|piece| piece.is(word));
        is(1, "distinct") && (is(2, "is") || (is(2, "not") && is(3, "is")))
    }

    /// Takes the relation or function whose name begins at `at`, or what may stand before one; where to
    /// go on.
    fn item(&mut self, at: usize) -> usize {
        let is = |at: usize, word: &str| self.piece(at).is_some_and(|piece| piece.is(word));
        if is(at, "only") || is(at, "lateral") {
            return at + 1;
        }
        if is(at, "rows") && is(at + 1, "from") {
            return at + 2;
        }
        self.enter(Clause::Behind);
        let mut last = at;
        while self.piece(last + 1).is_some_and(|dot| dot.is_symbol(b'.'))
            && self.piece(last + 2).is_some_and(Piece::is_name)
        {
            last += 2;
        }
        let text = |at| self.piece(at).map(|piece| Box::from(&*piece.text));
        if !self.opens(last + 1)
            && let Some(name) = text(last)
        {
            let schema = last.checked_sub(2).filter(|qualifier| *qualifier >= at);
            self.relations.push(RelationUse {
                name: Name {
                    schema: schema.and_then(text),
                    name,
                },
                origin: Origin::Relation,
            });
        }
        self.behind = last + 1;
        self.behind
    }

    fn admit_queries(&mut self) {
        for relation in &mut self.relations {
            if relation.name.schema.is_none() && self.queries.contains(&*relation.name.name) {
                relation.origin = Origin::PerhapsCte;
            }
        }
    }

    /// Every name: as a call where it must be one, as a mention else.
    fn functions(&self, sql: &[u8]) -> impl Iterator<Item = FunctionUse> {
        let names = self.pieces.iter().enumerate();
        names.filter_map(move |(at, piece)| {
            if !piece.is_name() {
                None
            } else if self.opens(at + 1) {
                let call = references::call(sql, self.pieces, at)?;
                let form = if self.is_no_call(at, piece) {
                    Form::Mention
                } else {
                    call.form
                };
                Some(FunctionUse { form, ..call })
            } else {
                Some(FunctionUse {
                    name: Name {
                        schema: None,
                        name: Box::from(&*piece.text),
                    },
                    form: Form::Mention,
                })
            }
        })
    }

    /// Whether the name at `at`, in front of `(`, is an alias, a type or a form of the grammar.
    fn is_no_call(&self, at: usize, piece: &Piece<'_>) -> bool {
        let before = self.before(at, 1);
        let named = before.is_some_and(|before| before.is("as"));
        let qualified = before.is_some_and(|before| before.is_symbol(b'.'));
        let form = piece
            .word()
            .is_some_and(|word| FORMS.binary_search(&word).is_ok());
        self.aliases.contains(&at) || named || (form && !qualified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_searched_are_sorted() {
        for list in [&WRITING[..], &FORMS, &BEHIND_FROM] {
            assert!(list.is_sorted(), "{list:?}");
        }
    }
}
