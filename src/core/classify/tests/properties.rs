use proptest::prelude::*;

use super::super::{Normalised, analyse, judge, normalise};
use super::{BATCHES, SHOP, SINGLE, cases, classify, policy};
use crate::core::statement::AccessMode;

fn single_statements() -> Vec<&'static str> {
    let all = SINGLE.into_iter().flat_map(cases);
    all.map(|case| case.split_once(" | ").unwrap().1).collect()
}

fn writes() -> Vec<&'static str> {
    let unread = |sql: &&str| classify(sql).access == AccessMode::ReadWrite;
    // A comment or a quote that is left open would swallow what is put around it.
    let closed = |sql: &&str| !sql.contains("unterminated") && !sql.contains("--");
    single_statements()
        .into_iter()
        .filter(unread)
        .filter(closed)
        .collect()
}

/// Ways to hide a statement inside another.
pub(super) const WRAPPERS: [(&str, &str); 14] = [
    ("with x as (", ") select 1"),
    ("with x as materialized (", ") select * from users"),
    ("select * from (", ") y"),
    ("select exists (", ")"),
    ("select 1 union all ", ""),
    ("explain analyze ", ""),
    ("explain (analyze, verbose) ", ""),
    ("do $x$ begin ", "; end $x$"),
    ("select 1; ", ""),
    ("", "; select 1"),
    ("/* a comment */ ", " -- and another"),
    ("copy (", ") to stdout"),
    ("prepare p as ", ""),
    ("declare c cursor for ", ""),
];

fn fragment() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "select",
        "from",
        "users",
        "carts",
        "touch",
        "lower",
        "(",
        ")",
        ",",
        ";",
        ".",
        "*",
        "=",
        "::",
        "int",
        "checked_email",
        "with",
        "x",
        "as",
        "insert",
        "into",
        "update",
        "set",
        "delete",
        "for",
        "share",
        "union",
        "all",
        "table",
        "values",
        "where",
        "in",
        "begin",
        "commit",
        "[",
        "]",
        "not",
        "null",
        "explain",
        "analyze",
        "copy",
        "to",
        "stdout",
        "/*",
        "*/",
        "--",
        "\n",
        "$$",
        "$a$",
        "\\",
        "E",
        "U&",
        "\"q\"",
        "+",
        "-",
        "||",
        "===",
    ]);
    let literal = prop_oneof![
        "[0-9]{1,4}",
        "'[a-z ]{0,5}'",
        "'[a-z]''[;a-z]{0,3}'",
        "E'[a-z]\\\\\\\\?[a-z]'",
        "\\$[1-9]",
        "\\$\\$[a-z; ]{0,4}\\$\\$",
        "[0-9]{1,2}\\.[0-9]e[0-9]",
    ];
    prop_oneof![3 => word.prop_map(str::to_owned), 1 => literal]
}

pub(super) fn sql_soup() -> impl Strategy<Value = String> {
    prop::collection::vec(
        (
            fragment(),
            prop::sample::select(vec![" ", "", "\n", "/**/"]),
        ),
        0..30,
    )
    .prop_map(|parts| parts.into_iter().map(|(text, gap)| text + gap).collect())
}

/// `sql` with other values in its plain literals, as an application would send it again.
fn with_other_literals(sql: &str, number: u32, string: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(|c: char| c.is_alphanumeric() || "_$&.\"'".contains(c));
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if first == '\'' && !after_word {
            let end = rest
                .match_indices('\'')
                .nth(1)
                .map_or(rest.len(), |(at, _)| at + 1);
            out.extend(["'", string, "'"]);
            rest = rest.split_at(end).1;
        } else if digits > 0 && !after_word {
            out.push_str(&number.to_string());
            rest = rest.split_at(digits).1;
        } else {
            out.push(first);
            rest = rest.split_at(first.len_utf8()).1;
        }
    }
    out
}

