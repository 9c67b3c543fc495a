//! A pipeline costs one round trip, not one for each statement, however far everything is apart; and a
//! statement that was prepared on another connection costs no second one.

#![cfg(test)]

mod harness;

use std::time::{Duration, Instant};

use harness::relay::{Travel, relay};
use harness::wire::{self, Wire};
use harness::{Proxy, eventually, shared_cluster};
use pgweir::limits::STATEMENT_TRUST;
use pgweir::sandbox::LocalCluster;
use tokio_postgres::SimpleQueryMessage;

/// Statements in one pipeline.
const STATEMENTS: usize = 200;

/// What each network takes in one direction; longer than what an unoptimized build computes, so that a
/// round trip too many shows.
const HOP: Duration = Duration::from_millis(if cfg!(debug_assertions) { 40 } else { 5 });

/// What the proxy's own work may add in an unoptimized build: less than a round trip.
const OWN_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 60 } else { 0 });

/// Where the Syncs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    AtTheEnd,
    BehindEach,
}

/// Parse, Bind and Execute of statement `at`, as the pipeline needs them.
type Statement = fn(usize) -> Vec<u8>;

fn read(at: usize) -> Vec<u8> {
    let value = at.to_string();
    let bind = wire::bind("", &[value.as_bytes()]);
    [
        wire::parse("", "SELECT $1::int"),
        bind,
        wire::execute("", 0),
    ]
    .concat()
}

fn prepared(at: usize) -> Vec<u8> {
    let value = at.to_string();
    [wire::bind("s", &[value.as_bytes()]), wire::execute("", 0)].concat()
}

fn write(at: usize) -> Vec<u8> {
    let value = at.to_string();
    let bind = wire::bind("i", &[value.as_bytes()]);
    [bind, wire::execute("", 0)].concat()
}

fn read_or_write(at: usize) -> Vec<u8> {
    if at.is_multiple_of(2) {
        prepared(at)
    } else {
        write(at)
    }
}

/// The shortest of some runs.
fn fastest(port: u16, statement: Statement, syncs: Syncs) -> Duration {
    let mut client = Wire::connect(port);
    client.run("SELECT 1");
    let prepare = [
        wire::parse("s", "SELECT $1::int"),
        wire::parse("i", "INSERT INTO w VALUES ($1)"),
        wire::sync(),
    ];
    client.send(&prepare.concat());
    client.until_ready();
    let (sync, ready) = match syncs {
        Syncs::AtTheEnd => (Vec::new(), 1),
        Syncs::BehindEach => (wire::sync(), STATEMENTS + 1),
    };
    let mut pipeline: Vec<u8> = (0..STATEMENTS)
        .flat_map(|at| [statement(at), sync.clone()].concat())
        .collect();
    pipeline.extend(wire::sync());
    let runs = (0..3).map(|_| {
        let start = Instant::now();
        client.send(&pipeline);
        let answer: Vec<_> = (0..ready).flat_map(|_| client.until_ready()).collect();
        let taken = start.elapsed();
        let done = answer.iter().filter(|message| message.tag == b'C').count();
        let error = answer.iter().find(|message| message.tag == b'E');
        assert_eq!((done, error), (STATEMENTS, None));
        taken
    });
    runs.min().unwrap()
}

/// The ports of relays to the nodes, and the nodes as the configuration lists them.
fn far_nodes(cluster: &LocalCluster, hop: Duration) -> (Vec<u16>, String) {
    let far = |node| relay(cluster.port(node), Travel::Delayed(hop));
    let ports: Vec<u16> = cluster.nodes().map(far).collect();
    let node = |port: &u16| format!("{{ host: 127.0.0.1, port: {port} }}");
    let nodes: Vec<String> = ports.iter().map(node).collect();
    (ports, nodes.join(", "))
}

