//! Sessions that share server connections see nothing of each other.

#![cfg(test)]

mod harness;

use std::thread;

use harness::Proxy;
use harness::parity::filled;
use harness::wire::{self, Wire, bind, execute, parse, sync};

/// Every client has a setting, a search path, a named and an unnamed statement of its own.
#[tokio::test]
async fn sixteen_clients_over_four_connections_never_meet_each_others_state() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 130;
    let cluster = filled().await;
    for i in 0..CLIENTS {
        let sql = format!("CREATE SCHEMA s{i}; CREATE TABLE s{i}.mine AS SELECT {i} AS owner");
        cluster.sql(0, &sql).await.unwrap();
    }
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let proxy = Proxy::start(cluster, "clusters: { main: { pool: { size: 2 } } }").await;
    let port = proxy.port();
    thread::scope(|scope| {
        for i in 0..CLIENTS {
            scope.spawn(move || stay_yourself(port, i, ROUNDS));
        }
    });
    let served = proxy.metrics().await.sum("pgweir_queries_total", &[]);
    assert!(served >= 2_000.0, "{served}");
}

fn stay_yourself(port: u16, i: usize, rounds: usize) {
    let name = format!("client{i}");
    let mut client = Wire::connect_with(port, &[("application_name", &name)]);
    client.run(&format!("SET search_path TO s{i}"));
    client.run(&format!("SET work_mem TO '{}kB'", 1000 + i));
    client.send(&[parse("s", "SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine"), sync()].concat());
    client.until_ready();
    let own = [i.to_string(), format!("{}kB", 1000 + i), name];
    let own: Vec<Option<String>> = own.into_iter().map(Some).collect();
    for round in 0..rounds {
        match round % 4 {
            0 => client.send(&wire::query("SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine")),
            2 => {
                // Keeps the primary's connections in use too.
                client.run(&format!("UPDATE mine SET owner = {i}"));
                client.send(&[parse("", "SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine"), bind("", &[]), execute("", 0), sync()].concat());
            }
            _ => client.send(&[bind("s", &[]), execute("", 0), sync()].concat()),
        }
        let answer = client.until_ready();
        let row = answer.iter().find(|m| m.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("client {i}, round {round}: {answer:?}"));
        assert_eq!(row.values(), own, "client {i}, round {round}");
    }
}
