//! The process id that a client is told is the one that `pg_backend_pid()` shows.

#![cfg(test)]

mod harness;

use std::collections::HashSet;
use std::thread;

use harness::wire::{self, Message, Wire};
use harness::{Proxy, cluster, eventually, shared_cluster};

const SHOWN: &str = "SELECT pg_backend_pid()";

/// A statement for the primary that does not end by itself in time.
const LONG: &str = "SELECT pg_sleep(20), pg_is_in_recovery()";

/// `PID_MAX_LIMIT` (`linux/threads.h`).
const LAST_PROCESS_ID: i32 = 1 << 22;

async fn proxy(pool: usize) -> Proxy {
    let pool = format!("clusters: {{ main: {{ pool: {{ size: {pool} }} }} }}");
    Proxy::start(shared_cluster().await, &pool).await
}

fn told(client: &Wire) -> i32 {
    client.cancel_key().0
}

fn shown(client: &mut Wire) -> i32 {
    client.value(SHOWN).parse().unwrap()
}

fn sqlstate(answer: &[Message]) -> Option<String> {
    answer.iter().find_map(Message::sqlstate)
}

/// The first value of an extended query's answer.
fn prepared(client: &mut Wire, name: &str) -> String {
    client.send(&[wire::bind(name, &[]), wire::execute("", 0), wire::sync()].concat());
    let answer = client.until_ready();
    let row = answer.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("{answer:?}")).values()[0]
        .clone()
        .unwrap()
}

/// Runs a hundred statements of many kinds; returns the process ids that were shown.
fn hundred_statements(client: &mut Wire) -> HashSet<i32> {
    let mut seen = HashSet::new();
    client.send(&[wire::parse("p", SHOWN), wire::sync()].concat());
    client.until_ready();
    for round in 0..10 {
        seen.insert(shown(client));
        client.value("SELECT count(*) FROM pg_class");
        client.run("BEGIN");
        seen.insert(shown(client));
        client.run(if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" });
        seen.insert(prepared(client, "p").parse().unwrap());
        client.run(&format!("SET application_name TO 'a{round}'"));
        client.run("CREATE TEMPORARY TABLE IF NOT EXISTS t () ON COMMIT DROP");
        seen.insert(shown(client));
        let values = client.query("BEGIN; SELECT pg_backend_pid(); COMMIT");
        let row = values.iter().find(|message| message.tag == b'D').unwrap();
        seen.insert(row.values()[0].as_ref().unwrap().parse().unwrap());
    }
    seen
}

#[tokio::test]
async fn up_to_the_pools_size_every_session_sees_the_id_that_it_was_told() {
    const SESSIONS: usize = 8;
    let proxy = proxy(SESSIONS).await;
    let port = proxy.port();
    // Old sessions leave their connections to new ones.
    for _ in 0..3 {
        let ids: HashSet<i32> = thread::scope(|scope| {
            let sessions: Vec<_> = (0..SESSIONS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Wire::connect(port);
                        let seen = hundred_statements(&mut client);
                        assert_eq!(seen, HashSet::from([told(&client)]));
                        (told(&client), client)
                    })
                })
                .collect();
            let ended: Vec<_> = sessions
                .into_iter()
                .map(|one| one.join().unwrap())
                .collect();
            ended.iter().map(|(id, _)| *id).collect()
        });
        assert_eq!(ids.len(), SESSIONS, "no two of them are the same");
    }
}

#[tokio::test]
async fn with_more_sessions_than_connections_ids_are_shared_and_everything_works() {
    const POOL: usize = 3;
    const SESSIONS: usize = 12;
    let proxy = proxy(POOL).await;
    let mut clients: Vec<Wire> = (0..SESSIONS).map(|_| Wire::connect(proxy.port())).collect();
    let ids: HashSet<i32> = clients.iter().map(told).collect();
    let keys: HashSet<_> = clients.iter().map(Wire::cancel_key).collect();
    assert_eq!((ids.len(), keys.len()), (POOL, SESSIONS));
    // One after the other, each finds its connection free.
    for client in &mut clients {
        assert_eq!(shown(client), told(client));
    }
    let seen: HashSet<i32> = thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| hundred_statements(client)))
            .collect();
        let ended = running.into_iter().map(|one| one.join().unwrap());
        ended.flatten().collect()
    });
    assert!(seen.len() >= POOL, "{seen:?}");
}

#[tokio::test]
async fn a_cancel_is_for_one_of_those_that_share_an_id() {
    let proxy = proxy(2).await;
    let mut clients: Vec<Wire> = (0..6).map(|_| Wire::connect(proxy.port())).collect();
    let keys: Vec<_> = clients.iter().map(Wire::cancel_key).collect();
    let servers = shared_cluster().await;
    // Other tests run on the same servers.
    let long = "SELECT pg_sleep(20), pg_is_in_recovery() AS shared";
    let sleeping = &format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = '{long}'"
    );
    for at in 0..clients.len() {
        clients[at].send(&wire::query(long));
        eventually("it sleeps", || async {
            servers.superuser_sql(0, sleeping).await.unwrap()[0][0].as_deref() == Some("1")
        })
        .await;
        let sharing = keys
            .iter()
            .enumerate()
            .filter(|(other, key)| *other != at && key.0 == keys[at].0 && key.1 != keys[at].1);
        let mut foreign = 0;
        for (_, key) in sharing {
            wire::cancel(proxy.port(), key);
            foreign += 1;
        }
        assert_eq!(foreign, 2);
        let still = servers.superuser_sql(0, sleeping).await.unwrap();
        assert_eq!(still[0][0].as_deref(), Some("1"));
        wire::cancel(proxy.port(), &keys[at]);
        assert_eq!(sqlstate(&clients[at].until_ready()).unwrap(), "57014");
    }
}

