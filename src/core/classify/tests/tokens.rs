//! The look at tokens alone, against the look at the tree and by itself.

use proptest::prelude::*;

use super::super::looks::{by_parser, by_tokens};
use super::super::{Analysis, judge};
use super::properties::{WRAPPERS, sql_soup};
use super::{SHOP, SINGLE, access, cases, classify, describe, policy};
use crate::core::statement::AccessMode;

const TOKENS: &str = include_str!("../cases/tokens.txt");

fn is_read(analysis: &Analysis) -> bool {
    judge(analysis, Some(&SHOP), &policy()).access == AccessMode::ReadOnly
}

/// Whether the tokens let pass what the tree does not.
fn is_more_permissive(sql: &str) -> bool {
    by_tokens(sql.as_bytes()).is_some_and(|found| is_read(&found))
        && by_parser(sql.as_bytes()).is_some_and(|found| !is_read(&found))
}

fn all_cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = SINGLE.into_iter().flat_map(cases);
    all.map(|case| case.split_once(" | ").unwrap())
}

/// Queries that are no reads though sqlparser understands them.
fn traps() -> Vec<&'static str> {
    all_cases()
        .filter(|(expected, _)| expected.starts_with("W ") && !expected.contains("parse_failed"))
        .map(|(_, sql)| sql)
        .filter(|sql| by_parser(sql.as_bytes()).is_some() && !sql.contains("--"))
        .collect()
}

#[test]
fn every_case_that_only_tokens_are_understood_of_has_its_class_and_reason() {
    let mut wrong = Vec::new();
    for case in cases(TOKENS) {
        let (expected, sql) = case.split_once(" | ").unwrap();
        let found = describe(&classify(sql).statements[0]);
        let parsed = by_parser(sql.as_bytes()).is_some() && !sql.contains("U&\"");
        if found != expected || parsed {
            wrong.push(format!(
                "{sql}\n   expected {expected}\n   found    {found}, parsed: {parsed}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn no_case_is_a_read_by_its_tokens_unless_it_is_one_by_its_tree() {
    let permissive: Vec<&str> = all_cases()
        .map(|(_, sql)| sql)
        .filter(|sql| is_more_permissive(sql))
        .collect();
    assert!(permissive.is_empty(), "{permissive:#?}");
    assert!(traps().len() > 100, "{}", traps().len());
}

/// What sqlparser takes for a sample is a call to it.
#[test]
fn no_operator_but_a_star_stands_between_a_relation_and_its_alias() {
    for sampled in ["i?stem (10)", "iyst*em (11)"] {
        let sql = format!("select * from users u sample {sampled}");
        assert!(!is_more_permissive(&sql), "{sql}");
    }
    let starred = by_tokens(b"select * from users * u (a, b)");
    assert!(starred.is_some_and(|found| is_read(&found)));
}

#[test]
fn most_plain_reads_are_reads_by_their_tokens_alone() {
    let reads = all_cases()
        .filter(|(expected, sql)| *expected == "R read" && by_parser(sql.as_bytes()).is_some());
    let (known, unknown): (Vec<&str>, Vec<&str>) = reads
        .map(|(_, sql)| sql)
        .partition(|sql| by_tokens(sql.as_bytes()).is_some_and(|found| is_read(&found)));
    assert!(known.len() > unknown.len() * 15, "not known: {unknown:#?}");
}

#[test]
fn in_a_batch_only_what_is_parsed_is_a_read() {
    for (sql, expected) in [
        (
            "select 1; select a is document from users",
            "W parse_failed",
        ),
        ("select a is document from users;", "R read"),
        (
            "explain analyze select a is document from users",
            "W parse_failed",
        ),
        (
            "explain (verbose, \"analyze\") select a is document from users",
            "W parse_failed",
        ),
        (
            "explain (costs off) select a is document from users",
            "R read",
        ),
    ] {
        let found = classify(sql);
        let found = format!("{} {}", access(found.access), found.reason.as_str());
        assert_eq!(found, expected, "{sql}");
    }
}

/// Forms that sqlparser does not understand, around a query or part of one.
const UNPARSED: [(&str, &str); 8] = [
    (
        "select sum(1) over (rows unbounded preceding exclude ties) from (",
        ") y",
    ),
    ("select name is document, (", ") from users"),
    ("with x as (", ") select xmlelement(name foo) from users"),
    (
        "with x as (",
        ") search depth first by a set b select * from users",
    ),
    (
        "select * from rows from (lower('a'), upper('b')) as r(a, b), (",
        ") y",
    ),
    (
        "select 1 from users u(a, b) group by grouping sets (grouping sets ((a))) having exists (",
        ")",
    ),
    ("select a from users* where a = (", ")"),
    ("values (xmlroot(null, version no value)), ((", "))"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn tokens_alone_never_let_pass_what_the_tree_does_not(soup in sql_soup()) {
        for text in [soup.clone(), format!("select {soup}"), format!("with a as ({soup}) select a"),
                     format!("select * from users, {soup}"), format!("select 1 from {soup}")] {
            prop_assert!(!is_more_permissive(&text), "{}", text);
        }
    }

    #[test]
    fn a_trap_inside_what_is_not_parsed_stays_one(
        sql in prop::sample::select(traps()),
        outer in prop::sample::select(UNPARSED.to_vec()),
        layers in prop::collection::vec(prop::sample::select(WRAPPERS.to_vec()), 0..2),
    ) {
        let mut text = sql.trim_end().trim_end_matches(';').to_owned();
        for (before, after) in layers.into_iter().chain([outer]) {
            text = format!("{before}{text}{after}\n");
            prop_assert_eq!(classify(&text).access, AccessMode::ReadWrite, "{}", text);
        }
    }

    #[test]
    fn a_word_less_or_twice_makes_no_trap_a_read(
        sql in prop::sample::select(traps()), at in any::<prop::sample::Index>(), twice in any::<bool>(),
    ) {
        let words: Vec<&str> = sql.split(' ').collect();
        let at = at.index(words.len());
        let mut changed = words.clone();
        if twice { changed.insert(at, words[at]) } else { changed.remove(at); }
        let text = changed.join(" ");
        prop_assert!(!is_more_permissive(&text), "{}", text);
    }
}

#[test]
fn a_refusal_by_tokens_pins_for_no_more_than_real_calls() {
    let found = classify("select u.touch is document, no_such_function(1) from users u");
    assert_eq!(describe(&found.statements[0]), "W unknown_function");
}
