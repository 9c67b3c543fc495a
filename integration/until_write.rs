//! `routing.transactions: until_write`: blocks read from replicas until they write.

#![cfg(test)]

mod harness;

use harness::wire::{self, Wire, bind, bind_portal, execute, parse, sync};
use harness::{Proxy, eventually, shared_cluster};

/// A proxy in front of the shared cluster, and a table of two rows that only this test uses.
async fn proxy(table: &str, transactions: &str) -> Proxy {
    let cluster = shared_cluster().await;
    let make = format!(
        "CREATE TABLE {table} AS SELECT generate_series(1, 2) AS v; CREATE SEQUENCE {table}_s;
         CREATE FUNCTION {table}_sneaky() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT nextval('{table}_s') $$;
         ALTER TABLE {table} OWNER TO app; GRANT ALL ON SEQUENCE {table}_s TO app"
    );
    cluster.sql(0, &make).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let routing = format!("routing: {{ transactions: {transactions} }}");
    let proxy = Proxy::start(cluster, &routing).await;
    let port = proxy.port();
    let read = format!("SELECT count(*) FROM {table}");
    eventually("replicas serve reads", async || {
        let mut client = Wire::connect(port);
        client.run(&read);
        client.last_route().contains("role=replica")
    })
    .await;
    // The default isolation of the role is asked for at the first block.
    let mut client = Wire::connect(port);
    client.run("BEGIN");
    client.run(&read);
    client.run("COMMIT");
    proxy
}

/// Where the last statement ran.
fn role(client: &mut Wire) -> &'static str {
    if client.last_route().contains("role=replica") {
        "replica"
    } else {
        "primary"
    }
}

/// Begins a block whose first read runs on a replica. One that is still behind the session's own
/// writes does not get it.
fn begin_on_replica(client: &mut Wire, begin: &str, read: &str) -> String {
    for _ in 0..1_000 {
        client.run(begin);
        let value = client.value(read);
        if role(client) == "replica" {
            return value;
        }
        client.run("ROLLBACK");
    }
    panic!("no replica has served a block");
}

/// The SQLSTATEs of the answer, and the status at its end.
fn outcome(answer: &[wire::Message]) -> (Vec<String>, u8) {
    let errors = answer.iter().filter(|message| message.tag == b'E');
    let ready = answer.iter().rfind(|message| message.tag == b'Z');
    (
        errors.filter_map(wire::Message::sqlstate).collect(),
        ready.map_or(0, |message| message.body[0]),
    )
}

#[tokio::test]
async fn a_block_reads_on_a_replica_until_it_writes() {
    let proxy = proxy("uw_moves", "until_write").await;
    let mut client = Wire::connect(proxy.port());
    client.run("INSERT INTO uw_moves VALUES (3)");
    let count = begin_on_replica(&mut client, "BEGIN", "SELECT count(*) FROM uw_moves");
    assert_eq!(count, "3");
    assert_eq!(client.value("SELECT max(v) FROM uw_moves"), "3");
    assert_eq!(role(&mut client), "replica");
    let answer = client.query("INSERT INTO uw_moves VALUES (4)");
    assert_eq!(outcome(&answer), (vec![], b'T'));
    assert_eq!(role(&mut client), "primary");
    assert_eq!(client.value("SELECT count(*) FROM uw_moves"), "4");
    assert_eq!(role(&mut client), "primary");
    let mut other = Wire::connect(proxy.port());
    assert_eq!(other.value("SELECT count(*) FROM uw_moves"), "3");
    client.run("COMMIT");
    assert_eq!(client.value("SELECT count(*) FROM uw_moves"), "4");

    let begin = "START TRANSACTION ISOLATION LEVEL READ COMMITTED";
    let count = begin_on_replica(&mut client, begin, "SELECT count(*) FROM uw_moves");
    assert_eq!(count, "4");
    client.run("DELETE FROM uw_moves");
    client.run("ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM uw_moves"), "4");
}

/// The control: by default such blocks are the primary's.
#[tokio::test]
async fn by_default_a_block_reads_on_the_primary() {
    let proxy = proxy("uw_default", "primary").await;
    let mut client = Wire::connect(proxy.port());
    client.run("BEGIN");
    client.run("SELECT count(*) FROM uw_default");
    assert_eq!(role(&mut client), "primary");
}

#[tokio::test]
async fn a_block_that_fails_on_a_replica_is_a_failed_block() {
    let proxy = proxy("uw_fails", "until_write").await;
    let mut client = Wire::connect(proxy.port());
    begin_on_replica(&mut client, "BEGIN", "SELECT count(*) FROM uw_fails");
    let answer = client.query("SELECT 1 / (v - v) FROM uw_fails");
    assert_eq!(outcome(&answer), (vec!["22012".to_owned()], b'E'));
    for sql in ["INSERT INTO uw_fails VALUES (9)", "SELECT 1", "SAVEPOINT a"] {
        let answer = client.query(sql);
        assert_eq!(outcome(&answer), (vec!["25P02".to_owned()], b'E'), "{sql}");
    }
    let answer = client.query("COMMIT");
    assert_eq!(outcome(&answer), (vec![], b'I'));
    assert_eq!(client.value("SELECT count(*) FROM uw_fails"), "2");
}

