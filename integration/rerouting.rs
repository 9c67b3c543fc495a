//! What a replica cannot do, the primary does; what nobody waits for any more, ends.

#![cfg(test)]

mod harness;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::wire::{self, Wire, bind, close, execute, parse, sync};
use harness::{LIMIT, Proxy, cluster, eventually, shared_cluster};
use pgweir::sandbox::LocalCluster;
use tokio_postgres::NoTls;

async fn replayed(cluster: &LocalCluster) {
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
}

/// Runs a read until a replica gets it: the catalog is loaded while clients are served.
fn until_replica(client: &mut Wire, sql: &str) {
    let begun = Instant::now();
    loop {
        client.run(sql);
        let route = client.last_route();
        if route.contains("role=replica") {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{sql}: {route}");
        thread::sleep(Duration::from_millis(20));
    }
}

async fn assert_misrouted(proxy: &Proxy, times: u32) {
    let metrics = proxy.metrics().await;
    let counted = metrics.sum("pgweir_misrouted_total", &[("sqlstate", "25006")]);
    assert!((counted - f64::from(times)).abs() < 0.5, "{counted}");
}

#[tokio::test]
async fn a_function_that_lies_about_writing_runs_on_the_primary_once() {
    let cluster = shared_cluster().await;
    let setup = "CREATE TABLE seen (a int); CREATE SEQUENCE numbers; \
        CREATE FUNCTION writes(int) RETURNS int LANGUAGE plpgsql AS \
        $$ BEGIN EXECUTE 'INSERT INTO seen VALUES (' || $1 || ')'; RETURN $1; END $$; \
        CREATE FUNCTION lies(int) RETURNS int STABLE LANGUAGE plpgsql AS \
        $$ BEGIN RETURN writes($1); END $$; \
        CREATE FUNCTION takes() RETURNS int LANGUAGE plpgsql AS \
        $$ BEGIN EXECUTE 'LOCK TABLE seen'; RETURN 1; END $$; \
        CREATE FUNCTION locks() RETURNS int STABLE LANGUAGE plpgsql AS \
        $$ BEGIN RETURN takes(); END $$; \
        CREATE FUNCTION counts() RETURNS bigint STABLE LANGUAGE plpgsql AS \
        $$ BEGIN RETURN nextval('numbers'); END $$";
    cluster.sql(0, setup).await.unwrap();
    replayed(cluster).await;
    let proxy = Proxy::start(cluster, "").await;
    let mut client = Wire::connect(proxy.port());
    until_replica(&mut client, "SELECT count(*) FROM seen");
    for (times, sql) in (1_u32..).zip(["SELECT lies(1)", "SELECT locks()", "SELECT counts()"]) {
        assert_eq!(client.value(sql), "1", "{sql}");
        assert!(
            client.last_route().contains("reason=misrouted"),
            "{sql}: {}",
            client.last_route()
        );
        assert_misrouted(&proxy, times).await;
        client.value(sql);
        assert!(
            client.last_route().contains("role=primary reason=write"),
            "{sql}: {}",
            client.last_route()
        );
        assert_misrouted(&proxy, times).await;
    }
    assert_eq!(client.value("SELECT count(*) FROM seen"), "2");

    // Sent again with the Close that stands in the same batch.
    client.send(&[parse("s", "SELECT lies($1::int) + 0"), sync()].concat());
    client.until_ready();
    client.send(&[bind("s", &[b"5"]), execute("", 0), close(b'S', "s"), sync()].concat());
    let answer = client.until_ready();
    let row = answer
        .iter()
        .find(|m| m.tag == b'D')
        .unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(row.values(), [Some("5".to_owned())]);
    client.send(&[bind("s", &[b"5"]), sync()].concat());
    assert_eq!(client.until_ready()[0].sqlstate().as_deref(), Some("26000"));
}

#[tokio::test]
async fn a_replica_that_lacks_a_table_does_not_show() {
    let cluster = cluster(1).await;
    let proxy = Proxy::start(&cluster, "consistency: { default: eventual }").await;
    cluster.sql(0, "CREATE TABLE early (a int)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    let mut client = Wire::connect(proxy.port());
    client.run("SELECT * FROM early");
    cluster.pause_replay(1).await.unwrap();
    client.run("ALTER TABLE early ADD b int DEFAULT 7; INSERT INTO early VALUES (1)");
    assert_eq!(client.value("SELECT b FROM early"), "7");
    cluster.resume_replay(1).await.unwrap();
}

#[tokio::test]
async fn killing_a_replica_under_reads_shows_no_error() {
    let cluster = cluster(2).await;
    let table = "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 1000) i";
    cluster.sql(0, table).await.unwrap();
    replayed(&cluster).await;
    let proxy = Proxy::start(&cluster, "").await;
    let (port, stop) = (proxy.port(), AtomicBool::new(false));
    thread::scope(|scope| {
        let read = || {
            let mut client = Wire::connect(port);
            let mut reads = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.value("SELECT count(*) FROM t"), "1000");
                client.send(
                    &[
                        parse("", "SELECT max(id) FROM t"),
                        bind("", &[]),
                        execute("", 0),
                        sync(),
                    ]
                    .concat(),
                );
                assert!(client.until_ready().iter().all(|m| m.tag != b'E'));
                reads += 2;
            }
            reads
        };
        let readers: Vec<_> = (0..6).map(|_| scope.spawn(read)).collect();
        thread::sleep(Duration::from_millis(500));
        let killed = futures_block(cluster.kill_node(1));
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        killed.unwrap();
        for reader in readers {
            assert!(reader.join().unwrap() > 20);
        }
    });
}

