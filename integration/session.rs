//! A client cannot tell the proxy from the primary: the same bytes get the same messages back.

#![cfg(test)]

#[path = "session/ended.rs"]
mod ended;
mod harness;

use harness::Proxy;
use harness::parity::{batches, compare, filled, query};
use harness::wire::{self, Wire};

#[tokio::test]
async fn simple_queries_get_the_answers_of_the_primary() {
    let long = format!("SELECT length('{}')", "x".repeat(200_000));
    let rows = vec!["(7)"; 100_000].join(",");
    let insert = format!("INSERT INTO w VALUES {rows}");
    let literal = format!("SELECT length('{}')", "y".repeat(20_000_000));
    compare(vec![
        ("reads", vec![query("SELECT 1; SELECT v FROM t ORDER BY id LIMIT 2; SELECT 3")]),
        ("mixed", vec![query("SELECT count(*) FROM t; INSERT INTO w VALUES (1); SELECT count(*) FROM w"), query("SELECT count(*) FROM w")]),
        ("embedded block", vec![
            query("INSERT INTO w VALUES (1); BEGIN; INSERT INTO w VALUES (2); COMMIT; INSERT INTO w VALUES (3); SELECT 1/0"),
            query("SELECT id FROM w ORDER BY 1"),
        ]),
        ("block left open", vec![query("BEGIN; SELECT 1"), query("INSERT INTO w VALUES (5)"), query("ROLLBACK; SELECT 2"), query("SELECT count(*) FROM w")]),
        ("error in the middle", vec![query("INSERT INTO w VALUES (1); SELECT 1/0; INSERT INTO w VALUES (2)"), query("SELECT count(*) FROM w")]),
        ("error after rows of a read", vec![query("SELECT 1; SELECT 1/0"), query("SELECT 10 / (id - 10) FROM t ORDER BY id")]),
        ("empty", vec![query(""), query(" ; ;"), query("-- nothing\n")]),
        ("notice", vec![query("DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'there'; END $$"), query("SET client_min_messages TO debug1; RESET client_min_messages")]),
        ("errors", vec![query("SELEC 1"), query("SELECT * FROM missing"), query("SELECT nope FROM t"), query("SELECT nope()"), query("SELECT 'a'::int")]),
        ("commands outside a block", vec![query("COMMIT"), query("ROLLBACK"), query("SAVEPOINT a"), query("SET LOCAL work_mem TO '5MB'"), query("SHOW work_mem")]),
        ("200 KB", vec![query(&long)]),
        ("400 KB", vec![query(&insert), query("SELECT count(*) FROM w")]),
        ("20 MB", vec![query(&literal), query("SELECT 1")]),
        ("three queries in one write", vec![batches(&[wire::query("SELECT 1"), wire::query("INSERT INTO w VALUES (1)"), wire::query("SELECT count(*) FROM w")], 3)]),
    ])
    .await;
}

