//! SIGHUP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::task::JoinHandle;

use super::harness::{self, Proxy, eventually};
use super::{code, connect, value};

/// Reloads and waits for the log to speak of it once more.
async fn reload(proxy: &Proxy, told: &str) {
    let before = proxy.log().matches(told).count();
    proxy.reload();
    let again = || async { proxy.log().matches(told).count() > before };
    eventually("the reload is logged", again).await;
}

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "configuration not reloaded";

#[tokio::test]
async fn a_good_file_holds_from_the_next_statement_on_without_losing_anybody() {
    let cluster = harness::shared_cluster().await;
    let mut proxy = Proxy::start(cluster, "consistency: { default: primary }").await;
    let client = proxy.connect().await;
    let in_recovery = "SELECT pg_is_in_recovery()";
    assert_eq!(
        value(&client, "SHOW pgweir.consistency").await.unwrap(),
        "primary"
    );
    value(&client, "SELECT count(*) FROM pg_class")
        .await
        .unwrap();
    let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
    assert!(route.contains("role=primary"), "{route}");
    // A transaction keeps what it began with, and survives.
    client.batch_execute("BEGIN").await.unwrap();
    proxy.reconfigure(
        "consistency: { default: eventual }\n\
         users: [{ name: app, password: app }, { name: late, password: late }]",
    );
    assert_eq!(code(&connect(&proxy, "late").await.err().unwrap()), "28P01");
    reload(&proxy, RELOADED).await;
    assert_eq!(value(&client, in_recovery).await.unwrap(), "f");
    client.batch_execute("COMMIT").await.unwrap();
    let on_replica = || async {
        value(&client, "SELECT 1 FROM pg_class LIMIT 1")
            .await
            .unwrap();
        let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
        route.contains("role=replica")
    };
    eventually("the replicas serve reads", on_replica).await;
    // The new user passes the proxy; the servers do not know it.
    assert_ne!(
        connect(&proxy, "late")
            .await
            .err()
            .map(|error| error.to_string()),
        None
    );
    proxy.reconfigure("users: [{ name: late, password: late }]");
    reload(&proxy, RELOADED).await;
    assert_eq!(code(&connect(&proxy, "app").await.err().unwrap()), "28P01");
    assert_eq!(value(&client, "SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_the_log_names_every_fault() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let client = proxy.connect().await;
    proxy.write_config("lisen: x\nworkers: 0\nclusters: {}\nusers: []\n");
    reload(&proxy, REFUSED).await;
    let log = proxy.log();
    for fault in ["lisen", "workers", "clusters", "users"] {
        assert!(log.contains(fault), "{fault}: {log}");
    }
    proxy.write_config("][");
    reload(&proxy, REFUSED).await;
    assert_eq!(value(&client, "SELECT 1").await.unwrap(), "1");
    assert_eq!(
        value(&proxy.connect().await, "SELECT 1").await.unwrap(),
        "1"
    );
    proxy.write_config(proxy.config());
    reload(&proxy, RELOADED).await;
}

/// Clients that write and read all the time and must not meet an error.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(proxy: &Proxy, table: &'static str, clients: u32) -> Self {
        let first = proxy.connect().await;
        first
            .batch_execute(&format!("CREATE TABLE {table} (id int, v int)"))
            .await
            .unwrap();
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let mut tasks = Vec::new();
        for id in 0..clients {
            let client = proxy.connect().await;
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            tasks.push(tokio::spawn(async move {
                client
                    .batch_execute(&format!("INSERT INTO {table} VALUES ({id}, 0)"))
                    .await
                    .unwrap();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let write = format!("UPDATE {table} SET v = {round} WHERE id = {id}");
                    client.batch_execute(&write).await.unwrap();
                    let sql = format!("SELECT v FROM {table} WHERE id = {id}");
                    assert_eq!(value(&client, &sql).await.unwrap(), round.to_string());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self {
            stop,
            rounds,
            clients: tasks,
        }
    }

    /// Waits until it has gone on for a while.
    async fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("the load goes on", || async {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            failed || self.rounds.load(Ordering::Relaxed) > before + 40
        })
        .await;
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test]
async fn nodes_come_and_go_under_load_without_an_error() {
    let cluster = harness::shared_cluster().await;
    let mut proxy = Proxy::start(cluster, "").await;
    let all = serde_yaml::from_str::<serde_yaml::Value>(proxy.config()).unwrap();
    let nodes = all["clusters"]["main"]["nodes"]
        .as_sequence()
        .unwrap()
        .clone();
    let overrides = |nodes: &[serde_yaml::Value]| {
        let nodes = serde_yaml::to_string(nodes)
            .unwrap()
            .replace('\n', "\n    ");
        format!("clusters:\n  main:\n    nodes:\n    {nodes}\n")
    };
    let load = Load::start(&proxy, "load", 4).await;
    load.goes_on().await;
    let mut reversed = nodes.clone();
    reversed.reverse();
    for nodes in [
        &nodes[..2],
        &nodes[..1],
        &nodes[..],
        &reversed[..],
        &nodes[1..],
        &nodes[..],
    ] {
        proxy.reconfigure(&overrides(nodes));
        let has_primary = nodes.iter().any(|node| node["name"] == "node0");
        if !has_primary {
            continue;
        }
        reload(&proxy, RELOADED).await;
        load.goes_on().await;
    }
    load.finish().await;
    let replicas = || async {
        proxy
            .metrics()
            .await
            .sum("pgweir_node_up", &[("role", "replica")])
            > 1.5
    };
    eventually("both replicas are back", replicas).await;
}

#[tokio::test]
async fn what_reads_may_be_like_changes_under_load_without_a_question_who_is_the_primary() {
    let cluster = harness::shared_cluster().await;
    let mut proxy = Proxy::start(cluster, "").await;
    let load = Load::start(&proxy, "load_of_policies", 4).await;
    load.goes_on().await;
    let found = |proxy: &Proxy| proxy.log().matches("primary found").count();
    let before = found(&proxy);
    for seconds in 0..20 {
        let max_staleness = 10 + seconds;
        proxy.reconfigure(&format!("routing: {{ max_staleness: {max_staleness}s }}"));
        reload(&proxy, RELOADED).await;
    }
    load.goes_on().await;
    load.finish().await;
    assert_eq!(found(&proxy), before, "{}", proxy.log());
}

#[tokio::test]
async fn a_new_bound_of_staleness_holds_at_once() {
    let cluster = harness::shared_cluster().await;
    let mut proxy = Proxy::start(cluster, "consistency: { default: eventual, wait: 0ms }").await;
    let client = proxy.connect().await;
    let route = async || {
        value(&client, "SELECT 1 FROM pg_class LIMIT 1")
            .await
            .unwrap();
        value(&client, "SHOW pgweir.last_route").await.unwrap()
    };
    let on_replica = || async { route().await.contains("role=replica") };
    eventually("the replicas serve reads", on_replica).await;
    proxy.reconfigure("routing: { max_staleness: 1ms }");
    reload(&proxy, RELOADED).await;
    let told = || async { proxy.log().contains("replica out of rotation") };
    eventually("a replica is out of rotation", told).await;
    proxy.reconfigure("routing: { max_staleness: 10s }");
    reload(&proxy, RELOADED).await;
    eventually("the replicas serve reads again", on_replica).await;
}

#[tokio::test]
async fn prepared_statements_are_still_the_clients_own_after_the_pools_were_replaced() {
    let cluster = harness::shared_cluster().await;
    let with = |timeout: &str| {
        let pool = format!("pool: {{ size: 1, idle_timeout: {timeout} }}");
        format!("clusters: {{ main: {{ {pool} }} }}\nconsistency: {{ default: primary }}")
    };
    let mut proxy = Proxy::start(cluster, &with("9m")).await;
    let old = proxy.connect().await;
    let eleven = old.prepare("SELECT 11").await.unwrap();
    let value_of = |row: tokio_postgres::Row| row.get::<_, i32>(0);
    assert_eq!(value_of(old.query_one(&eleven, &[]).await.unwrap()), 11);
    proxy.reconfigure(&with("8m"));
    reload(&proxy, RELOADED).await;
    let new = proxy.connect().await;
    let other = new.prepare("SELECT 22").await.unwrap();
    for _ in 0..3 {
        assert_eq!(value_of(new.query_one(&other, &[]).await.unwrap()), 22);
        assert_eq!(value_of(old.query_one(&eleven, &[]).await.unwrap()), 11);
    }
}