#[tokio::test]
async fn a_pipeline_takes_one_hop_more_than_directly() {
    let cluster = shared_cluster().await;
    cluster.sql(0, "CREATE TABLE w (id int)").await.unwrap();
    let far = Travel::Delayed(HOP);
    let (ports, nodes) = far_nodes(cluster, HOP);
    let nodes = format!("clusters: {{ main: {{ nodes: [{nodes}] }} }}");
    let proxy = Proxy::start(cluster, &nodes).await;
    let proxied = relay(proxy.port(), far);
    let kinds: [(&str, Statement); 4] = [
        ("unnamed reads", read),
        ("prepared reads", prepared),
        ("writes", write),
        ("reads and writes", read_or_write),
    ];
    let mut slow = Vec::new();
    for (kind, statement) in kinds {
        for syncs in [Syncs::AtTheEnd, Syncs::BehindEach] {
            let direct = fastest(ports[0], statement, syncs);
            let through = fastest(proxied, statement, syncs);
            let line = format!("{kind}, syncs {syncs:?}: {through:?}, directly {direct:?}");
            println!("{line}");
            if through > direct.mul_f64(1.2) + 2 * HOP + OWN_TIME {
                slow.push(line);
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

/// Statements that are run on a connection that lacks them.
const LACKING: usize = 6;

/// How far the nodes are then, in one direction: what is computed must not look like a round trip.
const FAR: Duration = Duration::from_millis(25);

/// Runs every statement twice in turn on a connection that has none of them, and returns how long the
/// first and the second run of one took at least. Both of the pool's connections are in use by turns: one
/// is held while the statements are prepared on the other, and that one while they run.
fn first_and_second_run(port: u16, text: fn(usize) -> String, block: &str) -> [Duration; 2] {
    let [mut client, mut here, mut there] = [(); 3].map(|()| Wire::connect(port));
    client.run("SET pgweir.consistency TO 'primary'");
    there.run("BEGIN; LOCK l IN ACCESS SHARE MODE");
    let names = || (0..LACKING).map(|at| format!("s{at}"));
    let parses = names().enumerate();
    let mut batch: Vec<u8> = parses
        .flat_map(|(at, name)| wire::parse(&name, &text(at)))
        .collect();
    batch.extend(wire::sync());
    client.send(&batch);
    client.until_ready();
    here.run("BEGIN; LOCK l IN ACCESS SHARE MODE");
    there.run("COMMIT");
    std::thread::sleep(STATEMENT_TRUST);
    if !block.is_empty() {
        client.run(block);
        client.run("LOCK l IN ACCESS SHARE MODE");
    }
    let run = |name: String| {
        let messages = [wire::bind(&name, &[]), wire::execute("", 0), wire::sync()];
        let start = Instant::now();
        client.send(&messages.concat());
        let answer = client.until_ready();
        assert!(
            answer.iter().all(|message| message.tag != b'E'),
            "{answer:?}"
        );
        start.elapsed()
    };
    let mut run = run;
    [(); 2].map(|()| names().map(&mut run).min().unwrap())
}

#[tokio::test]
async fn a_read_that_another_connection_has_prepared_takes_no_second_round_trip() {
    let cluster = shared_cluster().await;
    cluster.sql(0, "CREATE TABLE l (id int)").await.unwrap();
    let (_, nodes) = far_nodes(cluster, FAR);
    let pool = format!("clusters: {{ main: {{ pool: {{ size: 2 }}, nodes: [{nodes}] }} }}");
    let proxy = Proxy::start(cluster, &pool).await;
    // Until the table is known, its reads may write for all that pgweir knows.
    let session = proxy.connect().await;
    eventually("the table is known", async || {
        let explained = session.simple_query("EXPLAIN ROUTE SELECT id FROM l").await;
        let read = |fact: &SimpleQueryMessage| matches!(fact, SimpleQueryMessage::Row(row) if row.get("value") == Some("read"));
        explained.unwrap().iter().any(read)
    })
    .await;
    drop(session);
    let read: fn(usize) -> String = |at| format!("SELECT id, {at} FROM l");
    let write: fn(usize) -> String = |at| format!("INSERT INTO l VALUES ({at})");
    let returning: fn(usize) -> String = |at| format!("INSERT INTO l VALUES ({at}) RETURNING *");
    for (kind, text, block, round_trips) in [
        ("a read", read, "", 1_u32),
        ("a write", write, "", 1),
        ("a write that returns rows", returning, "", 2),
        ("a read in a block", read, "BEGIN", 2),
    ] {
        let [first, second] = first_and_second_run(proxy.port(), text, block);
        println!("{kind}: {first:?}, then {second:?}");
        for (run, trips) in [(first, round_trips), (second, 1)] {
            let least = 2 * FAR * trips;
            assert!((least..least + FAR).contains(&run), "{kind}: {run:?}");
        }
    }
}
