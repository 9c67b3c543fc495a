//! A session never misses what it has written, nor sees less than it has seen, whatever the
//! replicas do: judged by values only, against the sandbox's real streaming replication.
//!
//! `PGWEIR_CHECKED_READS=200000 cargo test --test read_your_writes -- --nocapture` is the full
//! size; without the variable a tenth of it runs.

#![cfg(test)]

mod harness;
mod workload;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::wire::{Wire, message};
use harness::{Metrics, Proxy, ReadsServed, cluster, eventually, full_size};
use pgweir::sandbox::LocalCluster;
use rand::random_range;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use workload::{Session, Tally};

const SESSIONS: usize = 32;
const LAG: Duration = Duration::from_millis(50);
/// How long a session thinks at most before it goes on, once it has read its write back: long
/// enough for a replica with [`LAG`] to have it, so that replicas get reads at all.
const THINKING: Duration = Duration::from_millis(150);

/// The tests measure shares and times, so they run one after another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How many reads the tests with a hard promise check together.
fn checked_reads() -> usize {
    full_size("PGWEIR_CHECKED_READS").unwrap_or(20_000)
}

/// What a run led to.
struct Run {
    tally: Tally,
    took: Duration,
    served: ReadsServed,
}

impl Run {
    fn assert_nothing_missed(&self, what: &str) {
        println!("{what}: {}", self.describe());
        assert_eq!(self.tally.stale, 0, "{what}: {:?}", self.tally);
        assert_eq!(self.tally.backwards, 0, "{what}: {:?}", self.tally);
        assert_eq!(
            self.served.total().to_string(),
            self.tally.reads.to_string(),
            "every read is in the metrics, once"
        );
    }

    /// The test would be void if the primary had served everything, or nothing.
    fn assert_replicas_take_part(&self) {
        let share = self.served.share_of_replicas();
        assert!((0.1..0.95).contains(&share), "{}", self.describe());
    }

    fn describe(&self) -> String {
        let Self { tally, took, .. } = self;
        let (reads, writes) = (tally.reads, tally.writes);
        format!(
            "{reads} reads after {writes} writes, {} stale ({} of {} first reads), {} backwards, \
             {:.1} % of reads on replicas, {took:.1?}",
            tally.stale,
            tally.stale_first_reads,
            tally.first_reads,
            tally.backwards,
            100.0 * self.served.share_of_replicas(),
        )
    }
}

/// Ends its task when dropped.
struct Background(JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cluster with the workload's tables.
async fn prepared_cluster() -> Arc<LocalCluster> {
    let servers = cluster(2).await;
    servers.sql(0, workload::TABLES).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
    Arc::new(servers)
}

/// The same with replicas that apply everything [`LAG`] late.
async fn lagging_cluster() -> Arc<LocalCluster> {
    let servers = prepared_cluster().await;
    for replica in servers.replicas() {
        servers.set_apply_delay(replica, LAG).await.unwrap();
    }
    servers
}

/// The metrics once all that was answered is counted, a moment behind the answer.
async fn all_counted(proxy: &Proxy) -> Metrics {
    loop {
        let found = proxy.metrics().await;
        sleep(Duration::from_millis(50)).await;
        let later = proxy.metrics().await;
        if later.reads_since(&found).total() < 1.0 {
            return later;
        }
    }
}

/// Has all sessions together make `reads` checked reads while one more writer counts up.
async fn run(servers: &Arc<LocalCluster>, proxy: &Proxy, reads: usize, think: Duration) -> Run {
    let mut sessions = Vec::new();
    for id in 0..SESSIONS {
        sessions.push(Session::open(proxy, i64::try_from(id).unwrap()).await);
    }
    let counting = Background(tokio::spawn(workload::count_up(Arc::clone(servers))));
    let before = all_counted(proxy).await;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for session in sessions {
        running.spawn(session.run(reads.div_ceil(SESSIONS), think));
    }
    let tally: Tally = running.join_all().await.into_iter().sum();
    let took = begun.elapsed();
    drop(counting);
    // A client has its answer a moment before the read is counted.
    eventually("every read is counted", async || {
        let served = proxy.metrics().await.reads_since(&before);
        served.total() >= f64::from(u32::try_from(tally.reads).unwrap())
    })
    .await;
    let served = proxy.metrics().await.reads_since(&before);
    Run {
        tally,
        took,
        served,
    }
}

/// Stops and resumes replay on one replica at random, until aborted.
async fn stop_and_go(servers: Arc<LocalCluster>, replica: usize) {
    loop {
        servers.pause_replay(replica).await.unwrap();
        sleep(random_range(
            Duration::from_millis(5)..=Duration::from_millis(200),
        ))
        .await;
        servers.resume_replay(replica).await.unwrap();
        sleep(random_range(Duration::ZERO..=Duration::from_millis(100))).await;
    }
}

#[tokio::test]
async fn without_added_lag_nothing_is_missed_and_replicas_serve_most_reads() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let run = run(&servers, &proxy, checked_reads() / 4, Duration::ZERO).await;
    run.assert_nothing_missed("no added lag");
    assert!(run.served.share_of_replicas() >= 0.8, "{}", run.describe());
}

