//! The proof that a query is nothing but a query.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    ObjectName, Query, Select, SetExpr, Statement, TableAlias, TableFactor, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::bridge;
use super::lexer::{Kind, Piece};
use super::limits::{CLASSIFY_CHAIN_TOKENS, CLASSIFY_PARSE_DEPTH, CLASSIFY_TOKENS};
use super::references::{self, Name, Origin, References, RelationUse};
use crate::core::statement::Reason;

/// What the query names, if it is proved to be one; the reason why not otherwise.
pub(super) fn prove(sql: &[u8], pieces: &[Piece<'_>]) -> Result<References, Reason> {
    if let Some(reason) = seen_in_tokens(pieces) {
        return Err(reason);
    }
    if std::str::from_utf8(sql).is_err() {
        return Err(Reason::NotUtf8);
    }
    let tree = parse(pieces)?;
    let mut survey = Survey::default();
    if let ControlFlow::Break(reason) = tree.visit(&mut survey) {
        return Err(reason);
    }
    let relations = survey.relations();
    let mut references = references::of(sql, pieces, survey.column_lists);
    references.relations = relations;
    Ok(references)
}

/// What the tokens alone show, whether or not the text parses.
pub(super) fn seen_in_tokens(pieces: &[Piece<'_>]) -> Option<Reason> {
    let mut depth = 0_usize;
    for (at, piece) in pieces.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| pieces.get(before));
        let named = before.is_some_and(|before| before.is("as") || before.is_symbol(b'.'));
        let after_open = before.is_none_or(|before| before.is_symbol(b'('));
        let after_close = before.is_some_and(|before| before.is_symbol(b')'));
        match (piece.kind, piece.word()) {
            (Kind::Symbol(b'('), _) => depth += 1,
            (Kind::Symbol(b')'), _) => depth = depth.saturating_sub(1),
            (_, Some("insert" | "update" | "delete" | "merge")) if after_open && depth > 0 => {
                return Some(Reason::ModifyingCte);
            }
            (_, Some("insert" | "update" | "delete" | "merge")) if after_close && depth == 0 => {
                return Some(Reason::Write);
            }
            (_, Some("into")) if !named => return Some(Reason::SelectInto),
            (_, Some("for")) if locks(pieces, at) => return Some(Reason::LockingClause),
            _ => {}
        }
    }
    None
}

