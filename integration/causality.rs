//! Causality beyond one connection: what one member of a key (or a holder of a token) was told, every
//! other one sees, whichever connection it uses. Judged by values only.
//!
//! `PGWEIR_FAMILY_READS=20000 cargo test --test causality -- --nocapture` makes each test that long.

#![cfg(test)]

mod causality {
    pub(crate) mod family;
}
#[path = "causality/examples.rs"]
mod examples;
mod harness;
#[path = "causality/store.rs"]
mod store;
#[path = "causality/tokens.rs"]
mod tokens;

use std::sync::Arc;
use std::time::{Duration, Instant};

use causality::family::{
    Acknowledged, Family, Findings, TABLES, Way, count_up, until_replicas_have_served,
};
use harness::{Proxy, cluster, eventually, full_size};
use pgweir::sandbox::LocalCluster;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::{Client, SimpleQueryMessage};

const FAMILIES: usize = 8;
const LAG: Duration = Duration::from_millis(50);

/// The tests measure shares and hold replicas behind, so they run one after another.
static ALONE: Mutex<()> = Mutex::const_new(());

fn reads_of_each() -> usize {
    full_size("PGWEIR_FAMILY_READS").unwrap_or(800) / FAMILIES
}

async fn lagging_cluster() -> Arc<LocalCluster> {
    let servers = cluster(2).await;
    servers.sql(0, TABLES).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
        servers.set_apply_delay(replica, LAG).await.unwrap();
    }
    Arc::new(servers)
}

/// Has families whose members are spread over `proxies` write and read.
async fn run(servers: &Arc<LocalCluster>, proxies: &[&Proxy], way: Way) -> Findings {
    let mut families = JoinSet::new();
    let counter = Acknowledged::default();
    let counting = tokio::spawn(count_up(Arc::clone(servers), counter.clone()));
    for id in 0..FAMILIES {
        let family = Family::open(proxies, i64::try_from(id).unwrap(), way, &counter).await;
        families.spawn(family.run(reads_of_each()));
    }
    let found: Findings = families.join_all().await.into_iter().sum();
    counting.abort();
    println!("{way:?} over {} proxies: {found:?}", proxies.len());
    found
}

/// Fails unless nothing was missed, with replicas taking part.
fn assert_causal(found: &Findings, what: &str) {
    assert_shared(found, what, 10);
}

/// The same, with one read in `share` on replicas at least.
fn assert_shared(found: &Findings, what: &str, share: usize) {
    assert_eq!((found.stale, found.backwards), (0, 0), "{what}: {found:?}");
    assert!(
        found.on_replicas * share >= found.reads,
        "{what}: the primary has served nearly everything: {found:?}"
    );
}

#[tokio::test]
async fn members_of_a_key_miss_nothing_of_each_other_however_they_name_it() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    for way in [Way::Set, Way::SetLocal, Way::Comment, Way::Startup] {
        let found = run(&servers, &[&proxy], way).await;
        // A new session sees what anybody wrote before it began, of other families too.
        let share = if way == Way::Startup { 20 } else { 10 };
        assert_shared(&found, &format!("{way:?}"), share);
    }
}

/// The control: the same without a key.
#[tokio::test]
async fn without_a_key_other_connections_miss_writes() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let proxies = &[&proxy];
    let some = || run(&servers, proxies, Way::Nothing);
    let found = until_replicas_have_served(40, some).await;
    assert!(
        found.stale * 4 >= found.on_replicas,
        "the other tests prove nothing: {found:?}"
    );
}

#[tokio::test]
async fn more_keys_than_there_is_room_for_make_no_read_stale() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "causality: { max_keys: 2, key_ttl: 1s }").await;
    let found = run(&servers, &[&proxy], Way::Set).await;
    assert_eq!((found.stale, found.backwards), (0, 0), "{found:?}");
}

#[tokio::test]
async fn keys_survive_a_reload() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let mut proxy = Proxy::start(&servers, "").await;
    let reader = member(&proxy, "k").await;
    for round in 1..6 {
        let writer = member(&proxy, "k").await;
        let write = format!("UPDATE family SET v = {round} WHERE id = 1");
        writer.batch_execute(&write).await.unwrap();
        // The list of nodes changes: their ids mean something else.
        let weight = 10 + round;
        let nodes = [2, 0, 1].map(|node| {
            let port = servers.port(node);
            format!("{{ name: node{node}, host: 127.0.0.1, port: {port}, weight: {weight} }}")
        });
        proxy.reconfigure(&format!(
            "clusters: {{ main: {{ nodes: [{}] }} }}",
            nodes.join(", ")
        ));
        proxy.reload();
        let reloads = usize::try_from(round).unwrap();
        eventually("the reload", async || {
            proxy.log().matches("configuration reloaded").count() >= reloads
        })
        .await;
        assert_eq!(value(&reader).await, round);
        assert_eq!(value(&member(&proxy, "k").await).await, round);
    }
}

