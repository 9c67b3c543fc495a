//! The extended protocol: what a client prepares is its own, wherever it runs.

#![cfg(test)]

#[path = "prepared/blocks.rs"]
mod blocks;
mod harness;
#[path = "prepared/long.rs"]
mod long;
#[path = "prepared/pipelines.rs"]
mod pipelines;

use harness::Proxy;
use harness::parity::{Step, batch, compare, filled, query};
use harness::wire::{Wire, bind, bind_portal, close, describe, execute, flush, parse, sync};

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

#[tokio::test]
async fn what_stands_behind_a_refused_setting_is_the_unnamed_statement() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    let run = [bind("", &[]), execute("", 0), sync()].concat();
    let refused = parse("", "SET pgweir.consistency TO 'bogus'");
    client.send(&[refused, run.clone()].concat());
    assert!(
        client
            .until_ready()
            .iter()
            .any(|message| message.tag == b'E')
    );
    client.send(&[parse("", "SELECT 7"), sync()].concat());
    client.until_ready();
    client.send(&run);
    let answer = client.until_ready();
    let row = answer.iter().find(|message| message.tag == b'D');
    let row = row.unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(row.values(), [Some("7".to_owned())]);
}
