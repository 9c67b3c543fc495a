mod writes;

use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::core::catalog::{Persistence, RelationKind, RelationRow, Source, Target, TypeRow};
use crate::core::classify::{analyse, judge};
use crate::core::policy::RoutingPolicy;
use crate::core::statement::{AccessMode, Reason};

const TABLES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Triggers {
    None,
    Some,
}

/// The tables and `a_view`, which reads `a`.
fn loaded(triggers: Triggers) -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    for (oid, name) in (30_000..).zip(TABLES.into_iter().chain(["a_view"])) {
        builder.relation(&RelationRow {
            oid,
            schema: "public",
            name,
            kind: RelationKind::Table,
            persistence: Persistence::Permanent,
        });
    }
    builder.reference(Source::View(30_004), Target::Relation(30_000));
    if triggers == Triggers::Some {
        builder.event_trigger();
    }
    builder.build()
}

fn load(catalog: &DatabaseCatalog) {
    catalog.publish(catalog.ddl_mark(), loaded(Triggers::None));
}

fn ddl(catalog: &DatabaseCatalog, sql: &str) {
    let policy = RoutingPolicy::default();
    catalog.invalidate(&judge(&analyse(sql.as_bytes()), None, &policy).catalog);
}

fn reason(catalog: &DatabaseCatalog, sql: &str) -> Reason {
    let policy = RoutingPolicy::default();
    let found = judge(
        &analyse(sql.as_bytes()),
        catalog.latest().as_deref(),
        &policy,
    );
    assert_eq!(
        found.access == AccessMode::ReadOnly,
        found.reason == Reason::Read
    );
    found.reason
}

fn of(name: &str) -> String {
    format!("select * from {name}")
}

#[test]
fn ddl_on_one_table_leaves_the_reads_of_others_alone() {
    let catalog = DatabaseCatalog::default();
    assert_eq!(reason(&catalog, &of("a")), Reason::CatalogUnknown);
    load(&catalog);
    ddl(&catalog, "alter table a set unlogged");
    ddl(&catalog, "create view fresh as select 1");
    assert_eq!(reason(&catalog, &of("a")), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, &of("a_view")), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, &of("fresh")), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, "copy a to stdout"), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, &of("b")), Reason::Read);
    assert!(catalog.current().is_none());
    load(&catalog);
    assert_eq!(reason(&catalog, &of("a_view")), Reason::Read);
    assert!(catalog.current().is_some());
}

#[test]
fn a_new_plain_table_is_read_at_once_and_what_becomes_of_it_is_not() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    assert_eq!(reason(&catalog, &of("fresh")), Reason::UnknownRelation);
    ddl(&catalog, "create table fresh (x int)");
    ddl(&catalog, "create table a (x int)");
    for sql in [of("fresh"), of("s.fresh"), of("fresh, a_view"), of("a")] {
        assert_eq!(reason(&catalog, &sql), Reason::Read, "{sql}");
    }
    for (sql, expected) in [
        ("select fresh(1)", Reason::UnknownFunction),
        ("select null::fresh", Reason::UnsafeType),
        ("select * from fresh_x_seq", Reason::CatalogUnknown),
        ("select * from other", Reason::UnknownRelation),
    ] {
        assert_eq!(reason(&catalog, sql), expected, "{sql}");
    }
    ddl(&catalog, "alter table fresh set unlogged");
    assert_eq!(reason(&catalog, &of("fresh")), Reason::CatalogUnknown);
    ddl(&catalog, "create table fresh (x int)");
    assert_eq!(reason(&catalog, &of("fresh")), Reason::CatalogUnknown);
    ddl(&catalog, "create domain int as text check (f(value))");
    ddl(&catalog, "create table more (x int)");
    let mut builder = Catalog::builder_of_empty_database();
    builder.type_row(&TypeRow {
        oid: 40_000,
        name: "int",
        parts: &[],
        function: 0,
    });
    let mark = catalog.ddl_mark();
    ddl(&catalog, "create table last (x int)");
    catalog.publish(mark, builder.build());
    assert_eq!(reason(&catalog, &of("last")), Reason::CatalogUnknown);
}

