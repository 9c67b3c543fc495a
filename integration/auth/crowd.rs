//! Many logins at once, each of which has the proxy hash a password for a long time.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::harness::raw::{Raw, message, startup};
use super::harness::{Proxy, cluster};
use super::{PATIENT, log_in, run, verifier};

/// How many log in at once.
const CROWD: usize = 200;

/// Iterations of their verifier: tens of milliseconds of one core for each.
const ITERATIONS: u32 = 60_000;

/// How long a running session is watched before they come.
const QUIET: Duration = Duration::from_secs(3);

pub(crate) async fn costs_running_sessions_little() {
    let cluster = cluster(0).await;
    let (_, stored) = verifier("crowd", ITERATIONS);
    run(
        &cluster,
        &format!("CREATE ROLE crowd LOGIN PASSWORD '{stored}'"),
    )
    .await;
    let proxy = Proxy::start(
        &cluster,
        &format!(
            "users: [{{ name: app, password: app }}, {{ name: crowd, password: '{stored}' }}]\n\
             auth: {{ method: password, mode: passthrough }}\n\
             limits: {{ startup_timeout: 120s }}"
        ),
    )
    .await;
    let session = log_in(&proxy, "app", "app").await.unwrap();
    let end = Instant::now() + QUIET;
    let before = latencies(&session, || Instant::now() < end).await;
    let mut logins = JoinSet::new();
    for _ in 0..CROWD {
        logins.spawn(log_in_raw(proxy.port()));
    }
    let began = Instant::now();
    let during = latencies(&session, || {
        logins.try_join_next().is_none_or(|_| !logins.is_empty())
    });
    let during = during.await;
    let took = began.elapsed();
    let (calm, crowded) = (percentile(&before, 99), percentile(&during, 99));
    println!(
        "{CROWD} logins in {took:?}; p50 {:?} -> {:?}, p99 {calm:?} -> {crowded:?}, {} and {} statements",
        percentile(&before, 50),
        percentile(&during, 50),
        before.len(),
        during.len()
    );
    assert!(
        during.len() > 100,
        "only {} statements while they came",
        during.len()
    );
    // One hash takes longer: a statement that had to wait for one would be seen.
    assert!(
        crowded < calm * 5 + Duration::from_millis(10),
        "{calm:?} -> {crowded:?}"
    );
}

/// How long each statement of a session takes, as long as `goes_on`.
async fn latencies(session: &Client, mut goes_on: impl FnMut() -> bool) -> Vec<Duration> {
    let mut all = Vec::new();
    while goes_on() {
        let began = Instant::now();
        session.query_one("SELECT 1", &[]).await.unwrap();
        all.push(began.elapsed());
    }
    all.sort();
    all
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

async fn log_in_raw(port: u16) {
    let mut raw = Raw::connect(port).await;
    raw.send(&startup(&[("user", "crowd"), ("database", "app")]))
        .await;
    let asked = raw.next(PATIENT).await.unwrap();
    assert_eq!(asked, (b'R', vec![0, 0, 0, 3]));
    raw.send(&message(b'p', b"crowd\0")).await;
    let answer = raw.next(PATIENT).await.unwrap();
    assert_eq!(answer, (b'R', vec![0, 0, 0, 0]), "{answer:?}");
}
