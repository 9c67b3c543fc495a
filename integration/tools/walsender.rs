//! The replication protocol itself, message by message.

use std::time::{Duration, Instant};

use super::{Bench, printed, tool, value};
use crate::harness::eventually;
use crate::harness::wire::{self, Message, Wire};

const PHYSICAL: [(&str, &str); 2] = [("user", "repl"), ("replication", "true")];
const DATABASE: [(&str, &str); 2] = [("user", "repl"), ("replication", "database")];

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|m| char::from(m.tag)).collect()
}

/// Everything that comes until the connection is closed.
fn rest(wire: &mut Wire) -> Vec<Message> {
    let mut all = Vec::new();
    while let Ok(message) = wire.try_receive() {
        all.push(message);
    }
    all
}

/// A stream of WAL from here on.
async fn streaming(bench: &Bench) -> Wire {
    let mut wire = Wire::connect_with(bench.proxy.port(), &PHYSICAL);
    let from = value(&bench.cluster, "SELECT pg_current_wal_lsn()").await;
    wire.send(&wire::query(&format!("START_REPLICATION PHYSICAL {from}")));
    assert_eq!(wire.receive().tag, b'W');
    // The first message of the stream: both directions are open.
    assert_eq!(wire.receive().tag, b'd');
    wire
}

#[tokio::test]
async fn a_walsender_greets_and_answers_as_the_primary_does() {
    let bench = Bench::start(1, "").await;
    for parameters in [PHYSICAL, DATABASE] {
        let mut answers = Vec::new();
        for (_, port) in bench.both() {
            let mut wire = Wire::connect_with(port, &parameters);
            let greeting = wire.greeting.clone();
            let reported = greeting.into_iter().filter(|m| m.tag != b'K');
            let mut all: Vec<Message> = reported.collect();
            for sql in [
                "IDENTIFY_SYSTEM",
                "SHOW wal_level",
                "TIMELINE_HISTORY 1",
                "NONSENSE",
                "SELECT count(*) FROM pg_class WHERE relname = 'pg_class'; SELECT 1",
                "CREATE_REPLICATION_SLOT x TEMPORARY PHYSICAL",
                "DROP_REPLICATION_SLOT x",
            ] {
                all.extend(wire.query(sql));
            }
            answers.push(all);
        }
        // The position in IDENTIFY_SYSTEM may move; system and timeline may not.
        let fixed = |messages: &[Message]| -> Vec<String> {
            let shown = messages.iter().map(|message| match message.tag {
                b'D' => format!("{:?}", &message.values()[..message.values().len().min(2)]),
                _ => format!("{message:?}"),
            });
            shown.collect()
        };
        assert_eq!(fixed(&answers[0]), fixed(&answers[1]));
    }
    // psql, as the manual shows it.
    let connection = format!("port={} replication=database", bench.proxy.port());
    let arguments = ["-XAtc", "IDENTIFY_SYSTEM", &connection];
    let shown = printed(tool("psql", bench.proxy.port(), "repl", &arguments)).await;
    assert!(shown.trim().ends_with("|app"), "{shown}");
}

#[tokio::test]
async fn the_node_says_who_may_replicate() {
    let bench = Bench::start(0, "").await;
    for replication in ["true", "database", "sometimes"] {
        let parameters = [("replication", replication)];
        let refusals = bench.both().map(|(_, port)| {
            let refused = Wire::try_connect(port, &parameters).unwrap_err();
            let last = refused.last().unwrap();
            (last.sqlstate().unwrap(), last.field(b'S'), last.field(b'M'))
        });
        assert_eq!(refusals[0], refusals[1]);
        assert_eq!(refusals[0].1.as_deref(), Some("FATAL"));
    }
}

