mod properties;
mod shop;
mod tokens;

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use super::{Analysis, analyse, judge};
use crate::core::catalog::Catalog;
use crate::core::policy::{Balance, RoutingPolicy, Transactions};
use crate::core::residue::Others;
use crate::core::statement::{
    AccessMode, CatalogEffect, Chain, Classification, Isolation, ProxyStatement, Reason,
    SessionEffect, SettingChange, StatementVerdict, TransactionControl, TransactionModes,
};

static SHOP: LazyLock<Catalog> = LazyLock::new(shop::catalog);

fn policy() -> RoutingPolicy {
    RoutingPolicy {
        max_staleness: Duration::from_secs(10),
        max_lag_bytes: 1 << 26,
        balance: Balance::LeastLoaded,
        transactions: Transactions::Primary,
        zone: None,
        read_functions: vec![],
        write_functions: vec![],
        primary_tables: vec![],
    }
}

fn classify(sql: &str) -> Classification {
    judge(&analyse(sql.as_bytes()), Some(&SHOP), &policy())
}

fn access(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::ReadOnly => "R",
        AccessMode::ReadWrite => "W",
    }
}

fn modes(modes: TransactionModes) -> String {
    let isolation = modes.isolation.map(|isolation| match isolation {
        Isolation::Serializable => "serializable",
        Isolation::RepeatableRead => "repeatable_read",
        Isolation::ReadCommitted => "read_committed",
    });
    let access = modes.access.map(|access| match access {
        AccessMode::ReadOnly => "ro",
        AccessMode::ReadWrite => "rw",
    });
    let named: Vec<&str> = isolation.into_iter().chain(access).collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(":{}", named.join(","))
    }
}

/// One verdict in the notation of the case files.
fn describe(verdict: &StatementVerdict) -> String {
    let mut text = format!("{} {}", access(verdict.access), verdict.reason.as_str());
    let chained = |chain: Chain| if chain == Chain::Chain { ":chain" } else { "" };
    let control = match verdict.transaction {
        TransactionControl::None => String::new(),
        TransactionControl::Begin(found) => format!(" begin{}", modes(found)),
        TransactionControl::Commit(chain) => format!(" commit{}", chained(chain)),
        TransactionControl::Rollback(chain) => format!(" rollback{}", chained(chain)),
        TransactionControl::Savepoint => " savepoint".to_owned(),
        TransactionControl::SetModes(found) => format!(" modes{}", modes(found)),
        TransactionControl::TwoPhase => " twophase".to_owned(),
    };
    text.push_str(&control);
    match &verdict.catalog {
        CatalogEffect::None => {}
        CatalogEffect::Removes => text.push_str(" less"),
        CatalogEffect::TwoPhase(step, name) => write!(text, ":{step:?}:{name}").unwrap(),
        CatalogEffect::Calls(name) => write!(text, " calls:{name}").unwrap(),
        CatalogEffect::MayChange => text.push_str(" ddl"),
        CatalogEffect::Touches(names) => {
            let names: Vec<&str> = names.iter().map(|touched| &*touched.name).collect();
            write!(text, " ddl:{}", names.join(",")).unwrap();
        }
    }
    let written = match &verdict.session {
        SessionEffect::None => Ok(()),
        SessionEffect::Setting(SettingChange::Set { name, value_sql }) => {
            write!(text, " set:{name}={value_sql}")
        }
        SessionEffect::Setting(SettingChange::Reset { name }) => write!(text, " reset:{name}"),
        SessionEffect::Setting(SettingChange::ResetAll) => write!(text, " resetall"),
        SessionEffect::LocalSetting(Some(SettingChange::Set { name, value_sql })) => {
            write!(text, " local:{name}={value_sql}")
        }
        SessionEffect::LocalSetting(_) => text.write_str(" local"),
        SessionEffect::DiscardAll => write!(text, " discard"),
        SessionEffect::DeallocateAll => write!(text, " deallocate"),
        SessionEffect::WatchesCounters => text.write_str(" watches"),
        SessionEffect::Pins(reason) => write!(text, " pins:{}", reason.as_str()),
        SessionEffect::MayConfigure(reason, names) => {
            let others = match names.others {
                Others::None => "",
                Others::Some => "*",
            };
            let names = names.names.join(",");
            write!(text, " pins:{}:{names}{others}", reason.as_str())
        }
        SessionEffect::Proxy(ProxyStatement::Set { name, value }) => {
            write!(text, " proxy:set:{name}={value}")
        }
        SessionEffect::Proxy(ProxyStatement::SetLocal { name, value }) => {
            write!(text, " proxy:setlocal:{name}={value}")
        }
        SessionEffect::Proxy(ProxyStatement::Reset { name }) => write!(text, " proxy:reset:{name}"),
        SessionEffect::Proxy(ProxyStatement::Show { name }) => write!(text, " proxy:show:{name}"),
        SessionEffect::Proxy(ProxyStatement::ExplainRoute { sql, parameters }) => {
            write!(text, " proxy:explain:{parameters}:{sql}")
        }
    };
    written.unwrap();
    text
}

