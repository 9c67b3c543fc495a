//! COPY in both directions, as it is and when it goes wrong, in bounded memory.

#![cfg(test)]

mod harness;

use std::thread;
use std::time::Duration;

use harness::Proxy;
use harness::parity::{Step, batch, batches, compare, filled, query, until};
use harness::wire::{
    self, Wire, bind, copy_data, copy_done, copy_fail, execute, flush, parse, sync,
};

const MIB: u64 = 1 << 20;

/// How much the proxy's memory may grow however much passes through it.
const GROWTH: u64 = 16 * MIB;

fn copy_in() -> Vec<u8> {
    wire::query("COPY w FROM STDIN")
}

fn prepared(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", &[]), execute("", 0)].concat()
}

fn count() -> Step {
    query("SELECT count(*), sum(id) FROM w")
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn copy_gets_the_answers_of_the_primary() {
    let rows = b"1\n2\n3\n".repeat(1000);
    let bad_then_much: Vec<Vec<u8>> = std::iter::once(copy_data(b"x\n"))
        .chain((0..20).map(|_| copy_data(&b"1\n".repeat(500_000))))
        .chain([copy_done()])
        .collect();
    let from = || prepared("COPY w FROM STDIN");
    compare(vec![
        (
            "in",
            vec![
                until(b'G', &[copy_in()]),
                batch(&[copy_data(&rows), copy_data(b"4\n5"), copy_done()]),
                count(),
            ],
        ),
        (
            "in, all in one write",
            vec![
                batches(
                    &[
                        copy_in(),
                        copy_data(&rows),
                        copy_done(),
                        wire::query("SELECT 1"),
                    ],
                    2,
                ),
                count(),
            ],
        ),
        (
            "in, one long message",
            vec![
                until(b'G', &[copy_in()]),
                batch(&[copy_data(&b"12\n".repeat(1_000_000)), copy_done()]),
                count(),
            ],
        ),
        (
            "in with others",
            vec![
                until(
                    b'G',
                    &[wire::query(
                        "SELECT 1; COPY w FROM STDIN; SELECT count(*) FROM w; COPY w FROM STDIN",
                    )],
                ),
                until(b'G', &[copy_data(b"1\n"), copy_done()]),
                batch(&[copy_data(b"2\n"), copy_done()]),
                count(),
            ],
        ),
        (
            "in a block",
            vec![
                query("BEGIN"),
                until(b'G', &[copy_in()]),
                batch(&[copy_data(b"1\n"), copy_done()]),
                query("ROLLBACK"),
                count(),
            ],
        ),
        (
            "refused",
            vec![
                query("COPY missing FROM STDIN"),
                query("COPY w FROM '/nope'"),
                count(),
            ],
        ),
        (
            "fail",
            vec![
                until(b'G', &[copy_in()]),
                batch(&[copy_data(b"1\n"), copy_fail("no more")]),
                count(),
            ],
        ),
        (
            "bad row",
            vec![
                until(b'G', &[copy_in()]),
                batch(&[copy_data(b"1\nx\n"), copy_done()]),
                count(),
            ],
        ),
        (
            "bad row with much more coming",
            vec![until(b'G', &[copy_in()]), batch(&bad_then_much), count()],
        ),
        (
            "extended",
            vec![
                until(b'G', &[from(), sync()]),
                batch(&[copy_data(&rows), copy_done(), sync()]),
                count(),
            ],
        ),
        (
            "extended, all in one write",
            vec![
                batch(&[from(), sync(), copy_data(&rows), copy_done(), sync()]),
                count(),
            ],
        ),
        (
            "extended with Flush",
            vec![
                until(b'G', &[from(), flush()]),
                batch(&[copy_data(&rows), copy_done(), sync()]),
                count(),
            ],
        ),
        (
            "extended, answered before the Sync",
            vec![
                until(b'G', &[from(), flush()]),
                until(b'C', &[copy_data(b"1\n"), copy_done(), flush()]),
                batch(&[sync()]),
                count(),
            ],
        ),
        (
            "extended, fail",
            vec![
                until(b'G', &[from(), sync()]),
                batch(&[copy_data(b"1\n"), copy_fail("no"), sync()]),
                count(),
            ],
        ),
        (
            "extended, bad row with much more coming",
            vec![
                until(b'G', &[from(), sync()]),
                batch(&[bad_then_much.concat(), sync()]),
                count(),
            ],
        ),
        (
            "out",
            vec![
                query("COPY t TO STDOUT"),
                query("COPY (SELECT id FROM t ORDER BY id) TO STDOUT (FORMAT csv)"),
                query("COPY (SELECT 10 / (id - 5) FROM t ORDER BY id) TO STDOUT"),
            ],
        ),
        (
            "out, extended",
            vec![
                batch(&[prepared("COPY t TO STDOUT"), sync()]),
                batch(&[prepared("COPY t TO STDOUT"), prepared("SELECT 1"), sync()]),
            ],
        ),
        (
            "out of the primary",
            vec![query("BEGIN"), query("COPY t TO STDOUT"), query("COMMIT")],
        ),
        (
            "stray data",
            vec![batch(&[copy_data(b"1\n"), copy_done(), sync()]), count()],
        ),
    ])
    .await;
}

#[tokio::test]
async fn copy_out_runs_on_a_replica() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    // The catalog is loaded while clients are served.
    for _ in 0..500 {
        client.run("COPY t TO STDOUT");
        if client.last_route().contains("role=replica") {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(
        client.last_route().contains("role=replica"),
        "{}",
        client.last_route()
    );
    client.run("BEGIN");
    client.run("COPY t TO STDOUT");
    assert!(
        client.last_route().contains("role=primary"),
        "{}",
        client.last_route()
    );
    client.run("COMMIT");
}

#[tokio::test]
async fn fifty_megabytes_pass_either_way_in_bounded_memory() {
    let cluster = filled().await;
    cluster
        .sql(0, "CREATE UNLOGGED TABLE big (v text)")
        .await
        .unwrap();
    let proxy = Proxy::start(cluster, "").await;
    let mut client = Wire::connect(proxy.port());
    client.run("SELECT count(*) FROM t");
    let before = proxy.rss_bytes();
    client.send(&wire::query("COPY big FROM STDIN"));
    client.until(b'G');
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    let block = copy_data(&line.repeat(1000));
    for _ in 0..50 {
        client.send(&block);
    }
    client.send(&copy_done());
    assert!(client.until_ready().iter().any(|m| m.tag == b'C'));
    let written = proxy.rss_bytes().saturating_sub(before);
    client.send(&wire::query("COPY big TO STDOUT"));
    let bytes = client.skim_until_ready();
    assert!(bytes > 50_000_000, "{bytes}");
    let read = proxy.rss_bytes().saturating_sub(before);
    assert!(written < GROWTH && read < GROWTH, "{written} {read}");
}

/// Reduced here; the full sizes are a 500 MB row and 2 GB.
#[tokio::test]
async fn long_rows_and_long_results_pass_in_bounded_memory() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    client.run("SELECT count(*) FROM t");
    let before = proxy.rss_bytes();
    let (row, rows) = (
        from_env("PGWEIR_TEST_ROW", 64_000_000),
        from_env("PGWEIR_TEST_ROWS", 200_000),
    );
    client.send(&wire::query(&format!("SELECT repeat('x', {row})")));
    assert!(client.skim_until_ready() > row);
    let after_row = proxy.rss_bytes().saturating_sub(before);
    client.send(&wire::query(&format!(
        "SELECT repeat('x', 1000) FROM generate_series(1, {rows})"
    )));
    assert!(client.skim_until_ready() > rows * 1000);
    let after_rows = proxy.rss_bytes().saturating_sub(before);
    println!(
        "a row of {row} bytes: {after_row} more; {rows} rows of 1000 bytes: {after_rows} more"
    );
    assert!(
        after_row < GROWTH && after_rows < GROWTH,
        "{after_row} {after_rows}"
    );
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var_os(name).map_or(otherwise, |value| value.to_str().unwrap().parse().unwrap())
}