/// A catalog with these procedures of which none runs DDL.
fn with_procedures(names: &[&str]) -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    for name in names {
        builder.quiet_procedure(name);
    }
    builder.build()
}

/// Notes a statement by what is known when it begins.
fn run(catalog: &DatabaseCatalog, sql: &str) {
    let policy = RoutingPolicy::default();
    let known = catalog.latest();
    catalog.invalidate(&judge(&analyse(sql.as_bytes()), known.as_deref(), &policy).catalog);
}

fn is_all_doubtful(catalog: &DatabaseCatalog) -> bool {
    catalog
        .latest()
        .is_none_or(|latest| latest.doubts_everything())
}

#[test]
fn a_call_of_a_procedure_that_runs_no_ddl_changes_nothing() {
    let catalog = DatabaseCatalog::default();
    catalog.publish(catalog.ddl_mark(), with_procedures(&["quiet"]));
    run(&catalog, "call quiet()");
    assert!(catalog.current().is_some());
    run(&catalog, "call other()");
    assert!(is_all_doubtful(&catalog));
}

#[test]
fn a_procedure_that_was_replaced_may_run_ddl() {
    let replace = "create or replace procedure quiet() language plpgsql as ''";
    let catalog = DatabaseCatalog::default();
    catalog.publish(catalog.ddl_mark(), with_procedures(&["quiet"]));
    run(&catalog, replace);
    run(&catalog, "call quiet()");
    assert!(is_all_doubtful(&catalog));
    // Also if it had begun before it was replaced, and ended afterwards.
    let catalog = DatabaseCatalog::default();
    catalog.publish(catalog.ddl_mark(), with_procedures(&["quiet"]));
    let begun = CatalogEffect::Calls("quiet".into());
    run(&catalog, replace);
    catalog.invalidate(&begun);
    assert!(is_all_doubtful(&catalog));
}

#[test]
fn calls_while_everything_is_doubtful_are_judged_by_the_next_load() {
    for (loaded, doubtful) in [
        (with_procedures(&["quiet"]), false),
        (with_procedures(&[]), true),
    ] {
        let catalog = DatabaseCatalog::default();
        catalog.publish(catalog.ddl_mark(), with_procedures(&["quiet"]));
        run(&catalog, "create extension x");
        let mark = catalog.ddl_mark();
        run(&catalog, "call quiet()");
        assert!(is_all_doubtful(&catalog));
        catalog.publish(mark, loaded);
        assert_eq!(is_all_doubtful(&catalog), doubtful);
    }
    // What is replaced after the call was perhaps another one when it was called.
    let catalog = DatabaseCatalog::default();
    catalog.publish(catalog.ddl_mark(), with_procedures(&["quiet"]));
    run(&catalog, "create extension x");
    let mark = catalog.ddl_mark();
    run(&catalog, "call quiet()");
    run(
        &catalog,
        "create or replace procedure quiet() language plpgsql as ''",
    );
    catalog.publish(mark, with_procedures(&["quiet"]));
    assert!(is_all_doubtful(&catalog));
}

#[test]
fn the_last_write_of_anybody_is_known_and_never_moves_back() {
    let catalog = DatabaseCatalog::default();
    assert_eq!(catalog.last_write(), None);
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    for at in [now, later, now] {
        catalog.note_write(at);
        assert!(catalog.last_write() >= Some(at));
    }
    assert_eq!(catalog.last_write(), Some(later));
}

#[test]
fn what_sessions_do_under_an_earlier_list_of_nodes_is_noted_under_the_later() {
    let first = DatabaseCatalog::default();
    let middle = first.followed();
    let last = middle.followed();
    assert!(last.latest().is_none(), "other nodes may have other tables");
    for catalog in [&first, &middle, &last] {
        load(catalog);
    }
    assert_eq!(reason(&last, &of("a")), Reason::Read);
    ddl(&first, "alter table a set unlogged");
    assert_eq!(reason(&last, &of("a")), Reason::CatalogUnknown);
    ddl(&last, "alter table b set unlogged");
    assert_eq!(reason(&first, &of("b")), Reason::Read);
    let now = Instant::now() + Duration::from_secs(1);
    first.note_write(now);
    assert!(last.last_write() >= Some(now));
}

