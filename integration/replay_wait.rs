//! From PostgreSQL 19 on the monitor has a replica's server wait for what sessions need, right before
//! it asks (`WAIT FOR LSN`); older servers are asked again and again and never hear of it.
//!
//! `PGWEIR_REPLAY_WAIT_RUNS=20 cargo test --test replay_wait -- --nocapture` compares both on servers
//! from 19 on at the full size.

#![cfg(test)]

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Metrics, Proxy, cluster, eventually, full_size};
use pgweir::sandbox::LocalCluster;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Long enough for a replica with any apply delay here to have what is read.
const PATIENT: &str = "consistency: { wait: 2s, max_wait: 5s }";
const SESSIONS: i64 = 16;
/// How often a session writes and reads in one run.
const ROUNDS: i64 = 10;
const WAITS: &str = "pgweir_replay_waits_total";

/// The tests measure times, so they run one after another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// One replica, and a table with a row for each session. It ends with the process.
async fn shared_cluster() -> &'static LocalCluster {
    static SHARED: OnceCell<LocalCluster> = OnceCell::const_new();
    let servers = SHARED.get_or_init(prepared_cluster).await;
    servers.set_apply_delay(1, Duration::ZERO).await.unwrap();
    servers
}

async fn prepared_cluster() -> LocalCluster {
    let servers = cluster(1).await;
    let table = format!(
        "CREATE TABLE own (session bigint PRIMARY KEY, v bigint);
         INSERT INTO own SELECT s, 0 FROM generate_series(0, {SESSIONS}) s"
    );
    servers.sql(0, &table).await.unwrap();
    servers.wait_for_replay(1).await.unwrap();
    servers
}

async fn knows_the_command(servers: &LocalCluster) -> bool {
    let rows = servers.sql(1, "SHOW server_version_num").await.unwrap();
    let version = rows[0][0].as_deref().unwrap();
    version.parse::<u32>().unwrap() >= 190_000
}

/// Writes and reads back, and panics if what it has written is not there. How long each read took.
async fn write_and_read(proxy: &Proxy, session: i64, rounds: i64) -> Vec<Duration> {
    let client = proxy.connect().await;
    let write = client
        .prepare("UPDATE own SET v = $2 WHERE session = $1")
        .await
        .unwrap();
    let read = client
        .prepare("SELECT v FROM own WHERE session = $1")
        .await
        .unwrap();
    let mut read_times = Vec::new();
    for round in 1..=rounds {
        client.execute(&write, &[&session, &round]).await.unwrap();
        let begun = Instant::now();
        let row = client.query_one(&read, &[&session]).await.unwrap();
        read_times.push(begun.elapsed());
        assert_eq!(row.get::<_, i64>(0), round, "session {session}");
    }
    read_times
}

fn waits(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.sum(WAITS, &[("node", "node1"), ("outcome", outcome)])
}

/// Ends a wait of the monitor as an administrator may: the server refuses it with 57014.
async fn cancel_a_wait(servers: &LocalCluster, proxy: &Proxy) {
    let delay = Duration::from_millis(200);
    servers.set_apply_delay(1, delay).await.unwrap();
    let refused = eventually("a wait is cancelled", async || {
        let cancelling = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                          WHERE query LIKE 'WAIT FOR LSN %' AND wait_event = 'WaitForWalReplay'";
        let cancelled = servers.superuser_sql(1, cancelling).await.unwrap();
        !cancelled.is_empty() && waits(&proxy.metrics().await, "refused") > 0.0
    });
    let working = async {
        loop {
            write_and_read(proxy, 0, 1).await;
        }
    };
    tokio::select! { () = refused => {}, () = working => {} }
    servers.set_apply_delay(1, Duration::ZERO).await.unwrap();
}

/// Until the catalog is known, the primary has every read.
async fn until_replicas_serve(proxy: &Proxy) {
    eventually("a replica serves a read", async || {
        let before = proxy.metrics().await;
        write_and_read(proxy, 0, 1).await;
        proxy.metrics().await.reads_since(&before).by_replicas > 0.0
    })
    .await;
}

#[tokio::test]
async fn a_replica_waits_for_what_a_session_needs_from_19_on_and_never_hears_of_it_before() {
    let _alone = ALONE.lock().await;
    let servers = shared_cluster().await;
    // A wait of 20 ms is not enough for it, and two are.
    let delay = Duration::from_millis(35);
    servers.set_apply_delay(1, delay).await.unwrap();
    let proxy = Proxy::start(servers, PATIENT).await;
    until_replicas_serve(&proxy).await;
    let before = proxy.metrics().await;
    write_and_read(&proxy, 0, 20).await;
    let metrics = proxy.metrics().await;
    let served = metrics.reads_since(&before);
    assert!(served.by_replicas >= 15.0, "{served:?}");
    if knows_the_command(servers).await {
        assert!(waits(&metrics, "reached") >= 15.0, "{metrics:?}");
        assert!(waits(&metrics, "timed_out") >= 10.0, "{metrics:?}");
        assert!(waits(&metrics, "refused") < 1.0, "{metrics:?}");
        assert!(
            metrics.sum(WAITS, &[("node", "node0")]) < 1.0,
            "{metrics:?}"
        );
    } else {
        assert!(metrics.sum(WAITS, &[]) < 1.0, "{metrics:?}");
        let log = std::fs::read_to_string(servers.log(1).unwrap()).unwrap();
        assert!(!log.contains("WAIT FOR"), "{log}");
    }
}

