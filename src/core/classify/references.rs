//! The functions, operators, types and other names of a statement, collected from its tokens.

use std::collections::HashMap;

use super::lexer::{Kind, Piece};
use super::session::{same_on_every_node, string_value};

/// A name as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) schema: Option<Box<str>>,
    pub(super) name: Box<str>,
}

/// What is known of a call beside the function's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Form {
    /// An unquoted, unqualified name: it may be a form of the grammar.
    Bare,
    /// A quoted or qualified name.
    Exact,
    /// `set_config(..., true)`, or `current_setting` of a setting that every node answers alike.
    Harmless,
    /// A name that may be anything: it counts only if the catalog has something against a function of it.
    Mention,
}

/// A name in front of `(`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FunctionUse {
    pub(super) name: Name,
    pub(super) form: Form,
}

/// A name in FROM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelationUse {
    pub(super) name: Name,
    pub(super) origin: Origin,
}

/// Whether a name in FROM may stand for a query of WITH. Scopes are not resolved: inside
/// `WITH t AS (SELECT * FROM t)` the second `t` is the table, so such a name is still looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Origin {
    Relation,
    PerhapsCte,
}

/// Everything a statement names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) relations: Box<[RelationUse]>,
    pub(super) functions: Box<[FunctionUse]>,
    pub(super) operators: Box<[Box<str>]>,
    pub(super) types: Box<[Name]>,
    /// Every name, for the few that the catalog watches wherever they stand.
    pub(super) words: Box<[Box<str>]>,
    pub(super) comparisons: Comparisons,
}

/// Whether a construct compares values without naming an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Comparisons {
    #[default]
    None,
    Implied,
}

/// Key words that can never be the name of a function (`RESERVED_KEYWORD` and `COL_NAME_KEYWORD` of
/// `src/include/parser/kwlist.h`); sorted.
const NEVER_FUNCTIONS: [&str; 77] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "between",
    "bigint",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "constraint",
    "dec",
    "decimal",
    "default",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "fetch",
    "float",
    "for",
    "foreign",
    "from",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "in",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "lateral",
    "leading",
    "least",
    "limit",
    "national",
    "nchar",
    "not",
    "nullif",
    "numeric",
    "offset",
    "on",
    "or",
    "order",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "row",
    "select",
    "smallint",
    "some",
    "then",
    "time",
    "timestamp",
    "trailing",
    "union",
    "unique",
    "using",
    "values",
    "when",
    "where",
    "with",
];

