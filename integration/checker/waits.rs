//! How long reads wait for a replica where nothing is behind, but the positions of the log make it look so.
//!
//! The primary is no way out here (`on_no_replica: wait`), so a replica that cannot be proved fresh shows as
//! a read that waits.

use std::time::{Duration, Instant};

use pgweir::sandbox::LocalCluster;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::{servers, sized};
use crate::harness::{LIMIT, Proxy, eventually};

const POLICY: &str = "consistency: { on_no_replica: wait, max_wait: 40s }";
/// The size of a page of the log, and where on one the next record goes if the last one has ended at its
/// beginning.
const PAGE: i64 = 8192;
const HEADER: i64 = 24;
/// What a busy machine adds to a wait; far below what a stall would take.
const GRACE: Duration = Duration::from_secs(2);
/// How long the flushed log may end in the middle of a record: the background writer notes what runs every
/// 15 s (`LOG_SNAPSHOT_INTERVAL_MS`, `src/backend/postmaster/bgwriter.c`), and the WAL writer flushes that.
const TORN: Duration = Duration::from_secs(25);

/// Settings of the primary for one test.
struct Setting<'a>(&'a LocalCluster);

impl<'a> Setting<'a> {
    async fn wal_writer_delay(servers: &'a LocalCluster, delay: &str) -> Self {
        let set = format!("ALTER SYSTEM SET wal_writer_delay = '{delay}'");
        servers.superuser_sql(0, &set).await.unwrap();
        servers
            .superuser_sql(0, "SELECT pg_reload_conf()")
            .await
            .unwrap();
        Self(servers)
    }

    async fn undo(self) {
        for sql in [
            "ALTER SYSTEM RESET wal_writer_delay",
            "SELECT pg_reload_conf()",
        ] {
            self.0.superuser_sql(0, sql).await.unwrap();
        }
    }
}

/// Makes the table anew, on every node, and a session that knows it.
async fn prepared(servers: &LocalCluster, proxy: &Proxy) -> Client {
    // A page with little room is pruned by whoever reads it.
    let table = "DROP TABLE IF EXISTS waits; \
                 CREATE TABLE waits (id int, v bigint, filler text) WITH (fillfactor = 10); \
                 INSERT INTO waits VALUES (1, 0, repeat('x', 1500))";
    servers.sql(0, table).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
    let client = proxy.connect().await;
    eventually("a replica serves", async || {
        client
            .query("SELECT v FROM waits WHERE id = 1", &[])
            .await
            .unwrap();
        let route = client.simple_query("SHOW pgweir.last_route").await.unwrap();
        format!("{route:?}").contains("role=replica")
    })
    .await;
    client
}

/// How long the session's read takes that must show `expected`.
async fn wait_for_read(session: &Client, expected: i64) -> Duration {
    let begun = Instant::now();
    let read = session.query_one("SELECT v FROM waits WHERE id = 1", &[]);
    let found: i64 = read.await.unwrap().get(0);
    assert_eq!(found, expected);
    begun.elapsed()
}

