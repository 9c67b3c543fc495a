//! Cancel requests: at once, however busy the pools are, and never for another client.

#![cfg(test)]

mod harness;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::wire::{self, Message, Wire};
use harness::{LIMIT, Proxy, shared_cluster};
use rand::RngExt as _;
use tokio::sync::{Mutex, MutexGuard};

/// Connections of one pool.
const POOL: usize = 4;

/// Within this a cancelled client must have its answer.
const AT_ONCE: Duration = Duration::from_millis(100);

/// `query_canceled`.
const CANCELED: &str = "57014";

/// A statement for the primary that does not end by itself in time.
const LONG: &str = "SELECT pg_sleep(20), pg_is_in_recovery()";

/// The tests count what sleeps on the servers, so one runs after the other.
static TURN: Mutex<()> = Mutex::const_new(());

async fn proxy() -> (Proxy, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let pool = format!("clusters: {{ main: {{ pool: {{ size: {POOL} }} }} }}");
    (Proxy::start(shared_cluster().await, &pool).await, turn)
}

/// Whether the answer is that the statement was cancelled; any other error is a fault.
fn is_canceled(answer: &[Message]) -> bool {
    let error = answer.iter().find_map(Message::sqlstate);
    match error.as_deref() {
        None => false,
        Some(CANCELED) => true,
        Some(_) => panic!("{answer:?}"),
    }
}

/// Waits until so many statements of [`LONG`] run on the primary.
async fn until_running(count: usize) {
    let cluster = shared_cluster().await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    harness::eventually("the pool is busy", || async {
        let rows = cluster.superuser_sql(0, running).await.unwrap();
        rows[0][0].as_ref().unwrap().parse::<usize>().unwrap() >= count
    })
    .await;
}

/// Cancels what runs for the client, and how long that took until it had its answer.
fn time_to_cancel(port: u16, client: &mut Wire) -> Duration {
    let start = Instant::now();
    wire::cancel(port, &client.cancel_key());
    let answer = client.until_ready();
    let taken = start.elapsed();
    assert!(is_canceled(&answer), "{answer:?}");
    taken
}

#[tokio::test]
async fn a_cancel_is_answered_at_once_while_all_connections_are_busy() {
    let (proxy, _turn) = proxy().await;
    let mut times = Vec::new();
    let mut clients: Vec<Wire> = (0..POOL).map(|_| Wire::connect(proxy.port())).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send(&wire::query(LONG));
        }
        until_running(POOL).await;
        for client in &mut clients {
            times.push(time_to_cancel(proxy.port(), client));
        }
    }
    times.sort();
    println!("cancelled within {times:?}");
    assert!(times[times.len() / 2] < AT_ONCE, "{times:?}");
}

#[tokio::test]
async fn a_client_that_waits_for_a_connection_can_cancel() {
    let (proxy, _turn) = proxy().await;
    let mut busy: Vec<Wire> = (0..POOL).map(|_| Wire::connect(proxy.port())).collect();
    for client in &mut busy {
        client.send(&wire::query(LONG));
    }
    until_running(POOL).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut waiting = Wire::connect(proxy.port());
        waiting.send(&wire::query(LONG));
        // Nothing outside tells that the proxy has read it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        times.push(time_to_cancel(proxy.port(), &mut waiting));
    }
    times.sort();
    assert!(times[times.len() / 2] < AT_ONCE, "{times:?}");
    for client in &mut busy {
        time_to_cancel(proxy.port(), client);
    }
}

#[tokio::test]
async fn a_read_that_waits_for_the_catalog_can_be_cancelled() {
    let _turn = TURN.lock().await;
    let cluster = shared_cluster().await;
    let made = "CREATE TABLE few (a int); CREATE ROLE locker SUPERUSER LOGIN PASSWORD 'locker'";
    cluster.superuser_sql(0, made).await.unwrap();
    cluster
        .superuser_sql(0, "GRANT ALL ON few TO app")
        .await
        .unwrap();
    let proxy = Proxy::start(cluster, "consistency: { wait: 20s, max_wait: 20s }").await;
    let served = async || {
        let mut client = Wire::connect(proxy.port());
        client.run("TABLE few");
        client.last_route().contains("role=replica")
    };
    harness::eventually("a replica serves reads", served).await;
    // No load can end any more, and what runs here needs nothing of it.
    let mut locker = Wire::connect_with(cluster.port(0), &[("user", "locker")]);
    locker.run("BEGIN");
    locker.run("LOCK TABLE pg_event_trigger IN ACCESS EXCLUSIVE MODE");
    let mut client = Wire::connect(proxy.port());
    client.run("DO 'BEGIN END'");
    client.send(&wire::query("TABLE few"));
    client.wait_at_most(Duration::from_millis(500));
    assert!(client.try_receive().is_err(), "it has not waited");
    client.wait_at_most(LIMIT);
    let taken = time_to_cancel(proxy.port(), &mut client);
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    locker.run("COMMIT");
    client.run("TABLE few");
}

