use super::*;
use crate::core::statement::{PinReason, SessionEffect};

/// A catalog in which code behind writes to `loud` leaves something in the session.
fn with_loud() -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    builder.loud("loud");
    builder.build()
}

fn is_asked_about(catalog: &DatabaseCatalog, sql: &str) -> bool {
    let policy = RoutingPolicy::default();
    let found = judge(
        &analyse(sql.as_bytes()),
        catalog.latest().as_deref(),
        &policy,
    );
    let pins = SessionEffect::Pins(PinReason::CodeBehindWrite);
    found.statements.iter().any(|one| one.session == pins)
}

const WRITES: [&str; 11] = [
    "insert into x values (1)",
    "insert into s.x as y (a) select 1 from z",
    "update only x set a = 1",
    "delete from \"x\" where a = 1",
    "merge into x using y on true when matched then delete",
    "truncate y, x",
    "copy x from stdin",
    "copy (insert into x values (1) returning a) to stdout",
    "with y as (delete from x returning a) select * from y",
    "explain analyze insert into x values (1)",
    "select 1; insert into x values (1)",
];

#[test]
fn writes_are_asked_about_where_code_behind_them_may_leave_something() {
    let unknown = DatabaseCatalog::default();
    let loud = DatabaseCatalog::default();
    loud.publish(loud.ddl_mark(), with_loud());
    let quiet = DatabaseCatalog::default();
    load(&quiet);
    for sql in WRITES {
        let of_loud = sql.replace('x', "loud").replace("eloudplain", "explain");
        assert!(is_asked_about(&unknown, sql), "{sql}");
        assert!(is_asked_about(&loud, &of_loud), "{of_loud}");
        assert!(!is_asked_about(&loud, sql), "{sql}");
        assert!(!is_asked_about(&quiet, &of_loud), "{of_loud}");
    }
    for (sql, asked) in [
        ("select * from loud", true),
        ("alter table y add z int default loud()", true),
        ("create table y as table loud", true),
        ("truncate y cascade", true),
        ("insert into U&\"x\" values (1)", true),
        ("insert into größe values (1)", true),
        ("explain insert into loud values (1)", false),
        ("vacuum loud", false),
        ("begin", false),
        ("select 1", false),
    ] {
        assert_eq!(is_asked_about(&loud, sql), asked, "{sql}");
        assert!(!is_asked_about(&quiet, sql), "{sql}");
    }
    let long = format!(
        "with y as (select {}1) insert into loud values (1)",
        "1 + ".repeat(40_000)
    );
    assert!(is_asked_about(&loud, &long));
    assert!(!is_asked_about(&quiet, &long));
}

#[test]
fn writes_are_asked_about_behind_ddl_that_they_may_reach() {
    let write = "insert into x values (1)";
    let other = "insert into y values (1)";
    for (sql, named, others) in [
        ("create table x (a int default f())", true, false),
        (
            "create trigger t after insert or update of a, b on s.x execute function f()",
            true,
            false,
        ),
        (
            "create or replace constraint trigger t after insert on x execute function f()",
            true,
            false,
        ),
        (
            "alter table only x alter column a set default f()",
            true,
            false,
        ),
        ("alter table x add constraint c check (f())", true, false),
        ("alter table x add check (f())", true, false),
        ("alter table x add column b int default f()", true, false),
        (
            "create rule r as on insert to x do also select f()",
            true,
            false,
        ),
        ("create policy p on x with check (f())", true, false),
        (
            "create or replace function f() returns int language sql as ''",
            true,
            true,
        ),
        (
            "create function f() returns int language sql as ''",
            true,
            true,
        ),
        ("alter function f() volatile", true, true),
        ("create cast (int as text) with function f(int)", true, true),
        ("create index on x (f(a))", false, false),
        ("drop table z", false, false),
    ] {
        let quiet = DatabaseCatalog::default();
        load(&quiet);
        ddl(&quiet, sql);
        assert_eq!(is_asked_about(&quiet, write), named, "{sql}");
        assert_eq!(is_asked_about(&quiet, other), others, "{sql}");
        load(&quiet);
        assert!(!is_asked_about(&quiet, write), "{sql}");
        // Where some code is loud, it may be reached in other ways than by its name.
        let loud = DatabaseCatalog::default();
        loud.publish(loud.ddl_mark(), with_loud());
        ddl(&loud, sql);
        assert_eq!(is_asked_about(&loud, other), named, "{sql}");
    }
}

#[test]
fn a_catalog_is_out_of_reach_until_one_is_loaded() {
    let catalog = DatabaseCatalog::default();
    catalog.note_failed_load(LoadFailure::Passing);
    assert!(!catalog.is_out_of_reach());
    catalog.note_failed_load(LoadFailure::Lasting);
    assert!(catalog.is_out_of_reach());
    load(&catalog);
    assert!(!catalog.is_out_of_reach());
    // What it knows holds on.
    catalog.note_failed_load(LoadFailure::Lasting);
    assert!(!catalog.is_out_of_reach());
}

#[test]
fn a_trigger_makes_no_read_doubtful_and_a_load_due() {
    let catalog = DatabaseCatalog::default();
    load(&catalog);
    ddl(
        &catalog,
        "create trigger t before insert on a execute function f()",
    );
    ddl(&catalog, "alter table path add check (x > 0)");
    assert_eq!(reason(&catalog, &of("a")), Reason::Read);
    assert_eq!(reason(&catalog, &of("a_view")), Reason::Read);
    assert!(catalog.current().is_none());
}
