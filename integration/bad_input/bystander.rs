//! A client of the same proxy that must not notice anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::harness::{self, Proxy};

/// The longest that one of its statements may take, generous for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many were started, each with a table of its own: a port may come back.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Writes and reads its own row until told to stop.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicI32>,
    rounds: JoinHandle<()>,
}

impl Bystander {
    pub(crate) async fn start(proxy: &Proxy) -> Self {
        let client = proxy.connect().await;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let table = format!("bystander_{number}");
        client
            .batch_execute(&format!("CREATE TABLE {table} (v int)"))
            .await
            .unwrap();
        client
            .execute(&format!("INSERT INTO {table} VALUES (0)"), &[])
            .await
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let done = Arc::new(AtomicI32::new(0));
        let count = Arc::clone(&done);
        let rounds = tokio::spawn(async move {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let begun = Instant::now();
                self::round(&client, &table, round).await;
                let took = begun.elapsed();
                assert!(took < PATIENCE, "round {round} took {took:?}");
                count.store(round, Ordering::Relaxed);
            }
        });
        Self { stop, done, rounds }
    }

    /// Panics if it noticed anything.
    pub(crate) async fn finish(self) {
        let before = self.done.load(Ordering::Relaxed);
        // It is served still, or has ended by a panic.
        harness::eventually("the other client is served", || async {
            self.done.load(Ordering::Relaxed) > before || self.rounds.is_finished()
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        self.rounds.await.unwrap();
    }
}

async fn round(client: &Client, table: &str, round: i32) {
    client
        .execute(&format!("UPDATE {table} SET v = $1"), &[&round])
        .await
        .unwrap();
    let row = client
        .query_one(
            &format!("SELECT v, current_setting('search_path') FROM {table}"),
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), round);
    assert_eq!(row.get::<_, String>(1), "\"$user\", public");
    let rows = client
        .simple_query("SELECT 1 AS one; SELECT 2")
        .await
        .unwrap();
    assert_eq!(rows.len(), 6, "{rows:?}");
}
