//! What DDL has changed is known before the next read, whichever way it takes place.

use std::time::Duration;

use pgweir::sandbox::{ClusterOptions, LocalCluster};
use tokio::time::sleep;

use crate::harness::wire::Wire;
use crate::harness::{Proxy, eventually};

/// Tells which node it ran on; reads of it may run on a replica while it is not volatile.
const STABLE: &str = "CREATE OR REPLACE FUNCTION marked() RETURNS bool LANGUAGE sql STABLE AS 'SELECT pg_is_in_recovery()'";
const VOLATILE: &str = "CREATE OR REPLACE FUNCTION marked() RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT pg_is_in_recovery()'";

/// How long the primary must serve: longer than it takes to load the catalog, and much shorter than the
/// time after which it is loaded in any case.
const KEPT: Duration = Duration::from_secs(2);

async fn start() -> (LocalCluster, Proxy) {
    let options = ClusterOptions::new(1).with_setting("max_prepared_transactions", "10");
    let cluster = LocalCluster::start(options).await.unwrap();
    cluster.sql(0, STABLE).await.unwrap();
    cluster.sql(0, "CREATE TABLE w (id int)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    let proxy = Proxy::start(&cluster, "consistency: { default: eventual }").await;
    (cluster, proxy)
}

fn is_read_on_a_replica(port: u16) -> bool {
    Wire::connect(port).value("SELECT marked()") == "t"
}

async fn becomes_a_read_of_a_replica(port: u16) {
    let read = async || is_read_on_a_replica(port);
    eventually("a replica serves the function", read).await;
}

async fn stays_on_the_primary(port: u16) {
    let until = tokio::time::Instant::now() + KEPT;
    while tokio::time::Instant::now() < until {
        assert!(
            !is_read_on_a_replica(port),
            "a replica runs a volatile function"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_a_prepared_transaction_has_changed_is_known_when_it_commits() {
    let (_cluster, proxy) = start().await;
    let mut other = Wire::connect(proxy.port());
    for (name, sql) in [("data", "INSERT INTO w VALUES (1)"), ("ddl", VOLATILE)] {
        let mut preparing = Wire::connect(proxy.port());
        preparing.run("BEGIN");
        preparing.run(sql);
        preparing.run(&format!("PREPARE TRANSACTION '{name}'"));
    }
    becomes_a_read_of_a_replica(proxy.port()).await;
    other.run("COMMIT PREPARED 'data'");
    assert!(
        is_read_on_a_replica(proxy.port()),
        "a transaction without DDL changes nothing in the catalog"
    );
    other.run("COMMIT PREPARED 'ddl'");
    stays_on_the_primary(proxy.port()).await;
    other.run(STABLE);
    becomes_a_read_of_a_replica(proxy.port()).await;
}

#[tokio::test]
async fn what_was_prepared_without_pgweir_may_have_changed_anything() {
    let (cluster, proxy) = start().await;
    becomes_a_read_of_a_replica(proxy.port()).await;
    let script = format!("BEGIN; {VOLATILE}; PREPARE TRANSACTION 'unseen'");
    cluster.sql(0, &script).await.unwrap();
    Wire::connect(proxy.port()).run("COMMIT PREPARED 'unseen'");
    stays_on_the_primary(proxy.port()).await;
}

#[tokio::test]
async fn ddl_under_way_while_the_nodes_are_reloaded_is_known_when_it_commits() {
    let (cluster, mut proxy) = start().await;
    becomes_a_read_of_a_replica(proxy.port()).await;
    let mut changing = Wire::connect(proxy.port());
    changing.run("BEGIN");
    changing.run(VOLATILE);
    let nodes: Vec<String> = cluster
        .nodes()
        .map(|node| {
            let port = cluster.port(node);
            format!("{{ name: node{node}, host: 127.0.0.1, port: {port}, weight: 2 }}")
        })
        .collect();
    let nodes = nodes.join(", ");
    proxy.reconfigure(&format!("clusters: {{ main: {{ nodes: [{nodes}] }} }}"));
    proxy.reload();
    let reloaded = async || proxy.log().contains("configuration reloaded");
    eventually("the reload is done", reloaded).await;
    becomes_a_read_of_a_replica(proxy.port()).await;
    changing.run("COMMIT");
    stays_on_the_primary(proxy.port()).await;
}

/// A procedure with this body.
fn procedure(name: &str, body: &str) -> String {
    format!("CREATE OR REPLACE PROCEDURE {name}() LANGUAGE plpgsql AS $p$ BEGIN {body}; END $p$")
}

#[tokio::test]
async fn a_procedure_that_runs_no_ddl_leaves_reads_on_replicas() {
    let (_cluster, proxy) = start().await;
    let mut other = Wire::connect(proxy.port());
    let changing = format!("EXECUTE $x${VOLATILE}$x$");
    for sql in [
        procedure("quiet", "INSERT INTO w VALUES (1)"),
        procedure("replaced", "INSERT INTO w VALUES (2)"),
        procedure("changing", &changing),
    ] {
        other.run(&sql);
    }
    becomes_a_read_of_a_replica(proxy.port()).await;
    for _ in 0..20 {
        other.run("CALL quiet()");
        assert!(is_read_on_a_replica(proxy.port()));
    }
    other.run("CALL changing()");
    stays_on_the_primary(proxy.port()).await;
    other.run(STABLE);
    becomes_a_read_of_a_replica(proxy.port()).await;
    // Nobody has had time to read what it is now.
    other.run(&procedure("replaced", &changing));
    other.run("CALL replaced()");
    stays_on_the_primary(proxy.port()).await;
}

/// How many of some reads, each directly behind DDL of what it reads, replicas served.
async fn served_behind_ddl(wait: &str) -> usize {
    let cluster = LocalCluster::start(ClusterOptions::new(1)).await.unwrap();
    let proxy = Proxy::start(
        &cluster,
        &format!("consistency: {{ wait: {wait}, max_wait: 10s }}"),
    )
    .await;
    let mut client = Wire::connect(proxy.port());
    client.run("CREATE VIEW shown AS SELECT 1 AS one");
    let mut read = move || {
        client.run("CREATE OR REPLACE VIEW shown AS SELECT 1 AS one");
        assert_eq!(client.value("SELECT one FROM shown"), "1");
        client.last_route().contains("role=replica")
    };
    // How long a load takes is known behind the first.
    eventually("the catalog is loaded", async || {
        Wire::connect(proxy.port()).run("SELECT one FROM shown");
        proxy
            .metrics()
            .await
            .sum("pgweir_queries_total", &[("role", "replica")])
            > 0.0
    })
    .await;
    (0..20).filter(|_| read()).count()
}

#[tokio::test]
async fn a_read_behind_ddl_waits_for_the_catalog_where_that_is_soon_loaded() {
    assert_eq!(served_behind_ddl("10s").await, 20);
}

#[tokio::test]
async fn a_read_behind_ddl_goes_to_the_primary_where_it_may_not_wait() {
    assert_eq!(served_behind_ddl("0ms").await, 0);
}
