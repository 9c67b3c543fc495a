//! A service that hides its WAL positions, as Amazon Aurora does, acted on real streaming replication:
//! for the monitor's role its functions stand before PostgreSQL's own, and say what a test wants.

#![cfg(test)]

mod harness;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::wire::Wire;
use harness::{LIMIT, Proxy, eventually, yaml};
use pgweir::sandbox::LocalCluster;

const WINDOW: Duration = Duration::from_secs(2);
const READ: &str = "SELECT count(*) FROM visits";

/// What Aurora's own functions say, in `schema`. An instance is named by its port.
fn acted(schema: &str) -> Vec<String> {
    let made = [
        "CREATE TABLE aurora.status (server_id text, session_id text, replica_lag_in_msec float8, \
         age interval)",
        "GRANT SELECT ON aurora.status TO PUBLIC",
        "CREATE FUNCTION SCHEMA.aurora_db_instance_identifier() RETURNS text STABLE LANGUAGE sql \
         AS $$ SELECT 'port' || current_setting('port') $$",
        "CREATE FUNCTION SCHEMA.aurora_replica_status() RETURNS TABLE (server_id text, session_id text, \
         replica_lag_in_msec float8, last_update_timestamp timestamptz) STABLE LANGUAGE sql \
         AS $$ SELECT s.server_id, s.session_id, s.replica_lag_in_msec, clock_timestamp() - s.age \
         FROM aurora.status s $$",
    ];
    made.map(|sql| sql.replace("SCHEMA", schema)).to_vec()
}

/// A function that refuses as Aurora's do.
fn refusing(function: &str) -> String {
    format!(
        "CREATE FUNCTION aurora.{function}() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'Function {function}() is currently not supported for Aurora' \
         USING ERRCODE = 'feature_not_supported'; END $$"
    )
}

/// Two replicas whose service states a lag of 20 ms, with its functions in `schema`.
async fn service(schema: &str, refused: &[&str]) -> LocalCluster {
    let cluster = harness::cluster(2).await;
    let mut statements = vec![
        "CREATE SCHEMA aurora".to_owned(),
        "GRANT USAGE ON SCHEMA aurora TO PUBLIC".to_owned(),
    ];
    statements.extend(acted(schema));
    statements.extend(refused.iter().map(|function| refusing(function)));
    for node in cluster.nodes() {
        let (session, age) = match node {
            0 => ("'MASTER_SESSION_ID'", "NULL"),
            _ => ("gen_random_uuid()", "'0'"),
        };
        let port = cluster.port(node);
        statements.push(format!(
            "INSERT INTO aurora.status VALUES ('port{port}', {session}, 20, {age})"
        ));
    }
    statements.push("ALTER ROLE pgweir SET search_path = aurora, pg_catalog".to_owned());
    for sql in statements {
        cluster.superuser_sql(0, &sql).await.unwrap();
    }
    let table = "CREATE TABLE visits (id int)";
    cluster.sql(0, table).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    cluster
}

const ALL_POSITIONS: [&str; 4] = [
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_wal_receive_lsn",
];

fn policy(read_after_write: &str) -> String {
    format!(
        "clusters: {{ main: {{ monitor: {{ database: app }} }} }}\n\
         routing: {{ max_staleness: 2s }}\n\
         consistency: {{ read_after_write: {read_after_write}, window: {}s, wait: 500ms }}",
        WINDOW.as_secs()
    )
}

/// What the service states of a replica.
async fn state(cluster: &LocalCluster, replica: usize, set: &str) {
    let port = cluster.port(replica);
    let update = format!("UPDATE aurora.status SET {set} WHERE server_id = 'port{port}'");
    cluster.superuser_sql(0, &update).await.unwrap();
}

/// Where a read went and why.
fn route(client: &mut Wire) -> String {
    client.query(READ);
    client.last_route()
}