fn cases(file: &str) -> impl Iterator<Item = &str> {
    file.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
}

const SINGLE: [&str; 3] = [
    include_str!("../cases/reads.txt"),
    include_str!("../cases/traps.txt"),
    include_str!("../cases/others.txt"),
];
const BATCHES: &str = include_str!("../cases/batches.txt");

#[test]
fn every_case_has_its_class_reason_and_effect() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in SINGLE.into_iter().flat_map(cases) {
        let (expected, sql) = case.split_once(" | ").unwrap();
        let found = classify(sql);
        count += 1;
        let verdict = match &*found.statements {
            [only] if found.reason == Reason::Hint => StatementVerdict {
                access: found.access,
                reason: found.reason,
                ..only.clone()
            },
            [only] => only.clone(),
            _ => {
                wrong.push(format!("{} statements: {sql}", found.statements.len()));
                continue;
            }
        };
        if describe(&verdict) != expected {
            wrong.push(format!(
                "{sql}\n   expected {expected}\n   found    {}",
                describe(&verdict)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 300, "{count} cases");
}

#[test]
fn a_batch_has_one_verdict_a_statement_and_the_strictest_wins() {
    let mut wrong = Vec::new();
    for case in cases(BATCHES) {
        let mut parts = case.splitn(3, '|');
        let mut part = || parts.next().unwrap_or_default().trim();
        let (whole, each, sql) = (part(), part(), part());
        let found = classify(sql);
        let all: Vec<String> = found.statements.iter().map(describe).collect();
        let overall = format!("{} {}", access(found.access), found.reason.as_str());
        if overall != whole || all.join("; ") != each {
            wrong.push(format!("{sql}\n   found {overall} | {}", all.join("; ")));
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
fn without_a_catalog_only_what_names_nothing_is_a_read() {
    for (sql, expected) in [
        ("select 1", "R read"),
        ("show search_path", "R show"),
        ("select * from users", "W catalog_unknown"),
        ("select lower('x')", "W catalog_unknown"),
        ("select 1 + 1", "W catalog_unknown"),
        ("select nextval('s')", "W sequence"),
        ("select own(1)", "W catalog_unknown pins:unknown_code"),
        (
            "insert into users(id) values (1)",
            "W write pins:code_behind_write",
        ),
        ("commit", "W transaction_control commit"),
    ] {
        let found = judge(&analyse(sql.as_bytes()), None, &policy());
        assert_eq!(describe(&found.statements[0]), expected, "{sql}");
    }
}

#[test]
fn configured_lists_stand_above_the_catalog() {
    let policy = RoutingPolicy {
        read_functions: vec![
            "touch".into(),
            "app.refresh_cache".into(),
            "audit.total".into(),
        ],
        write_functions: vec!["add_tax".into(), "pg_catalog.lower".into()],
        primary_tables: vec!["public.orders".into(), "users".into()],
        ..policy()
    };
    for (sql, expected) in [
        ("select touch(1)", "R read"),
        ("select refresh_cache()", "R read"),
        ("select app.refresh_cache()", "R read"),
        ("select total(1)", "W volatile_function pins:unknown_code"),
        ("select add_tax(1)", "W listed_function"),
        ("select lower('x')", "W listed_function"),
        ("select upper('x')", "R read"),
        ("select * from orders", "W listed_relation"),
        ("select * from public.orders", "W listed_relation"),
        ("select * from users", "W listed_relation"),
        ("select * from active_users", "W listed_relation"),
        ("select * from items", "R read"),
    ] {
        let found = judge(&analyse(sql.as_bytes()), Some(&SHOP), &policy);
        assert_eq!(describe(&found.statements[0]), expected, "{sql}");
    }
}

#[test]
fn a_comment_at_either_end_carries_the_hint() {
    use crate::core::statement::{Consistency, Hint};
    let both = "/*pgweir_consistency='LATEST'*/ select 1 /*a='b',pgweir_max_staleness='1s'*/";
    let expected = Hint {
        consistency: Some(Consistency::Latest),
        max_staleness: Some(Some(Duration::from_secs(1))),
        route_primary: None,
        key: None,
    };
    assert_eq!(classify(both).hint, expected);
    let keyed = "update t set v = 1 /*pgweir_key='user%3A42'*/";
    assert_eq!(classify(keyed).hint.key.as_deref(), Some("user:42"));
    for refused in [
        "pgweir_key=''",
        "pgweir_key='a',pgweir_key='b'",
        "pgweir_key='%zz'",
    ] {
        let hint = classify(&format!("select 1 /*{refused}*/")).hint;
        assert!(hint.route_primary.is_some(), "{refused}");
    }
    let none = "select 1 /*pgweir_max_staleness='none'*/;";
    assert_eq!(classify(none).hint.max_staleness, Some(None));
    let encoded = "select 1 /*pgweir%5Fconsistency='late%73t'*/";
    assert_eq!(classify(encoded).hint, Hint::default());
    assert_eq!(
        classify("select '/*pgweir_route=''primary''*/'").hint,
        Hint::default()
    );
}

#[test]
fn text_that_is_not_utf8_is_never_a_read_but_its_commands_are_seen() {
    let found = judge(&analyse(b"select '\xff'; commit"), Some(&SHOP), &policy());
    let all: Vec<String> = found.statements.iter().map(describe).collect();
    assert_eq!(all, ["W not_utf8", "W transaction_control commit"]);
}

fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(work)
        .unwrap();
    thread.join().unwrap()
}

#[test]
fn deep_and_long_texts_neither_overflow_a_small_stack_nor_are_reads_unproved() {
    let deep = |open: &str, close: &str, n: usize| {
        format!("select {}1{}", open.repeat(n), close.repeat(n))
    };
    for n in [100, 300, 900, 5_000, 30_000] {
        let texts = [
            deep("(", ")", n),
            deep("- ", "", n),
            deep("not ", "", n),
            deep("array[", "]", n),
            deep("(select ", ")", n),
            deep("case when true then ", " end", n),
            deep("f(", ")", n),
            format!("select 1{}", " + a".repeat(n)),
            format!("select a{}", " or b = 1".repeat(n)),
            format!("select a{}", "::int".repeat(n)),
            format!("select a{}", " collate \"C\"".repeat(n)),
            format!("select a{}", "[1]".repeat(n)),
            format!("select a{}", " is null".repeat(n)),
            format!("select 1{}", " union all select 1".repeat(n)),
            format!("select * from t{}", " join t on true".repeat(n)),
            format!("select * from t{}", " a join (t".repeat(n)),
            format!("with a as ({}", "with a as (".repeat(n)),
            format!("select {}", "explain ".repeat(n)),
            "explain ".repeat(n),
            format!("select 1{}", ", a".repeat(n)),
        ];
        for text in texts {
            on_a_small_stack(move || {
                let analysis = analyse(text.as_bytes());
                drop(judge(&analysis, Some(&SHOP), &policy()));
            });
        }
    }
}

#[test]
fn a_text_too_long_to_parse_still_shows_its_transaction_control() {
    let rows = "(1, 'a', now()),".repeat(20_000);
    let text = format!("insert into users values {rows} (2, 'b', now()); commit; select 1");
    let all: Vec<String> = classify(&text).statements.iter().map(describe).collect();
    let expected = ["W too_long", "W transaction_control commit", "W too_long"];
    assert_eq!(all, expected);
    let text = format!("insert into users values {rows} (touch(1), 'b', now())");
    let all: Vec<String> = classify(&text).statements.iter().map(describe).collect();
    assert_eq!(all, ["W too_long pins:unknown_code"]);
    let text = format!("set search_path = {} b", "a, ".repeat(100_000));
    let all: Vec<String> = classify(&text).statements.iter().map(describe).collect();
    assert_eq!(all, ["W too_long pins:setting"]);
    let text = " ".repeat(17 << 20);
    assert_eq!(classify(&text).reason, Reason::TooLong);
    let text = "select 1;".repeat(10_000);
    assert_eq!(
        describe(classify(&text).statements.last().unwrap()),
        "W too_long pins:not_understood"
    );
}

#[test]
fn a_list_of_literals_may_be_long() {
    let text = format!(
        "select * from users where id in ({} 1)",
        "1, ".repeat(40_000)
    );
    assert_eq!(classify(&text).reason, Reason::Read);
}

#[test]
fn an_analysis_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Analysis>();
}
