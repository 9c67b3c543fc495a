//! Sessions that write values of their own and judge by value alone what they read back.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::sync::Arc;
use std::time::Duration;

use pgweir::sandbox::LocalCluster;
use rand::random_range;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, Statement};

use super::harness::{LIMIT, Proxy};

/// What must exist before the first session: rows of one session each, and a counter.
pub(crate) const TABLES: &str = "\
    CREATE TABLE own (session bigint, slot bigint, v bigint, PRIMARY KEY (session, slot)); \
    CREATE TABLE counter (id bigint PRIMARY KEY, v bigint); \
    INSERT INTO counter VALUES (1, 0)";

/// How many of its last rows a session reads back.
const REMEMBERED: usize = 8;

/// What sessions did and found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Reads whose values were judged.
    pub(crate) reads: usize,
    /// Acknowledged writes.
    pub(crate) writes: usize,
    /// Reads that lacked an acknowledged write of their own session.
    pub(crate) stale: usize,
    /// Reads in which the counter was lower than the session had seen it.
    pub(crate) backwards: usize,
    /// Reads that directly followed a write.
    pub(crate) first_reads: usize,
    /// Those of them that lacked it.
    pub(crate) stale_first_reads: usize,
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |a, b| Self {
            reads: a.reads + b.reads,
            writes: a.writes + b.writes,
            stale: a.stale + b.stale,
            backwards: a.backwards + b.backwards,
            first_reads: a.first_reads + b.first_reads,
            stale_first_reads: a.stale_first_reads + b.stale_first_reads,
        })
    }
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One Query message with literals.
    Simple,
    /// A named prepared statement.
    Prepared,
    /// Parse, Bind and Execute of the unnamed statement at once.
    Unnamed,
}

const STYLES: [Style; 3] = [Style::Simple, Style::Prepared, Style::Unnamed];

/// The statements of the workload; all parameters and columns are `bigint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Insert,
    Update,
    /// Own rows from a slot on: slot and value.
    Own,
    /// The counter: its id and value.
    Counter,
}

const REQUESTS: [Request; 4] = [
    Request::Insert,
    Request::Update,
    Request::Own,
    Request::Counter,
];

impl Request {
    const fn text(self) -> &'static str {
        match self {
            Self::Insert => "INSERT INTO own VALUES ($1, $2, $3)",
            Self::Update => "UPDATE own SET v = $3 WHERE session = $1 AND slot = $2",
            Self::Own => "SELECT slot, v FROM own WHERE session = $1 AND slot >= $2",
            Self::Counter => "SELECT id, v FROM counter WHERE id = $1",
        }
    }

    fn with_literals(self, arguments: &[i64]) -> String {
        let numbered = arguments.iter().enumerate();
        numbered.fold(self.text().to_owned(), |text, (n, value)| {
            text.replace(&format!("${}", n + 1), &value.to_string())
        })
    }
}

/// One client with its record of what it must see.
pub(crate) struct Session {
    client: Client,
    prepared: Vec<Statement>,
    id: i64,
    /// The acknowledged values of its last rows by slot.
    acknowledged: BTreeMap<i64, i64>,
    last_slot: i64,
    last_value: i64,
    last_count: i64,
    tally: Tally,
}

