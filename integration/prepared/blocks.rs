//! Read-only blocks that have begun on a replica and meet what needs the primary.

use crate::harness::parity::{Step, batch, compare, query, until};
use crate::harness::wire::{bind_portal, describe, execute, flush, parse, sync};

fn opened() -> Vec<u8> {
    [
        parse("s", "SELECT id FROM t ORDER BY id"),
        bind_portal("p", "s", &[]),
    ]
    .concat()
}

fn two_more() -> Step {
    batch(&[execute("p", 2), sync()])
}

#[tokio::test]
async fn named_portals_go_on_behind_what_needs_the_primary() {
    compare(vec![
        (
            "opened first",
            vec![
                query("BEGIN READ ONLY"),
                batch(&[opened(), execute("p", 2), sync()]),
                query("NOTIFY x"),
                two_more(),
                query("COMMIT"),
            ],
        ),
        (
            "opened behind a read",
            vec![
                query("BEGIN READ ONLY"),
                query("SELECT count(*) FROM t"),
                batch(&[opened(), sync()]),
                query("NOTIFY x"),
                batch(&[describe(b'P', "p"), execute("p", 2), sync()]),
                query("COMMIT"),
            ],
        ),
        (
            "opened with Flush",
            vec![
                query("BEGIN READ ONLY"),
                until(b's', &[opened(), execute("p", 2), flush()]),
                batch(&[sync()]),
                query("NOTIFY x"),
                two_more(),
                query("COMMIT"),
            ],
        ),
        (
            "in a block that cannot be moved",
            vec![
                query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                batch(&[opened(), execute("p", 2), sync()]),
                query("SELECT count(*) FROM t"),
                two_more(),
                query("COMMIT"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn modes_that_come_too_late_are_refused_whatever_names_them() {
    let behind_a_query = |sql: &str| {
        vec![
            query("BEGIN READ ONLY"),
            query("SELECT count(*) FROM t"),
            query(sql),
            query("SELECT count(*) FROM t"),
            query("ROLLBACK"),
        ]
    };
    compare(vec![
        (
            "BEGIN with a level",
            behind_a_query("BEGIN ISOLATION LEVEL REPEATABLE READ"),
        ),
        (
            "START TRANSACTION that writes",
            behind_a_query("START TRANSACTION READ WRITE"),
        ),
        ("BEGIN", behind_a_query("BEGIN")),
    ])
    .await;
}
