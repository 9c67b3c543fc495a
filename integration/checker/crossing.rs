//! A replica shows a commit while the primary still waits for a synchronous standby (F17): whoever has
//! seen it must not miss it on the primary (`consistency.monotonic_reads: strict`).

use std::sync::Arc;
use std::time::Duration;

use pgweir::sandbox::{ClusterOptions, LocalCluster};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::faults::Stopped;
use super::{ALONE, sized};
use crate::harness::{LIMIT, Proxy, eventually};

const PRIMARY: usize = 0;
const ASYNCHRONOUS: usize = 1;
const SYNCHRONOUS: usize = 2;
/// Sessions of one round, each with a commit of its own to see.
const SESSIONS: usize = 40;

static SERVERS: OnceCell<LocalCluster> = OnceCell::const_new();

/// A primary that waits for the second of its two replicas with every commit.
async fn servers() -> &'static LocalCluster {
    let servers = SERVERS.get_or_init(|| async {
        let options = ClusterOptions::new(2).with_setting("max_prepared_transactions", "40");
        LocalCluster::start(options).await.unwrap()
    });
    let servers = servers.await;
    servers.thaw_node(ASYNCHRONOUS).unwrap();
    let tables = "DROP TABLE IF EXISTS seen; CREATE TABLE seen (id int PRIMARY KEY)";
    servers.sql(PRIMARY, tables).await.unwrap();
    set_synchronous(servers, "node2").await;
    servers
}

async fn set_synchronous(servers: &LocalCluster, names: &str) {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    servers.superuser_sql(PRIMARY, &set).await.unwrap();
    let reload = "SELECT pg_reload_conf()";
    servers.superuser_sql(PRIMARY, reload).await.unwrap();
    let expected = if names.is_empty() { "async" } else { "sync" };
    let state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'node2'";
    eventually("the standby has its part", async || {
        let rows = servers.superuser_sql(PRIMARY, state).await.unwrap();
        rows == [[Some(expected.to_owned())]]
    })
    .await;
}

/// The primary waits for nobody that is alive, until this is dropped.
async fn stall(servers: &LocalCluster) -> Stopped {
    let stopped = Stopped::stop(servers, SYNCHRONOUS, "walreceiver").await;
    stopped.expect("the synchronous standby has a receiver")
}

/// How a session goes from the replica to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A comment asks for the primary.
    Comment,
    /// The mode does.
    Mode,
    /// A block that has read on the replica locks.
    Block,
    /// What it runs was prepared with SQL, on a connection that it keeps.
    Kept,
}

impl Way {
    const ALL: [Self; 4] = [Self::Comment, Self::Mode, Self::Block, Self::Kept];
}

async fn run(client: &Client, sql: &str) -> Vec<String> {
    let answered = timeout(LIMIT, client.simple_query(sql)).await;
    let answered = answered.expect("an answer in time").unwrap();
    let mut rows = Vec::new();
    for message in answered {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push(row.get(0).unwrap_or_default().to_owned());
        }
    }
    rows
}

/// Where the last statement ran, and why.
async fn route(client: &Client) -> String {
    run(client, "SHOW pgweir.last_route").await.concat()
}