/// The pauses of a session before its statements: some shorter than [`LAG`], some longer.
const PAUSES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_millis(80);

/// Writes once and reads nine times, and that over again.
async fn pause_between_statements(client: tokio_postgres::Client, id: i32) {
    for turn in 0..60 {
        sleep(random_range(PAUSES)).await;
        let statement = if turn % 10 == 0 {
            format!("UPDATE distant SET v = v + 1 WHERE id = {id}")
        } else {
            format!("SELECT v FROM distant WHERE id = {id}")
        };
        client.batch_execute(&statement).await.unwrap();
    }
}

#[tokio::test]
async fn replicas_that_keep_a_distance_serve_most_reads_of_sessions_that_pause() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let table = "CREATE TABLE distant (id int PRIMARY KEY, v int); \
                 INSERT INTO distant SELECT generate_series(0, 31), 0";
    servers.sql(0, table).await.unwrap();
    let proxy = Proxy::start(&servers, "").await;
    eventually("the catalog knows the table", async || {
        let client = proxy.connect().await;
        sleep(2 * LAG).await;
        client.batch_execute("SELECT v FROM distant").await.unwrap();
        all_counted(&proxy)
            .await
            .sum("pgweir_queries_total", &[("role", "replica")])
            > 0.0
    })
    .await;
    let before = all_counted(&proxy).await;
    let mut sessions = JoinSet::new();
    for id in 0..32 {
        sessions.spawn(pause_between_statements(proxy.connect().await, id));
    }
    sessions.join_all().await;
    let served = all_counted(&proxy).await.reads_since(&before);
    println!("pauses of {PAUSES:?}, replicas {LAG:?} behind: {served:?}");
    assert!(served.share_of_replicas() >= 0.6, "{served:?}");
}

#[tokio::test]
async fn nothing_is_missed_while_replicas_are_held_behind() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let run = run(&servers, &proxy, checked_reads() / 2, THINKING).await;
    run.assert_nothing_missed("replicas 50 ms behind");
    run.assert_replicas_take_part();
}

#[tokio::test]
async fn nothing_is_missed_while_replay_stops_and_goes() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let disturbances = servers.replicas().map(|replica| {
        let disturbing = stop_and_go(Arc::clone(&servers), replica);
        Background(tokio::spawn(disturbing))
    });
    let disturbances: Vec<Background> = disturbances.collect();
    let run = run(&servers, &proxy, checked_reads() / 2, THINKING).await;
    assert!(
        disturbances.iter().all(|task| !task.0.is_finished()),
        "replay must have been disturbed to the end"
    );
    run.assert_nothing_missed("replay paused at random");
    run.assert_replicas_take_part();
}

/// The control: the same sessions on the same lag do miss their writes when nothing prevents it.
#[tokio::test]
async fn with_the_guarantee_off_first_reads_are_stale() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "consistency: { default: eventual }").await;
    let run = run(&servers, &proxy, checked_reads() / 8, THINKING).await;
    println!("control, eventual, 50 ms behind: {}", run.describe());
    let Tally {
        first_reads,
        stale_first_reads,
        ..
    } = run.tally;
    assert!(
        stale_first_reads * 5 >= first_reads,
        "the other tests prove nothing: {}",
        run.describe()
    );
}

