//! A family: connections that belong together, of which one at a time says something. So what one was
//! told comes before all that another one asks.

use std::iter::Sum;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pgweir::sandbox::LocalCluster;
use rand::{random_bool, random_range};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{LIMIT, Proxy};

/// One row a family, and one that somebody else counts up.
pub(crate) const TABLES: &str = "\
    CREATE TABLE family (id bigint PRIMARY KEY, v bigint NOT NULL); \
    INSERT INTO family SELECT i, 0 FROM generate_series(0, 63) i; \
    CREATE TABLE counter (id bigint PRIMARY KEY, v bigint NOT NULL); \
    INSERT INTO counter VALUES (1, 0); \
    GRANT ALL ON family, counter TO PUBLIC";

const MEMBERS: usize = 4;

/// How the members say that they belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Not at all.
    Nothing,
    /// `SET pgweir.key`.
    Set,
    /// `SET LOCAL pgweir.key` in a block around each statement.
    SetLocal,
    /// A comment at the end of each statement.
    Comment,
    /// An option of the startup packet.
    Startup,
    /// `SHOW pgweir.token` after each statement, `SET pgweir.after` before each.
    Token,
}

/// What families did and found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Findings {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    /// Reads that lacked what the family had been told was written.
    pub(crate) stale: usize,
    /// Reads of the counter that showed less than the family had seen, of what was acknowledged before:
    /// a replica may show a commit a moment earlier than the primary does.
    pub(crate) backwards: usize,
    pub(crate) on_replicas: usize,
}

impl Sum for Findings {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            reads: a.reads + b.reads,
            writes: a.writes + b.writes,
            stale: a.stale + b.stale,
            backwards: a.backwards + b.backwards,
            on_replicas: a.on_replicas + b.on_replicas,
        })
    }
}

/// The latest number of the counter whose writer was told that it is committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged(Arc<AtomicI64>);

