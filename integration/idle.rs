//! Replicas in rotation and out of it, seen from clients of the real binary: an idle cluster stays
//! fresh, a replica that stops or dies is not noticed by reads, and a promotion not for long.
//!
//! `PGWEIR_IDLE_SECONDS=60 cargo test --test idle -- --nocapture` is the full size; without the
//! variable the cluster idles for 10 s.

#![cfg(test)]

mod harness;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::{Duration, Instant};

use harness::{LIMIT, Metrics, Proxy, cluster, eventually, full_size};
use pgweir::sandbox::LocalCluster;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

const EVENTUAL: &str = "consistency: { default: eventual }";
const MAX_STALENESS: Duration = Duration::from_secs(2);
const TWO_PERIODS: Duration = Duration::from_millis(200);
/// What a busy machine may add to a measured time.
const SLACK: Duration = Duration::from_millis(500);

/// The tests measure times, so they run one after another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A cluster with a table of one row on every node.
async fn prepared_cluster() -> LocalCluster {
    let servers = cluster(2).await;
    let table = "CREATE TABLE t (v int); INSERT INTO t VALUES (7)";
    servers.sql(0, table).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
    servers
}

/// The port of the node that serves the client's next read.
async fn serving_port(client: &Client) -> u16 {
    let asked = client.query_one("SELECT inet_server_port() FROM t", &[]);
    let row = timeout(LIMIT, asked).await.unwrap();
    let port: i32 = row.expect("a read must be answered").get(0);
    u16::try_from(port).unwrap()
}

/// Waits until reads on a replica are judged by a loaded catalog.
async fn reads_on_replicas(servers: &LocalCluster, client: &Client) {
    let on_replica = || async { serving_port(client).await != servers.port(0) };
    eventually("reads on replicas", on_replica).await;
}

fn staleness(metrics: &Metrics, node: &str) -> f64 {
    let measured = metrics.max("pgweir_replica_staleness_seconds", &[("node", node)]);
    measured.unwrap_or_else(|| panic!("{node} is not measured: {:?}", metrics.samples()))
}

#[tokio::test]
async fn an_idle_cluster_stays_fresh_and_no_read_moves_to_the_primary() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let seconds = full_size("PGWEIR_IDLE_SECONDS").unwrap_or(10);
    let session = proxy.connect().await;
    reads_on_replicas(&servers, &session).await;
    let before = proxy.metrics().await;
    let begun = Instant::now();
    let (mut worst, mut reads) = (0.0_f64, 0_u32);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let metrics = proxy.metrics().await;
        for node in ["node1", "node2"] {
            worst = worst.max(staleness(&metrics, node));
        }
        // A session with a past, and one without.
        for client in [&session, &proxy.connect().await] {
            assert_ne!(serving_port(client).await, servers.port(0));
            reads += 1;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let served = proxy.metrics().await.reads_since(&before);
    println!("idle for {seconds} s: worst staleness {worst:.3} s, {reads} reads, {served:?}");
    assert!(worst < 1.0, "{worst} s");
    assert!(served.by_primary <= 0.0, "{served:?}");
    assert!(served.by_replicas >= f64::from(reads), "{served:?}");
}

/// Reads that go on until dropped, with an account of each node's last one.
struct Reading {
    tasks: JoinSet<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    reads: AtomicUsize,
    /// When each port served last.
    last: SyncMutex<HashMap<u16, Instant>>,
    /// The longest that a read took.
    slowest: SyncMutex<Duration>,
    stop: AtomicBool,
}

impl Seen {
    fn note(&self, port: u16, begun: Instant) {
        let ended = Instant::now();
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.last.lock().unwrap().insert(port, ended);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = slowest.max(ended - begun);
    }
}

