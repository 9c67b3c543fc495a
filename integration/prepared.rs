//! The extended protocol: what a client prepares is its own, wherever it runs.

#![cfg(test)]

mod harness;

use harness::Proxy;
use harness::parity::{Step, batch, batches, compare, filled, query, until};
use harness::wire::{self, Wire, bind, bind_portal, close, describe, execute, flush, parse, sync};

const BY_ID: &str = "SELECT v FROM t WHERE id = $1::int";

/// A statement without parameters, as a batch of its own.
fn once(sql: &str) -> Vec<u8> {
    [
        parse("", sql),
        bind("", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
    .concat()
}

fn run(sql: &str) -> Step {
    batch(&[once(sql)])
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn prepared_statements_get_the_answers_of_the_primary() {
    let use_s = || batch(&[bind("s", &[b"4"]), execute("", 0), sync()]);
    let many: Vec<Step> = (0..12).map(|_| use_s()).collect();
    let mut named = vec![batch(&[parse("s", BY_ID), describe(b'S', "s"), sync()])];
    named.extend(many);
    named.push(query("INSERT INTO w VALUES (1)"));
    named.push(use_s());
    compare(vec![
        (
            "unnamed",
            vec![batch(&[
                parse("", BY_ID),
                bind("", &[b"3"]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ])],
        ),
        (
            "unnamed is kept",
            vec![
                batch(&[parse("", BY_ID), sync()]),
                batch(&[bind("", &[b"3"]), execute("", 0), sync()]),
                batch(&[bind("", &[b"4"]), execute("", 0), sync()]),
                batch(&[describe(b'S', ""), sync()]),
            ],
        ),
        (
            "unnamed is replaced",
            vec![
                batch(&[
                    parse("", BY_ID),
                    parse("", "SELECT 7"),
                    bind("", &[]),
                    execute("", 0),
                    sync(),
                ]),
                query("SELECT 1"),
                batch(&[bind("", &[]), execute("", 0), sync()]),
            ],
        ),
        ("named", named),
        (
            "unknown",
            vec![
                batch(&[bind("nope", &[]), execute("", 0), sync()]),
                batch(&[describe(b'S', "nope"), sync()]),
                batch(&[bind("", &[]), sync()]),
                batch(&[describe(b'S', ""), sync()]),
                batch(&[execute("nope", 0), sync()]),
                batch(&[describe(b'P', "nope"), sync()]),
            ],
        ),
        (
            "closed",
            vec![
                batch(&[parse("s", BY_ID), sync()]),
                batch(&[
                    close(b'S', "s"),
                    close(b'S', "never"),
                    close(b'P', "never"),
                    sync(),
                ]),
                use_s(),
                batch(&[
                    parse("s", "SELECT 1"),
                    bind("s", &[]),
                    execute("", 0),
                    sync(),
                ]),
            ],
        ),
        (
            "closed in its batch",
            vec![
                batch(&[
                    parse("s", BY_ID),
                    bind("s", &[b"1"]),
                    execute("", 0),
                    close(b'S', "s"),
                    sync(),
                ]),
                use_s(),
            ],
        ),
        (
            "deallocated",
            vec![
                batch(&[parse("s", BY_ID), sync()]),
                use_s(),
                query("DEALLOCATE ALL"),
                use_s(),
                batch(&[parse("s", BY_ID), sync()]),
                use_s(),
            ],
        ),
        (
            "insert",
            vec![
                batch(&[
                    parse("i", "INSERT INTO w VALUES ($1::int)"),
                    bind("i", &[b"1"]),
                    execute("", 0),
                    bind("i", &[b"2"]),
                    execute("", 0),
                    sync(),
                ]),
                batch(&[
                    parse("", "SELECT count(*) FROM w"),
                    bind("", &[]),
                    execute("", 0),
                    sync(),
                ]),
            ],
        ),
        (
            "empty",
            vec![run(""), batch(&[parse("", ""), describe(b'S', ""), sync()])],
        ),
        (
            "set and show",
            vec![
                run("SET work_mem TO '9MB'"),
                run("SHOW work_mem"),
                run("SELECT current_setting('work_mem') FROM t LIMIT 1"),
            ],
        ),
        (
            "block",
            vec![
                batch(&[
                    parse("", "BEGIN"),
                    bind("", &[]),
                    execute("", 0),
                    parse("", "INSERT INTO w VALUES (3)"),
                    bind("", &[]),
                    execute("", 0),
                    parse("", "COMMIT"),
                    bind("", &[]),
                    execute("", 0),
                    sync(),
                ]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "read only block",
            vec![
                run("BEGIN READ ONLY"),
                batch(&[
                    parse("s", BY_ID),
                    bind("s", &[b"2"]),
                    execute("", 0),
                    sync(),
                ]),
                use_s(),
                run("COMMIT"),
                use_s(),
            ],
        ),
        (
            "limited portal in a block",
            vec![
                query("BEGIN"),
                batch(&[
                    parse("", "SELECT id FROM t ORDER BY id"),
                    bind_portal("c", "", &[]),
                    execute("c", 3),
                    sync(),
                ]),
                batch(&[execute("c", 3), sync()]),
                batch(&[execute("c", 0), execute("c", 1), sync()]),
                batch(&[close(b'P', "c"), sync()]),
                query("COMMIT"),
            ],
        ),
        (
            "limited portal in a read only block",
            vec![
                query("BEGIN READ ONLY"),
                batch(&[
                    parse("", "SELECT id FROM t ORDER BY id"),
                    bind_portal("c", "", &[]),
                    describe(b'P', "c"),
                    execute("c", 3),
                    sync(),
                ]),
                batch(&[execute("c", 2), sync()]),
                query("SELECT 1"),
                batch(&[execute("c", 0), sync()]),
                query("COMMIT"),
                batch(&[execute("c", 0), sync()]),
            ],
        ),
        (
            "limited portal alone",
            vec![
                batch(&[
                    parse("", "SELECT id FROM t ORDER BY id"),
                    bind("", &[]),
                    execute("", 3),
                    execute("", 2),
                    sync(),
                ]),
                batch(&[execute("", 3), sync()]),
            ],
        ),
        (
            "long parameter",
            vec![
                batch(&[
                    parse("", "SELECT length($1)"),
                    bind("", &[&vec![b'x'; 5_000_000]]),
                    execute("", 0),
                    sync(),
                ]),
                batch(&[parse("l", "SELECT length($1) FROM t LIMIT 1"), sync()]),
                batch(&[
                    bind("l", &[&vec![b'x'; 300_000]]),
                    execute("", 0),
                    bind("l", &[b"x"]),
                    execute("", 0),
                    sync(),
                ]),
                batch(&[
                    bind("nope", &[&vec![b'x'; 300_000]]),
                    execute("", 0),
                    sync(),
                ]),
                query("SELECT 1"),
            ],
        ),
        (
            "long statement",
            vec![batch(&[
                parse("", &format!("SELECT length('{}')", "z".repeat(1_000_000))),
                bind("", &[]),
                execute("", 0),
                sync(),
            ])],
        ),
    ])
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn pipelines_get_the_answers_of_the_primary() {
    let read = || [parse("", BY_ID), bind("", &[b"1"]), execute("", 0)].concat();
    let write = || {
        [
            parse("", "INSERT INTO w VALUES (1)"),
            bind("", &[]),
            execute("", 0),
        ]
        .concat()
    };
    let bad = || [parse("", "SELECT 1/0"), bind("", &[]), execute("", 0)].concat();
    let use_s = || [bind("s", &[b"4"]), execute("", 0), sync()].concat();
    let two_hundred: Vec<Vec<u8>> = (0..200)
        .map(|i| {
            if i % 7 == 3 {
                [write(), sync()].concat()
            } else {
                [read(), sync()].concat()
            }
        })
        .collect();
    let one_batch: Vec<Vec<u8>> = (0..200).map(|_| read()).chain([sync()]).collect();
    compare(vec![
        (
            "an error skips to the Sync",
            vec![
                batch(&[
                    parse("s", BY_ID),
                    write(),
                    bad(),
                    write(),
                    parse("q", "SELECT 1"),
                    sync(),
                ]),
                query("SELECT count(*) FROM w"),
                batch(&[bind("q", &[]), sync()]),
                batch(&[use_s()]),
            ],
        ),
        (
            "a failed Parse leaves no unnamed statement",
            vec![
                batch(&[parse("", "SELEC"), sync()]),
                batch(&[bind("", &[]), execute("", 0), sync()]),
            ],
        ),
        (
            "a skipped Parse leaves nothing",
            vec![
                batch(&[
                    bind("nope", &[]),
                    parse("", "SELECT 5"),
                    parse("s", "SELECT 6"),
                    sync(),
                ]),
                batch(&[bind("", &[]), execute("", 0), sync()]),
                batch(&[bind("s", &[]), execute("", 0), sync()]),
            ],
        ),
        (
            "several commands",
            vec![run("SELECT 1; SELECT 2"), run("SELECT 1")],
        ),
        (
            "several Syncs",
            vec![batches(
                &[
                    read(),
                    sync(),
                    write(),
                    sync(),
                    read(),
                    sync(),
                    bad(),
                    sync(),
                    sync(),
                    once("SELECT count(*) FROM w"),
                ],
                6,
            )],
        ),
        (
            "200 batches",
            vec![batches(&two_hundred, 200), query("SELECT count(*) FROM w")],
        ),
        ("200 statements in a batch", vec![batch(&one_batch)]),
        (
            "flush first",
            vec![
                until(b'T', &[parse("", BY_ID), describe(b'S', ""), flush()]),
                batch(&[bind("", &[b"2"]), execute("", 0), sync()]),
            ],
        ),
        (
            "flush a named one",
            vec![
                until(b'T', &[parse("s", BY_ID), describe(b'S', "s"), flush()]),
                batch(&[use_s()]),
                query("SELECT 1"),
                batch(&[use_s()]),
            ],
        ),
        (
            "flush everything",
            vec![
                until(b'C', &[write(), flush()]),
                until(b'C', &[write(), flush()]),
                batch(&[sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "flush, then an error",
            vec![
                until(b'C', &[write(), flush()]),
                until(b'E', &[bad(), flush()]),
                batch(&[write(), sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query is skipped too",
            vec![
                until(b'E', &[parse("", "SELEC"), flush()]),
                batch(&[
                    wire::query("INSERT INTO w VALUES (9)"),
                    flush(),
                    read(),
                    sync(),
                ]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query behind an open batch",
            vec![
                batch(&[write(), wire::query("SELECT count(*) FROM w")]),
                batch(&[sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query behind a failed batch",
            vec![
                batch(&[write(), bad(), wire::query("SELECT 1"), sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "set in an open batch",
            vec![
                until(
                    b'C',
                    &[
                        parse("", "SET work_mem TO '8MB'"),
                        bind("", &[]),
                        execute("", 0),
                        flush(),
                    ],
                ),
                until(b'E', &[bad(), flush()]),
                batch(&[sync()]),
                query("SHOW work_mem"),
                query("SELECT current_setting('work_mem') FROM t LIMIT 1"),
            ],
        ),
        (
            "Sync alone",
            vec![
                batch(&[sync()]),
                batches(&[sync(), sync(), flush(), sync()], 3),
            ],
        ),
        (
            "wrong number of parameters",
            vec![
                batch(&[parse("", BY_ID), bind("", &[]), execute("", 0), sync()]),
                batch(&[bind("", &[b"x"]), execute("", 0), sync()]),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_name_is_prepared_once_only() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    for sql in [BY_ID, "SHOW pgweir.consistency", "INSERT INTO w VALUES (1)"] {
        client.send(&[parse("s", sql), sync()].concat());
        assert!(client.until_ready().iter().all(|m| m.tag != b'E'), "{sql}");
        client.send(&[parse("s", "SELECT 1"), sync()].concat());
        let answer = client.until_ready();
        assert_eq!(
            answer[0].sqlstate().as_deref(),
            Some("42P05"),
            "{sql}: {answer:?}"
        );
        client.send(&[close(b'S', "s"), sync()].concat());
        client.until_ready();
    }
}

#[tokio::test]
async fn what_the_node_skipped_does_not_count_as_prepared() {
    let proxy = Proxy::start(filled().await, "clusters: { main: { pool: { size: 1 } } }").await;
    let text = "SELECT 41 + id FROM t WHERE id = 1";
    let mut holder = Wire::connect(proxy.port());
    holder.send(&[parse("s", text), sync()].concat());
    holder.until_ready();
    let mut client = Wire::connect(proxy.port());
    client.run("SET pgweir.consistency TO 'primary'");
    client.send(&[bind("nope", &[]), flush()].concat());
    client.until(b'E');
    client.send(&[parse("s", text), flush()].concat());
    client.send(&sync());
    client.until_ready();
    for _ in 0..2 {
        client.send(
            &[
                parse("s", text),
                bind("s", &[]),
                execute("", 0),
                close(b'S', "s"),
                sync(),
            ]
            .concat(),
        );
        let answer = client.until_ready();
        assert!(answer.iter().any(|m| m.tag == b'D'), "{answer:?}");
    }
}