impl Acknowledged {
    fn latest(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Connections that belong together.
pub(crate) struct Family {
    members: Vec<Client>,
    counter: Acknowledged,
    id: i64,
    way: Way,
    /// Whether what members saw goes from proxy to proxy as positions.
    by_position: bool,
    written: i64,
    counted: i64,
    token: String,
    found: Findings,
}

impl Family {
    /// A family whose members are spread over the proxies; `id` is its row, and `counter` what
    /// [`count_up`] tells of its own.
    pub(crate) async fn open(
        proxies: &[&Proxy],
        id: i64,
        way: Way,
        counter: &Acknowledged,
    ) -> Self {
        let mut members = Vec::new();
        for proxy in proxies.iter().cycle().take(MEMBERS) {
            let member = if way == Way::Startup {
                with_option(proxy, &format!("-c pgweir.key=family:{id}")).await
            } else {
                proxy.connect().await
            };
            if way == Way::Set {
                let set = format!("SET pgweir.key = 'family:{id}'");
                member.batch_execute(&set).await.unwrap();
            }
            members.push(member);
        }
        let read = format!("SELECT v FROM family WHERE id = {id}");
        let mut family = Self {
            members,
            counter: counter.clone(),
            id,
            way,
            by_position: way == Way::Token || proxies.len() > 1,
            written: 0,
            counted: 0,
            token: String::new(),
            found: Findings::default(),
        };
        // The row may have been written in an earlier run of the same test.
        let client = proxies.first().unwrap().connect().await;
        client
            .batch_execute("SET pgweir.consistency = 'primary'")
            .await
            .unwrap();
        family.written = number(&client, &read).await;
        family
    }

    /// Writes and reads in turn, until it has read so often.
    pub(crate) async fn run(mut self, reads: usize) -> Findings {
        while self.found.reads < reads {
            if random_bool(0.6) {
                self.write().await;
            }
            for _ in 0..random_range(1..=3) {
                // Each read leaves the primary's position of that moment behind.
                if self.by_position && random_bool(0.3) {
                    sleep(Duration::from_millis(100)).await;
                }
                self.read().await;
            }
            if random_bool(0.5) {
                sleep(random_range(Duration::ZERO..=Duration::from_millis(150))).await;
            }
        }
        self.found
    }

    fn anybody(&self) -> usize {
        random_range(0..self.members.len())
    }

    async fn write(&mut self) {
        let value = self.written + 1;
        let sql = format!("UPDATE family SET v = {value} WHERE id = {}", self.id);
        let who = self.anybody();
        self.say(who, &sql).await;
        self.written = value;
        self.found.writes += 1;
    }

    async fn read(&mut self) {
        let sql = format!(
            "SELECT f.v, c.v FROM family f, counter c WHERE f.id = {}",
            self.id
        );
        let who = self.anybody();
        let seen_for_certain = self.counted.min(self.counter.latest());
        let row = self.say(who, &sql).await.expect("a row");
        let (written, counted) = (row[0], row[1]);
        let route = text(&self.members[who], "SHOW pgweir.last_route").await;
        self.found.reads += 1;
        self.found.stale += usize::from(written < self.written);
        if counted < seen_for_certain {
            self.found.backwards += 1;
            if self.way != Way::Nothing {
                println!("{counted} after {seen_for_certain}, from {route}");
            }
        }
        self.counted = self.counted.max(counted);
        self.found.on_replicas += usize::from(route.contains("role=replica"));
    }

    /// Has a member say something in the family's way.
    async fn say(&mut self, who: usize, sql: &str) -> Option<Vec<i64>> {
        let client = &self.members[who];
        let id = self.id;
        match self.way {
            Way::Nothing | Way::Set | Way::Startup => numbers(client, sql).await,
            Way::Comment => numbers(client, &format!("{sql} /*pgweir_key='family%3A{id}'*/")).await,
            Way::SetLocal => {
                let begin = if sql.starts_with("SELECT") {
                    "BEGIN READ ONLY"
                } else {
                    "BEGIN"
                };
                run(client, begin).await;
                run(client, &format!("SET LOCAL pgweir.key = 'family:{id}'")).await;
                let found = numbers(client, sql).await;
                run(client, "COMMIT").await;
                found
            }
            Way::Token => {
                if !self.token.is_empty() {
                    run(client, &format!("SET pgweir.after = '{}'", self.token)).await;
                }
                let found = numbers(client, sql).await;
                self.token = text(client, "SHOW pgweir.token").await;
                found
            }
        }
    }
}

/// Counts up the counter on the primary until aborted.
pub(crate) async fn count_up(servers: impl Deref<Target = LocalCluster>, counter: Acknowledged) {
    let count = "UPDATE counter SET v = v + 1 RETURNING v";
    loop {
        let rows = servers.sql(0, count).await.unwrap();
        let number = rows.into_iter().flatten().flatten().next();
        let number = number.expect("a row").parse().expect("a number");
        counter.0.store(number, Ordering::SeqCst);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Families, one of each of these after the other, until replicas have served so many of their reads.
pub(crate) async fn until_replicas_have_served<F: Future<Output = Findings>>(
    least: usize,
    mut some: impl FnMut() -> F,
) -> Findings {
    let mut found = Findings::default();
    timeout(6 * LIMIT, async {
        while found.on_replicas < least {
            found = [found, some().await].into_iter().sum();
        }
    })
    .await
    .expect("replicas serve");
    found
}

async fn with_option(proxy: &Proxy, option: &str) -> Client {
    let mut config: tokio_postgres::Config = proxy.url("app").parse().unwrap();
    config.options(option);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn run(client: &Client, sql: &str) {
    let ran = timeout(LIMIT, client.batch_execute(sql)).await.unwrap();
    ran.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn row(client: &Client, sql: &str) -> Option<Vec<String>> {
    let answer = timeout(LIMIT, client.simple_query(sql)).await.unwrap();
    let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    answer.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else {
            return None;
        };
        let columns = 0..row.len();
        Some(columns.map(|at| row.get(at).unwrap().to_owned()).collect())
    })
}

async fn text(client: &Client, sql: &str) -> String {
    row(client, sql).await.unwrap().remove(0)
}

async fn number(client: &Client, sql: &str) -> i64 {
    text(client, sql).await.parse().unwrap()
}

async fn numbers(client: &Client, sql: &str) -> Option<Vec<i64>> {
    let row = row(client, sql).await?;
    Some(row.iter().map(|text| text.parse().unwrap()).collect())
}
