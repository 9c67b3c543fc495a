//! Statements that are longer than what is held of a client's bytes.

use crate::harness::Proxy;
use crate::harness::parity::{Step, batch, compare, filled, query, until};
use crate::harness::wire::{self, Wire, bind, close, describe, execute, flush, parse, sync};
use crate::{BY_ID, run};

const MIB: usize = 1 << 20;

/// More than `limits::STATEMENT_BYTES`.
fn long() -> String {
    format!("SELECT length('{}'), $1::int", "z".repeat(17 * MIB))
}

fn wrong() -> String {
    format!("SELEC '{}'", "z".repeat(17 * MIB))
}

fn use_of(name: &str) -> Vec<u8> {
    [bind(name, &[b"5"]), describe(b'P', ""), execute("", 0)].concat()
}

fn used(name: &str) -> Step {
    batch(&[use_of(name), sync()])
}

fn prepared(name: &str, sql: &str) -> Step {
    batch(&[parse(name, sql), sync()])
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn long_unnamed_statements_get_the_answers_of_the_primary() {
    let all = |sql: &str| batch(&[parse("", sql), use_of(""), sync()]);
    compare(vec![
        ("in one write", vec![all(&long()), run("SELECT 1")]),
        (
            "in several writes",
            vec![
                prepared("", &long()),
                used(""),
                batch(&[describe(b'S', ""), sync()]),
                batch(&[
                    parse("s", BY_ID),
                    bind("s", &[b"4"]),
                    execute("", 0),
                    sync(),
                ]),
                used(""),
                batch(&[close(b'S', ""), sync()]),
                used(""),
            ],
        ),
        (
            "until another one takes its place",
            vec![
                prepared("", &long()),
                run(BY_ID),
                query("SELECT 1"),
                used(""),
            ],
        ),
        (
            "with Flush",
            vec![
                until(b'1', &[parse("", &long()), flush()]),
                used(""),
                used(""),
            ],
        ),
        (
            "in a block",
            vec![
                query("BEGIN"),
                all(&long()),
                query("INSERT INTO w VALUES (1)"),
                prepared("", &long()),
                used(""),
                query("ROLLBACK"),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "in a block that reads",
            vec![
                query("BEGIN READ ONLY"),
                query("SELECT count(*) FROM t"),
                all(&long()),
                used(""),
                query("INSERT INTO w VALUES (1)"),
                query("ROLLBACK"),
                used(""),
            ],
        ),
        (
            "that fail",
            vec![
                prepared("", &long()),
                all(&wrong()),
                used(""),
                query("BEGIN"),
                all(&wrong()),
                all(&long()),
                query("SELECT 1"),
                query("ROLLBACK"),
                all(&long()),
            ],
        ),
        (
            "behind others",
            vec![
                batch(&[
                    parse("", BY_ID),
                    bind("", &[b"4"]),
                    execute("", 0),
                    parse("", &long()),
                    use_of(""),
                    parse("", BY_ID),
                    bind("", &[b"4"]),
                    execute("", 0),
                    sync(),
                ]),
                used(""),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn long_named_statements_get_the_answers_of_the_primary() {
    let many: Vec<Step> = (0..3).map(|_| used("l")).collect();
    let mut kept = vec![batch(&[parse("l", &long()), describe(b'S', "l"), sync()])];
    kept.extend(many);
    kept.extend([
        prepared("l", BY_ID),
        prepared("l", &long()),
        used("l"),
        batch(&[close(b'S', "l"), sync()]),
        used("l"),
        prepared("l", BY_ID),
        used("l"),
        prepared("l", &long()),
        used("l"),
    ]);
    compare(vec![
        ("kept, named twice, closed", kept),
        (
            "behind others",
            vec![
                batch(&[
                    parse("s", BY_ID),
                    use_of("s"),
                    parse("l", &long()),
                    use_of("l"),
                    parse("m", &long()),
                    use_of("m"),
                    close(b'S', "l"),
                    parse("l", BY_ID),
                    use_of("l"),
                    sync(),
                ]),
                used("l"),
                query("EXECUTE m (6)"),
            ],
        ),
        (
            "in the middle of a segment",
            vec![
                prepared("m", BY_ID),
                batch(&[
                    parse("", &long()),
                    parse("l", &long()),
                    use_of("l"),
                    parse("m", &long()),
                    sync(),
                ]),
                used("l"),
                used("m"),
                prepared("l", BY_ID),
                query("PREPARE p AS SELECT 1"),
                used("l"),
                used("m"),
                prepared("l", BY_ID),
                prepared("l", &long()),
                batch(&[close(b'S', "l"), sync()]),
                used("l"),
                prepared("l", BY_ID),
                used("l"),
            ],
        ),
        (
            "that fail",
            vec![
                prepared("l", &wrong()),
                used("l"),
                prepared("l", &long()),
                query("BEGIN"),
                prepared("m", &wrong()),
                prepared("m", &long()),
                query("ROLLBACK"),
                used("m"),
                used("l"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn sql_that_names_long_statements_gets_the_answers_of_the_primary() {
    compare(vec![
        (
            "beside names that SQL knows",
            vec![
                prepared("k", &long()),
                query("EXECUTE k (6)"),
                query("PREPARE p AS SELECT 1"),
                used("k"),
                prepared("k", BY_ID),
                prepared("p", &long()),
                prepared("l", &long()),
                used("l"),
                query("EXECUTE l (6)"),
                query("DEALLOCATE l"),
                used("l"),
                batch(&[close(b'S', "k"), sync()]),
                used("k"),
            ],
        ),
        (
            "discarded",
            vec![
                prepared("l", &long()),
                query("DISCARD ALL"),
                used("l"),
                prepared("l", &long()),
                query("DEALLOCATE ALL"),
                used("l"),
                prepared("l", &long()),
                query("DEALLOCATE l"),
                used("l"),
                prepared("l", BY_ID),
                used("l"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn long_messages_behind_an_error_are_skipped() {
    let failed = || until(b'E', &[bind("nope", &[]), flush()]);
    let value = vec![b'x'; 300_000];
    compare(vec![
        (
            "Parse",
            vec![
                failed(),
                batch(&[parse("", &long()), parse("l", &long()), sync()]),
                used(""),
                used("l"),
            ],
        ),
        (
            "Parse in the same write",
            vec![
                batch(&[
                    bind("nope", &[]),
                    parse("l", &long()),
                    parse("", &long()),
                    sync(),
                ]),
                used("l"),
                used(""),
            ],
        ),
        (
            "Bind",
            vec![
                prepared("s", "SELECT length($1)"),
                failed(),
                batch(&[bind("s", &[&value]), execute("", 0), sync()]),
                query("SELECT 1"),
            ],
        ),
        (
            "statements of a megabyte behind a long parameter",
            vec![
                batch(&[
                    parse("", "SELECT length($1)"),
                    bind("", &[&value]),
                    execute("", 0),
                    parse("", &format!("SELECT '{}', $1::int", "x".repeat(MIB))),
                    use_of(""),
                    sync(),
                ]),
                used(""),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn long_messages_behind_an_error_of_the_proxys_own_are_skipped() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    client.send(&[parse("", "SHOW pgweir.token; SELECT 1"), flush()].concat());
    client.until(b'E');
    let sql = format!("CREATE TABLE skipped AS SELECT '{}'", "x".repeat(17 * MIB));
    let written = [
        parse("", &sql),
        bind("", &[&vec![b'x'; 300_000]]),
        execute("", 0),
    ];
    client.send(&[wire::query(&sql), written.concat(), sync()].concat());
    let answer = client.until_ready();
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert_eq!(client.value("SELECT to_regclass('skipped') IS NULL"), "t");
}

#[tokio::test]
async fn long_statements_pass_in_bounded_memory() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    client.run("SELECT count(*) FROM t");
    let before = proxy.rss_bytes();
    let sql = format!("SELECT length('{}')", "z".repeat(64 * MIB));
    for name in ["", "l"] {
        client.send(&[parse(name, &sql), bind(name, &[]), execute("", 0), sync()].concat());
        let answer = client.until_ready();
        assert!(answer.iter().any(|m| m.tag == b'D'), "{answer:?}");
    }
    let growth = proxy.rss_bytes().saturating_sub(before);
    assert!(growth < 16 << 20, "{growth}");
}