/// Waits until new sessions' reads go where that begins so.
async fn goes(proxy: &Proxy, where_and_why: &str) {
    let port = proxy.port();
    eventually(where_and_why, async || {
        route(&mut Wire::connect(port)).contains(where_and_why)
    })
    .await;
}

/// Waits until the explanation says of `replica` what begins so.
async fn stands(proxy: &Proxy, replica: usize, how: &str) {
    let port = proxy.port();
    let name = format!("replica node{replica}");
    eventually(&format!("{name}: {how}"), async || {
        let mut client = Wire::connect(port);
        let facts = client.query(&format!("EXPLAIN ROUTE {READ}"));
        facts.iter().filter(|one| one.tag == b'D').any(|fact| {
            let cells = fact.values();
            let begins = |place: usize, with: &str| {
                cells[place]
                    .as_deref()
                    .is_some_and(|cell| cell.starts_with(with))
            };
            begins(0, &name) && begins(1, how)
        })
    })
    .await;
}

fn check(cluster: &LocalCluster, overrides: &str) -> (i32, String, String) {
    let file = cluster.directory().join("checked.yaml");
    fs::write(&file, yaml::config(cluster, (6432, 9187), overrides)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    (status, text(output.stdout), text(output.stderr))
}

/// The lag that the table has for a replica.
fn stated_millis(table: &str, replica: usize) -> u64 {
    let name = format!("node{replica}");
    let rows = table.lines().map(|row| row.split_whitespace());
    let mut row = rows.filter(|row| row.clone().next() == Some(&name));
    let cells: Vec<&str> = row.next().expect(table).collect();
    let unit = cells.iter().position(|cell| *cell == "ms").expect(table);
    cells[unit - 1].parse().expect(table)
}

#[tokio::test]
async fn in_window_mode_reads_rely_on_what_a_service_states() {
    let cluster = service("aurora", &ALL_POSITIONS).await;
    let (status, out, err) = check(&cluster, &policy("window"));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for replica in cluster.replicas() {
        let stated = stated_millis(&out, replica);
        assert!((20..1000).contains(&stated), "{out}");
    }

    let proxy = Proxy::start(&cluster, &policy("window")).await;
    for replica in cluster.replicas() {
        stands(&proxy, replica, "fresh enough").await;
    }
    goes(&proxy, "role=replica reason=fresh").await;
    own_writes_are_read_on_the_primary_inside_the_window(&proxy);
    reads_that_need_a_proof_go_to_the_primary(&proxy);
    what_is_stated_keeps_a_replica_in_rotation_or_out(&cluster, &proxy).await;
}

fn own_writes_are_read_on_the_primary_inside_the_window(proxy: &Proxy) {
    let mut client = Wire::connect(proxy.port());
    let (mut inside, mut on_replicas) = (0, 0);
    for written in 1..=2 {
        client.run(&format!("INSERT INTO visits VALUES ({written})"));
        let acknowledged = Instant::now();
        loop {
            let asked = Instant::now();
            assert_eq!(client.value(READ), written.to_string());
            let went = client.last_route();
            if went.contains("role=replica") {
                let after = acknowledged.elapsed();
                assert!(after >= WINDOW, "{went} after {after:?}");
                on_replicas += 1;
                break;
            }
            if asked - acknowledged < WINDOW / 2 {
                assert!(went.contains("role=primary reason=window"), "{went}");
                inside += 1;
            }
            assert!(acknowledged.elapsed() < LIMIT, "{went}");
        }
    }
    assert!(inside > 2, "{inside} reads inside the window");
    assert_eq!(on_replicas, 2);
}

fn reads_that_need_a_proof_go_to_the_primary(proxy: &Proxy) {
    for (setting, expected) in [
        ("SET pgweir.consistency = 'eventual'", "role=replica"),
        ("SET pgweir.consistency = 'latest'", "reason=unproved"),
        ("SET pgweir.max_staleness = '1s'", "reason=unproved"),
        ("SET pgweir.key = 'user:42'", "reason=unproved"),
    ] {
        let mut client = Wire::connect(proxy.port());
        client.run(setting);
        // A new session begins with all that was acknowledged before: the service has to state that
        // the replicas have it.
        let deadline = Instant::now() + LIMIT;
        let mut went = route(&mut client);
        while !went.contains(expected) && Instant::now() < deadline {
            went = route(&mut client);
        }
        assert!(went.contains(expected), "{setting}: {went}");
        for _ in 0..10 {
            let went = route(&mut client);
            assert!(went.contains(expected), "{setting}: {went}");
        }
    }
    let mut client = Wire::connect(proxy.port());
    let token = client.query("SHOW pgweir.token");
    let refused = token.iter().find_map(harness::wire::Message::sqlstate);
    assert_eq!(refused.as_deref(), Some("57P03"), "positions are hidden");
}

async fn what_is_stated_keeps_a_replica_in_rotation_or_out(cluster: &LocalCluster, proxy: &Proxy) {
    let back = "replica_lag_in_msec = 20, age = '0'";
    for (set, how) in [
        ("replica_lag_in_msec = 2500", "serves no reads: lagging"),
        ("replica_lag_in_msec = NULL", "serves no reads: unmeasured"),
        ("age = NULL", "serves no reads: unmeasured"),
        ("age = '2 minutes'", "serves no reads: unmeasured"),
        ("age = '3 seconds'", "serves no reads: lagging"),
    ] {
        state(cluster, 1, set).await;
        stands(proxy, 1, how).await;
        let mut client = Wire::connect(proxy.port());
        for _ in 0..10 {
            let went = route(&mut client);
            assert!(!went.contains("node=node1"), "{set}: {went}");
        }
        state(cluster, 1, back).await;
        stands(proxy, 1, "fresh enough").await;
    }
    // The control: it is asked when it may be.
    let port = proxy.port();
    eventually("the replica serves again", async || {
        let mut client = Wire::connect(port);
        (0..10).any(|_| route(&mut client).contains("node=node1"))
    })
    .await;
    for replica in cluster.replicas() {
        state(cluster, replica, "replica_lag_in_msec = 2500").await;
        stands(proxy, replica, "serves no reads: lagging").await;
    }
    goes(proxy, "role=primary reason=lagging").await;
}

#[tokio::test]
async fn in_position_mode_no_replica_serves_what_a_service_only_states() {
    // For logical decoding the writer shows its positions; its readers do not.
    let cluster = service("pg_catalog", &ALL_POSITIONS[2..]).await;
    let (status, out, err) = check(&cluster, &policy("position"));
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("hides its WAL positions"), "{err}");
    assert!(err.contains("read_after_write: window"), "{err}");
    let (status, out, err) = check(&cluster, &policy("window"));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    state(&cluster, 2, "age = NULL").await;
    let (status, out, err) = check(&cluster, &policy("window"));
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("no lag of 1 of its replicas"), "{err}");
    state(&cluster, 2, "age = '0'").await;

    let proxy = Proxy::start(&cluster, &policy("position")).await;
    for replica in cluster.replicas() {
        stands(&proxy, replica, "needs a proof").await;
    }
    goes(&proxy, "role=primary reason=unproved").await;
    for mode in ["session", "eventual", "latest"] {
        let mut client = Wire::connect(proxy.port());
        client.run(&format!("SET pgweir.consistency = '{mode}'"));
        client.run("INSERT INTO visits VALUES (1)");
        for _ in 0..20 {
            let went = route(&mut client);
            assert!(
                went.contains("node=node0 role=primary reason=unproved"),
                "{mode}: {went}"
            );
        }
    }
    let metrics = proxy.metrics().await;
    let replicas = [("role", "replica"), ("reason", "fresh")];
    assert!(metrics.sum("pgweir_queries_total", &replicas) < 0.5);
}