#[test]
fn a_commit_of_what_was_prepared_elsewhere_makes_everything_doubtful() {
    for (sql, expected) in [
        ("prepare transaction 'x'", Reason::Read),
        ("rollback prepared 'x'", Reason::Read),
        ("commit prepared 'x'", Reason::CatalogUnknown),
    ] {
        let catalog = DatabaseCatalog::default();
        load(&catalog);
        ddl(&catalog, sql);
        assert_eq!(reason(&catalog, &of("a")), expected, "{sql}");
    }
}

#[test]
fn a_new_operator_makes_doubtful_what_uses_its_name() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    ddl(&catalog, "create operator + (leftarg = x, function = f)");
    assert_eq!(reason(&catalog, "select 1 + 1"), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, "select 1 - 1"), Reason::Read);
    assert_eq!(reason(&catalog, "select 1 in (1)"), Reason::Read);
    ddl(&catalog, "create operator s.= (leftarg = x, function = f)");
    assert_eq!(reason(&catalog, "select 1 in (1)"), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, "select 1 - 1"), Reason::Read);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_makes_nothing_doubtful_and_a_load_due() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    let due = async || {
        let due = catalog.load_due(Duration::ZERO);
        timeout(Duration::from_millis(1), due).await.is_ok()
    };
    assert!(!due().await);
    ddl(&catalog, "drop schema s cascade");
    assert_eq!(reason(&catalog, &of("a")), Reason::Read);
    assert!(due().await);
    catalog.publish(catalog.ddl_mark(), loaded(Triggers::Some));
    ddl(&catalog, "drop schema s cascade");
    assert_eq!(reason(&catalog, &of("a")), Reason::CatalogUnknown);
}

#[test]
fn ddl_of_unknown_reach_and_too_many_names_make_everything_doubtful() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    ddl(&catalog, "create extension x");
    assert_eq!(reason(&catalog, &of("b")), Reason::CatalogUnknown);
    assert_eq!(reason(&catalog, "select 1"), Reason::Read);
    load(&catalog);
    assert_eq!(reason(&catalog, &of("b")), Reason::Read);
    for table in 0..TOUCHED_NAMES {
        ddl(&catalog, &format!("create table t{table} (x int)"));
    }
    assert_eq!(reason(&catalog, &of("b")), Reason::Read);
    ddl(&catalog, "create table last (x int)");
    assert_eq!(reason(&catalog, &of("b")), Reason::CatalogUnknown);
}

#[test]
fn an_index_makes_nothing_doubtful_unless_event_triggers_may_do_more() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    ddl(&catalog, "create index on a (x)");
    assert!(catalog.current().is_some());
    catalog.publish(catalog.ddl_mark(), loaded(Triggers::Some));
    assert_eq!(reason(&catalog, &of("a")), Reason::Read);
    ddl(&catalog, "create index on a (x)");
    assert_eq!(reason(&catalog, &of("b")), Reason::CatalogUnknown);
}

#[test]
fn event_triggers_found_by_a_load_reach_back_to_the_ddl_it_does_not_cover() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    let mark = catalog.ddl_mark();
    ddl(&catalog, "create table fresh (x int)");
    catalog.publish(mark, loaded(Triggers::Some));
    assert_eq!(reason(&catalog, &of("b")), Reason::CatalogUnknown);
}