#[tokio::test]
async fn transactions_see_their_own_writes_and_so_does_what_follows_them() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let before = proxy.metrics().await;
    let _counting = Background(tokio::spawn(workload::count_up(Arc::clone(&servers))));
    let mut running = JoinSet::new();
    for id in 0..8 {
        let session = Session::open(&proxy, id).await;
        running.spawn(in_transactions(session));
    }
    let tally: Tally = running.join_all().await.into_iter().sum();
    println!("transactions, replicas 50 ms behind: {tally:?}");
    assert_eq!((tally.stale, tally.backwards), (0, 0), "{tally:?}");
    let metrics = proxy.metrics().await;
    let labels = [("role", "replica"), ("reason", "read_only_transaction")];
    let name = "pgweir_queries_total";
    assert!(
        metrics.sum(name, &labels) > before.sum(name, &labels),
        "replicas must have served blocks"
    );
}

async fn in_transactions(mut session: Session) -> Tally {
    for _ in 0..10 {
        session.execute("BEGIN").await;
        session.write().await;
        session.read_own().await;
        session.execute("COMMIT").await;
        session.read_own().await;
        session.execute("BEGIN READ ONLY").await;
        session.read_own().await;
        session.read_counter().await;
        session.execute("COMMIT").await;
        session.execute("BEGIN").await;
        session.write_unnoted().await;
        session.execute("ROLLBACK").await;
        session.read_own().await;
        sleep(random_range(Duration::ZERO..=THINKING)).await;
        session
            .execute("START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await;
        let first = session.read_counter().await;
        session.read_own().await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(session.read_counter().await, first, "one snapshot");
        session.execute("COMMIT").await;
        session.read_counter().await;
    }
    session.tally()
}

#[tokio::test]
async fn a_block_on_a_replica_goes_on_while_ddl_makes_the_catalog_unknown() {
    let _alone = ALONE.lock().await;
    let servers = prepared_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let changing = proxy.connect().await;
    for round in 0..5 {
        let mut session = Session::open(&proxy, round).await;
        // As long as the catalog is unknown, blocks begin on the primary.
        eventually("a block on a replica", || begins_on_replica(&session)).await;
        let table = format!("CREATE TABLE changed_{round} (v int)");
        changing.batch_execute(&table).await.unwrap();
        session.read_counter().await;
        session.read_own().await;
        session.execute("COMMIT").await;
    }
}

/// Drivers call functions of large objects by number (`PQfn` of libpq, `FunctionCall` of the protocol).
#[tokio::test]
async fn what_a_function_call_by_number_has_written_is_read() {
    let _alone = ALONE.lock().await;
    let servers = cluster(1).await;
    let proxy = Proxy::start(&servers, "").await;
    let count = "SELECT count(*) FROM pg_largeobject_metadata";
    let on_replica = async || {
        let mut client = Wire::connect(proxy.port());
        client.run(count);
        client.last_route().contains("role=replica")
    };
    eventually("a replica serves reads", on_replica).await;
    servers.pause_replay(1).await.unwrap();
    let mut client = Wire::connect(proxy.port());
    // lo_creat(int4), whose argument means nothing, all in binary.
    let function = 957_u32.to_be_bytes();
    let rest = [0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1];
    client.send(&message(b'F', &[&function, &rest]));
    let answer = client.until_ready();
    assert!(
        answer.iter().any(|message| message.tag == b'V'),
        "{answer:?}"
    );
    assert_eq!(client.value(count), "1", "{}", client.last_route());
    servers.resume_replay(1).await.unwrap();
}

/// Begins a block and leaves it again if it is not on a replica.
async fn begins_on_replica(session: &Session) -> bool {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    session.execute(begin).await;
    // The first statement decides where it runs.
    session.execute("SELECT 1").await;
    let on_replica = session.last_route().await.contains("role=replica");
    if !on_replica {
        session.execute("ROLLBACK").await;
    }
    on_replica
}
