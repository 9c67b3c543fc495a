//! What must hold in containers: the compose file as a stranger starts it.
//!
//! Skips, saying so, where no Docker engine answers.

#![cfg(test)]

mod docker;
mod harness;

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use docker::Project;
use harness::eventually;
use tokio_postgres::Client;

const WHERE: &str = "SELECT host(inet_server_addr())";

/// Starts a project or ends the test, saying why.
macro_rules! project {
    () => {
        match docker::unavailable() {
            Some(reason) => {
                // Not eprintln: its output is hidden when a test passes.
                writeln!(
                    io::stderr(),
                    "SKIPPED, containers were not tested: {reason}"
                )
                .unwrap();
                return;
            }
            None => Project::start().await,
        }
    };
}

#[tokio::test]
async fn a_session_reads_its_own_writes_and_eventual_reads_use_both_replicas() {
    let project = project!();
    let client = project.connect().await;
    client
        .batch_execute("CREATE TABLE t (v int)")
        .await
        .unwrap();
    for expected in 1..=100_i64 {
        client
            .execute("INSERT INTO t VALUES (1)", &[])
            .await
            .unwrap();
        let count = client
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap();
        assert_eq!(count.get::<_, i64>(0), expected);
    }
    let replicas = BTreeSet::from(["node1", "node2"].map(|node| project.address(node)));
    client
        .batch_execute("SET pgweir.consistency = 'eventual'")
        .await
        .unwrap();
    let seen = || async { places(&client, 20).await == replicas };
    eventually("eventual reads use both replicas and nothing else", seen).await;
}

#[tokio::test]
async fn reads_leave_a_replica_whose_replay_is_paused_and_come_back() {
    let project = project!();
    let paused = project.address("node1");
    let client = project.connect().await;
    client
        .batch_execute("CREATE TABLE t (v int)")
        .await
        .unwrap();
    project.superuser_sql("node1", "SELECT pg_wal_replay_pause()");
    client
        .execute("INSERT INTO t VALUES (1)", &[])
        .await
        .unwrap();
    // The session's own write is not on the paused replica, now or ever.
    for _ in 0..100 {
        let row = client
            .query_one("SELECT host(inet_server_addr()), count(*) FROM t", &[])
            .await;
        let row = row.unwrap();
        assert_eq!(row.get::<_, i64>(1), 1);
        assert_ne!(row.get::<_, String>(0), paused);
    }
    project.superuser_sql("node1", "SELECT pg_wal_replay_resume()");
    let back = || async { places(&client, 20).await.contains(&paused) };
    eventually("the resumed replica serves the session again", back).await;
}

#[tokio::test]
async fn a_killed_replica_interrupts_nobody_and_serves_again_when_started() {
    let project = project!();
    let client = project.connect().await;
    client
        .batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    client
        .batch_execute("SET pgweir.consistency = 'eventual'")
        .await
        .unwrap();
    let killed = project.address("node2");
    let served = || async { places(&client, 20).await.contains(&killed) };
    eventually("the replica serves", served).await;
    project.kill("node2");
    for _ in 0..100 {
        assert_ne!(place(&client).await, killed);
    }
    project.start_service("node2");
    // Its address may be another one now.
    let expected = || async {
        let replicas = BTreeSet::from(["node1", "node2"].map(|node| project.address(node)));
        places(&client, 20).await == replicas
    };
    eventually("the started replica serves again", expected).await;
}

#[tokio::test]
async fn writes_go_to_a_promoted_replica_after_the_primary_is_gone() {
    let project = project!();
    let client = project.connect().await;
    client
        .batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let made = "SELECT count(*) FROM pg_class WHERE relname = 't'";
    let caught_up = || async { project.superuser_sql("node1", made) == "1\n" };
    eventually("the replica has the table", caught_up).await;
    project.kill("node0");
    project.superuser_sql("node1", "SELECT pg_promote()");
    let written = || async {
        let client = project.connect().await;
        client
            .execute("INSERT INTO t VALUES (2)", &[])
            .await
            .is_ok()
    };
    eventually("a write succeeds on the new primary", written).await;
    let rows = project.superuser_sql("node1", "SELECT count(*) FROM t WHERE v = 2");
    assert_eq!(rows, "1\n");
}

/// The address of the node which serves the next read.
async fn place(client: &Client) -> String {
    client.query_one(WHERE, &[]).await.unwrap().get(0)
}

/// The addresses of the nodes which serve the next reads.
async fn places(client: &Client, reads: usize) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for _ in 0..reads {
        places.insert(place(client).await);
    }
    places
}
