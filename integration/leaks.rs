//! What one client does to its session is never seen by another, however few connections they
//! share.

#![cfg(test)]

#[path = "leaks/client.rs"]
mod client;
#[path = "leaks/expected.rs"]
mod expected;
mod harness;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use harness::{Proxy, full_size, shared_cluster};
use pgweir::sandbox::LocalCluster;
use tokio::sync::OnceCell;

/// Clients at once.
const CLIENTS: usize = 64;

/// One client in so many is a superuser, which may become anybody.
const SUPERUSER_EVERY: usize = 4;

/// How many checkouts of a connection there are at least; `PGWEIR_LEAK_CHECKOUTS` changes it.
const CHECKOUTS: usize = 2_000;

/// How long all of it may take for each checkout.
const PATIENCE: Duration = Duration::from_millis(200);

static ROLES: OnceCell<()> = OnceCell::const_new();

async fn cluster() -> &'static LocalCluster {
    let cluster = shared_cluster().await;
    ROLES
        .get_or_init(|| async {
            let roles = "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'root'; \
                         CREATE ROLE other LOGIN; GRANT other TO app; CREATE SCHEMA elsewhere";
            cluster.superuser_sql(0, roles).await.unwrap();
            for replica in cluster.replicas() {
                cluster.wait_for_replay(replica).await.unwrap();
            }
        })
        .await;
    cluster
}

#[tokio::test]
async fn sixty_four_clients_on_four_connections_see_only_what_is_their_own() {
    let cluster = cluster().await;
    let proxy = Proxy::start(
        cluster,
        "users: [{ name: app, password: app }, { name: root, password: root }]\n\
         clusters: { main: { pool: { size: 4, checkout_timeout: 10m } } }",
    )
    .await;
    let wanted = full_size("PGWEIR_LEAK_CHECKOUTS").unwrap_or(CHECKOUTS);
    let (turns, leaks) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (checks, port) = (AtomicUsize::new(0), proxy.port());
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (turns, leaks, checks) = (&turns, &leaks, &checks);
            scope.spawn(move || {
                let user = if number % SUPERUSER_EVERY == 0 {
                    "root"
                } else {
                    "app"
                };
                let mut client = Client::connect(port, user, number);
                // Every turn takes one connection at least.
                while turns.fetch_add(1, Ordering::Relaxed) < wanted {
                    client.take_a_turn();
                }
                checks.fetch_add(client.checks, Ordering::Relaxed);
                leaks.lock().unwrap().extend(client.leaks);
            });
        }
    });
    let (leaks, checks) = (leaks.into_inner().unwrap(), checks.into_inner());
    let taken = start.elapsed();
    println!(
        "{wanted} checkouts, {checks} checks, {} leaks, {taken:?}",
        leaks.len()
    );
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
    assert!(checks > 2 * wanted, "{checks}");
    let opened = connections(cluster).await;
    assert!(opened <= 2 * 4, "{opened} connections");
    assert!(
        taken < PATIENCE * u32::try_from(wanted).unwrap(),
        "{taken:?}"
    );
}

/// How many connections clients have to the primary.
async fn connections(cluster: &LocalCluster) -> usize {
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND usename IN ('app', 'root')";
    let rows = cluster.superuser_sql(0, count).await.unwrap();
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_kind_of_leak_is_found() {
    let port = cluster().await.port(0);
    for (kind, leak) in [
        ("work_mem", "SET work_mem = '77kB'"),
        ("application_name", "SET application_name = 'x'"),
        ("search_path", "SET search_path = elsewhere"),
        ("TimeZone", "SET TimeZone = 'Asia/Tokyo'"),
        ("leak.mark", "SET leak.mark = 'x'"),
        (
            "statement_timeout",
            "SELECT set_config('statement_timeout', '1h', false)",
        ),
        ("current_user", "SET ROLE other"),
        ("session_user", "SET SESSION AUTHORIZATION app"),
        ("prepared", "PREPARE x AS SELECT 1"),
        ("locks", "SELECT pg_advisory_lock(5)"),
        ("channels", "LISTEN x"),
        ("cursors", "DECLARE x CURSOR WITH HOLD FOR SELECT 1"),
        ("temporary", "CREATE TEMP TABLE x (id int)"),
    ] {
        let mut client = Client::connect(port, "root", 0);
        client.check("before");
        assert_eq!(client.leaks, Vec::<String>::new());
        client.run_unnoticed(leak);
        client.check("behind");
        let found = client.leaks.iter().any(|found| found.contains(kind));
        assert!(found, "{kind}: {:?}", client.leaks);
    }
}

#[tokio::test]
async fn a_foreign_notification_is_found() {
    let port = cluster().await.port(0);
    let mut client = Client::connect(port, "app", 0);
    client.run_unnoticed("LISTEN x");
    client.run_unnoticed("NOTIFY x");
    assert_eq!(client.leaks.len(), 1, "{:?}", client.leaks);
}