async fn superuser(servers: &LocalCluster, node: usize) -> Client {
    let url = servers.superuser_url(node);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Whether a replica reaches a position that is compared as it is.
async fn reaches(replica: &Client, position: i64, within: Duration) -> bool {
    let ask = "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= $1::int8::numeric";
    let begun = Instant::now();
    while begun.elapsed() < within {
        if replica.query_one(ask, &[&position]).await.unwrap().get(0) {
            return true;
        }
        sleep(Duration::from_millis(5)).await;
    }
    false
}

async fn insert_position(primary: &Client) -> i64 {
    let ask = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8";
    primary.query_one(ask, &[]).await.unwrap().get(0)
}

/// Has the last record of the log end where a page does, flushed. Where the next one goes. What an
/// earlier test has asked the server for may still write beside it for a while.
async fn end_at_a_page(primary: &Client) -> i64 {
    let begun = Instant::now();
    while begun.elapsed() < 2 * LIMIT {
        let before = insert_position(primary).await;
        write_message(primary, 8).await;
        let now = insert_position(primary).await;
        let cost = now - before - 8;
        let mut length = PAGE - now % PAGE - cost;
        if length <= 0 {
            length += PAGE - HEADER;
        }
        write_message(primary, length).await;
        let position = insert_position(primary).await;
        if position % PAGE == HEADER {
            return position;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the end of a page was not met");
}

/// Writes a record with so many bytes, and that of its commit.
async fn write_message(primary: &Client, length: i64) {
    let write = format!("SELECT pg_logical_emit_message(true, '', repeat('x', {length}))");
    primary.batch_execute(&write).await.unwrap();
}

/// Tells a flushed log that ends in the middle of a record, of which no replica can replay the half: the
/// WAL writer flushes whole pages, and for the rest of such a record nobody may be waiting.
struct Torn {
    primary: Client,
    replica: Client,
}

impl Torn {
    async fn watch(servers: &LocalCluster) -> Self {
        Self {
            primary: superuser(servers, 0).await,
            replica: superuser(servers, 1).await,
        }
    }

    /// How long that was so while `work` went on.
    async fn beside<T>(&self, work: impl Future<Output = T>) -> (T, Duration) {
        let mut torn = Duration::ZERO;
        let watching = async {
            loop {
                let begun = Instant::now();
                sleep(Duration::from_millis(50)).await;
                if self.now().await {
                    torn += begun.elapsed();
                }
            }
        };
        let done = tokio::select! { done = work => done, never = watching => never };
        (done, torn)
    }

    /// Whether the replica has all that is flushed, up to the end of a page, but cannot replay its end.
    async fn now(&self) -> bool {
        let flushed = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8";
        let flushed: i64 = self.primary.query_one(flushed, &[]).await.unwrap().get(0);
        let ask = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn = $1::int8::numeric \
                   AND pg_last_wal_replay_lsn() - '0/0'::pg_lsn < $1::int8::numeric";
        let behind = self.replica.query_one(ask, &[&flushed]).await.unwrap();
        flushed % PAGE == 0 && behind.get(0)
    }
}

#[tokio::test]
async fn the_end_of_a_page_of_the_log_delays_no_read() {
    let (servers, _alone) = servers().await;
    // What is flushed at once is not proved by its flush before this has gone by.
    let setting = Setting::wal_writer_delay(servers, "10s").await;
    let proxy = Proxy::start(servers, POLICY).await;
    let session = prepared(servers, &proxy).await;
    let (primary, replica) = (superuser(servers, 0).await, superuser(servers, 1).await);
    let (mut waits, mut stalls) = (Vec::new(), 0);
    let rounds = sized(5);
    for value in 1..=i64::try_from(rounds).unwrap() {
        let write = format!("UPDATE waits SET v = {value}");
        session.batch_execute(&write).await.unwrap();
        let position = end_at_a_page(&primary).await;
        waits.push(wait_for_read(&session, value).await);
        // The control: a replica is not where the primary says it would go on.
        let raw = reaches(&replica, position, Duration::from_millis(100)).await;
        stalls += usize::from(!raw);
    }
    waits.sort_unstable();
    println!("page ends: {rounds} rounds, waits {waits:.1?}, {stalls} stalls without settling");
    setting.undo().await;
    // The background writer may add to the log at that moment, which nobody then flushes for 10 s.
    let stalled = waits.iter().filter(|wait| **wait >= GRACE).count();
    assert!(stalled <= 1 + rounds / 20, "{waits:?}");
    assert!(stalls * 2 > rounds, "void: {stalls}");
}

#[tokio::test]
async fn reads_behind_writes_wait_for_no_more_than_replication() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, POLICY).await;
    let first = prepared(servers, &proxy).await;
    let pairs = sized(400) / 4;
    let mut running = JoinSet::new();
    for id in 2..6 {
        let client = proxy.connect().await;
        running.spawn(async move {
            let mut waits = Vec::new();
            for value in 0..i64::try_from(pairs).unwrap() {
                let write = format!("INSERT INTO waits VALUES ({id}, {value})");
                client.batch_execute(&write).await.unwrap();
                let begun = Instant::now();
                let read = format!("SELECT v FROM waits WHERE id = {id} AND v = {value}");
                let rows = client.simple_query(&read).await.unwrap();
                waits.push(begun.elapsed());
                assert!(format!("{rows:?}").contains("Row"), "{rows:?}");
            }
            waits
        });
    }
    let mut waits = running.join_all().await.concat();
    drop(first);
    waits.sort_unstable();
    let at = |part: usize| waits[(waits.len() - 1) * part / 1000];
    println!(
        "4 clients that insert and read: {} waits, median {:.1?}, p99 {:.1?}, longest {:.1?}",
        waits.len(),
        at(500),
        at(990),
        at(1000)
    );
    assert!(at(1000) < GRACE, "{:?}", at(1000));
}

#[tokio::test]
async fn log_that_nobody_flushes_delays_a_read_by_no_more_than_a_flush() {
    let (servers, _alone) = servers().await;
    let setting = Setting::wal_writer_delay(servers, "20ms").await;
    let proxy = Proxy::start(servers, POLICY).await;
    let session = prepared(servers, &proxy).await;
    let (primary, replica) = (superuser(servers, 0).await, superuser(servers, 1).await);
    let ends = Torn::watch(servers).await;
    let (mut waits, mut torn_waits, mut unflushed, mut stalls) = (Vec::new(), Vec::new(), 0, 0);
    let rounds = sized(6);
    for value in 1..=i64::try_from(rounds).unwrap() {
        let write = format!("UPDATE waits SET v = {value} WHERE id = 1");
        session.batch_execute(&write).await.unwrap();
        // Prunes the page, which the WAL writer flushes, and leaves a transaction open, which nobody does.
        primary.query("SELECT v FROM waits", &[]).await.unwrap();
        let open = "BEGIN; INSERT INTO waits VALUES (0, 0)";
        primary.batch_execute(open).await.unwrap();
        let position = insert_position(&primary).await;
        let (wait, torn) = ends.beside(wait_for_read(&session, value)).await;
        if wait >= GRACE && torn * 2 > wait {
            torn_waits.push(wait);
        } else {
            waits.push(wait);
        }
        let ask = "SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()";
        unflushed += usize::from(primary.query_one(ask, &[]).await.unwrap().get::<_, bool>(0));
        // The control: the position as it is.
        let raw = reaches(&replica, position, Duration::from_millis(300)).await;
        stalls += usize::from(!raw);
        primary.batch_execute("ROLLBACK").await.unwrap();
    }
    let longest = waits.into_iter().max().unwrap_or_default();
    println!(
        "unflushed log: {rounds} rounds, {unflushed} with some, longest wait {longest:.1?}, {stalls} stalls \
         by the insert position, waits for the other half of a record {torn_waits:.1?}"
    );
    setting.undo().await;
    // Three times wal_writer_delay, and what is added to it.
    let flush = Duration::from_millis(3 * 20 + 200 + 50);
    assert!(longest < flush + GRACE, "{longest:?}");
    assert!(torn_waits.len() <= 1 + rounds / 20, "{torn_waits:?}");
    assert!(
        torn_waits.iter().all(|wait| *wait < TORN + GRACE),
        "{torn_waits:?}"
    );
    assert!(
        unflushed * 2 > rounds && stalls * 2 > rounds,
        "void: {stalls}"
    );
}
