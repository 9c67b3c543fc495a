//! A replica shows a commit before its replay position reaches it: with files to remove, long before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgweir::sandbox::LocalCluster;
use rand::random_range;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::NoTls;
use tokio_postgres::types::PgLsn;

use super::{servers, sized};
use crate::harness::{Proxy, eventually};

/// How many tables one transaction drops: the files of each are removed before replay counts as gone on.
const DROPPED: usize = 250;
const SESSIONS: usize = 12;
const MARK: &str = "SELECT v, inet_server_port() FROM mark";

/// One transaction that drops many tables and counts the mark up.
async fn drop_and_mark(servers: &LocalCluster) {
    let tables: Vec<String> = (0..DROPPED).map(|n| format!("dropped{n}")).collect();
    for half in tables.chunks(DROPPED / 2) {
        let create: Vec<String> = half
            .iter()
            .map(|name| format!("CREATE TABLE {name} AS SELECT 1 AS v"))
            .collect();
        servers.sql(0, &create.join("; ")).await.unwrap();
    }
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
    let drop = format!(
        "UPDATE mark SET v = v + 1; DROP TABLE {}",
        tables.join(", ")
    );
    servers.sql(0, &drop).await.unwrap();
}

/// What sessions saw that read the mark again and again.
#[derive(Debug, Default)]
struct Watched {
    reads: usize,
    /// Reads of an older mark than the session had seen.
    back: usize,
    /// Reads on another node than the one before.
    changes: usize,
}

async fn watch(url: String, ending: Arc<AtomicBool>) -> Watched {
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let read = client.prepare(MARK).await.unwrap();
    let (mut watched, mut last, mut at) = (Watched::default(), 0_i64, 0_i32);
    while !ending.load(Ordering::Relaxed) {
        let row = client.query_one(&read, &[]).await.unwrap();
        let (mark, port): (i64, i32) = (row.get(0), row.get(1));
        watched.reads += 1;
        watched.back += usize::from(mark < last);
        watched.changes += usize::from(port != at);
        (last, at) = (mark.max(last), port);
        // Other nodes can be proved to have what was seen, or not, meanwhile.
        sleep(random_range(Duration::ZERO..=Duration::from_millis(150))).await;
    }
    watched
}

/// The control: whether a node that has reached the position at which another one showed the next mark
/// shows an older mark itself.
async fn mislead(servers: &LocalCluster, mark: i64) -> bool {
    let [quick, slow] = [
        servers.connect(1).await.unwrap(),
        servers.connect(2).await.unwrap(),
    ];
    let ask = "SELECT v, pg_last_wal_replay_lsn() FROM mark";
    let ask_quick = quick.prepare(ask).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        let row = quick.query_one(&ask_quick, &[]).await.unwrap();
        if row.get::<_, i64>(0) < mark {
            continue;
        }
        let position: PgLsn = row.get(1);
        let reached = "SELECT v, pg_last_wal_replay_lsn() >= $1 FROM mark";
        let row = slow.query_one(reached, &[&position]).await.unwrap();
        return row.get::<_, i64>(0) < mark && row.get(1);
    }
    panic!("the mark did not come");
}

#[tokio::test]
async fn what_a_replica_shows_before_its_position_says_so_is_not_taken_back() {
    let (servers, _alone) = servers().await;
    let tables =
        "DROP TABLE IF EXISTS mark; CREATE TABLE mark (v bigint); INSERT INTO mark VALUES (0)";
    servers.sql(0, tables).await.unwrap();
    let proxy = Proxy::start(servers, "routing: { balance: random }").await;
    // It waits in front of each commit, having replayed all before it.
    servers
        .set_apply_delay(2, Duration::from_millis(400))
        .await
        .unwrap();
    let knows = proxy.connect().await;
    eventually("a replica serves", async || {
        knows.query(MARK, &[]).await.unwrap();
        let route = knows.simple_query("SHOW pgweir.last_route").await.unwrap();
        format!("{route:?}").contains("role=replica")
    })
    .await;
    let rounds = sized(2);
    let (mut misled, mut all) = (0, Watched::default());
    for mark in 1..=4 * i64::try_from(rounds).unwrap() {
        // More only if the control has not met the moment yet.
        if mark > i64::try_from(rounds).unwrap() && misled > 0 {
            break;
        }
        let ending = Arc::new(AtomicBool::new(false));
        let working = async {
            let both = async { tokio::join!(drop_and_mark(servers), mislead(servers, mark)) };
            let ((), control) = both.await;
            sleep(Duration::from_millis(600)).await;
            ending.store(true, Ordering::Relaxed);
            control
        };
        let mut watching = JoinSet::new();
        for _ in 0..SESSIONS {
            watching.spawn(watch(proxy.url("app"), Arc::clone(&ending)));
        }
        misled += usize::from(working.await);
        for one in watching.join_all().await {
            all.reads += one.reads;
            all.back += one.back;
            all.changes += one.changes;
        }
    }
    servers.set_apply_delay(2, Duration::ZERO).await.unwrap();
    println!(
        "{DROPPED} tables dropped {rounds} times: {all:?}; the replay position misled {misled} times"
    );
    assert_eq!(all.back, 0);
    assert!(
        misled > 0 && all.changes > 5 * SESSIONS,
        "void: {misled}, {all:?}"
    );
}
