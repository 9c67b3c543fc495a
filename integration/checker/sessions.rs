//! Sessions that append to shared lists and read them and a ring of numbers, through the proxy.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use pgweir::sandbox::LocalCluster;
use rand::{random_bool, random_range};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls, Row, Statement};

use super::history::{Did, History, Outcome};
use super::judge::{Final, RING};
use crate::harness::{LIMIT, Proxy};

/// Lists that are in use at one time; the run moves on to others, so that none gets long.
const WINDOW: i32 = 8;
/// How many reads of all sessions together there are to a list.
const READS_OF_A_LIST: usize = 500;

const APPEND: &str = "UPDATE lists SET elements = elements || $2::int4 WHERE id = $1";
const LIST: &str = "SELECT elements, inet_server_port() FROM lists WHERE id = $1";
const RING_ROW: &str = "SELECT number, inet_server_port() FROM ring WHERE id = $1";

/// How a run is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) sessions: usize,
    /// Reads of all sessions together.
    pub(crate) reads: usize,
    /// How long a session thinks at most between an append with its first reads and the others: long
    /// enough for replicas to take part.
    pub(crate) think: Duration,
}

impl Plan {
    fn lists(&self) -> i32 {
        WINDOW + i32::try_from(self.reads / READS_OF_A_LIST).unwrap()
    }
}

/// What a run led to.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) histories: Vec<History>,
    pub(crate) end: Final,
    pub(crate) took: Duration,
}

impl Recorded {
    /// The share of reads that the server at `port` did not answer, from 0 to 1.
    pub(crate) fn share_not_from(&self, port: u16) -> f64 {
        let operations = self.histories.iter().flat_map(History::operations);
        let ports: Vec<i32> = operations.filter_map(|operation| operation.port).collect();
        let others = ports.iter().filter(|at| **at != i32::from(port)).count();
        fraction(others, ports.len())
    }
}

pub(crate) fn fraction(part: usize, of: usize) -> f64 {
    let number = |n: usize| f64::from(u32::try_from(n).unwrap());
    number(part) / number(of.max(1))
}

