use super::super::analyse;
use crate::core::statement::{CatalogEffect, Logins, TouchedKind};

/// Every name that is touched, functions with `()`; `*` for all there are.
fn touched(sql: &str) -> String {
    let analysis = analyse(sql.as_bytes());
    assert_eq!(analysis.statements.len(), 1, "{sql}");
    match &analysis.statements[0].catalog {
        CatalogEffect::None => "-".to_owned(),
        CatalogEffect::Removes => "less".to_owned(),
        CatalogEffect::MayChange => "*".to_owned(),
        CatalogEffect::Calls(name) => format!("call:{name}"),
        CatalogEffect::TwoPhase(..) => panic!("{sql} is no DDL"),
        CatalogEffect::Touches(names) => {
            let written = names.iter().map(|touched| match touched.kind {
                TouchedKind::Code => format!("code:{}", touched.name),
                TouchedKind::Columns => format!("{}+", touched.name),
                TouchedKind::Rows => touched.name.to_string(),
                TouchedKind::Relation => format!("{}*", touched.name),
                TouchedKind::Operator => format!("op:{}", touched.name),
                TouchedKind::NewTable => format!("new:{}", touched.name),
                TouchedKind::NewRoutine => format!("{}()", touched.name),
                TouchedKind::Routine => format!("{}()*", touched.name),
            });
            written.collect::<Vec<String>>().join(" ")
        }
    }
}

const NAMED: &[(&str, &str)] = &[
    ("create table t (a int)", "new:t"),
    (
        "create table if not exists s.t (a serial, inherits int)",
        "t",
    ),
    ("create unlogged table \"Big\" (a int)", "Big"),
    (
        "create table t (a int) inherits (p, s.q) with (fillfactor = 10)",
        "t p q",
    ),
    ("create table c partition of s.p for values in (1)", "c p"),
    (
        "create foreign table f partition of p default server x",
        "f p",
    ),
    ("create table t as select * from u", "t"),
    ("create table if (a int)", "new:if"),
    ("select a, b into t from u", "t"),
    ("select a into unlogged table s.t from u", "t"),
    ("create view v as select * from t", "v"),
    ("create or replace recursive view v (a) as select 1", "v*"),
    ("create materialized view if not exists m as select 1", "m"),
    ("create sequence if not exists q", "q"),
    (
        "create function f(a int) returns int language sql as 'select 1'",
        "f()",
    ),
    (
        "create or replace function s.f() returns trigger language plpgsql as ''",
        "f()*",
    ),
    ("create procedure p() language sql as ''", "p()"),
    ("create aggregate a (int) (sfunc = f, stype = int)", "a()"),
    ("create unique index concurrently i on t (a)", ""),
    ("create index on only t (lower(a))", ""),
    (
        "create or replace constraint trigger g after insert on t execute function f()",
        "code:t",
    ),
    (
        "create rule \"_RETURN\" as on select to t do instead select 1",
        "t",
    ),
    ("create policy p on s.t using (f(a))", "t"),
    ("create type e as enum ('a')", "e"),
    ("create type c as (a int)", "c"),
    ("create domain d as text check (f(value))", "d"),
    ("create role r", ""),
    ("create schema s authorization r", ""),
    ("create statistics s on a, b from t", ""),
    ("alter table if exists only s.t add column a mood", "t*"),
    ("alter table t rename to u", "t* u*"),
    ("alter table t rename column a to b", ""),
    ("alter table t rename constraint a to b", ""),
    (
        "alter table p attach partition s.c for values in (1)",
        "p* c*",
    ),
    ("alter table p detach partition c concurrently", "less"),
    ("alter table t inherit p, no inherit q", "t* p* q*"),
    ("alter table t add check (a > 0) no inherit", "code:t"),
    ("alter table t enable row level security", "t*"),
    ("alter table t set unlogged", "t*"),
    ("alter materialized view m set schema s", "m*"),
    ("alter index i rename to j", "i* j*"),
    ("alter function f(int) volatile", "f()*"),
    ("alter routine s.f rename to g", "f()* g()*"),
    ("alter policy p on t using (true)", "t"),
    ("alter trigger g on t rename to h", ""),
];