/// Whether FOR at `at` begins a locking clause.
fn locks(pieces: &[Piece<'_>], at: usize) -> bool {
    let word = |offset: usize| {
        pieces
            .get(at + offset)
            .and_then(Piece::word)
            .unwrap_or_default()
    };
    matches!(
        (word(1), word(2), word(3)),
        ("update" | "share", ..) | ("key", "share", _) | ("no", "key", "update")
    )
}

fn parse(pieces: &[Piece<'_>]) -> Result<Box<Query>, Reason> {
    if pieces.len() > CLASSIFY_TOKENS || longest_chain(pieces) > CLASSIFY_CHAIN_TOKENS {
        return Err(Reason::TooLong);
    }
    let tokens = tokens(pieces).ok_or(Reason::ParseFailed)?;
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(CLASSIFY_PARSE_DEPTH)
        .with_tokens_with_locations(tokens);
    let query = parser.parse_query().map_err(|error| match error {
        sqlparser::parser::ParserError::RecursionLimitExceeded => Reason::TooLong,
        sqlparser::parser::ParserError::TokenizerError(_)
        | sqlparser::parser::ParserError::ParserError(_) => Reason::ParseFailed,
    })?;
    if parser.peek_token_ref().token == Token::EOF {
        Ok(query)
    } else {
        Err(Reason::ParseFailed)
    }
}

/// sqlparser's tokens, with TABLE and ONLY written so that it understands them.
fn tokens(pieces: &[Piece<'_>]) -> Option<Vec<TokenWithSpan>> {
    let mut tokens = Vec::with_capacity(pieces.len() + 4);
    for (at, piece) in pieces.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| pieces.get(before));
        let next_is_name = pieces.get(at + 1).is_some_and(Piece::is_name);
        let word_before = before.and_then(Piece::word).unwrap_or_default();
        match piece.word() {
            Some("table") => {
                let begins = before.is_none_or(|before| before.is_symbol(b'('))
                    || matches!(
                        word_before,
                        "union" | "except" | "intersect" | "all" | "distinct"
                    );
                if !begins || !next_is_name {
                    return None;
                }
                let query = [
                    Token::make_keyword("select"),
                    Token::Mul,
                    Token::make_keyword("from"),
                ];
                tokens.extend(query.map(TokenWithSpan::wrap));
            }
            Some("only") if next_is_name && matches!(word_before, "from" | "join" | "table") => {}
            _ => tokens.push(TokenWithSpan::wrap(bridge::token(piece)?)),
        }
    }
    Some(tokens)
}

/// An upper bound of how deep sqlparser's tree can become: operators of one expression nest to the
/// left without recursion in the parser, but not without recursion where the tree is dropped.
fn longest_chain(pieces: &[Piece<'_>]) -> usize {
    let mut outer = Vec::new();
    let (mut below, mut here, mut longest) = (0_usize, 0_usize, 0_usize);
    for piece in pieces {
        match piece.kind {
            Kind::Symbol(b'(' | b'[') => {
                outer.push((below, here));
                below += here + 1;
                here = 0;
            }
            Kind::Symbol(b')' | b']') => {
                if let Some((base, count)) = outer.pop() {
                    below = base;
                    here = count + 1;
                }
            }
            Kind::Symbol(b',') => here = 0,
            Kind::Word | Kind::Operator | Kind::DoubleColon | Kind::Symbol(_) => here += 1,
            Kind::QuotedWord
            | Kind::String
            | Kind::Number
            | Kind::Parameter
            | Kind::TwoDots
            | Kind::Comment => {}
        }
        longest = longest.max(below + here);
    }
    longest
}

#[derive(Debug, Default)]
struct Survey {
    names: Vec<Name>,
    ctes: HashSet<Box<str>>,
    /// How often a name is followed by a column list, which looks like a call.
    column_lists: HashMap<Box<str>, usize>,
    /// The next relation to be visited is a function's name.
    skip: Option<ObjectName>,
}

impl Survey {
    fn relations(&mut self) -> Box<[RelationUse]> {
        let ctes = &self.ctes;
        let mut all: Vec<RelationUse> = std::mem::take(&mut self.names)
            .into_iter()
            .map(|name| {
                let perhaps = name.schema.is_none() && ctes.contains(&name.name);
                let origin = if perhaps {
                    Origin::PerhapsCte
                } else {
                    Origin::Relation
                };
                RelationUse { name, origin }
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_boxed_slice()
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        if let Some(alias) = alias.filter(|alias| !alias.columns.is_empty()) {
            *self
                .column_lists
                .entry(alias.name.value.as_str().into())
                .or_default() += 1;
        }
    }
}

impl Visitor for Survey {
    type Break = Reason;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Reason> {
        if !query.locks.is_empty() {
            return ControlFlow::Break(Reason::LockingClause);
        }
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
            || matches!(*query.body, SetExpr::Table(_))
        {
            return ControlFlow::Break(Reason::ParseFailed);
        }
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.ctes.insert(cte.alias.name.value.as_str().into());
            self.alias(Some(&cte.alias));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Reason> {
        if select.into.is_some() {
            return ControlFlow::Break(Reason::SelectInto);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Reason> {
        if matches!(statement, Statement::Query(_)) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(Reason::ModifyingCte)
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Reason> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "other dialects' forms are refused"
        )]
        match factor {
            TableFactor::Table {
                name, alias, args, ..
            } => {
                self.alias(alias.as_ref());
                self.skip = args.is_some().then(|| name.clone());
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::JsonTable { alias, .. }
            | TableFactor::XmlTable { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => self.alias(alias.as_ref()),
            _ => return ControlFlow::Break(Reason::ParseFailed),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Reason> {
        if self.skip.take().is_some_and(|skip| skip == *relation) {
            return ControlFlow::Continue(());
        }
        let mut parts = relation.0.iter().rev().map(|part| part.as_ident());
        let (Some(Some(name)), schema) = (parts.next(), parts.next()) else {
            return ControlFlow::Break(Reason::ParseFailed);
        };
        let schema = schema
            .flatten()
            .map(|schema| Box::from(schema.value.as_str()));
        self.names.push(Name {
            schema,
            name: name.value.as_str().into(),
        });
        ControlFlow::Continue(())
    }
}
