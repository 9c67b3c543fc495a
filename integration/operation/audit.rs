//! Reads of replicas that are verified behind the read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::harness::relay::{Travel, switched_relay};
use super::harness::{self, Proxy};
use super::value;

const AUDITS: &str = "pgweir_audits_total";

async fn audits(proxy: &Proxy, outcome: &str) -> f64 {
    let metrics = proxy.metrics().await;
    metrics.sum(AUDITS, &[("outcome", outcome)])
}

#[tokio::test]
async fn every_kind_of_read_is_confirmed_and_answered_as_without_an_audit() {
    let cluster = harness::cluster(2).await;
    cluster
        .sql(0, "CREATE TABLE audited (id int)")
        .await
        .unwrap();
    let policy = "consistency: { audit_one_in: 1, on_no_replica: wait, max_wait: 20s }";
    let proxy = Proxy::start(&cluster, policy).await;
    let client = proxy.connect().await;
    let prepared = client
        .prepare("SELECT count(*) FROM audited WHERE id < $1")
        .await
        .unwrap();
    let on_replica = || async {
        let count = value(&client, "SELECT count(*) FROM audited").await;
        assert_eq!(count.unwrap(), "0");
        let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
        route.contains("role=replica")
    };
    harness::eventually("the replicas serve reads", on_replica).await;
    for id in 0..20_i32 {
        let insert = format!("INSERT INTO audited VALUES ({id})");
        client.batch_execute(&insert).await.unwrap();
        let count = value(&client, "SELECT count(*) FROM audited").await;
        assert_eq!(count.unwrap(), (id + 1).to_string());
        for _ in 0..2 {
            let row = client.query_one(&prepared, &[&i32::MAX]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), i64::from(id + 1));
        }
        let failed = client.query("SELECT 1 / (count(*) - count(*)) FROM audited", &[]);
        assert!(failed.await.is_err());
    }
    // The last one may not have been counted yet.
    let confirmed = || async { audits(&proxy, "confirmed").await >= 80.0 };
    harness::eventually("all four reads of every round are confirmed", confirmed).await;
    let asked = proxy
        .metrics()
        .await
        .sum("pgweir_position_samples_total", &[("node", "node0")]);
    assert!(
        asked >= 20.0,
        "questions to the primary are counted: {asked}"
    );
    for outcome in ["behind", "other_server", "undecided"] {
        assert!(audits(&proxy, outcome).await < 1.0, "{}", proxy.log());
    }
}

/// The monitor is connected to one replica, and whoever connects later reaches another: no proof
/// holds for what serves the reads.
#[tokio::test]
async fn a_read_behind_a_balancer_that_swaps_servers_is_told() {
    let cluster = harness::cluster(2).await;
    cluster
        .sql(0, "CREATE TABLE swapped (id int)")
        .await
        .unwrap();
    for replica in [1, 2] {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    cluster.pause_replay(2).await.unwrap();
    let behind_it = Arc::new(AtomicU16::new(cluster.port(1)));
    let balancer = switched_relay(Arc::clone(&behind_it), Travel::Bytewise);
    let nodes = format!(
        "consistency: {{ audit_one_in: 1 }}\n\
         clusters: {{ main: {{ nodes: [{{ host: 127.0.0.1, port: {} }}, {{ host: 127.0.0.1, port: {balancer} }}] }} }}",
        cluster.port(0)
    );
    let proxy = Proxy::start(&cluster, &nodes).await;
    behind_it.store(cluster.port(2), Ordering::SeqCst);
    let client = proxy.connect().await;
    let missed_its_write = || async {
        let mine = client.batch_execute("INSERT INTO swapped VALUES (1)").await;
        mine.unwrap();
        value(&client, "SELECT count(*) FROM swapped")
            .await
            .unwrap()
            == "0"
    };
    harness::eventually("a read misses the session's own write", missed_its_write).await;
    let told = || async { audits(&proxy, "behind").await >= 1.0 };
    harness::eventually("the audit tells", told).await;
    assert!(
        proxy.log().contains("a replica has served a read"),
        "{}",
        proxy.log()
    );
}