/// The replica refuses them; the block goes on where they can run, with nothing said.
#[tokio::test]
async fn what_a_replica_cannot_run_moves_the_block() {
    let proxy = proxy("uw_sneaky", "until_write").await;
    let mut client = Wire::connect(proxy.port());
    begin_on_replica(&mut client, "BEGIN", "SELECT count(*) FROM uw_sneaky");
    assert_eq!(client.value("SELECT uw_sneaky_sneaky()"), "1");
    assert_eq!(role(&mut client), "primary");
    client.run("INSERT INTO uw_sneaky VALUES (9)");
    client.run("COMMIT");
    assert_eq!(client.value("SELECT count(*) FROM uw_sneaky"), "3");
    for first in [
        "SAVEPOINT a",
        "SET LOCAL work_mem TO '1MB'",
        "SELECT v FROM uw_sneaky FOR UPDATE",
        "DECLARE c CURSOR FOR SELECT v FROM uw_sneaky",
        "CREATE TEMPORARY TABLE uw_t (v int) ON COMMIT DROP",
    ] {
        begin_on_replica(&mut client, "BEGIN", "SELECT count(*) FROM uw_sneaky");
        let answer = client.query(first);
        assert_eq!(outcome(&answer), (vec![], b'T'), "{first}");
        assert_eq!(role(&mut client), "primary", "{first}");
        client.run("INSERT INTO uw_sneaky VALUES (10)");
        client.run("ROLLBACK");
    }
}

#[tokio::test]
async fn prepared_statements_move_with_the_block() {
    let proxy = proxy("uw_prepared", "until_write").await;
    let mut client = Wire::connect(proxy.port());
    let prepare = [
        parse("r", "SELECT count(*) FROM uw_prepared"),
        parse("w", "INSERT INTO uw_prepared VALUES (5)"),
        sync(),
    ];
    client.send(&prepare.concat());
    client.until_ready();
    let run = |client: &mut Wire, name| {
        client.send(&[bind(name, &[]), execute("", 0), sync()].concat());
        outcome(&client.until_ready())
    };
    begin_on_replica(&mut client, "BEGIN", "SELECT count(*) FROM uw_prepared");
    assert_eq!(run(&mut client, "r"), (vec![], b'T'));
    assert_eq!(role(&mut client), "replica");
    assert_eq!(run(&mut client, "w"), (vec![], b'T'));
    assert_eq!(role(&mut client), "primary");
    client.run("COMMIT");
    assert_eq!(client.value("SELECT count(*) FROM uw_prepared"), "3");
    // A portal that is fetched from later stays where it is.
    client.run("BEGIN");
    client.send(&[bind_portal("p", "r", &[]), execute("p", 1), sync()].concat());
    assert_eq!(outcome(&client.until_ready()), (vec![], b'T'));
    assert_eq!(role(&mut client), "primary");
    client.run("COMMIT");
}

/// All statements of such a block share one snapshot, so it cannot go on elsewhere.
#[tokio::test]
async fn other_isolation_levels_are_the_primarys() {
    let proxy = proxy("uw_levels", "until_write").await;
    let mut client = Wire::connect(proxy.port());
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN READ WRITE",
    ] {
        client.run(begin);
        client.run("SELECT count(*) FROM uw_levels");
        assert_eq!(role(&mut client), "primary", "{begin}");
        client.run("COMMIT");
    }
    client.run("SET default_transaction_isolation TO 'repeatable read'");
    client.run("BEGIN");
    client.run("SELECT count(*) FROM uw_levels");
    assert_eq!(role(&mut client), "primary", "by SET");
    client.run("COMMIT");
    let option = "-c default_transaction_isolation=repeatable\\ read";
    let mut client = Wire::connect_with(proxy.port(), &[("options", option)]);
    for at in 0..3 {
        client.run("BEGIN");
        client.run("SELECT count(*) FROM uw_levels");
        assert_eq!(role(&mut client), "primary", "at connect, block {at}");
        client.run("COMMIT");
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_to_be_read_goes_on_on_the_primary() {
    let proxy = proxy("uw_long", "until_write").await;
    let long = format!("SELECT length('{}')", "z".repeat(17 << 20));
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        let mut client = Wire::connect(proxy.port());
        begin_on_replica(&mut client, begin, "SELECT count(*) FROM uw_long");
        client.send(&[parse("", &long), bind("", &[]), execute("", 0), sync()].concat());
        assert_eq!(outcome(&client.until_ready()), (vec![], b'T'), "{begin}");
        client.send(&wire::query(&long));
        assert_eq!(outcome(&client.until_ready()), (vec![], b'T'), "{begin}");
        assert_eq!(role(&mut client), "primary", "{begin}");
        let answer = client.query("INSERT INTO uw_long VALUES (3)");
        let errors = if begin == "BEGIN" {
            vec![]
        } else {
            vec!["25006".to_owned()]
        };
        assert_eq!(outcome(&answer).0, errors, "{begin}");
        client.run("ROLLBACK");
    }
}