#[test]
fn a_touched_function_pins_and_an_untouched_one_does_as_it_did() {
    use crate::core::catalog::{FunctionRow, Volatility};
    use crate::core::statement::{PinReason, SessionEffect};
    let mut builder = Catalog::builder_of_empty_database();
    for (oid, name) in [(30_000, "tax"), (30_001, "other")] {
        builder.function(&FunctionRow {
            oid,
            schema: "public",
            name,
            volatility: Volatility::Stable,
            extension: None,
            types: &[],
            attribute_of_row: false,
        });
    }
    let catalog = DatabaseCatalog::default();
    catalog.publish(catalog.ddl_mark(), builder.build());
    let session = |sql: &str| {
        let policy = RoutingPolicy::default();
        let latest = catalog.latest();
        let found = judge(&analyse(sql.as_bytes()), latest.as_deref(), &policy);
        found.statements[0].session.clone()
    };
    let pinned = SessionEffect::Pins(PinReason::UnknownCode);
    // A trigger may call it.
    let triggers = SessionEffect::Pins(PinReason::CodeBehindWrite);
    ddl(
        &catalog,
        "create or replace function tax(int) returns int language sql as ''",
    );
    for (sql, expected) in [
        ("select tax(1)", &pinned),
        ("insert into t select tax(1)", &pinned),
        ("select other(1)", &SessionEffect::None),
        ("insert into t select other(1)", &triggers),
    ] {
        assert_eq!(&session(sql), expected, "{sql}");
    }
    ddl(&catalog, "do $$ begin execute 1; end $$");
    assert_eq!(session("select other(1)"), SessionEffect::None);
    assert_eq!(session("select nobody_knows(1)"), pinned);
    assert_eq!(session("insert into t select nobody_knows(1)"), pinned);
}

#[tokio::test(start_paused = true)]
async fn a_load_waits_for_a_read_that_wants_it_or_for_a_pause() {
    let pause = Duration::from_secs(3600);
    let catalog = DatabaseCatalog::default();
    let due = async |within: u64| {
        let limit = Duration::from_millis(within);
        timeout(limit, catalog.load_due(pause)).await.is_ok()
    };
    assert!(due(1).await);
    load(&catalog);
    assert!(!due(1).await);
    catalog.want();
    assert!(!due(1).await, "nothing is doubtful");
    load(&catalog);
    ddl(&catalog, "create view fresh as select 1");
    assert!(!due(1).await, "nobody wants it");
    catalog.want();
    assert!(due(1).await);
    load(&catalog);
    ddl(&catalog, "create table more (x int)");
    let at_once = timeout(Duration::from_millis(1), catalog.load_due(Duration::ZERO));
    assert!(at_once.await.is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Ddl(&'static str),
    Begin,
    Publish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::sample::select(TABLES.to_vec()).prop_map(Step::Ddl),
        1 => Just(Step::Begin),
        1 => Just(Step::Publish),
    ]
}

proptest! {
    #[test]
    fn a_touched_name_is_never_safe_before_a_load_that_began_later(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let catalog = DatabaseCatalog::default();
        load(&catalog);
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        let mut begun: Option<(DdlMark, BTreeSet<&str>)> = None;
        for step in steps {
            match step {
                Step::Ddl(name) => {
                    ddl(&catalog, &format!("alter table {name} add x mood"));
                    touched.insert(name);
                    if let Some((_, covered)) = &mut begun {
                        covered.remove(name);
                    }
                }
                Step::Begin => begun = Some((catalog.ddl_mark(), touched.clone())),
                Step::Publish => {
                    if let Some((mark, covered)) = begun.take() {
                        catalog.publish(mark, loaded(Triggers::None));
                        touched.retain(|name| !covered.contains(name));
                    }
                }
            }
            for name in TABLES {
                let expected = if touched.contains(name) {
                    Reason::CatalogUnknown
                } else {
                    Reason::Read
                };
                prop_assert_eq!(reason(&catalog, &of(name)), expected, "{}", name);
            }
            let through = reason(&catalog, &of("a_view"));
            prop_assert_eq!(through == Reason::Read, !touched.contains("a"));
        }
    }
}

#[test]
fn after_a_wait_in_vain_nobody_waits_for_some_loads() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    assert!(catalog.is_waited_for());
    catalog.note_vain_wait();
    for loads in 0..LOADS_WITHOUT_WAIT {
        assert!(!catalog.is_waited_for(), "{loads}");
        load(&catalog);
    }
    assert!(catalog.is_waited_for());
}

#[test]
fn after_a_failed_load_nobody_knows_how_long_one_takes() {
    let catalog = DatabaseCatalog::default();
    assert_eq!(catalog.load_takes(), None);
    for took in [Duration::ZERO, Duration::from_millis(3)] {
        catalog.note_load(took);
        assert!(catalog.load_takes().is_some_and(|takes| takes >= took));
        catalog.note_failed_load(LoadFailure::Passing);
        assert_eq!(catalog.load_takes(), None);
    }
}