/// What the client gets until it is ready or its connection has ended.
fn everything(client: &mut Wire, sql: &str) -> Vec<(u8, Option<String>)> {
    client.send(&wire::query(sql));
    let mut all = Vec::new();
    while let Ok(message) = client.try_receive() {
        all.push((message.tag, message.sqlstate()));
        if message.tag == b'Z' {
            return all;
        }
    }
    all.push((b'X', None));
    all
}

#[tokio::test]
async fn who_terminates_or_cancels_itself_gets_what_the_primary_sends() {
    let proxy = proxy(4).await;
    for sql in [
        "SELECT pg_cancel_backend(pg_backend_pid())",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_cancel_backend({pid})",
        "SELECT pg_terminate_backend({pid})",
        "BEGIN; SELECT pg_terminate_backend({pid}); COMMIT",
    ] {
        let answers = [shared_cluster().await.port(0), proxy.port()].map(|port| {
            let mut client = Wire::connect(port);
            let sql = sql.replace("{pid}", &told(&client).to_string());
            everything(&mut client, &sql)
        });
        assert_eq!(answers[0], answers[1], "{sql}");
        let error = answers[1]
            .iter()
            .find_map(|(_, sqlstate)| sqlstate.as_deref());
        let expected = if sql.contains("cancel") {
            "57014"
        } else {
            "57P01"
        };
        assert_eq!(error, Some(expected), "{sql}");
    }
}

#[tokio::test]
async fn others_find_terminate_and_cancel_what_runs_under_the_id() {
    let proxy = proxy(4).await;
    let mut client = Wire::connect(proxy.port());
    let mut other = Wire::connect(proxy.port());
    let id = told(&client);
    let runs =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {id} AND query = '{LONG}'");
    for (function, expected) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        client.send(&wire::query(LONG));
        while other.value(&runs) != "1" {
            thread::yield_now();
        }
        assert_eq!(other.value(&format!("SELECT {function}({id})")), "t");
        let last = if expected == "57P01" { b'E' } else { b'Z' };
        assert_eq!(sqlstate(&client.until(last)).unwrap(), expected);
    }
}

#[tokio::test]
async fn a_notification_of_ones_own_comes_from_the_id_that_one_was_told() {
    let proxy = proxy(2).await;
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::connect(proxy.port())).collect();
    let mut third = clients.pop().unwrap();
    // Its connection is in use, so the third one moves.
    let busy = clients.iter_mut().find(|one| told(one) == told(&third));
    let busy = busy.expect("two of three share an id");
    busy.run("BEGIN; SELECT pg_current_xact_id()");
    third.run("LISTEN a");
    assert_ne!(shown(&mut third), told(&third));
    let answer = third.query("NOTIFY a, 'hello'");
    let notification = answer.iter().find(|message| message.tag == b'A').unwrap();
    assert_eq!(notification.body[..4], told(&third).to_be_bytes());
    assert_eq!(notification.body[4..], *b"a\0hello\0");
    // Others are who they are.
    busy.run("NOTIFY a; COMMIT");
    let foreign = third.until(b'A').pop().unwrap();
    assert_eq!(foreign.body[..4], shown(busy).to_be_bytes());
}

#[tokio::test]
async fn a_replication_connection_is_told_the_id_of_its_own() {
    let role = "CREATE ROLE repl REPLICATION LOGIN PASSWORD 'repl'";
    let servers = shared_cluster().await;
    servers.superuser_sql(0, role).await.unwrap();
    let users = "users: [{ name: app, password: app }, { name: repl, password: repl }]";
    let proxy = Proxy::start(servers, users).await;
    let parameters = [("user", "repl"), ("replication", "database")];
    let mut client = Wire::connect_with(proxy.port(), &parameters);
    assert_eq!(shown(&mut client), told(&client));
}

#[tokio::test]
async fn a_session_goes_on_when_its_connection_has_ended() {
    let proxy = proxy(2).await;
    let mut client = Wire::connect(proxy.port());
    let mut other = Wire::connect(proxy.port());
    let id = told(&client);
    assert_eq!(
        other.value(&format!("SELECT pg_terminate_backend({id}, 5000)")),
        "t"
    );
    assert_ne!(shown(&mut client), id);
    assert_eq!(
        shown(&mut other),
        told(&other),
        "nobody needs its connection"
    );
    assert_eq!(client.cancel_key().0, id);
    client.send(&wire::query(LONG));
    let key = client.cancel_key();
    let port = proxy.port();
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| client.until_ready());
        while !answer.is_finished() {
            wire::cancel(port, &key);
        }
        answer.join().unwrap()
    });
    assert_eq!(sqlstate(&answer).unwrap(), "57014");
}

#[tokio::test]
async fn without_a_primary_the_id_is_invented_and_reads_go_on() {
    let servers = cluster(2).await;
    servers
        .sql(0, "CREATE TABLE t AS SELECT 7 AS v")
        .await
        .unwrap();
    for replica in servers.replicas() {
        servers.wait_for_replay(replica).await.unwrap();
    }
    let proxy = Proxy::start(&servers, "consistency: { default: eventual }").await;
    let mut before = Wire::connect(proxy.port());
    eventually("reads on replicas", || async {
        let mut client = Wire::connect(proxy.port());
        client.value("SELECT v FROM t");
        client.last_route().contains("replica")
    })
    .await;
    servers.kill_node(0).await.unwrap();
    eventually("the primary is gone", || async {
        let mut client = Wire::connect(proxy.port());
        assert_eq!(client.value("SELECT v FROM t"), "7");
        told(&client) > LAST_PROCESS_ID
    })
    .await;
    assert!(told(&before) <= LAST_PROCESS_ID);
    assert_eq!(before.value("SELECT v FROM t"), "7");
}
