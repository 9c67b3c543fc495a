use super::super::analyse;
use crate::core::statement::{CatalogEffect, TouchedKind};

/// Every name that is touched, functions with `()`; `*` for all there are.
fn touched(sql: &str) -> String {
    let analysis = analyse(sql.as_bytes());
    assert_eq!(analysis.statements.len(), 1, "{sql}");
    match &analysis.statements[0].catalog {
        CatalogEffect::None => "-".to_owned(),
        CatalogEffect::MayChange => "*".to_owned(),
        CatalogEffect::Touches(names) => {
            let written = names.iter().map(|touched| match touched.kind {
                TouchedKind::Relation => touched.name.to_string(),
                TouchedKind::Routine => format!("{}()", touched.name),
            });
            written.collect::<Vec<String>>().join(" ")
        }
    }
}

const NAMED: &[(&str, &str)] = &[
    ("create table t (a int)", "t"),
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
    ("create table if (a int)", "if"),
    ("select a, b into t from u", "t"),
    ("select a into unlogged table s.t from u", "t"),
    ("create view v as select * from t", "v"),
    ("create or replace recursive view v (a) as select 1", "v"),
    ("create materialized view if not exists m as select 1", "m"),
    ("create sequence if not exists q", "q"),
    (
        "create function f(a int) returns int language sql as 'select 1'",
        "f()",
    ),
    (
        "create or replace function s.f() returns trigger language plpgsql as ''",
        "f()",
    ),
    ("create procedure p() language sql as ''", "p()"),
    ("create aggregate a (int) (sfunc = f, stype = int)", "a()"),
    ("create unique index concurrently i on t (a)", ""),
    ("create index on only t (lower(a))", ""),
    (
        "create or replace constraint trigger g after insert on t execute function f()",
        "",
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
    ("alter table if exists only s.t add column a int", "t"),
    ("alter table t rename to u", "t u"),
    ("alter table t rename column a to b", "t"),
    ("alter table t rename constraint a to b", "t"),
    (
        "alter table p attach partition s.c for values in (1)",
        "p c",
    ),
    ("alter table p detach partition c concurrently", "p c"),
    ("alter table t inherit p, no inherit q", "t p q"),
    ("alter table t add check (a > 0) no inherit", "t"),
    ("alter table t enable row level security", "t"),
    ("alter table t set unlogged", "t"),
    ("alter materialized view m set schema s", "m"),
    ("alter index i rename to j", "i j"),
    ("alter function f(int) volatile", "f()"),
    ("alter routine s.f rename to g", "f() g()"),
    ("alter policy p on t using (true)", "t"),
    ("alter trigger g on t rename to h", ""),
    ("drop table if exists t, s.u restrict", "t u"),
    ("drop materialized view m", "m"),
    (
        "drop function if exists f(int, numeric(1,2)), s.g",
        "f() g()",
    ),
    ("drop type e", "e"),
    ("drop index concurrently i", ""),
    ("drop trigger g on t", ""),
    ("drop policy if exists p on t", "t"),
    ("drop rule r on t", "t"),
    ("drop role r", ""),
    ("drop schema s", ""),
];

const OF_UNKNOWN_REACH: &[(&str, &str)] = &[
    ("drop table t cascade", "*"),
    ("drop schema s cascade", "*"),
    ("drop owned by r", "*"),
    ("drop extension x", "*"),
    ("drop event trigger e", "*"),
    ("drop user mapping for r server x", "*"),
    ("drop operator + (int, int)", "*"),
    ("drop cast (a as b)", "*"),
    ("create user mapping for r server x", "*"),
    ("create schema s create table t (a int)", "*"),
    ("create type r as range (subtype = int)", "*"),
    ("create type b", "*"),
    ("create type b (input = f, output = g)", "*"),
    ("create extension x", "*"),
    ("create operator + (leftarg = a, function = f)", "*"),
    (
        "create operator class c for type t using btree as operator 1 <",
        "*",
    ),
    ("create cast (a as b) with function f(a)", "*"),
    (
        "create event trigger e on ddl_command_end execute function f()",
        "*",
    ),
    ("create server x foreign data wrapper y", "*"),
    ("create text search configuration c (copy = d)", "*"),
    ("create table u&\"d\\0061t\" (a int)", "*"),
    ("create table \u{e9}t\u{e9} (a int)", "*"),
    ("create table", "*"),
    ("create something new", "*"),
    ("alter type e add value 'x'", "*"),
    ("alter domain d add check (f(value))", "*"),
    ("alter extension x update", "*"),
    ("alter system set a = 1", "*"),
    ("alter schema s rename to r", "*"),
    ("alter operator + (int, int) owner to r", "*"),
    ("alter default privileges grant select on tables to r", "*"),
    ("reassign owned by a to b", "*"),
    ("import foreign schema s from server x into public", "*"),
    ("do $$ begin end $$", "*"),
    ("call p()", "*"),
];

const NO_DDL: &[(&str, &str)] = &[
    ("insert into t values (1)", "-"),
    ("comment on table t is 'x'", "-"),
    ("refresh materialized view m", "-"),
    ("create temp table t (a int)", "-"),
];

#[test]
fn each_form_of_ddl_touches_what_it_names_or_everything() {
    for (sql, expected) in NAMED.iter().chain(OF_UNKNOWN_REACH).chain(NO_DDL) {
        assert_eq!(touched(sql), *expected, "{sql}");
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