#[tokio::test]
async fn latin1_bytes_are_what_they_are() {
    let cluster = filled().await;
    let proxy = Proxy::start(cluster, "").await;
    let mut answers = Vec::new();
    for port in [cluster.port(0), proxy.port()] {
        let mut client = Wire::connect_with(port, &[("client_encoding", "LATIN1")]);
        let mut bytes = wire::query("SELECT '?' AS x, ascii('?'), count(*) FROM t");
        for byte in &mut bytes {
            if *byte == b'?' {
                *byte = 0xe9;
            }
        }
        client.send(&bytes);
        let mut answer = client.until_ready();
        answer.extend(client.query("SHOW client_encoding"));
        answers.push(answer);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[1][1].body[6], 0xe9, "{:?}", answers[1]);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn blocks_behave_as_on_the_primary() {
    compare(vec![
        (
            "commit",
            vec![
                query("BEGIN"),
                query("INSERT INTO w VALUES (1)"),
                query("COMMIT"),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "rollback",
            vec![
                query("BEGIN"),
                query("INSERT INTO w VALUES (1)"),
                query("ROLLBACK"),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "failed block",
            vec![
                query("BEGIN"),
                query("SELECT 1/0"),
                query("SELECT 1"),
                query("SHOW work_mem"),
                query("COMMIT"),
                query("SELECT 1"),
            ],
        ),
        (
            "savepoints",
            vec![
                query("BEGIN"),
                query("INSERT INTO w VALUES (1)"),
                query("SAVEPOINT a"),
                query("SELECT 1/0"),
                query("ROLLBACK TO a"),
                query("INSERT INTO w VALUES (2)"),
                query("RELEASE a"),
                query("COMMIT"),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "read only",
            vec![
                query("BEGIN READ ONLY"),
                query("SELECT count(*) FROM t"),
                query("SELECT 1/0"),
                query("SELECT 1"),
                query("ROLLBACK"),
                query("SELECT 1"),
            ],
        ),
        (
            "read only refuses writes",
            vec![
                query("BEGIN READ ONLY"),
                query("SELECT count(*) FROM t"),
                query("INSERT INTO w VALUES (1)"),
                query("COMMIT"),
            ],
        ),
        (
            "read only begins with what needs the primary",
            vec![
                query("BEGIN READ ONLY"),
                query("SELECT pg_is_in_recovery()"),
                query("COMMIT"),
            ],
        ),
        (
            "read only repeatable",
            vec![
                query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                query("SELECT count(*) FROM t"),
                query("SELECT v FROM t WHERE id = 3"),
                query("COMMIT"),
            ],
        ),
        (
            "serializable read only",
            vec![
                query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"),
                query("SELECT count(*) FROM t"),
                query("SHOW transaction_isolation"),
                query("COMMIT"),
            ],
        ),
        (
            "set local",
            vec![
                query("BEGIN"),
                query("SET LOCAL work_mem TO '5MB'"),
                query("SHOW work_mem"),
                query("COMMIT"),
                query("SHOW work_mem"),
            ],
        ),
        (
            "set rolled back",
            vec![
                query("BEGIN"),
                query("SET work_mem TO '5MB'"),
                query("SHOW work_mem"),
                query("ROLLBACK"),
                query("SHOW work_mem"),
                query("SELECT current_setting('work_mem') FROM t LIMIT 1"),
            ],
        ),
        (
            "set committed",
            vec![
                query("BEGIN"),
                query("SET work_mem TO '6MB'"),
                query("COMMIT"),
                query("SHOW work_mem"),
                query("SELECT current_setting('work_mem') FROM t LIMIT 1"),
            ],
        ),
        (
            "cursor",
            vec![
                query("BEGIN"),
                query("DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id"),
                query("FETCH 2 FROM c"),
                query("FETCH 1 FROM c"),
                query("COMMIT"),
            ],
        ),
        (
            "chain",
            vec![
                query("BEGIN"),
                query("INSERT INTO w VALUES (1)"),
                query("COMMIT AND CHAIN"),
                query("INSERT INTO w VALUES (1)"),
                query("ROLLBACK AND CHAIN"),
                query("SELECT count(*) FROM w"),
                query("COMMIT"),
            ],
        ),
        (
            "modes set later",
            vec![
                query("BEGIN"),
                query("SET TRANSACTION READ ONLY"),
                query("INSERT INTO w VALUES (1)"),
                query("ROLLBACK"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn settings_behave_as_on_the_primary() {
    compare(vec![
        (
            "set show reset",
            vec![
                query("SET work_mem TO '7MB'"),
                query("SHOW work_mem"),
                query("SELECT current_setting('work_mem')"),
                query("SELECT current_setting('work_mem') FROM t LIMIT 1"),
                query("RESET work_mem"),
                query("SHOW work_mem"),
            ],
        ),
        (
            "search_path",
            vec![
                query("SET search_path TO pg_catalog"),
                query("SELECT * FROM t"),
                query("RESET ALL"),
                query("SELECT count(*) FROM t"),
            ],
        ),
        (
            "time zone",
            vec![
                query("SET TIME ZONE 'America/New_York'"),
                query("SELECT '2020-01-01 12:00+00'::timestamptz"),
                query("SELECT '2020-01-01 12:00+00'::timestamptz, id FROM t WHERE id = 1"),
            ],
        ),
        (
            "datestyle",
            vec![
                query("SET datestyle TO German"),
                query("SELECT '2020-01-31'::date FROM t LIMIT 1"),
                query("RESET datestyle"),
                query("SELECT '2020-01-31'::date"),
            ],
        ),
        (
            "set fails",
            vec![
                query("SET work_mem TO 'x'"),
                query("SHOW work_mem"),
                query("SET nope TO 1"),
                query("SET a.b TO 'c'"),
                query("SHOW a.b"),
            ],
        ),
        (
            "set with others",
            vec![
                query("SET work_mem TO '5MB'; SELECT 1/0"),
                query("SHOW work_mem"),
                query("SET work_mem TO '5MB'; SELECT 1"),
                query("SHOW work_mem"),
            ],
        ),
        (
            "role",
            vec![
                query("SET ROLE pgweir"),
                query("RESET ROLE"),
                query("SELECT current_user"),
            ],
        ),
        (
            "discard",
            vec![
                query("SET work_mem TO '5MB'"),
                query("PREPARE p AS SELECT 1"),
                query("DISCARD ALL"),
                query("SHOW work_mem"),
                query("EXECUTE p"),
            ],
        ),
        (
            "sql prepare",
            vec![
                query("PREPARE p(int) AS SELECT v FROM t WHERE id = $1"),
                query("EXECUTE p(3)"),
                query("SELECT 1"),
                query("EXECUTE p(4)"),
                query("DEALLOCATE p"),
                query("EXECUTE p(4)"),
            ],
        ),
        (
            "temporary table",
            vec![
                query("CREATE TEMP TABLE x (a int)"),
                query("INSERT INTO x VALUES (1), (2)"),
                query("SELECT count(*) FROM t"),
                query("SELECT count(*) FROM x"),
                query("DISCARD TEMP"),
                query("SELECT * FROM x"),
            ],
        ),
        (
            "advisory lock",
            vec![
                query("SELECT pg_advisory_lock(1)"),
                query("SELECT count(*) FROM t"),
                query("SELECT pg_advisory_unlock(1)"),
                query("SELECT pg_advisory_unlock(1)"),
            ],
        ),
        (
            "sequence",
            vec![
                query("CREATE TEMP SEQUENCE q"),
                query("SELECT nextval('q')"),
                query("SELECT currval('q')"),
            ],
        ),
        (
            "conforming strings",
            vec![
                query("SET standard_conforming_strings TO off"),
                query(r"SELECT 'a\nb' FROM t LIMIT 1"),
                query("SET standard_conforming_strings TO on"),
                query(r"SELECT 'a\nb' FROM t LIMIT 1"),
            ],
        ),
    ])
    .await;
}
