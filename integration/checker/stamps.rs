//! Writers that count up rows of their own, readers that read all of these rows at once, and what a read
//! must show: the number of everything that was acknowledged long enough before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgweir::sandbox::LocalCluster;
use rand::random_range;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use super::sessions::fraction;
use crate::harness::{LIMIT, Proxy, eventually};

const READ: &str = "SELECT array_agg(number ORDER BY id), inet_server_port() FROM stamps";

/// When a writer began to write each number, and when it was told that it is committed; number 1 is the
/// first.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    begun: Vec<Instant>,
    acknowledged: Vec<Instant>,
}

impl Stamps {
    /// The highest number whose write was acknowledged before `at`; 0 if none was.
    fn acknowledged_before(&self, at: Instant) -> i64 {
        let count = self.acknowledged.partition_point(|done| *done < at);
        i64::try_from(count).unwrap()
    }

    /// When the write of this number began; `None` for the 0 that was there before.
    fn begun(&self, number: i64) -> Option<Instant> {
        let index = usize::try_from(number).unwrap().checked_sub(1)?;
        Some(self.begun[index])
    }
}

/// What one read has shown.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub(crate) invoked: Instant,
    /// One number for each writer.
    pub(crate) numbers: Vec<i64>,
    /// Who answered: for the share of replicas, and where a test is about one of them.
    pub(crate) port: i32,
}

impl Sighting {
    /// How long before this read the first write was acknowledged that it does not show; zero if it
    /// shows all.
    pub(crate) fn staleness(&self, writers: &[Stamps]) -> Duration {
        let missing = self.numbers.iter().zip(writers).filter_map(|(seen, of)| {
            let first = of.acknowledged.get(usize::try_from(*seen).unwrap())?;
            Some(self.invoked.saturating_duration_since(*first))
        });
        missing.max().unwrap_or_default()
    }

    /// Whether it lacks something that was acknowledged more than `bound` before it (P5 with no bound,
    /// P6).
    pub(crate) fn is_beyond(&self, bound: Duration, writers: &[Stamps]) -> bool {
        let from = self.invoked.checked_sub(bound).expect("a bound is short");
        let mut both = self.numbers.iter().zip(writers);
        both.any(|(seen, of)| of.acknowledged_before(from) > *seen)
    }

    /// Whether it shows a write and lacks another that had been acknowledged before that one began.
    pub(crate) fn reverses_cause(&self, writers: &[Stamps]) -> bool {
        let begun = self.numbers.iter().zip(writers);
        let latest = begun.filter_map(|(seen, of)| of.begun(*seen)).max();
        let mut both = self.numbers.iter().zip(writers);
        latest.is_some_and(|at| both.any(|(seen, of)| of.acknowledged_before(at) > *seen))
    }
}

/// What readers have seen.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    pub(crate) all: Vec<Sighting>,
    /// Reads that ended with an error.
    pub(crate) refused: usize,
}

impl Sightings {
    /// The share that the server at `port` did not answer, from 0 to 1.
    pub(crate) fn share_not_from(&self, port: u16) -> f64 {
        let elsewhere = self.all.iter().filter(|at| at.port != i32::from(port));
        fraction(elsewhere.count(), self.all.len())
    }

    /// How many of them are so.
    pub(crate) fn count(&self, is_so: impl Fn(&Sighting) -> bool) -> usize {
        self.all.iter().filter(|sighting| is_so(sighting)).count()
    }
}

/// Makes the rows of so many writers anew, on every node.
pub(crate) async fn prepare(servers: &LocalCluster, writers: usize) {
    let last = writers - 1;
    let table = format!(
        "DROP TABLE IF EXISTS stamps; \
         CREATE TABLE stamps (id int PRIMARY KEY, number bigint NOT NULL) WITH (fillfactor = 10); \
         INSERT INTO stamps SELECT i, 0 FROM generate_series(0, {last}) i"
    );
    servers.sql(0, &table).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
}

/// Waits until the proxy knows the table: before that, reads of it go to the primary.
pub(crate) async fn known(proxy: &Proxy) {
    let client = connected(&proxy.url("app"), "SET pgweir.consistency = 'eventual'").await;
    eventually("a replica serves", async || {
        client.query_typed(READ, &[]).await.unwrap();
        let route = client.simple_query("SHOW pgweir.last_route").await.unwrap();
        format!("{route:?}").contains("role=replica")
    })
    .await;
}

/// Writers that go on until they are ended.
#[derive(Default)]
pub(crate) struct Writers {
    ending: Arc<AtomicBool>,
    running: Vec<JoinHandle<Stamps>>,
}

