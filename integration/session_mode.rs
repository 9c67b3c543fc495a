//! `pool.mode: session`: a session keeps one connection to the primary for its whole life, and its
//! reads still go to replicas.

#![cfg(test)]

mod harness;

use std::time::Duration;

use harness::parity::filled;
use harness::wire::{Message, Wire};
use harness::{Proxy, cluster, eventually, shared_cluster};
use pgweir::sandbox::LocalCluster;

const PID: &str = "SELECT pg_backend_pid() FROM t WHERE id = 1 FOR UPDATE";

/// In this mode, with room for so many sessions.
fn session_mode(size: usize) -> String {
    format!(
        "clusters: {{ main: {{ pool: {{ mode: session, size: {size}, checkout_timeout: 200ms }} }} }}"
    )
}

/// Reads until a replica serves the client.
fn read_on_a_replica(client: &mut Wire) -> String {
    let deadline = std::time::Instant::now() + harness::LIMIT;
    loop {
        // Before the replicas are known the primary serves it, if it has a place.
        client.query("SELECT count(*) FROM t");
        let route = client.last_route();
        if route.contains("role=replica") {
            return route;
        }
        assert!(std::time::Instant::now() < deadline, "{route}");
    }
}

fn error_of(answer: &[Message]) -> Option<String> {
    answer.iter().find_map(Message::sqlstate)
}

/// How many connections of the role `app` the primary has, besides those of the test itself.
async fn connections(cluster: &LocalCluster) -> String {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' \
                 AND backend_type = 'client backend' AND application_name = 'kept'";
    let rows = cluster.superuser_sql(0, count).await.unwrap();
    rows[0][0].clone().unwrap()
}

#[tokio::test]
async fn a_session_keeps_its_connection_and_nobody_else_gets_it() {
    let cluster = filled().await;
    let kept = Proxy::start(cluster, &session_mode(5)).await;
    let one = "clusters: { main: { pool: { size: 1 } } }";
    let shared = Proxy::start(cluster, one).await;
    let ask = |proxy: &Proxy| {
        let mut first = Wire::connect(proxy.port());
        let mut second = Wire::connect(proxy.port());
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push((first.value(PID), second.value(PID)));
            read_on_a_replica(&mut first);
        }
        drop(first);
        let mut third = Wire::connect(proxy.port());
        (seen, third.value(PID))
    };
    let (seen, third) = ask(&kept);
    let (first, second) = seen[0].clone();
    assert_ne!(first, second);
    assert!(seen.iter().all(|pids| *pids == seen[0]), "{seen:?}");
    assert!(third != first && third != second, "{third} after {seen:?}");
    // The client has its answer before its connection is set aside.
    eventually("three kept connections", async || {
        let metrics = kept.metrics().await;
        let pins = metrics.sum("pgweir_pins_total", &[("reason", "pool_mode")]);
        assert!(pins < 3.1, "{pins}");
        (pins - 3.0).abs() < 0.1
    })
    .await;
    // Otherwise the two share one.
    let (seen, third) = ask(&shared);
    assert_eq!(seen[0].0, seen[0].1);
    assert_eq!(third, seen[0].0);
}

#[tokio::test]
async fn reads_go_to_replicas_with_the_settings_and_after_the_writes_of_the_session() {
    let cluster = filled().await;
    let proxy = Proxy::start(cluster, &session_mode(5)).await;
    let mut client = Wire::connect(proxy.port());
    client.run("CREATE TABLE IF NOT EXISTS own (id int)");
    client.run("SET extra_float_digits TO -7");
    for round in 0..50 {
        client.run(&format!("INSERT INTO own VALUES ({round})"));
        let count = client.value("SELECT count(*) FROM own");
        assert_eq!(count, (round + 1).to_string());
    }
    read_on_a_replica(&mut client);
    assert_eq!(
        client.value("SELECT 0.123456789::float8 FROM t LIMIT 1"),
        "0.12345679"
    );
    assert!(client.last_route().contains("role=replica"));
    client.run("DROP TABLE own");
}