#[tokio::test]
async fn a_wrong_key_cancels_nothing() {
    let (proxy, _turn) = proxy().await;
    let mut client = Wire::connect(proxy.port());
    client.send(&wire::query("SELECT pg_sleep(2), pg_is_in_recovery()"));
    until_running(1).await;
    let (process_id, mut secret) = client.cancel_key();
    wire::cancel(proxy.port(), &(process_id + 1, secret.clone()));
    secret[0] ^= 1;
    wire::cancel(proxy.port(), &(process_id, secret));
    assert!(!is_canceled(&client.until_ready()));
}

/// How many cancels were asked for, and how many came in time.
#[derive(Debug, Default)]
struct Tally {
    asked: AtomicUsize,
    hit: AtomicUsize,
}

/// A statement that takes some milliseconds, on one of the replicas or on the primary.
fn short_statement() -> String {
    let mut random = rand::rng();
    let seconds = f64::from(random.random_range(0..6_u32)) / 1000.0;
    match random.random_range(0..3) {
        0 => format!("SELECT pg_sleep({seconds})"),
        1 => format!("SELECT pg_sleep({seconds}), pg_is_in_recovery()"),
        _ => format!("BEGIN; SELECT pg_sleep({seconds}); COMMIT"),
    }
}

/// Runs statements and cancels each at some moment around its end. A cancel that came too late must
/// not hit the statement behind it.
fn cancel_often(port: u16, cancels: usize, tally: &Tally) {
    let mut client = Wire::connect(port);
    let key = client.cancel_key();
    for _ in 0..cancels {
        let delay = Duration::from_micros(rand::rng().random_range(0..7_000));
        client.send(&wire::query(&short_statement()));
        let answer = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(delay);
                wire::cancel(port, &key);
            });
            client.until_ready()
        });
        tally.asked.fetch_add(1, Ordering::Relaxed);
        tally
            .hit
            .fetch_add(usize::from(is_canceled(&answer)), Ordering::Relaxed);
        // Ends the block of a statement that was cancelled within one.
        let answer = client.query("ROLLBACK; SELECT 1");
        assert!(!is_canceled(&answer), "hit the next statement: {answer:?}");
    }
}

/// Runs statements until told to stop, and returns how many of them were cancelled.
fn watch_for_cancels(mut client: Wire, stop: &AtomicUsize) -> usize {
    let mut canceled = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        canceled += usize::from(is_canceled(&client.query(&short_statement())));
        if canceled > 0 {
            client.query("ROLLBACK");
        }
    }
    canceled
}

#[tokio::test]
async fn a_thousand_cancels_hit_nobody_else() {
    const CANCELLING: usize = 10;
    const WATCHING: usize = 10;
    let (proxy, _turn) = proxy().await;
    let port = proxy.port();
    let (tally, stop) = (Tally::default(), AtomicUsize::new(0));
    let foreign: usize = thread::scope(|scope| {
        let watchers: Vec<_> = (0..WATCHING)
            .map(|_| scope.spawn(|| watch_for_cancels(Wire::connect(port), &stop)))
            .collect();
        let cancelling: Vec<_> = (0..CANCELLING)
            .map(|_| scope.spawn(|| cancel_often(port, 1000 / CANCELLING, &tally)))
            .collect();
        let ended: Vec<_> = cancelling
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(1, Ordering::Relaxed);
        let foreign = watchers
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum();
        assert!(ended.iter().all(Result::is_ok));
        foreign
    });
    println!("{tally:?}");
    assert_eq!(foreign, 0, "statements of others were cancelled");
    assert_eq!(tally.asked.into_inner(), 1000);
    let hit = tally.hit.into_inner();
    assert!(
        (50..950).contains(&hit),
        "{hit} were hit: no race was tried"
    );
}

#[tokio::test]
async fn a_foreign_cancel_is_found() {
    let (proxy, _turn) = proxy().await;
    let port = proxy.port();
    let stop = AtomicUsize::new(0);
    let client = Wire::connect(port);
    let key = client.cancel_key();
    let found = thread::scope(|scope| {
        let watching = scope.spawn(|| watch_for_cancels(client, &stop));
        for _ in 0..100 {
            wire::cancel(port, &key);
        }
        stop.store(1, Ordering::Relaxed);
        watching.join().unwrap()
    });
    assert!(found > 0);
}