/// Waits for a future on a runtime of its own thread.
fn futures_block<T: Send>(future: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(future)
        });
        waiting.join().unwrap()
    })
}

async fn running(cluster: &LocalCluster, node: usize, marker: &str) -> bool {
    let sql = format!(
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{marker}%' \
         AND pid <> pg_backend_pid()"
    );
    !cluster.superuser_sql(node, &sql).await.unwrap().is_empty()
}

async fn running_anywhere(cluster: &LocalCluster, marker: &str) -> bool {
    for node in cluster.nodes() {
        if running(cluster, node, marker).await {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn what_a_vanished_client_ran_is_cancelled_and_its_place_freed() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(cluster, "clusters: { main: { pool: { size: 1 } } }").await;
    for consistency in ["session", "primary"] {
        let mut client = Wire::connect(proxy.port());
        client.run(&format!("SET pgweir.consistency TO '{consistency}'"));
        client.send(&wire::query("SELECT pg_sleep(60), 'vanished client'"));
        eventually("it runs", || running_anywhere(cluster, "vanished client")).await;
        client.vanish();
        eventually("it ends", || async {
            !running_anywhere(cluster, "vanished client").await
        })
        .await;
        let mut next = Wire::connect(proxy.port());
        next.run(&format!("SET pgweir.consistency TO '{consistency}'"));
        next.run("SELECT 1");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_in_a_block_leaves_no_lock() {
    let cluster = shared_cluster().await;
    cluster.sql(0, "CREATE TABLE locked (a int)").await.unwrap();
    let proxy = Proxy::start(cluster, "").await;
    let mut client = Wire::connect(proxy.port());
    client.run("BEGIN; LOCK TABLE locked");
    client.vanish();
    let held = "SELECT 1 FROM pg_locks WHERE relation = 'locked'::regclass";
    let free = || async { cluster.sql(0, held).await.unwrap().is_empty() };
    eventually("the lock is gone", free).await;
}

#[tokio::test]
async fn a_cancel_request_hits_the_statement_it_is_for_and_nothing_else() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    for (consistency, marker) in [("session", "cancel me"), ("primary", "cancel me too")] {
        let (client, other) = (proxy.connect().await, proxy.connect().await);
        for session in [&client, &other] {
            session
                .batch_execute(&format!("SET pgweir.consistency TO '{consistency}'"))
                .await
                .unwrap();
        }
        let token = client.cancel_token();
        let sql = format!("SELECT pg_sleep(60), '{marker}'");
        let victim = client.simple_query(&sql);
        let bystander = other.simple_query("SELECT pg_sleep(3)");
        let cancelling = async {
            eventually("it runs", || running_anywhere(cluster, marker)).await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let (victim, bystander, ()) = tokio::join!(victim, bystander, cancelling);
        assert_eq!(victim.unwrap_err().code().unwrap().code(), "57014");
        assert!(bystander.is_ok(), "{bystander:?}");
        assert!(client.simple_query("SELECT 1").await.is_ok());
    }
}

#[tokio::test]
async fn notifications_reach_a_client_that_listens_and_waits() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let (mut listener, mut speaker) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
    listener.run("LISTEN channel");
    for word in ["one", "two"] {
        speaker.run(&format!("NOTIFY channel, '{word}'"));
        let message = listener.receive();
        assert_eq!(message.tag, b'A', "{message:?}");
        assert!(format!("{message:?}").contains(word), "{message:?}");
    }
    listener.run("SELECT 1");
}

/// The statements of a block share one snapshot above READ COMMITTED.
#[tokio::test]
async fn a_read_only_block_moves_to_the_primary_only_where_its_role_reads_what_is_committed() {
    let cluster = shared_cluster().await;
    let roles = "CREATE ROLE repeats LOGIN PASSWORD 'repeats' IN ROLE app; \
        ALTER ROLE repeats SET default_transaction_isolation = 'repeatable read'; \
        CREATE ROLE serial LOGIN PASSWORD 'serial' IN ROLE app; \
        ALTER ROLE serial SET default_transaction_isolation = 'serializable'";
    cluster.superuser_sql(0, roles).await.unwrap();
    cluster.sql(0, "CREATE TABLE levels (v int)").await.unwrap();
    replayed(cluster).await;
    let users: String = ["app", "repeats", "serial"]
        .map(|name| format!("{{ name: {name}, password: {name} }},"))
        .concat();
    let proxy = Proxy::start(cluster, &format!("users: [{users}]")).await;
    let count = "SELECT count(*) FROM levels";
    for (role, begins, goes_on, grows) in [
        ("app", "replica", "primary", 1),
        ("repeats", "replica", "replica", 0),
        // A hot standby has no such level.
        ("serial", "primary", "primary", 0),
    ] {
        let mut client = Wire::connect_with(proxy.port(), &[("user", role)]);
        let on = |client: &mut Wire, role| client.last_route().contains(&format!("role={role}"));
        let begun = Instant::now();
        let before: u32 = loop {
            client.run("BEGIN READ ONLY");
            let before = client.value(count).parse().unwrap();
            if on(&mut client, begins) {
                break before;
            }
            client.run("ROLLBACK");
            assert!(begun.elapsed() < LIMIT, "{role}");
        };
        cluster
            .sql(0, "INSERT INTO levels VALUES (1)")
            .await
            .unwrap();
        replayed(cluster).await;
        client.run("SET LOCAL work_mem TO '1MB'");
        let after: u32 = client.value(count).parse().unwrap();
        assert!(on(&mut client, goes_on), "{role}");
        assert_eq!(after, before + grows, "{role}");
        client.run("COMMIT");
    }
}
