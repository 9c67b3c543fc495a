//! Real drivers and object-relational mappers: the same program prints the same lines through the
//! proxy as on a connection to the primary.
//!
//! Each folder of `integration/drivers/` has one program, which finds `schema.sql` in a schema of its
//! name; `integration/drivers/install.sh` installs
//! what they need. A driver that is not there is skipped, unless `PGWEIR_REQUIRE_DRIVERS` is set.

#![cfg(test)]

#[path = "drivers/program.rs"]
mod program;

mod harness;

use program::{Program, check};

#[tokio::test]
async fn psycopg_finds_no_difference() {
    check(&Program::python("psycopg").with_section("pipeline")).await;
}

#[tokio::test]
async fn node_postgres_finds_no_difference() {
    check(&Program::node("node").with_section("pool")).await;
}

#[tokio::test]
async fn jdbc_finds_no_difference() {
    check(&Program::java("jdbc").with_section("modes")).await;
}

#[tokio::test]
async fn dbd_pg_finds_no_difference() {
    let probe = ["perl", "-MDBD::Pg", "-e", "1"];
    check(&Program::script("perl", &["perl", "main.pl"], &probe)).await;
}