/// A table that is new and plain, by columns, and what is not.
const NEW_TABLES: &[(&str, &str)] = &[
    (
        "create table s.t (id bigserial primary key, \"B\" numeric(10, 2)[] not null, c double precision, \
         check (id > 0), constraint x unique (id), foreign key (id) references u on delete cascade) \
         partition by range (id)",
        "new:t",
    ),
    ("create table t ()", "new:t"),
    ("create table t (a int, like u)", "t"),
    ("create table t (a int, b mood)", "t"),
    ("create table t (a int, b public.text)", "t"),
    ("create table t (a \"char\")", "t"),
    ("create table t (a regclass)", "t"),
    ("create table t (exclude mood)", "t"),
    ("create table t (a) as select 1", "t"),
    ("create table t of c (a with options not null)", "t"),
    ("create table t (a int) inherits (p)", "t p"),
    ("create table if not exists t (a int)", "t"),
    ("create foreign table t (a int) server x", "t"),
    ("create unlogged table t (a int)", "t"),
];

/// What only takes away, or changes what no verdict depends on.
const MILD: &[(&str, &str)] = &[
    ("drop table t, s.u cascade", "less"),
    ("drop schema s cascade", "less"),
    ("drop owned by r", "less"),
    ("drop cast (a as b)", "less"),
    ("drop operator + (int, int)", "less"),
    ("drop event trigger e", "less"),
    ("drop something new", "less"),
    ("alter table t drop column a cascade, owner to r", "less"),
    ("alter table t no inherit p", "less"),
    (
        "alter table only s.t * alter column a set default 1, alter b drop not null",
        "code:t",
    ),
    (
        "alter table t alter \"set\" set statistics 10, set (fillfactor = 10)",
        "",
    ),
    (
        "alter table t add foreign key (a) references u on delete cascade",
        "code:t",
    ),
    ("alter table t disable row level security", "less"),
    ("alter sequence q restart with 5", ""),
    ("alter type e add value 'x'", ""),
    ("alter type e rename value 'x' to 'y'", ""),
    ("alter domain d set default 1", "code:d"),
    ("alter system set a = 1", ""),
    ("alter operator + (int, int) owner to r", ""),
    ("alter default privileges grant select on tables to r", ""),
    ("create server x foreign data wrapper y", ""),
    ("create foreign data wrapper y", ""),
    ("create user mapping for r server x", ""),
    ("create text search configuration c (copy = d)", ""),
    ("create operator family f using btree", ""),
];

/// What looks like one of those and is not.
const NOT_MILD: &[(&str, &str)] = &[
    ("alter table t add value mood", "t*"),
    ("alter table t add exclude mood", "t*"),
    ("alter table t alter a type mood, owner to r", "t*"),
    ("alter table t alter column a set data type mood", "t*"),
    ("alter table t set (fillfactor = 10), set logged", "t*"),
    ("alter table t set schema s", "t*"),
    (
        "alter table t no force row level security, enable row level security",
        "t*",
    ),
    ("alter sequence q rename to t", "q* t*"),
    ("alter type c add attribute a mood", "c*"),
    ("alter type c add attribute a mood cascade", "*"),
    ("alter type c alter attribute set type mood", "c*"),
    ("alter type c rename to d", "c* d*"),
    ("alter domain d add check (f(value))", "d*"),
    ("create operator s.!= (leftarg = a, function = f)", "op:<>"),
    (
        "alter operator family f using btree add function 1 f(a)",
        "op:=",
    ),
];

const COLUMNS: &[(&str, &str)] = &[
    (
        "alter table if exists only s.t add column if not exists a text default f()",
        "t+",
    ),
    (
        "alter table t add a int, add \"b c\" numeric(3), drop d",
        "t+",
    ),
    (
        "alter table t alter a type bigint using f(a), owner to r",
        "t+",
    ),
    ("alter table t alter column a set data type text", "t+"),
    ("alter table t add a int, add b mood", "t*"),
    ("alter table t add a public.text", "t*"),
    ("alter table t rename a to b", ""),
    ("alter table t rename column \"A\" to b", ""),
    ("alter type c rename attribute a to b cascade", "*"),
    ("alter type c add attribute date text", "c*"),
    ("alter type c add attribute a text", "c*"),
];