fn normalised(sql: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match normalise(sql, &mut out) {
        Normalised::Literals => Some(out),
        Normalised::AsIs => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn wrapping_what_is_no_read_never_makes_it_one(
        sql in prop::sample::select(writes()),
        layers in prop::collection::vec(prop::sample::select(WRAPPERS.to_vec()), 1..4),
    ) {
        let mut text = sql.to_owned();
        for (before, after) in layers {
            text = format!("{before}{}{after}\n", text.trim_end().trim_end_matches(';'));
            prop_assert_eq!(classify(&text).access, AccessMode::ReadWrite, "{}", text);
        }
    }

    #[test]
    fn arbitrary_bytes_are_analysed_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let found = judge(&analyse(&bytes), Some(&SHOP), &policy());
        drop(found);
        let _key = normalised(&bytes);
    }

    #[test]
    fn equal_normalised_texts_have_equal_classifications(
        soup in sql_soup(), number in any::<u32>(), string in "[a-z]{0,6}",
    ) {
        for text in [soup.clone(), format!("select {soup}"), format!("with a as ({soup}) select a")] {
            let other = with_other_literals(&text, number, &string);
            let (Some(one), Some(two)) = (normalised(text.as_bytes()), normalised(other.as_bytes()))
            else { continue };
            if one == two {
                prop_assert_eq!(classify(&text), classify(&other), "{} and {}", text, other);
            }
        }
    }

    #[test]
    fn a_normalised_text_classifies_as_its_original(soup in sql_soup()) {
        let text = format!("select {soup}");
        if let Some(key) = normalised(text.as_bytes()) {
            let mut plain = Vec::new();
            for byte in key {
                match byte {
                    1 => plain.extend_from_slice(b" 'x' "),
                    2 => plain.extend_from_slice(b" 7 "),
                    3 => plain.extend_from_slice(b" $1 "),
                    other => plain.push(other),
                }
            }
            let plain = String::from_utf8(plain).unwrap();
            prop_assert_eq!(classify(&text), classify(&plain), "{} and {}", text, plain);
        }
    }

    #[test]
    fn what_precedes_a_commit_cannot_hide_it(sql in prop::sample::select(single_statements())) {
        use crate::core::statement::TransactionControl;
        prop_assume!(!sql.contains("unterminated") && !sql.contains("--"));
        let found = classify(&format!("{sql}; commit"));
        let last = found.statements.last().unwrap().transaction;
        prop_assert!(matches!(last, TransactionControl::Commit(_)), "{}", sql);
    }
}

#[test]
fn literals_lists_white_space_and_comments_share_a_key() {
    for (one, other) in [
        (
            "select * from t where a = 1",
            "SELECT *  from t\nwhere a = 22 -- x",
        ),
        ("select 'a'", "select $$b$$"),
        ("select 'a'", "select E'\\'b'"),
        ("select a in (1,2,3)", "select a in (4)"),
        ("select a in ('x', 'y')", "select a in ('z');"),
        ("select a in ($1, $2)", "select a in ($1)"),
        (
            "insert into t values (1, 'a')",
            "insert into t values (2, 'b')",
        ),
        ("select 1.5e3, 'x'", "select 2, 'x'"),
    ] {
        assert!(normalised(one.as_bytes()).is_some(), "{one}");
        assert_eq!(
            normalised(one.as_bytes()),
            normalised(other.as_bytes()),
            "{one} | {other}"
        );
    }
}

#[test]
fn what_may_mean_something_else_does_not_share_a_key() {
    for (one, other) in [
        ("select a", "select b"),
        ("select \"A\"", "select a"),
        ("select 1", "select '1'"),
        ("select a -1", "select a - - 1"),
        ("select f(1)", "select f('1')"),
        ("select 1", "select 1 /*pgweir_route='primary'*/"),
        (
            "select 1 /*pgweir_consistency='latest'*/",
            "select 1 /*pgweir_consistency='primary'*/",
        ),
    ] {
        assert!(normalised(one.as_bytes()).is_some(), "{one}");
        assert_ne!(
            normalised(one.as_bytes()),
            normalised(other.as_bytes()),
            "{one} | {other}"
        );
    }
    for alone in [
        "set a = 'b'",
        "copy t to stdout",
        "explain select 1",
        "select 1; set a = 'b'",
        "begin",
        "select 'open",
        "select 'a' 'b'",
        "select 1a",
        "select current_setting('port')",
        "",
        ";",
        "(select 1)",
        "select $1a",
    ] {
        assert_eq!(normalised(alone.as_bytes()), None, "{alone}");
    }
}

#[test]
fn there_are_enough_traps_and_batches() {
    assert!(cases(SINGLE[1]).count() >= 60);
    assert!(cases(BATCHES).count() >= 20);
}
