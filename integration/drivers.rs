//! Real drivers and object-relational mappers: the same program prints the same lines through the
//! proxy as on a connection to the primary.
//!
//! Each folder of `integration/drivers/` has one program, which finds `schema.sql` in a schema of its
//! name; `integration/drivers/install.sh` installs
//! what they need. A driver that is not there is skipped, unless `PGWEIR_REQUIRE_DRIVERS` is set.
//! `PGWEIR_DRIVERS_MODE=session` runs them with sessions that keep their connections.

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

#[tokio::test]
async fn asyncpg_finds_no_difference() {
    check(&Program::python("asyncpg").with_section("pool")).await;
}

#[tokio::test]
async fn php_pdo_finds_no_difference() {
    let has = "exit(extension_loaded('pdo_pgsql') && extension_loaded('pgsql') ? 0 : 1);";
    let probe = ["php", "-r", has];
    // Deprecations of functions that older versions lack the successors of are not shown.
    let command = ["php", "-d", "error_reporting=22527", "main.php"];
    check(&Program::script("php", &command, &probe)).await;
}

#[tokio::test]
async fn ruby_pg_finds_no_difference() {
    let probe = ["ruby", "-rpg", "-e", ""];
    let program = Program::script("ruby", &["ruby", "-W0", "main.rb"], &probe);
    check(&program.with_section("pipeline")).await;
}

#[tokio::test]
async fn lib_pq_finds_no_difference() {
    check(&Program::compiled("golang_pq", "golang_pq")).await;
}

#[tokio::test]
async fn pgx_finds_no_difference() {
    check(&Program::compiled("pgx", "pgx").with_section("pool")).await;
}

#[tokio::test]
async fn sqlx_finds_no_difference() {
    check(&Program::compiled("sqlx", "rust/debug/sqlx").with_section("pool")).await;
}

#[tokio::test]
async fn tokio_postgres_finds_no_difference() {
    check(&Program::compiled(
        "tokio_postgres",
        "rust/debug/tokio_postgres",
    ))
    .await;
}

#[tokio::test]
async fn sqlalchemy_finds_no_difference() {
    check(&Program::python("sqlalchemy")).await;
}

#[tokio::test]
async fn django_finds_no_difference() {
    check(&Program::python("django")).await;
}

#[tokio::test]
async fn active_record_finds_no_difference() {
    let probe = ["ruby", "-ractive_record", "-rpg", "-e", ""];
    check(&Program::script(
        "rails",
        &["ruby", "-W0", "main.rb"],
        &probe,
    ))
    .await;
}