const TYPES: &[(&str, &str)] = &[
    ("create type s.b", "b"),
    ("create type b (input = f, output = g)", "b*"),
    (
        "create type int_range as range (subtype = int)",
        "int_range int_range int_range() int_multirange int_multirange()",
    ),
    (
        "create type r as range (subtype = int)",
        "r r r() r_multirange r_multirange()",
    ),
    (
        "create type r as range (subtype = int, multirange_type_name = m)",
        "*",
    ),
];

const BLOCKS: &[(&str, &str)] = &[
    ("do $$ begin perform f(); end $$ language plpgsql", "-"),
    ("do $$ begin EXECUTE 'x'; end $$", "*"),
    ("do $$ begin create table t (a int); end $$", "*"),
    ("do e'begin \\x45xecute f(); end'", "*"),
    ("do language plpython3u $$ f() $$", "*"),
];

const OF_UNKNOWN_REACH: &[(&str, &str)] = &[
    ("create schema s create table t (a int)", "*"),
    ("create extension x", "*"),
    (
        "create operator class c for type t using btree as operator 1 <",
        "op:=",
    ),
    ("create cast (a as b) with function f(a)", "*"),
    (
        "create event trigger e on ddl_command_end execute function f()",
        "*",
    ),
    ("create table u&\"d\\0061t\" (a int)", "*"),
    ("create table \u{e9}t\u{e9} (a int)", "*"),
    ("create table", "*"),
    ("create something new", "*"),
    ("alter extension x update", "*"),
    ("alter schema s rename to r", "*"),
    ("reassign owned by a to b", "*"),
    ("import foreign schema s from server x into public", "*"),
    ("call u&\"p\"()", "*"),
    ("call p", "*"),
];

const CALLS: &[(&str, &str)] = &[("call p()", "call:p"), ("call s.\"P\"(1, f(2))", "call:P")];

const NO_DDL: &[(&str, &str)] = &[
    ("insert into t values (1)", "-"),
    ("comment on table t is 'x'", "-"),
    ("refresh materialized view m", "-"),
    ("create temp table t (a int)", "-"),
];

#[test]
fn each_form_of_ddl_touches_what_it_names_or_everything() {
    for (sql, expected) in [
        NAMED,
        NEW_TABLES,
        COLUMNS,
        TYPES,
        MILD,
        NOT_MILD,
        BLOCKS,
        OF_UNKNOWN_REACH,
        NO_DDL,
        CALLS,
    ]
    .concat()
    {
        assert_eq!(touched(sql), expected, "{sql}");
    }
}

#[test]
fn a_text_that_is_not_read_whole_may_touch_everything() {
    let padding = "x int, ".repeat(40_000);
    assert_eq!(
        touched(&format!("create table t ({padding} y int) inherits (p)")),
        "*"
    );
    assert_eq!(touched("create table t (a text default 'open"), "*");
}

#[test]
fn what_roles_log_in_as_changes_with_their_names_and_attributes() {
    for (sql, expected) in [
        ("DROP ROLE a", Logins::Changed),
        ("drop user if exists a, b", Logins::Changed),
        ("DROP GROUP a", Logins::Changed),
        ("ALTER ROLE a RENAME TO b", Logins::Changed),
        ("ALTER USER a NOLOGIN", Logins::Changed),
        ("ALTER USER \"set\" WITH PASSWORD 'x'", Logins::Changed),
        (
            "SELECT 1; ALTER ROLE a VALID UNTIL 'tomorrow'",
            Logins::Changed,
        ),
        ("ALTER ROLE a SET work_mem = '1MB'", Logins::Kept),
        ("ALTER ROLE ALL IN DATABASE d RESET ALL", Logins::Kept),
        ("ALTER GROUP a ADD USER b", Logins::Kept),
        ("DROP USER MAPPING FOR a SERVER s", Logins::Kept),
        (
            "ALTER USER MAPPING FOR a SERVER s OPTIONS (SET user 'x')",
            Logins::Kept,
        ),
        ("CREATE ROLE a", Logins::Kept),
        ("DROP TABLE role", Logins::Kept),
        ("SELECT 'DROP ROLE a'", Logins::Kept),
    ] {
        let analysis = analyse(sql.as_bytes());
        let found = analysis.statements.iter().map(|facts| facts.logins).max();
        assert_eq!(found, Some(expected), "{sql}");
    }
}