impl Session {
    /// A statement without a result, as one Query message.
    pub(crate) async fn execute(&self, sql: &str) {
        let executed = timeout(LIMIT, self.client.batch_execute(sql)).await;
        executed
            .unwrap()
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Where its last statement went.
    pub(crate) async fn last_route(&self) -> String {
        let shown = self.client.simple_query("SHOW pgweir.last_route").await;
        let shown = shown.unwrap();
        let route = rows_of(&shown).next().unwrap().get(0);
        route.unwrap().to_owned()
    }

    /// What it has found so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Connects and prepares its statements. `id` must be its own in the cluster.
    pub(crate) async fn open(proxy: &Proxy, id: i64) -> Self {
        let client = proxy.connect().await;
        let mut prepared = Vec::new();
        for request in REQUESTS {
            let types = vec![Type::INT8; request.text().matches('$').count()];
            prepared.push(client.prepare_typed(request.text(), &types).await.unwrap());
        }
        Self {
            client,
            prepared,
            id,
            acknowledged: BTreeMap::new(),
            last_slot: 0,
            last_value: 0,
            last_count: 0,
            tally: Tally::default(),
        }
    }

    /// Writes, reads it back with one to four statements, thinks, and reads on: nine reads to a
    /// write on average, until it has made as many as asked.
    pub(crate) async fn run(mut self, reads: usize, think: Duration) -> Tally {
        while self.tally.reads < reads {
            self.write().await;
            let read_back = random_range(1..=4);
            for n in 0..random_range(5..=13) {
                if n == read_back {
                    sleep(random_range(Duration::ZERO..=think)).await;
                }
                if n < read_back || random_range(0..2) == 0 {
                    self.read_own().await;
                } else {
                    self.read_counter().await;
                }
            }
        }
        self.tally
    }

    /// Inserts a row or updates one of its last.
    pub(crate) async fn write(&mut self) {
        let (slot, value) = self.write_unnoted().await;
        self.last_slot = self.last_slot.max(slot);
        self.acknowledged.insert(slot, value);
        while self.acknowledged.len() > REMEMBERED {
            self.acknowledged.pop_first();
        }
        self.tally.writes += 1;
    }

    /// The same without expecting to read it: what a rolled back transaction does.
    pub(crate) async fn write_unnoted(&mut self) -> (i64, i64) {
        let known: Vec<i64> = self.acknowledged.keys().copied().collect();
        let value = self.last_value + 1;
        let (request, slot) = if known.is_empty() || random_range(0..2) == 0 {
            (Request::Insert, self.last_slot + 1)
        } else {
            (Request::Update, known[random_range(0..known.len())])
        };
        self.ask(request, &[self.id, slot, value]).await;
        self.last_value = value;
        (slot, value)
    }

    /// Reads its last rows and judges what it finds.
    pub(crate) async fn read_own(&mut self) {
        let from = self.acknowledged.keys().next().copied().unwrap_or(0);
        let rows = self.ask(Request::Own, &[self.id, from]).await;
        let found: BTreeMap<i64, i64> = rows.into_iter().collect();
        let stale = usize::from(found != self.acknowledged);
        self.tally.reads += 1;
        self.tally.stale += stale;
        if self.tally.first_reads < self.tally.writes {
            self.tally.first_reads = self.tally.writes;
            self.tally.stale_first_reads += stale;
        }
    }

    /// Reads the counter, judges whether it went back, and returns it.
    pub(crate) async fn read_counter(&mut self) -> i64 {
        let rows = self.ask(Request::Counter, &[1]).await;
        let (_, count) = rows[0];
        self.tally.reads += 1;
        self.tally.backwards += usize::from(count < self.last_count);
        self.last_count = self.last_count.max(count);
        count
    }

    async fn ask(&self, request: Request, arguments: &[i64]) -> Vec<(i64, i64)> {
        let style = STYLES[random_range(0..STYLES.len())];
        let answer = async {
            match style {
                Style::Simple => self.ask_simply(request, arguments).await,
                Style::Prepared | Style::Unnamed => {
                    self.ask_extended(style, request, arguments).await
                }
            }
        };
        match timeout(LIMIT, answer).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => panic!("{style:?} {request:?}: {error:?}"),
            Err(elapsed) => panic!("{style:?} {request:?}: {elapsed}"),
        }
    }

    async fn ask_simply(
        &self,
        request: Request,
        arguments: &[i64],
    ) -> Result<Vec<(i64, i64)>, tokio_postgres::Error> {
        let text = request.with_literals(arguments);
        let messages = self.client.simple_query(&text).await?;
        let rows = rows_of(&messages).map(|row| {
            let number = |column: usize| row.get(column).unwrap().parse().unwrap();
            (number(0), number(1))
        });
        Ok(rows.collect())
    }

    async fn ask_extended(
        &self,
        style: Style,
        request: Request,
        arguments: &[i64],
    ) -> Result<Vec<(i64, i64)>, tokio_postgres::Error> {
        let rows = if style == Style::Prepared {
            let at = REQUESTS.iter().position(|known| *known == request).unwrap();
            let values: Vec<&(dyn ToSql + Sync)> = arguments.iter().map(|v| v as _).collect();
            self.client.query(&self.prepared[at], &values).await?
        } else {
            let values: Vec<(&(dyn ToSql + Sync), Type)> =
                arguments.iter().map(|v| (v as _, Type::INT8)).collect();
            self.client.query_typed(request.text(), &values).await?
        };
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

fn rows_of(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    messages.iter().filter_map(|message| {
        if let SimpleQueryMessage::Row(row) = message {
            Some(row)
        } else {
            None
        }
    })
}

/// Counts up on the primary, past the proxy, until aborted: the single writer of the counter.
pub(crate) async fn count_up(servers: Arc<LocalCluster>) {
    let client = servers.connect(0).await.unwrap();
    loop {
        let counted = client.execute("UPDATE counter SET v = v + 1", &[]).await;
        counted.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
}