/// The rest of the words after which the grammar allows `(` without a call; sorted. A function of
/// such a name that the catalog knows is judged all the same.
const GRAMMAR_FORMS: [&str; 68] = [
    "add",
    "bernoulli",
    "by",
    "collation",
    "columns",
    "conflict",
    "cube",
    "current_time",
    "current_timestamp",
    "delete",
    "double",
    "escape",
    "exclude",
    "extract",
    "filter",
    "ilike",
    "insert",
    "is",
    "join",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "key",
    "like",
    "localtime",
    "localtimestamp",
    "materialized",
    "normalize",
    "only",
    "operator",
    "over",
    "overlaps",
    "overlay",
    "partition",
    "passing",
    "position",
    "recursive",
    "rollup",
    "set",
    "sets",
    "similar",
    "substring",
    "system",
    "to",
    "treat",
    "trim",
    "update",
    "varchar",
    "within",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// Type names of the grammar, which always mean the built-in type; sorted.
const GRAMMAR_TYPES: [&str; 21] = [
    "bigint",
    "bit",
    "boolean",
    "char",
    "character",
    "dec",
    "decimal",
    "double",
    "float",
    "int",
    "integer",
    "interval",
    "json",
    "national",
    "nchar",
    "numeric",
    "real",
    "smallint",
    "time",
    "timestamp",
    "varchar",
];

/// Words that compare with an operator they do not name; sorted.
const COMPARING: [&str; 22] = [
    "all",
    "any",
    "between",
    "case",
    "distinct",
    "except",
    "greatest",
    "group",
    "ilike",
    "in",
    "intersect",
    "is",
    "join",
    "least",
    "like",
    "natural",
    "nullif",
    "order",
    "partition",
    "similar",
    "some",
    "union",
];

/// Whether an unquoted `name (` is a form of the grammar when no such function is known.
pub(super) fn is_grammar_form(name: &str) -> bool {
    GRAMMAR_FORMS.binary_search(&name).is_ok()
}

/// Everything but the relations.
pub(super) fn of(
    sql: &[u8],
    pieces: &[Piece<'_>],
    mut aliases: HashMap<Box<str>, usize>,
) -> References {
    let calls = calls(sql, pieces).filter(|call| match aliases.get_mut(&call.name.name) {
        Some(left) if *left > 0 && call.name.schema.is_none() => {
            *left -= 1;
            false
        }
        _ => true,
    });
    let implied = pieces
        .iter()
        .filter_map(Piece::word)
        .any(|word| COMPARING.binary_search(&word).is_ok());
    References {
        functions: distinct(calls),
        types: distinct(types(pieces)),
        comparisons: if implied {
            Comparisons::Implied
        } else {
            Comparisons::None
        },
        ..words_only(pieces)
    }
}

/// An operator's name as the catalog has it.
pub(super) fn operator_name(written: &str) -> &str {
    if written == "!=" { "<>" } else { written }
}

/// The calls, and the words that may be names of what runs code: what decides whether a statement that is
/// no read leaves something behind.
pub(super) fn calls_only(sql: &[u8], pieces: &[Piece<'_>]) -> References {
    References {
        functions: distinct(calls(sql, pieces)),
        ..words_only(pieces)
    }
}

/// The same of a statement that calls nothing.
pub(super) fn words_only(pieces: &[Piece<'_>]) -> References {
    let operators = pieces.iter().filter(|piece| piece.kind == Kind::Operator);
    let words = pieces.iter().filter(|piece| piece.is_name());
    References {
        operators: distinct(operators.map(|piece| Box::from(operator_name(&piece.text)))),
        words: distinct(words.map(|piece| Box::from(&*piece.text))),
        ..References::default()
    }
}

pub(super) fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Box<[T]> {
    let mut all: Vec<T> = items.collect();
    all.sort_unstable();
    all.dedup();
    all.into_boxed_slice()
}

fn calls<'p>(sql: &'p [u8], pieces: &'p [Piece<'_>]) -> impl Iterator<Item = FunctionUse> + 'p {
    pieces
        .windows(2)
        .enumerate()
        .filter_map(move |(at, pair)| match pair {
            [name, open] if name.is_name() && open.is_symbol(b'(') => call(sql, pieces, at),
            _ => None,
        })
}

/// The call whose name is at `at`, in front of `(`; `None` if that can be none.
pub(super) fn call(sql: &[u8], pieces: &[Piece<'_>], at: usize) -> Option<FunctionUse> {
    let piece = pieces.get(at)?;
    let schema = schema_before(pieces, at);
    let reserved = schema.is_none()
        && piece
            .word()
            .is_some_and(|word| NEVER_FUNCTIONS.binary_search(&word).is_ok());
    if reserved || insert_target(pieces, at) {
        return None;
    }
    let built_in = schema
        .as_deref()
        .is_none_or(|schema| schema == "pg_catalog");
    let arguments = pieces.get(at + 2..).unwrap_or_default();
    let form = if built_in && harmless(sql, &piece.text, arguments) {
        Form::Harmless
    } else if schema.is_none() && piece.kind == Kind::Word {
        Form::Bare
    } else {
        Form::Exact
    };
    Some(FunctionUse {
        name: Name {
            schema,
            name: Box::from(&*piece.text),
        },
        form,
    })
}

fn schema_before(pieces: &[Piece<'_>], at: usize) -> Option<Box<str>> {
    let dot = pieces.get(at.checked_sub(1)?)?;
    let schema = pieces.get(at.checked_sub(2)?)?;
    (dot.is_symbol(b'.') && schema.is_name()).then(|| Box::from(&*schema.text))
}

/// Whether the name is the table of `INSERT INTO [schema.]name [AS alias] (columns)`, or its alias.
fn insert_target(pieces: &[Piece<'_>], at: usize) -> bool {
    let before = |at: usize| {
        let at = at.checked_sub(1)?;
        pieces.get(at).map(|piece| (at, piece))
    };
    match before(path_start(pieces, at)) {
        Some((_, word)) if word.is("into") => true,
        Some((alias, word)) if word.is("as") => before(alias)
            .and_then(|(name, _)| before(path_start(pieces, name)))
            .is_some_and(|(_, word)| word.is("into")),
        Some(_) | None => false,
    }
}

/// Where the qualified name begins that ends at `at`.
fn path_start(pieces: &[Piece<'_>], at: usize) -> usize {
    let mut start = at;
    while let Some(qualifier) = start.checked_sub(2)
        && pieces.get(start - 1).is_some_and(|dot| dot.is_symbol(b'.'))
        && pieces.get(qualifier).is_some_and(Piece::is_name)
    {
        start = qualifier;
    }
    start
}

fn harmless(sql: &[u8], name: &str, arguments: &[Piece<'_>]) -> bool {
    match name {
        "set_config" => {
            let last = last_argument(arguments);
            matches!(last, Some([only]) if only.is("true"))
        }
        "current_setting" => match arguments {
            [value, next, ..]
                if value.kind == Kind::String && (next.is_symbol(b')') || next.is_symbol(b',')) =>
            {
                let literal = sql.get(value.start..value.end).unwrap_or_default();
                let literal = std::str::from_utf8(literal).unwrap_or_default();
                string_value(literal).is_some_and(|setting| {
                    let setting = setting.to_ascii_lowercase();
                    setting.contains('.') || same_on_every_node(&setting)
                })
            }
            _ => false,
        },
        _ => false,
    }
}

/// The last argument of a call that has several. How many cannot be told: lists of constants count
/// as one.
pub(super) fn last_argument<'p, 'a>(arguments: &'p [Piece<'a>]) -> Option<&'p [Piece<'a>]> {
    let mut depth = 0_usize;
    let mut last_comma = None;
    for (at, piece) in arguments.iter().enumerate() {
        if piece.is_symbol(b'(') || piece.is_symbol(b'[') {
            depth += 1;
        } else if depth == 0 && piece.is_symbol(b')') {
            return arguments.get(last_comma? + 1..at);
        } else if piece.is_symbol(b')') || piece.is_symbol(b']') {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && piece.is_symbol(b',') {
            last_comma = Some(at);
        }
    }
    None
}

/// The types right of `::` and of CAST's AS, but for those that the grammar itself names.
fn types<'p>(pieces: &'p [Piece<'_>]) -> impl Iterator<Item = Name> + 'p {
    let mut open = Vec::new();
    pieces.iter().enumerate().filter_map(move |(at, piece)| {
        if piece.is_symbol(b'(') {
            let cast = at.checked_sub(1).and_then(|before| pieces.get(before));
            open.push(cast.is_some_and(|before| before.is("cast") || before.is("treat")));
        } else if piece.is_symbol(b')') {
            open.pop();
        }
        let in_cast = open.last() == Some(&true) && piece.is("as");
        (piece.kind == Kind::DoubleColon || in_cast)
            .then(|| type_name(pieces.get(at + 1..).unwrap_or_default()))
            .flatten()
    })
}

fn type_name(pieces: &[Piece<'_>]) -> Option<Name> {
    let first = pieces.first()?;
    let dotted = pieces.get(1).is_some_and(|piece| piece.is_symbol(b'.'));
    if dotted {
        let name = pieces.get(2)?;
        return Some(Name {
            schema: Some(Box::from(&*first.text)),
            name: Box::from(&*name.text),
        });
    }
    let grammar = first
        .word()
        .is_some_and(|word| GRAMMAR_TYPES.binary_search(&word).is_ok());
    (!grammar).then(|| Name {
        schema: None,
        name: Box::from(&*first.text),
    })
}
