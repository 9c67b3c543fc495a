//! Real drivers and object-relational mappers: the same program prints the same lines through the
//! proxy as on a connection to the primary.
//!
//! Each folder of `integration/drivers/` has one program; `integration/drivers/install.sh` installs
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