impl Reading {
    async fn start(proxy: &Proxy, clients: usize) -> Self {
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let client = proxy.connect().await;
            let seen = Arc::clone(&seen);
            tasks.spawn(async move {
                while !seen.stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let port = serving_port(&client).await;
                    seen.note(port, begun);
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Self { tasks, seen }
    }

    /// When `port` served last.
    fn last(&self, port: u16) -> Option<Instant> {
        self.seen.last.lock().unwrap().get(&port).copied()
    }

    /// How long from now until `port` serves a read.
    async fn served_again(&self, port: u16) -> Duration {
        let from = Instant::now();
        eventually("the node serves", || async { self.last(port) > Some(from) }).await;
        self.last(port).unwrap() - from
    }

    /// Waits for so many more reads.
    async fn more(&self, reads: usize) {
        let target = self.seen.reads.load(Ordering::Relaxed) + reads;
        eventually("reads go on", || async {
            self.seen.reads.load(Ordering::Relaxed) >= target
        })
        .await;
    }

    /// Ends; fails if any read has failed. Returns how many there were, and the slowest.
    async fn end(mut self) -> (usize, Duration) {
        self.seen.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no read may fail");
        }
        let slowest = *self.seen.slowest.lock().unwrap();
        (self.seen.reads.load(Ordering::Relaxed), slowest)
    }
}

#[tokio::test]
async fn a_replica_cut_off_leaves_in_time_and_returns_when_it_has_caught_up() {
    let _alone = ALONE.lock().await;
    let servers = Arc::new(prepared_cluster().await);
    let bound = format!("{EVENTUAL}\nrouting: {{ max_staleness: 2s }}");
    let proxy = Proxy::start(&servers, &bound).await;
    let reading = Reading::start(&proxy, 4).await;
    let cut_off = servers.port(1);
    reading.served_again(cut_off).await;
    let writer = proxy.connect().await;
    let writing = tokio::spawn(async move {
        loop {
            writer.execute("UPDATE t SET v = v + 1", &[]).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    });
    servers.cut_receiver(1).await.unwrap();
    let cut = Instant::now();
    // It must stay out as long as it is cut off, not only for a moment.
    sleep(3 * MAX_STALENESS).await;
    let last = reading.last(cut_off).unwrap();
    let left = last.saturating_duration_since(cut);
    assert!(left <= MAX_STALENESS + TWO_PERIODS + SLACK, "{left:?}");
    assert!(
        reading.last(servers.port(2)).unwrap() > last,
        "the other one stays"
    );
    servers.restore_receiver(1).await.unwrap();
    servers.wait_for_replay(1).await.unwrap();
    let back = reading.served_again(cut_off).await;
    println!("cut off: last read {left:?} after the cut, back {back:?} after catching up");
    assert!(back < Duration::from_secs(1), "{back:?}");
    assert!(!writing.is_finished(), "writes go on throughout");
    writing.abort();
    reading.end().await;
}

#[tokio::test]
async fn clients_do_not_notice_that_a_replica_is_killed() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    for consistency in ["", EVENTUAL] {
        let proxy = Proxy::start(&servers, consistency).await;
        let reading = Reading::start(&proxy, 8).await;
        for replica in servers.replicas() {
            reading.served_again(servers.port(replica)).await;
            servers.kill_node(replica).await.unwrap();
            reading.more(100).await;
            servers.start_node(replica).await.unwrap();
            // Sessions stay where they read last, so only new ones find it.
            let newcomers = Reading::start(&proxy, 8).await;
            newcomers.served_again(servers.port(replica)).await;
            newcomers.end().await;
        }
        let (reads, slowest) = reading.end().await;
        let retries = proxy.metrics().await.sum("pgweir_retries_total", &[]);
        println!(
            "both replicas killed in turn ({consistency:?}): {reads} reads, slowest {slowest:?}, {retries} retries, no error"
        );
    }
}

#[tokio::test]
async fn after_a_promotion_writes_work_again_through_the_same_proxy() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let old = proxy.connect().await;
    reads_on_replicas(&servers, &old).await;
    servers.kill_node(0).await.unwrap();
    let killed = Instant::now();
    let reading = Reading::start(&proxy, 4).await;
    reading.more(40).await;
    servers.promote(1).await.unwrap();
    let promoted = Instant::now();
    servers.follow(2, 1).await.unwrap();
    eventually("a write on a new connection", || async {
        let client = proxy.connect().await;
        client.execute("UPDATE t SET v = 8", &[]).await.is_ok()
    })
    .await;
    println!(
        "promotion: writes work {:?} after it, {:?} after the primary's end; {:?} reads meanwhile",
        promoted.elapsed(),
        killed.elapsed(),
        reading.end().await
    );
    let client = proxy.connect().await;
    assert_eq!(
        client.execute("UPDATE t SET v = v + 1", &[]).await.unwrap(),
        1
    );
    let row = client.query_one("SELECT v FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 9);
    eventually("a session from before it writes", || async {
        old.execute("UPDATE t SET v = v + 1", &[]).await.is_ok()
    })
    .await;
    eventually("the remaining replica serves", || async {
        serving_port(&proxy.connect().await).await == servers.port(2)
    })
    .await;
}
