//! A pipeline costs one round trip, not one for each statement, however far everything is apart.

#![cfg(test)]

mod harness;

use std::time::{Duration, Instant};

use harness::relay::{Travel, relay};
use harness::wire::{self, Wire};
use harness::{Proxy, shared_cluster};

/// Statements in one pipeline.
const STATEMENTS: usize = 200;

/// What each network takes in one direction.
const HOP: Duration = Duration::from_millis(5);

/// What the proxy's own work may add: an unoptimized build computes for some milliseconds, more for
/// statements that it judges and answers one by one. A round trip for each would take two seconds.
const fn own_time(syncs: Syncs) -> Duration {
    let milliseconds = match syncs {
        Syncs::AtTheEnd => 25,
        Syncs::BehindEach => 120,
    };
    Duration::from_millis(if cfg!(debug_assertions) {
        milliseconds
    } else {
        0
    })
}

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
    let runs = (0..5).map(|_| {
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

#[tokio::test]
async fn a_pipeline_takes_one_hop_more_than_directly() {
    let cluster = shared_cluster().await;
    cluster.sql(0, "CREATE TABLE w (id int)").await.unwrap();
    let far = Travel::Delayed(HOP);
    let ports: Vec<u16> = cluster
        .nodes()
        .map(|node| relay(cluster.port(node), far))
        .collect();
    let nodes: Vec<String> = ports
        .iter()
        .map(|port| format!("{{ host: 127.0.0.1, port: {port} }}"))
        .collect();
    let nodes = format!("clusters: {{ main: {{ nodes: [{}] }} }}", nodes.join(", "));
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
            if through > direct.mul_f64(1.2) + 2 * HOP + own_time(syncs) {
                slow.push(line);
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}