#[tokio::test]
async fn a_write_is_seen_while_its_own_transaction_is_still_being_answered() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let (writer, reader) = (member(&proxy, "k").await, member(&proxy, "k").await);
    // The first row's commit is acknowledged to the client while the second statement still runs.
    let slow = "BEGIN; UPDATE family SET v = 77 WHERE id = 2; COMMIT; SELECT pg_sleep(0.5)";
    let running = tokio::spawn(async move { writer.batch_execute(slow).await });
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let committed = servers.sql(0, "SELECT v FROM family WHERE id = 2").await;
        if format!("{:?}", committed.unwrap()).contains("77") {
            break;
        }
        assert!(Instant::now() < until);
    }
    assert_eq!(value_of(&reader, 2).await, 77);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_key_is_a_setting_like_any_other() {
    let servers = harness::shared_cluster().await;
    let proxy = Proxy::start(servers, "").await;
    let client = proxy.connect().await;
    let show = async || shown(&client, "SHOW pgweir.key").await;
    assert_eq!(show().await, "");
    client
        .batch_execute("SET pgweir.key = 'user:42'")
        .await
        .unwrap();
    assert_eq!(show().await, "user:42");
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("SET LOCAL pgweir.key = 'user:43'")
        .await
        .unwrap();
    assert_eq!(show().await, "user:43");
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(show().await, "user:43");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(show().await, "user:42");
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("SET LOCAL pgweir.key = 'user:44'")
        .await
        .unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(show().await, "user:42");
    client
        .batch_execute("SET LOCAL pgweir.key = 'no block'")
        .await
        .unwrap();
    assert_eq!(show().await, "user:42");
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("SELECT pg_backend_pid()")
        .await
        .unwrap();
    client
        .batch_execute("SET LOCAL pgweir.key = 'user:45'")
        .await
        .unwrap();
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    assert_eq!(show().await, "user:42", "a chained block is another one");
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("RESET pgweir.key").await.unwrap();
    assert_eq!(show().await, "");
    let long = format!("SET pgweir.key = '{}'", "k".repeat(257));
    let refused = client.batch_execute(&long).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "22023");
    client
        .batch_execute("SET pgweir.key = 'user:46'")
        .await
        .unwrap();
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(show().await, "");
}

#[tokio::test]
async fn a_block_that_reads_on_a_replica_takes_no_other_key() {
    let servers = harness::shared_cluster().await;
    let proxy = Proxy::start(servers, "").await;
    let client = proxy.connect().await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.unwrap();
    eventually("a block on a replica", async || {
        client.batch_execute("SELECT 1").await.unwrap();
        let on_replica = shown(&client, "SHOW pgweir.last_route")
            .await
            .contains("role=replica");
        if !on_replica {
            client.batch_execute("COMMIT").await.unwrap();
            client.batch_execute(begin).await.unwrap();
        }
        on_replica
    })
    .await;
    let late = client.batch_execute("SET LOCAL pgweir.key = 'k'").await;
    assert_eq!(late.unwrap_err().code().unwrap().code(), "25001");
    // A comment comes with a statement that cannot be run as it must be.
    let late = client.batch_execute("SELECT 1 /*pgweir_key='k'*/").await;
    assert_eq!(late.unwrap_err().code().unwrap().code(), "25001");
}

async fn member(proxy: &Proxy, key: &str) -> Client {
    let client = proxy.connect().await;
    let set = format!("SET pgweir.key = '{key}'");
    client.batch_execute(&set).await.unwrap();
    client
}

async fn value(client: &Client) -> i64 {
    value_of(client, 1).await
}

async fn value_of(client: &Client, id: i64) -> i64 {
    let read = format!("SELECT v FROM family WHERE id = {id}");
    shown(client, &read).await.parse().unwrap()
}

/// The first column of the first row.
async fn shown(client: &Client, sql: &str) -> String {
    let answer = client.simple_query(sql).await;
    let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = answer.iter().find_map(|message| {
        if let SimpleQueryMessage::Row(row) = message {
            row.get(0)
        } else {
            None
        }
    });
    row.unwrap().to_owned()
}
