//! Many logins at once, each of which has the proxy hash a password for a long time. A target of its
//! own, as it measures time.

#![cfg(test)]

mod harness;

use std::time::{Duration, Instant};

use harness::raw::{Raw, message, startup};
use harness::scram::verifier;
use harness::{Proxy, cluster};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// How many log in at once.
const CROWD: usize = 200;

/// Iterations of their verifier: tens of milliseconds of one core for each.
const ITERATIONS: u32 = 60_000;

/// How long a running session is watched before they come and when they are through.
const QUIET: Duration = Duration::from_secs(3);

/// What a busy machine may need for one login.
const PATIENT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_crowd_of_logins_costs_running_sessions_little() {
    let cluster = cluster(0).await;
    let stored = verifier("crowd", ITERATIONS);
    let role = format!("CREATE ROLE crowd LOGIN PASSWORD '{stored}'");
    cluster.superuser_sql(0, &role).await.unwrap();
    let proxy = Proxy::start(
        &cluster,
        &format!(
            "users: [{{ name: app, password: app }}, {{ name: crowd, password: '{stored}' }}]\n\
             auth: {{ method: password, mode: passthrough }}\n\
             limits: {{ startup_timeout: 120s }}"
        ),
    )
    .await;
    let session = proxy.connect().await;
    let before = latencies(&session, for_a_while()).await;
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
    let after = latencies(&session, for_a_while()).await;
    // Other work on the machine is there before, or after, or both.
    let calm = |percent| percentile(&before, percent).max(percentile(&after, percent));
    let (usual, then) = (calm(50), percentile(&during, 50));
    let (calm, crowded) = (calm(99), percentile(&during, 99));
    println!(
        "{CROWD} logins in {took:?}; p50 {usual:?} -> {then:?}, p99 {calm:?} -> {crowded:?}, {} statements",
        during.len()
    );
    assert!(
        during.len() > 100,
        "only {} statements while they came",
        during.len()
    );
    // Behind hashes on the threads that relay, every statement would wait for at least one.
    let hash = took / u32::try_from(CROWD).unwrap();
    assert!(
        then < usual * 3 + hash / 4,
        "{usual:?} -> {then:?}, a hash {hash:?}"
    );
    assert!(
        crowded < calm * 5 + hash,
        "{calm:?} -> {crowded:?}, a hash {hash:?}"
    );
}

/// Whether [`QUIET`] is not over yet.
fn for_a_while() -> impl FnMut() -> bool {
    let end = Instant::now() + QUIET;
    move || Instant::now() < end
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