#[tokio::test]
async fn a_stream_goes_both_ways_and_ends_when_the_client_says_so() {
    let bench = Bench::start(0, "").await;
    let mut wire = streaming(&bench).await;
    bench
        .cluster
        .sql(0, "CREATE TABLE t (id int)")
        .await
        .unwrap();
    // WAL comes while status updates go; the last one asks for an answer.
    let mut update = vec![b'r'];
    update.extend_from_slice(&[0; 32]);
    update.push(1);
    for _ in 0..100 {
        wire.send(&wire::copy_data(&update));
    }
    let deadline = Instant::now() + crate::harness::LIMIT;
    let (mut keepalives, mut data) = (0, 0);
    while keepalives < 100 || data < 1 {
        let message = wire.receive();
        match message.body[0] {
            b'k' => keepalives += 1,
            b'w' => data += 1,
            other => panic!("{other}"),
        }
        assert!(Instant::now() < deadline);
    }
    wire.send(&wire::copy_done());
    let end = wire.until_ready();
    let shown = tags(&end);
    assert!(shown.trim_start_matches('d').starts_with("cC"), "{shown}");
    // The connection takes the next command.
    assert_eq!(tags(&wire.query("IDENTIFY_SYSTEM")), "TDCZ");
}

#[tokio::test]
async fn a_command_can_be_cancelled() {
    let bench = Bench::start(0, "").await;
    let mut wire = Wire::connect_with(bench.proxy.port(), &DATABASE);
    wire.send(&wire::query("SELECT pg_sleep(60)"));
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    eventually("it runs", || async {
        value(&bench.cluster, sleeps).await == "1"
    })
    .await;
    wire::cancel(bench.proxy.port(), &wire.cancel_key());
    let answer = wire.until_ready();
    assert_eq!(answer[1].sqlstate().as_deref(), Some("57014"), "{answer:?}");
}

#[tokio::test]
async fn a_stop_and_a_new_primary_end_a_stream_with_57p01() {
    let bench = Bench::start(1, "").await;
    let mut wire = streaming(&bench).await;
    bench.cluster.promote(1).await.unwrap();
    let told = tokio::task::spawn_blocking(move || rest(&mut wire))
        .await
        .unwrap();
    let last = told.last().unwrap();
    assert_eq!(last.sqlstate().as_deref(), Some("57P01"), "{told:?}");
    let message = last.field(b'M').unwrap();
    assert!(message.contains("another node"), "{message}");

    let bench = Bench::start(0, "").await;
    let mut stream = streaming(&bench).await;
    let mut idle = Wire::connect_with(bench.proxy.port(), &DATABASE);
    let stopped = Instant::now();
    assert!(bench.proxy.terminate().await.success());
    assert!(stopped.elapsed() < Duration::from_secs(10));
    for wire in [&mut stream, &mut idle] {
        let told = rest(wire);
        let last = told.last().unwrap();
        assert_eq!(last.sqlstate().as_deref(), Some("57P01"), "{told:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_node_back_and_no_memory() {
    let bench = Bench::start(0, "").await;
    let rows = "CREATE TABLE big AS SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i";
    bench.cluster.sql(0, rows).await.unwrap();
    let mut wire = Wire::connect_with(bench.proxy.port(), &PHYSICAL);
    let before = bench.proxy.rss_bytes();
    wire.send(&wire::query("BASE_BACKUP ( CHECKPOINT 'fast' )"));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
                 AND wait_event = 'ClientWrite'";
    eventually("the node waits for the client", || async {
        value(&bench.cluster, waits).await == "1"
    })
    .await;
    let grown = bench.proxy.rss_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    let total = tokio::task::spawn_blocking(move || wire.skim_until_ready());
    let total = total.await.unwrap();
    assert!(total > 30_000_000, "{total} bytes");
    let grown = bench.proxy.rss_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

#[tokio::test]
async fn the_node_is_free_again_when_the_client_has_vanished() {
    let bench = Bench::start(0, "").await;
    let wire = streaming(&bench).await;
    let senders = "SELECT count(*) FROM pg_stat_replication";
    assert_eq!(value(&bench.cluster, senders).await, "1");
    wire.vanish();
    eventually("the walsender has ended", || async {
        value(&bench.cluster, senders).await == "0"
    })
    .await;
}