/// Ends its task when dropped.
pub(crate) struct Background(pub(crate) JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the tables anew, on every node.
pub(crate) async fn prepare(servers: &LocalCluster, plan: &Plan) {
    let last = plan.lists() - 1;
    let tables = format!(
        "DROP TABLE IF EXISTS lists, ring; \
         CREATE TABLE lists (id int PRIMARY KEY, elements int[] NOT NULL DEFAULT '{{}}') WITH (fillfactor = 50); \
         INSERT INTO lists SELECT i FROM generate_series(0, {last}) i; \
         CREATE TABLE ring (id bigint PRIMARY KEY, number bigint NOT NULL); \
         INSERT INTO ring SELECT i, i FROM generate_series(0, {}) i",
        RING - 1
    );
    servers.sql(0, &tables).await.unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
}

/// Has sessions read and write as planned, once the tables are there, while the ring is numbered by
/// somebody who bypasses the proxy.
pub(crate) async fn record(servers: &'static LocalCluster, proxy: &Proxy, plan: Plan) -> Recorded {
    let unique = Arc::new(AtomicI32::new(1));
    let mut sessions = Vec::new();
    for _ in 0..plan.sessions {
        sessions.push(Session::open(proxy.url("app"), plan, Arc::clone(&unique)).await);
    }
    let numbering = Background(tokio::spawn(number_the_ring(servers)));
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for session in sessions {
        running.spawn(session.run());
    }
    let histories = running.join_all().await.into_iter().flatten().collect();
    let took = begun.elapsed();
    drop(numbering);
    Recorded {
        histories,
        end: final_lists(servers).await,
        took,
    }
}

async fn final_lists(servers: &LocalCluster) -> Final {
    let client = servers.connect(0).await.unwrap();
    let all = client.query("SELECT id, elements FROM lists", &[]).await;
    let rows = all.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The single writer: number n goes to row n modulo [`RING`] once n - 1 is committed, some of them with
/// `synchronous_commit = off` (F16).
async fn number_the_ring(servers: &LocalCluster) {
    let client = servers.connect(0).await.unwrap();
    let update = "UPDATE ring SET number = $1 WHERE id = $1 % $2";
    let types = [Type::INT8, Type::INT8];
    let update = client.prepare_typed(update, &types).await.unwrap();
    for number in RING.. {
        if number % 50 == 0 {
            let mode = ["on", "off"][random_range(0..2)];
            let set = format!("SET synchronous_commit = {mode}");
            client.batch_execute(&set).await.unwrap();
        }
        client.execute(&update, &[&number, &RING]).await.unwrap();
        sleep(Duration::from_millis(3)).await;
    }
}

/// A connection with its statements.
struct Connected {
    client: Client,
    append: Statement,
    list: Statement,
    ring: Statement,
}

impl Connected {
    async fn open(url: &str) -> Self {
        let connecting = timeout(LIMIT, tokio_postgres::connect(url, NoTls));
        let (client, connection) = connecting.await.expect("in time").unwrap();
        tokio::spawn(connection);
        let prepare = |text| client.prepare_typed(text, &[]);
        Self {
            append: prepare(APPEND).await.unwrap(),
            list: prepare(LIST).await.unwrap(),
            ring: client.prepare_typed(RING_ROW, &[Type::INT8]).await.unwrap(),
            client,
        }
    }
}

/// One session after the other, each with its history: a connection ends when a replica ends on which it
/// has a block open.
struct Session {
    url: String,
    connected: Connected,
    plan: Plan,
    unique: Arc<AtomicI32>,
    reads: usize,
    history: History,
    ended: Vec<History>,
}

impl Session {
    async fn open(url: String, plan: Plan, unique: Arc<AtomicI32>) -> Self {
        Self {
            connected: Connected::open(&url).await,
            url,
            plan,
            unique,
            reads: 0,
            history: History::default(),
            ended: Vec::new(),
        }
    }

    async fn run(mut self) -> Vec<History> {
        let reads = self.plan.reads.div_ceil(self.plan.sessions);
        while self.reads < reads {
            if self.connected.client.is_closed() {
                self.connected = Connected::open(&self.url).await;
                self.ended.push(take(&mut self.history));
            }
            let list = self.some_list();
            self.append(list).await;
            for _ in 0..random_range(1..=3) {
                self.read_list(list).await;
            }
            sleep(random_range(Duration::ZERO..=self.plan.think)).await;
            for _ in 0..random_range(4..=12) {
                if self.connected.client.is_closed() {
                    break;
                }
                if random_bool(0.5) {
                    self.read_list(self.some_list()).await;
                } else {
                    self.read_ring(random_range(0..RING)).await;
                }
            }
        }
        self.ended.push(self.history);
        self.ended
    }

    /// One of the lists that are in use at this point of the run.
    fn some_list(&self) -> i32 {
        let first = self.reads * self.plan.sessions / READS_OF_A_LIST;
        let list = i32::try_from(first).unwrap() + random_range(0..WINDOW);
        list.min(self.plan.lists() - 1)
    }

    /// Appends alone, in a block, or with `synchronous_commit = off` for this one (F16).
    async fn append(&mut self, list: i32) {
        let value = self.unique.fetch_add(1, Ordering::Relaxed);
        let invoked = Instant::now();
        let appending = async {
            match random_range(0..4) {
                0 => self.append_between("BEGIN", list, value).await,
                1 => {
                    let begin = "BEGIN; SET LOCAL synchronous_commit = off";
                    self.append_between(begin, list, value).await
                }
                _ => self.send_append(list, value).await,
            }
        };
        let outcome = match timeout(LIMIT, appending).await.expect("in time") {
            Ok(()) => Outcome::Acknowledged,
            Err(error) => {
                drop(self.connected.client.batch_execute("ROLLBACK").await);
                println!("an append failed: {error:?}");
                Outcome::Unknown
            }
        };
        let did = Did::Append {
            list,
            value,
            outcome,
        };
        self.history.note(invoked, did, None);
    }

    async fn append_between(&self, begin: &str, list: i32, value: i32) -> Result<(), Error> {
        self.connected.client.batch_execute(begin).await?;
        self.send_append(list, value).await?;
        self.connected.client.batch_execute("COMMIT").await
    }

    async fn send_append(&self, list: i32, value: i32) -> Result<(), Error> {
        let changed = self
            .connected
            .client
            .execute(&self.connected.append, &[&list, &value])
            .await?;
        assert_eq!(changed, 1);
        Ok(())
    }

    async fn read_list(&mut self, list: i32) {
        let invoked = Instant::now();
        let read = self
            .read(&self.connected.list, (LIST, Type::INT4), &list)
            .await;
        self.note_read(invoked, read, |row| Did::List {
            list,
            elements: row.get(0),
        });
    }

    async fn read_ring(&mut self, row: i64) {
        let invoked = Instant::now();
        let read = self
            .read(&self.connected.ring, (RING_ROW, Type::INT8), &row)
            .await;
        self.note_read(invoked, read, |found| Did::Ring {
            row,
            number: found.get(0),
        });
    }

    fn note_read(&mut self, invoked: Instant, read: Result<Row, Error>, did: impl Fn(&Row) -> Did) {
        self.reads += 1;
        let (did, port) = match read {
            Ok(row) => (did(&row), Some(row.get(1))),
            Err(error) => {
                let error = format!("{error:?}");
                (Did::Refused { error }, None)
            }
        };
        self.history.note(invoked, did, port);
    }

    /// As a named statement, as an unnamed one, or in a READ ONLY block.
    async fn read(
        &self,
        named: &Statement,
        (text, kind): (&str, Type),
        argument: &(dyn ToSql + Sync),
    ) -> Result<Row, Error> {
        let reading = async {
            match random_range(0..8) {
                0 => {
                    self.connected
                        .client
                        .batch_execute("BEGIN READ ONLY")
                        .await?;
                    let read = self.connected.client.query_one(named, &[argument]).await;
                    let end = self.connected.client.batch_execute("COMMIT").await;
                    let row = read?;
                    end.map(|()| row)
                }
                1..=3 => {
                    let rows = self
                        .connected
                        .client
                        .query_typed(text, &[(argument, kind)])
                        .await?;
                    Ok(rows.into_iter().next().expect("one row"))
                }
                _ => self.connected.client.query_one(named, &[argument]).await,
            }
        };
        timeout(LIMIT, reading).await.expect("a read in time")
    }
}
