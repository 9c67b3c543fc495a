//! SQL texts.

use std::sync::LazyLock;

use pgweir::core::classify::fuzzing::{Token, by_parser, by_tokens, normalise_by_lexer, tokens};
use pgweir::core::classify::{Normalised, analyse, deallocated_name, judge, normalise};
use pgweir::core::policy::RoutingPolicy;
use pgweir::core::residue::{NAMES_LIMIT, SettingNames};
use pgweir::core::statement::{
    AccessMode, Classification, Hint, ProxyStatement, Reason, SessionEffect,
};

use crate::shop::SHOP;

static POLICY: LazyLock<RoutingPolicy> = LazyLock::new(RoutingPolicy::default);

fn classified(sql: &[u8]) -> Classification {
    judge(&analyse(sql), Some(&SHOP), &POLICY)
}

/// Tokens, and the cache's key that is made of them.
pub fn lexer(sql: &[u8]) {
    let (found, complete) = tokens(sql);
    let mut end_before = 0;
    for (_, start, end) in &found {
        assert!(end_before <= *start && start < end && *end <= sql.len());
        assert!(sql[end_before..*start].iter().all(|byte| is_space(*byte)));
        end_before = *end;
    }
    assert!(!complete || sql[end_before..].iter().all(|byte| is_space(*byte)));
    let (mut key, mut slow) = (Vec::new(), Vec::new());
    let outcome = normalise(sql, &mut key);
    assert_eq!(outcome, normalise_by_lexer(sql, &mut slow));
    if outcome == Normalised::AsIs {
        return;
    }
    assert!(complete);
    assert_eq!(key, slow);
    let other = with_other_literals(sql, &found);
    let mut other_key = Vec::new();
    if normalise(&other, &mut other_key) == Normalised::Literals && other_key == key {
        let shown = String::from_utf8_lossy(&other).into_owned();
        assert_eq!(classified(sql), classified(&other), "{shown}");
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// The same text with other digits in its numbers and other letters in its strings.
fn with_other_literals(sql: &[u8], found: &[(Token, usize, usize)]) -> Vec<u8> {
    let mut other = sql.to_vec();
    for (kind, start, end) in found {
        let literal = &mut other[*start..*end];
        match kind {
            Token::Number if literal.iter().all(u8::is_ascii_digit) => literal.fill(b'7'),
            Token::String if literal[0] == b'\'' => {
                for byte in literal
                    .iter_mut()
                    .filter(|byte| byte.is_ascii_alphanumeric())
                {
                    *byte = b'q';
                }
            }
            Token::Number | Token::String | Token::Other => {}
        }
    }
    other
}

/// Longest text that the additions below do not make too long to be parsed.
const ROOM: usize = 8_000;

/// The class of a text, with and without a catalog, and with white space and comments around it.
pub fn classify(sql: &[u8]) {
    let analysis = analyse(sql);
    let known = judge(&analysis, Some(&SHOP), &POLICY);
    let unknown = judge(&analysis, None, &POLICY);
    assert_eq!(known.statements.len(), unknown.statements.len());
    assert_eq!(known.hint, unknown.hint);
    let all_read = |found: &Classification| {
        found
            .statements
            .iter()
            .all(|verdict| verdict.access == AccessMode::ReadOnly)
    };
    for found in [&known, &unknown] {
        assert!(found.access == AccessMode::ReadWrite || all_read(found));
        let _ = pgweir::core::segment::may_share_transaction(found);
    }
    for (known, unknown) in known.statements.iter().zip(&unknown.statements) {
        assert_eq!(known.transaction, unknown.transaction);
    }
    deallocated_name(sql);
    tokens_prove_no_more_than_the_tree(sql);
    assert!(analysis.relations().count() <= sql.len() && analysis.heap_bytes() > 0);
    if sql.len() < ROOM && tokens(sql).1 {
        let known = apart_from_what_is_explained(known);
        for around in [
            [sql, b"\n /* c */ \t"].concat(),
            [b"/* c */\n", sql].concat(),
        ] {
            assert_eq!(apart_from_what_is_explained(classified(&around)), known);
        }
    }
}

/// The class without the text behind `EXPLAIN ROUTE`, which keeps the comments around it.
fn apart_from_what_is_explained(mut found: Classification) -> Classification {
    for statement in &mut found.statements {
        if let SessionEffect::Proxy(ProxyStatement::ExplainRoute { sql, .. }) =
            &mut statement.session
        {
            sql.clear();
        }
    }
    found
}

/// A read by its tokens alone is one by its tree, if there is a tree.
fn tokens_prove_no_more_than_the_tree(sql: &[u8]) {
    let judged = |analysis| judge(&analysis, Some(&SHOP), &POLICY);
    let is_read = |found: Classification| found.access == AccessMode::ReadOnly;
    if by_tokens(sql).map(judged).is_some_and(is_read) {
        // What is nested too deeply for the parser has no tree either.
        let tree = by_parser(sql).map(judged);
        let tree = tree.filter(|found| found.reason != Reason::TooLong);
        assert!(tree.is_none_or(is_read));
    }
}

/// The source of a function.
pub fn source(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    let found = SettingNames::in_source(&source);
    assert!(found.names.len() <= NAMES_LIMIT + 1);
    assert_eq!(found.and(&found), found);
}

/// A comment that is addressed to pgweir: it asks for something, if only for the primary.
pub fn hint(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What would end it early or open another comment in it.
    if text.contains("*/") || text.contains("/*") || text.ends_with(['*', '/']) {
        return;
    }
    for sql in [
        format!("/*pgweir_{text}*/ select 1"),
        format!("select 1 /*pgweir_{text}*/;"),
    ] {
        let found = classified(sql.as_bytes());
        assert_ne!(found.hint, Hint::default(), "{sql}");
        if found.hint.route_primary.is_some() {
            assert_eq!(found.access, AccessMode::ReadWrite, "{sql}");
        }
    }
    let inside = format!("select /*pgweir_{text}*/ 1");
    assert_eq!(
        classified(inside.as_bytes()).access,
        AccessMode::ReadWrite,
        "{inside}"
    );
}