impl Writers {
    /// Has `client` count up the next row, some of it with `synchronous_commit = off` (F16).
    pub(crate) fn add(&mut self, client: Client, pause: Duration) {
        let row = i32::try_from(self.running.len()).unwrap();
        let counting = count_up(client, row, pause, Arc::clone(&self.ending));
        self.running.push(tokio::spawn(counting));
    }

    /// What they have written, in the order of their rows.
    pub(crate) async fn end(self) -> Vec<Stamps> {
        self.ending.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in self.running {
            all.push(writer.await.expect("a writer meets no error"));
        }
        all
    }
}

async fn count_up(client: Client, row: i32, pause: Duration, ending: Arc<AtomicBool>) -> Stamps {
    let write = "UPDATE stamps SET number = $1 WHERE id = $2";
    let types = [Type::INT8, Type::INT4];
    let write = client.prepare_typed(write, &types).await.unwrap();
    let mut stamps = Stamps::default();
    for number in 1_i64.. {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        if number % 64 == 0 {
            let mode = ["on", "off"][random_range(0..2)];
            let set = format!("SET synchronous_commit = {mode}");
            // Through the proxy it may be refused for a moment; then it stays as it is.
            drop(client.batch_execute(&set).await);
        }
        stamps.begun.push(Instant::now());
        let writing = async {
            // Through the proxy it may be refused for a moment; once more does no harm.
            while let Err(error) = client.execute(&write, &[&number, &row]).await {
                println!("a write was refused: {error:?}");
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, writing).await.expect("in time");
        stamps.acknowledged.push(Instant::now());
        sleep(pause).await;
    }
    stamps
}

/// How readers read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) readers: usize,
    /// Of all of them together.
    pub(crate) reads: usize,
    /// What each says first, separated by `; `.
    pub(crate) settings: &'a str,
}

/// Has them all read through the proxy.
pub(crate) async fn read(proxy: &Proxy, reading: Reading<'_>) -> Sightings {
    let mut running = JoinSet::new();
    for _ in 0..reading.readers {
        let reads = reading.reads.div_ceil(reading.readers);
        running.spawn(read_one(
            proxy.url("app"),
            reading.settings.to_owned(),
            reads,
        ));
    }
    let each = running.join_all().await;
    each.into_iter().fold(Sightings::default(), |mut a, b| {
        a.all.extend(b.all);
        a.refused += b.refused;
        a
    })
}

async fn read_one(url: String, settings: String, reads: usize) -> Sightings {
    let mut client = connected(&url, &settings).await;
    let mut sightings = Sightings::default();
    for _ in 0..reads {
        let invoked = Instant::now();
        let reading = timeout(LIMIT, client.query_typed(READ, &[]));
        match reading.await.expect("a read in time") {
            Ok(rows) => sightings.all.push(Sighting {
                invoked,
                numbers: rows[0].get(0),
                port: rows[0].get(1),
            }),
            Err(error) => {
                println!("a read was refused: {error:?}");
                sightings.refused += 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
        if client.is_closed() {
            client = connected(&url, &settings).await;
        }
        sleep(random_range(Duration::ZERO..=Duration::from_millis(5))).await;
    }
    sightings
}

async fn connected(url: &str, settings: &str) -> Client {
    let connecting = timeout(LIMIT, tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.expect("in time").unwrap();
    tokio::spawn(connection);
    // One about pgweir's settings is sent alone.
    for setting in settings.split("; ") {
        client.batch_execute(setting).await.unwrap();
    }
    client
}

#[test]
fn stale_reads_and_reversed_causes_can_be_seen() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let stamps = |times: &[(u64, u64)]| Stamps {
        begun: times.iter().map(|time| at(time.0)).collect(),
        acknowledged: times.iter().map(|time| at(time.1)).collect(),
    };
    let writers = [stamps(&[(1, 2), (5, 6)]), stamps(&[(3, 4), (7, 12)])];
    for (invoked, numbers, beyond_none, beyond_three, reversed) in [
        (10, [2, 1], false, false, false),
        (10, [2, 2], false, false, false),
        (10, [1, 1], true, true, false),
        (8, [1, 1], true, false, false),
        (10, [2, 0], true, true, true),
        (3, [1, 0], false, false, false),
        (3, [0, 0], true, false, false),
    ] {
        let sighting = Sighting {
            invoked: at(invoked),
            numbers: numbers.to_vec(),
            port: 0,
        };
        let found = (
            sighting.is_beyond(Duration::ZERO, &writers),
            sighting.is_beyond(Duration::from_secs(3), &writers),
            sighting.reverses_cause(&writers),
        );
        let expected = (beyond_none, beyond_three, reversed);
        assert_eq!(found, expected, "{numbers:?} at {invoked}");
    }
    let sighting = Sighting {
        invoked: at(10),
        numbers: vec![1, 1],
        port: 0,
    };
    assert_eq!(sighting.staleness(&writers), Duration::from_secs(4));
}