#[tokio::test]
async fn a_replica_that_is_paused_is_not_made_to_wait() {
    let _alone = ALONE.lock().await;
    let servers = shared_cluster().await;
    if !knows_the_command(servers).await {
        return;
    }
    let delay = Duration::from_millis(30);
    servers.set_apply_delay(1, delay).await.unwrap();
    let proxy = Proxy::start(
        servers,
        "consistency: { wait: 50ms, on_no_replica: primary }",
    )
    .await;
    until_replicas_serve(&proxy).await;
    assert!(proxy.metrics().await.sum(WAITS, &[]) > 0.0);
    servers.pause_replay(1).await.unwrap();
    // The next probe finds it paused.
    sleep(Duration::from_millis(300)).await;
    let before = proxy.metrics().await;
    write_and_read(&proxy, 0, 10).await;
    let after = proxy.metrics().await;
    servers.resume_replay(1).await.unwrap();
    let gained =
        |name| after.sum(name, &[("node", "node1")]) - before.sum(name, &[("node", "node1")]);
    assert!(gained(WAITS) < 1.0, "{after:?}");
    assert!(gained("pgweir_position_samples_total") >= 10.0, "{after:?}");
}

#[tokio::test]
async fn a_refusal_is_told_once_and_sessions_go_on_reading_what_they_have_written() {
    let _alone = ALONE.lock().await;
    let servers = shared_cluster().await;
    if !knows_the_command(servers).await {
        return;
    }
    let proxy = Proxy::start(servers, PATIENT).await;
    cancel_a_wait(servers, &proxy).await;
    until_replicas_serve(&proxy).await;
    let refused = proxy.metrics().await;
    write_and_read(&proxy, 0, 20).await;
    let after = proxy.metrics().await;
    let served = after.reads_since(&refused);
    assert!(served.by_replicas >= 15.0, "{served:?}");
    assert!(
        after.sum(WAITS, &[]) - refused.sum(WAITS, &[]) < 1.0,
        "{after:?}"
    );
    let log = proxy.log();
    assert_eq!(log.matches("WAIT FOR LSN is refused").count(), 1, "{log}");
    assert!(log.contains("57014"), "{log}");
}

/// What several runs of some sessions came to.
#[derive(Default)]
struct Figures {
    times: Vec<Duration>,
    seconds: f64,
    processor: f64,
    probes: f64,
    reached: f64,
    timed_out: f64,
}

impl Figures {
    async fn run(&mut self, proxy: &Arc<Proxy>, sessions: i64, rounds: i64) {
        let before = proxy.metrics().await;
        let (begun, processor) = (Instant::now(), proxy.cpu_seconds());
        let mut running = JoinSet::new();
        for session in 0..sessions {
            let proxy = Arc::clone(proxy);
            running.spawn(async move { write_and_read(&proxy, session, rounds).await });
        }
        self.times.extend(running.join_all().await.concat());
        self.seconds += begun.elapsed().as_secs_f64();
        self.processor += proxy.cpu_seconds() - processor;
        let after = proxy.metrics().await;
        let gained = |name, label| after.sum(name, &[label]) - before.sum(name, &[label]);
        self.probes += gained("pgweir_position_samples_total", ("node", "node1"));
        self.reached += gained(WAITS, ("outcome", "reached"));
        self.timed_out += gained(WAITS, ("outcome", "timed_out"));
    }

    fn print(&mut self, what: &str) {
        self.times.sort();
        let reads = self.times.len();
        println!(
            "{what}: {:.0} reads/s; behind a write p50 {:.1?}, p99 {:.1?}; a second: {:.0} probes, {:.0} \
             waits reached, {:.0} timed out; processor {:.0} %",
            f64::from(u32::try_from(reads).unwrap()) / self.seconds,
            self.times[reads / 2],
            self.times[reads * 99 / 100],
            self.probes / self.seconds,
            self.reached / self.seconds,
            self.timed_out / self.seconds,
            100.0 * self.processor / self.seconds,
        );
    }
}

/// What a read behind a write waits, with servers that wait and with polling, on the same servers.
#[tokio::test]
async fn waiting_and_polling_keep_the_same_promise_at_every_delay() {
    let _alone = ALONE.lock().await;
    let servers = shared_cluster().await;
    if !knows_the_command(servers).await {
        return;
    }
    let repeated = full_size("PGWEIR_REPLAY_WAIT_RUNS").unwrap_or(1);
    let polling = Arc::new(Proxy::start(servers, PATIENT).await);
    cancel_a_wait(servers, &polling).await;
    let waiting = Arc::new(Proxy::start(servers, PATIENT).await);
    for proxy in [&waiting, &polling] {
        until_replicas_serve(proxy).await;
    }
    for sessions in [1, SESSIONS] {
        for delay in [0, 2, 5, 20, 60] {
            let lag = Duration::from_millis(delay);
            servers.set_apply_delay(1, lag).await.unwrap();
            let mut figures = [Figures::default(), Figures::default()];
            for _ in 0..repeated {
                for (proxy, figures) in [&waiting, &polling].into_iter().zip(&mut figures) {
                    figures.run(proxy, sessions, ROUNDS).await;
                }
            }
            let [waiting, polling] = &mut figures;
            waiting.print(&format!("{sessions} sessions, {delay} ms, waiting"));
            polling.print(&format!("{sessions} sessions, {delay} ms, polling"));
        }
    }
}