/// Reads until the row is there; where it does not run on a replica, it is read elsewhere.
async fn see_on_replica(client: &Client, id: i32, way: Way) {
    let read = format!("SELECT id FROM seen WHERE id = {id}");
    let reading = async {
        loop {
            if way == Way::Block {
                run(client, "BEGIN").await;
            }
            if !run(client, &read).await.is_empty() {
                let route = route(client).await;
                assert!(route.contains("role=replica"), "{route}");
                return;
            }
            if way == Way::Block {
                run(client, "COMMIT").await;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, reading).await.expect("a replica shows it");
}

/// Whether the row is still there on the primary.
async fn is_on_primary(client: &Client, id: i32, way: Way) -> bool {
    let read = format!("SELECT id FROM seen WHERE id = {id}");
    let found = match way {
        Way::Comment => run(client, &format!("/*pgweir_route='primary'*/ {read}")).await,
        Way::Mode => {
            run(client, "SET pgweir.consistency = 'primary'").await;
            run(client, &read).await
        }
        Way::Block => run(client, &format!("{read} FOR UPDATE")).await,
        Way::Kept => run(client, &format!("EXECUTE kept({id})")).await,
    };
    let route = route(client).await;
    assert!(route.contains("role=primary"), "{way:?}: {route}");
    match way {
        Way::Block => drop(run(client, "COMMIT").await),
        Way::Mode => drop(run(client, "RESET pgweir.consistency").await),
        Way::Comment | Way::Kept => {}
    }
    !found.is_empty()
}

/// Somebody who commits, and a session that looks for it.
struct Pair {
    writer: Arc<Client>,
    reader: Arc<Client>,
    way: Way,
}

impl Pair {
    async fn open(servers: &LocalCluster, proxy: &Proxy, way: Way) -> Self {
        let reader = proxy.connect().await;
        if way == Way::Kept {
            let prepare = "PREPARE kept(int) AS SELECT id FROM seen WHERE id = $1";
            run(&reader, prepare).await;
        }
        Self {
            writer: Arc::new(servers.connect(PRIMARY).await.unwrap()),
            reader: Arc::new(reader),
            way,
        }
    }

    /// Begins what the writer is to commit; the command that does, some in two phases.
    async fn begin(&self, id: i32) -> String {
        let insert = format!("INSERT INTO seen VALUES ({id})");
        if id % 5 != 0 {
            return insert;
        }
        let prepare = format!("BEGIN; {insert}; PREPARE TRANSACTION 'seen{id}'");
        self.writer.batch_execute(&prepare).await.unwrap();
        format!("COMMIT PREPARED 'seen{id}'")
    }
}

async fn pairs(servers: &LocalCluster, proxy: &Proxy) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for way in Way::ALL.into_iter().cycle().take(SESSIONS) {
        pairs.push(Pair::open(servers, proxy, way).await);
    }
    pairs
}

/// Has a commit wait for each of the sessions, which see its row on the replica and then look for it on
/// the primary. How many miss it there.
async fn missing(servers: &LocalCluster, pairs: &[Pair], round: usize) -> usize {
    let ids = (round * SESSIONS..).map(|id| i32::try_from(id).unwrap());
    let mut ready = Vec::new();
    for (id, pair) in ids.zip(pairs) {
        ready.push((id, pair, pair.begin(id).await));
    }
    let stopped = stall(servers).await;
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for (id, pair, commit) in ready {
        let (writer, reader, way) = (pair.writer.clone(), pair.reader.clone(), pair.way);
        writers.spawn(async move { writer.batch_execute(&commit).await.unwrap() });
        readers.spawn(async move {
            see_on_replica(&reader, id, way).await;
            is_on_primary(&reader, id, way).await
        });
    }
    // Longer than it takes to see them.
    sleep(Duration::from_millis(300)).await;
    drop(stopped);
    let found = timeout(LIMIT, readers.join_all()).await.expect("in time");
    writers.join_all().await;
    found.into_iter().filter(|found| !found).count()
}

/// A proxy that reads on the asynchronous replica.
async fn start(servers: &LocalCluster, consistency: &str) -> Proxy {
    let nodes: Vec<String> = servers
        .nodes()
        .map(|node| {
            let (port, weight) = (servers.port(node), u8::from(node != SYNCHRONOUS));
            format!("{{ name: node{node}, host: 127.0.0.1, port: {port}, weight: {weight} }}")
        })
        .collect();
    let overrides = format!(
        "clusters: {{ main: {{ nodes: [{}], pool: {{ size: 50 }} }} }}\n\
         routing: {{ transactions: until_write }}\n\
         consistency: {{ {consistency} }}",
        nodes.join(", ")
    );
    let proxy = Proxy::start(servers, &overrides).await;
    let client = proxy.connect().await;
    eventually("the replica serves", async || {
        run(&client, "SELECT id FROM seen WHERE id = 0").await;
        route(&client).await.contains("role=replica")
    })
    .await;
    proxy
}

async fn barriers(proxy: &Proxy, outcome: &str) -> f64 {
    let name = "pgweir_primary_barriers_total";
    proxy.metrics().await.sum(name, &[("outcome", outcome)])
}

#[tokio::test]
async fn what_a_replica_shows_before_the_primary_is_not_missing_there() {
    let _alone = ALONE.lock().await;
    let servers = servers().await;
    let proxy = start(servers, "monotonic_reads: strict, max_wait: 10s").await;
    // It runs all the time and has nothing to do with it.
    let bystander = servers.connect(PRIMARY).await.unwrap();
    let open = "BEGIN; INSERT INTO seen VALUES (-1)";
    bystander.batch_execute(open).await.unwrap();
    let rounds = sized(10);
    let mut missed = 0;
    let sessions = pairs(servers, &proxy).await;
    for round in 0..rounds {
        missed += missing(servers, &sessions, round).await;
    }
    let (waited, refused) = (
        barriers(&proxy, "waited").await,
        barriers(&proxy, "not_reached").await,
    );
    println!(
        "strict: {missed} of {} seen and then missing, {waited} held, {:.0} refused",
        rounds * SESSIONS,
        refused.abs()
    );
    assert!(missed == 0 && refused < 1.0, "{}", proxy.log());
    let tries = u32::try_from(rounds * SESSIONS).unwrap();
    assert!(waited * 2.0 >= f64::from(tries), "void: {waited}");
    // The control.
    let proxy = start(servers, "monotonic_reads: ordinary").await;
    let sessions = pairs(servers, &proxy).await;
    let mut missed = 0;
    for round in [rounds, rounds + 1] {
        missed += missing(servers, &sessions, round).await;
    }
    let of = 2 * SESSIONS;
    println!("control, ordinary: {missed} of {of} seen and then missing");
    set_synchronous(servers, "").await;
    assert!(missed * 2 >= of, "void: {missed} of {of}");
    for outcome in ["passed", "waited", "not_reached"] {
        assert!(barriers(&proxy, outcome).await < 1.0, "{outcome}");
    }
}

#[tokio::test]
async fn what_the_primary_does_not_show_in_time_is_refused_there_and_read_on_the_replica() {
    let _alone = ALONE.lock().await;
    let servers = servers().await;
    let proxy = start(servers, "monotonic_reads: strict, max_wait: 1s").await;
    let client = proxy.connect().await;
    let writer = servers.connect(PRIMARY).await.unwrap();
    let stopped = stall(servers).await;
    let writing = tokio::spawn(async move {
        let insert = "INSERT INTO seen VALUES (1000000)";
        writer.batch_execute(insert).await.unwrap();
    });
    see_on_replica(&client, 1_000_000, Way::Comment).await;
    let lock = "SELECT id FROM seen WHERE id = 1000000 FOR UPDATE";
    let refused = timeout(LIMIT, client.simple_query(lock)).await.unwrap();
    let refused = refused.expect_err("the primary does not show it");
    assert_eq!(
        refused.code().map(SqlState::code),
        Some("57P03"),
        "{refused:?}"
    );
    assert!(barriers(&proxy, "not_reached").await >= 1.0);
    see_on_replica(&client, 1_000_000, Way::Comment).await;
    // Nobody can tell what the session was shown, so it waits for all that runs.
    servers.freeze_node(ASYNCHRONOUS).unwrap();
    let again = run(&client, lock);
    let (found, ()) = tokio::join!(again, async {
        sleep(Duration::from_millis(500)).await;
        drop(stopped);
    });
    servers.thaw_node(ASYNCHRONOUS).unwrap();
    assert_eq!(found, ["1000000"]);
    writing.await.unwrap();
    set_synchronous(servers, "").await;
}
