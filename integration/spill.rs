//! `consistency.spill_limit`: reads that lack a fresh replica take no more than their share of the
//! primary, wait no longer than `max_wait`, and leave writes alone.
//!
//! `PGWEIR_SPILL_SECONDS=60 cargo test --release --test spill -- --nocapture` is the full size.

#![cfg(test)]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Proxy, cluster, full_size};
use pgweir::sandbox::LocalCluster;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// Sessions that read behind a write of their own.
const READERS: usize = 24;
/// Sessions that only write.
const WRITERS: usize = 4;
const POOL: usize = 20;
/// 20 % of [`POOL`].
const SHARE: usize = 4;
const MAX_WAIT: Duration = Duration::from_millis(500);
/// What a busy machine adds to a wait.
const GRACE: Duration = Duration::from_millis(50);
const LAG: Duration = Duration::from_secs(5);
/// How long the sessions must run for the times of writes to be compared.
const LONG_ENOUGH: Duration = Duration::from_secs(30);
/// Long enough that all readers at once would fill the pool.
const READ: &str = "SELECT v, pg_sleep(0.1) FROM spilled WHERE v = 0";

static ALONE: Mutex<()> = Mutex::const_new(());

/// What the sessions have met.
#[derive(Debug, Default)]
struct Tally {
    reads: AtomicUsize,
    refused: AtomicUsize,
    longest_wait_ms: AtomicUsize,
    writes: Mutex<Vec<Duration>>,
    done: AtomicBool,
}

async fn proxy(cluster: &LocalCluster, share: &str) -> Proxy {
    let policy = format!(
        "clusters: {{ main: {{ pool: {{ size: {POOL} }} }} }}\n\
         routing: {{ read_functions: [pg_sleep], max_staleness: 1m }}\n\
         consistency: {{ spill_limit: {share}, max_wait: {}ms }}",
        MAX_WAIT.as_millis()
    );
    Proxy::start(cluster, &policy).await
}

async fn lagging_cluster() -> LocalCluster {
    let cluster = cluster(2).await;
    let make = "CREATE TABLE spilled (v int); INSERT INTO spilled VALUES (0); ALTER TABLE spilled OWNER TO app";
    cluster.superuser_sql(0, make).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    cluster
}

/// Writes, then reads until it is told to stop.
async fn read_behind_writes(client: Client, tally: Arc<Tally>) {
    while !tally.done.load(Ordering::Relaxed) {
        client
            .batch_execute("INSERT INTO spilled VALUES (1)")
            .await
            .unwrap();
        let start = Instant::now();
        let answer = client.simple_query(READ).await;
        let waited = usize::try_from(start.elapsed().as_millis()).unwrap();
        tally.longest_wait_ms.fetch_max(waited, Ordering::Relaxed);
        tally.reads.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer {
            let error = error.as_db_error().expect("an error of the proxy");
            assert_eq!(error.code().code(), "57P03", "{error:?}");
            assert!(
                error.hint().is_some_and(|hint| hint.starts_with("Retry")),
                "{error:?}"
            );
            tally.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write(client: Client, tally: Arc<Tally>) {
    while !tally.done.load(Ordering::Relaxed) {
        let start = Instant::now();
        client
            .batch_execute("INSERT INTO spilled VALUES (2)")
            .await
            .unwrap();
        tally.writes.lock().await.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs all sessions for `time`; the most reads seen on the primary at once.
async fn run(cluster: &LocalCluster, proxy: &Proxy, time: Duration) -> (Arc<Tally>, usize) {
    let tally = Arc::new(Tally::default());
    let mut sessions = JoinSet::new();
    for _ in 0..READERS {
        sessions.spawn(read_behind_writes(proxy.connect().await, tally.clone()));
    }
    for _ in 0..WRITERS {
        sessions.spawn(write(proxy.connect().await, tally.clone()));
    }
    let primary = cluster.connect(0).await.unwrap();
    let watch = "SELECT count(*)::int FROM pg_stat_activity \
                 WHERE state = 'active' AND query LIKE '%pg_sleep(0.1)%' AND pid <> pg_backend_pid()";
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < time {
        let row = primary.query_one(watch, &[]).await.unwrap();
        most = most.max(usize::try_from(row.get::<_, i32>(0)).unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tally.done.store(true, Ordering::Relaxed);
    while let Some(ended) = sessions.join_next().await {
        ended.unwrap();
    }
    (tally, most)
}

async fn p99(tally: &Tally) -> Duration {
    let mut writes = tally.writes.lock().await.clone();
    writes.sort_unstable();
    writes[writes.len() * 99 / 100]
}

async fn describe(what: &str, tally: &Tally, most: usize) {
    let writes = tally.writes.lock().await.len();
    let p99 = p99(tally).await;
    println!(
        "{what}: {} reads, {} refused, longest {} ms, at most {most} on the primary at once, \
         {writes} writes, p99 {p99:.1?}",
        tally.reads.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        tally.longest_wait_ms.load(Ordering::Relaxed),
    );
}

async fn fall_behind(cluster: &LocalCluster) {
    for replica in cluster.replicas() {
        cluster.set_apply_delay(replica, LAG).await.unwrap();
    }
}

fn time() -> Duration {
    Duration::from_secs(full_size("PGWEIR_SPILL_SECONDS").unwrap_or(4))
}

#[tokio::test]
async fn displaced_reads_keep_to_their_share_of_the_primary() {
    let _alone = ALONE.lock().await;
    let cluster = lagging_cluster().await;
    let proxy = proxy(&cluster, "20%").await;
    let (before, most) = run(&cluster, &proxy, time()).await;
    describe("replicas fresh", &before, most).await;
    fall_behind(&cluster).await;
    let (behind, most) = run(&cluster, &proxy, time()).await;
    describe("replicas behind", &behind, most).await;
    assert!(
        (1..=SHARE).contains(&most),
        "{most} reads were on the primary at once"
    );
    assert!(
        behind.refused.load(Ordering::Relaxed) > 0,
        "more reads than the share can take"
    );
    let read = Duration::from_millis(100);
    let longest = behind.longest_wait_ms.load(Ordering::Relaxed);
    // What pgweir decides takes that long; a debug build on a busy machine is slower at the rest.
    let grace = if cfg!(debug_assertions) {
        GRACE * 10
    } else {
        GRACE
    };
    assert!(
        Duration::from_millis(u64::try_from(longest).unwrap()) <= MAX_WAIT + read + grace,
        "a read waited for {longest} ms"
    );
    assert_writes_are_left_alone(&before, &behind).await;
}

/// The slowest write in a hundred takes no more than half as long again. A few seconds, or a debug build, tell
/// nothing of it.
async fn assert_writes_are_left_alone(before: &Tally, behind: &Tally) {
    if cfg!(debug_assertions) || time() < LONG_ENOUGH {
        return;
    }
    let (before, behind) = (p99(before).await, p99(behind).await);
    assert!(
        behind * 2 <= before * 3,
        "writes, p99: {before:?}, then {behind:?}"
    );
}

#[tokio::test]
async fn without_a_limit_displaced_reads_take_what_they_get() {
    let _alone = ALONE.lock().await;
    let cluster = lagging_cluster().await;
    let proxy = proxy(&cluster, "100%").await;
    fall_behind(&cluster).await;
    let (tally, most) = run(&cluster, &proxy, time()).await;
    describe("no limit", &tally, most).await;
    assert!(most > SHARE, "only {most}: the other test shows nothing");
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0);
}