#[tokio::test]
async fn what_lives_on_the_connection_is_there_for_the_whole_session() {
    let cluster = filled().await;
    let proxy = Proxy::start(cluster, &session_mode(5)).await;
    let mut client = Wire::connect(proxy.port());
    client.run("CREATE TEMP TABLE mine AS SELECT 7 AS x");
    client.run("PREPARE p AS SELECT x + 1 FROM mine");
    assert_eq!(client.value("SELECT x FROM mine"), "7");
    assert_eq!(client.value("EXECUTE p"), "8");
    client.run("DISCARD ALL");
    assert_eq!(
        error_of(&client.query("SELECT x FROM mine")).unwrap(),
        "42P01"
    );
    read_on_a_replica(&mut client);
    drop(client);
    let mut next = Wire::connect(proxy.port());
    // No temporary schema is left from the session before.
    assert_eq!(
        next.value("SELECT pg_my_temp_schema() FROM t WHERE id = 1 FOR UPDATE"),
        "0"
    );
}

#[tokio::test]
async fn as_many_sessions_write_as_the_pool_has_places() {
    let cluster = filled().await;
    let proxy = Proxy::start(cluster, &session_mode(1)).await;
    let mut first = Wire::connect(proxy.port());
    first.run("INSERT INTO w VALUES (1)");
    let mut second = Wire::connect(proxy.port());
    // A reader needs no connection to the primary.
    read_on_a_replica(&mut second);
    let refused = second.query("INSERT INTO w VALUES (2)");
    assert_eq!(error_of(&refused).unwrap(), "53300", "{refused:?}");
    read_on_a_replica(&mut second);
    drop(first);
    eventually("the place is free", || async {
        let mut client = Wire::connect(proxy.port());
        error_of(&client.query("INSERT INTO w VALUES (3)")).is_none()
    })
    .await;
    second.run("INSERT INTO w VALUES (4)");
}

#[tokio::test]
async fn the_connection_is_closed_with_its_session() {
    let cluster = cluster(1).await;
    cluster.sql(0, "CREATE TABLE t (id int)").await.unwrap();
    let proxy = Proxy::start(&cluster, &session_mode(5)).await;
    let named = [("application_name", "kept")];
    let mut client = Wire::connect_with(proxy.port(), &named);
    client.run("INSERT INTO t VALUES (1)");
    assert_eq!(connections(&cluster).await, "1");
    drop(client);
    eventually("the connection is closed", || async {
        connections(&cluster).await == "0"
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_with_its_connection() {
    let cluster = filled().await;
    let proxy = Proxy::start(cluster, &session_mode(5)).await;
    for next in [
        None,
        Some("SELECT count(*) FROM t"),
        Some("INSERT INTO w VALUES (9)"),
    ] {
        let mut client = Wire::connect(proxy.port());
        let pid = client.value(PID);
        let kill = format!("SELECT pg_terminate_backend({pid}, 10000)");
        if let Some(next) = next {
            // Behind the end of the connection, whether the session has noticed it or not.
            client.send(&harness::wire::query(
                "SELECT pg_sleep(0.2) FROM t WHERE id = 1 FOR UPDATE",
            ));
            cluster.superuser_sql(0, &kill).await.unwrap();
            client.send_if_open(&harness::wire::query(next));
        } else {
            cluster.superuser_sql(0, &kill).await.unwrap();
        }
        client.wait_at_most(Duration::from_secs(20));
        let mut told = Vec::new();
        while let Ok(message) = client.try_receive() {
            told.push(message);
        }
        assert_eq!(error_of(&told).as_deref(), Some("57P01"), "{told:?}");
    }
}

#[tokio::test]
async fn idle_sessions_do_not_delay_a_stop_and_a_reload_leaves_them_alone() {
    let cluster = shared_cluster().await;
    filled().await;
    let mut proxy = Proxy::start(cluster, &session_mode(5)).await;
    let mut client = Wire::connect(proxy.port());
    let pid = client.value(PID);
    // The second one gives the cluster new pools.
    for (count, change) in [
        (1, "routing: { max_staleness: 9s }"),
        (2, "clusters: { main: { pool: { size: 4 } } }"),
    ] {
        proxy.reconfigure(change);
        proxy.reload();
        eventually("the reload is done", || async {
            proxy.log().matches("configuration reloaded").count() == count
        })
        .await;
    }
    for _ in 0..20 {
        client.run("SELECT count(*) FROM t");
        assert_eq!(client.value(PID), pid);
    }
    let stopped = std::time::Instant::now();
    let waits = tokio::task::spawn_blocking(move || client.try_receive());
    assert!(proxy.terminate().await.success());
    assert!(stopped.elapsed() < Duration::from_secs(10));
    assert_eq!(waits.await.unwrap().unwrap().sqlstate().unwrap(), "57P01");
}
