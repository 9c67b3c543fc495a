//! Sessions that share server connections see nothing of each other.

#![cfg(test)]

#[path = "isolation/code.rs"]
mod code;
mod harness;
#[path = "isolation/logins.rs"]
mod logins;
#[path = "isolation/misread.rs"]
mod misread;
#[path = "isolation/options.rs"]
mod options;

use std::thread;
use std::time::Duration;

use harness::parity::filled;
use harness::wire::{self, Wire, bind, execute, parse, sync};
use harness::{Proxy, eventually};
use pgweir::sandbox::LocalCluster;

/// A proxy with this pool that knows the catalog.
async fn sharing(cluster: &LocalCluster, pool: &str) -> Proxy {
    let proxy = Proxy::start(cluster, pool).await;
    eventually("the catalog is loaded", async || {
        let mut reader = Wire::connect(proxy.port());
        reader.run("SELECT FROM pg_class");
        reader.last_route().contains("role=replica")
    })
    .await;
    proxy
}

/// Every client has a setting, a search path, a named and an unnamed statement of its own.
#[tokio::test]
async fn sixteen_clients_over_four_connections_never_meet_each_others_state() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 130;
    let cluster = filled().await;
    for i in 0..CLIENTS {
        let sql = format!("CREATE SCHEMA s{i}; CREATE TABLE s{i}.mine AS SELECT {i} AS owner");
        cluster.sql(0, &sql).await.unwrap();
    }
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let proxy = Proxy::start(cluster, "clusters: { main: { pool: { size: 2 } } }").await;
    let port = proxy.port();
    thread::scope(|scope| {
        for i in 0..CLIENTS {
            scope.spawn(move || stay_yourself(port, i, ROUNDS));
        }
    });
    let served = proxy.metrics().await.sum("pgweir_queries_total", &[]);
    assert!(served >= 2_000.0, "{served}");
}

fn stay_yourself(port: u16, i: usize, rounds: usize) {
    let name = format!("client{i}");
    let mut client = Wire::connect_with(port, &[("application_name", &name)]);
    client.run(&format!("SET search_path TO s{i}"));
    client.run(&format!("SET work_mem TO '{}kB'", 1000 + i));
    client.send(&[parse("s", "SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine"), sync()].concat());
    client.until_ready();
    let own = [i.to_string(), format!("{}kB", 1000 + i), name];
    let own: Vec<Option<String>> = own.into_iter().map(Some).collect();
    for round in 0..rounds {
        match round % 4 {
            0 => client.send(&wire::query("SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine")),
            2 => {
                // Keeps the primary's connections in use too.
                client.run(&format!("UPDATE mine SET owner = {i}"));
                client.send(&[parse("", "SELECT owner, current_setting('work_mem'), current_setting('application_name') FROM mine"), bind("", &[]), execute("", 0), sync()].concat());
            }
            _ => client.send(&[bind("s", &[]), execute("", 0), sync()].concat()),
        }
        let answer = client.until_ready();
        let row = answer.iter().find(|m| m.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("client {i}, round {round}: {answer:?}"));
        assert_eq!(row.values(), own, "client {i}, round {round}");
    }
}

/// One connection for everybody, on the primary.
const SHARED: &str = "clusters: { main: { pool: { size: 1 } } }";

/// A statement for the primary that leaves nothing behind.
const ON_PRIMARY: &str = "SELECT pg_backend_pid()";

#[tokio::test]
async fn a_session_whose_role_is_gone_is_told_and_its_statement_does_not_run() {
    let cluster = filled().await;
    let roles = "CREATE ROLE gone; GRANT gone TO app; CREATE TABLE seen (a int)";
    cluster.superuser_sql(0, roles).await.unwrap();
    let grant = "GRANT INSERT ON seen TO gone, app";
    cluster.superuser_sql(0, grant).await.unwrap();
    let proxy = Proxy::start(cluster, SHARED).await;
    let (mut session, mut other) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
    session.run("SET ROLE gone");
    other.run(ON_PRIMARY);
    let drop = "REVOKE ALL ON seen FROM gone; DROP ROLE gone";
    cluster.superuser_sql(0, drop).await.unwrap();

    session.wait_at_most(Duration::from_secs(10));
    session.send(&wire::query("INSERT INTO seen VALUES (1)"));
    let answer = session.receive();
    assert_eq!(answer.tag, b'E', "{answer:?}");
    let rows = cluster.superuser_sql(0, "SELECT count(*) FROM seen").await;
    assert_eq!(rows.unwrap()[0][0].as_deref(), Some("0"));
    other.run(ON_PRIMARY);
}

#[tokio::test]
async fn nobody_is_given_the_numbers_of_anothers_sequence() {
    let cluster = filled().await;
    let sequence = "CREATE SEQUENCE numbers; GRANT ALL ON SEQUENCE numbers TO app";
    cluster.superuser_sql(0, sequence).await.unwrap();
    let proxy = Proxy::start(cluster, SHARED).await;
    let (mut session, mut other) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
    assert_eq!(session.value("SELECT nextval('numbers')"), "1");
    assert_eq!(other.value("SELECT nextval('numbers')"), "2");

    let answer = session.query("SELECT currval('numbers')");
    let error = answer.iter().find_map(wire::Message::sqlstate);
    assert_eq!(error.as_deref(), Some("55000"), "{answer:?}");
    assert_eq!(session.value("SELECT nextval('numbers')"), "3");
    assert_eq!(session.value("SELECT currval('numbers'), lastval()"), "3");
}

#[tokio::test]
async fn numbers_are_kept_from_the_first_one_on_where_the_pool_is_told_to() {
    let cluster = filled().await;
    let sequence = "CREATE SEQUENCE kept_numbers; GRANT ALL ON SEQUENCE kept_numbers TO app";
    cluster.superuser_sql(0, sequence).await.unwrap();
    let pool = "size: 1, sequence_numbers: always, checkout_timeout: 250ms";
    let pool = format!("clusters: {{ main: {{ pool: {{ {pool} }} }} }}");
    let proxy = Proxy::start(cluster, &pool).await;
    let (mut session, mut other) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
    assert_eq!(session.value("SELECT nextval('kept_numbers')"), "1");
    let refused = other.query(ON_PRIMARY);
    let error = refused.iter().find_map(wire::Message::sqlstate);
    assert_eq!(error.as_deref(), Some("53300"), "{refused:?}");
    assert_eq!(
        session.value("SELECT currval('kept_numbers'), lastval()"),
        "1"
    );
}

/// Settings of some kinds are not given to a connection together with the statement.
#[tokio::test]
async fn nobody_is_given_the_numbers_of_anothers_sequence_whatever_its_own_settings_are() {
    let cluster = filled().await;
    let sequence = "CREATE SEQUENCE drawn; GRANT ALL ON SEQUENCE drawn TO app";
    cluster.superuser_sql(0, sequence).await.unwrap();
    for setting in [
        "SET work_mem = '1MB'",
        "SET statement_timeout = '1min'",
        "SET default_transaction_isolation = 'repeatable read'",
    ] {
        // Who has asked for a number once is kept apart from then on.
        let proxy = Proxy::start(cluster, SHARED).await;
        let (mut session, mut other) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
        session.run(setting);
        other.run("SELECT nextval('drawn')");
        let answer = session.query("SELECT currval('drawn')");
        let error = answer.iter().find_map(wire::Message::sqlstate);
        assert_eq!(error.as_deref(), Some("55000"), "{setting}: {answer:?}");
    }
}

/// Settings that are repeated in the transaction of a block go with it. What the node then says of the
/// connection is what another session has left there.
#[tokio::test]
async fn a_block_that_is_rolled_back_leaves_nobody_with_anothers_settings() {
    let pool = "clusters: { main: { pool: { size: 1 } } }";
    let proxy = Proxy::start(filled().await, pool).await;
    let mut other = Wire::connect(proxy.port());
    let mut client = Wire::connect(proxy.port());
    let before = client.value("SHOW work_mem");
    for end in ["ROLLBACK", "SELECT 1/0; COMMIT"] {
        other.run("SET work_mem TO '7MB'");
        client.run("BEGIN");
        client.run("SET timezone TO 'Etc/GMT-3'");
        client.run("DO $$ BEGIN PERFORM 1; END $$");
        client.query(end);
        client.query("ROLLBACK");
        assert_eq!(client.value("SHOW work_mem"), before, "{end}");
        assert_eq!(other.value("SHOW work_mem"), "7MB", "{end}");
    }
}

/// The settings that were repeated in a transaction are gone with it; the next one that begins in the
/// same statement must have the session's again, and not what somebody else has left.
#[tokio::test]
async fn a_chained_transaction_has_the_sessions_own_settings() {
    let pool = "clusters: { main: { pool: { size: 1 } } }";
    let proxy = Proxy::start(filled().await, pool).await;
    let mut other = Wire::connect(proxy.port());
    let mut client = Wire::connect(proxy.port());
    let before = client.value("SHOW work_mem");
    client.run("SET timezone TO 'Etc/GMT-3'");
    for chain in ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"] {
        for end in ["COMMIT", "ROLLBACK"] {
            other.run("SET work_mem TO '7MB'");
            client.run("BEGIN");
            client.run("INSERT INTO w VALUES (1)");
            client.run(chain);
            assert_eq!(client.value("SHOW work_mem"), before, "{chain}");
            assert_eq!(client.value("SHOW timezone"), "Etc/GMT-3", "{chain}");
            client.run("SET statement_timeout TO '9min'");
            client.run(end);
            let timeout = if end == "COMMIT" { "9min" } else { "0" };
            let what = format!("{chain}, {end}");
            assert_eq!(client.value("SHOW statement_timeout"), timeout, "{what}");
            assert_eq!(client.value("SHOW work_mem"), before, "{what}");
            assert_eq!(client.value("SHOW timezone"), "Etc/GMT-3", "{what}");
            client.run("RESET statement_timeout");
            assert_eq!(other.value("SHOW work_mem"), "7MB", "{what}");
            assert_ne!(other.value("SHOW timezone"), "Etc/GMT-3", "{what}");
        }
    }
}

/// The catalog does not know the function yet, nor which options it sets, which no server lists.
#[tokio::test]
async fn what_a_function_sets_that_has_just_been_made_goes_with_its_session() {
    let cluster = filled().await;
    let schema = "CREATE SCHEMA fresh AUTHORIZATION app";
    cluster.superuser_sql(0, schema).await.unwrap();
    let proxy = Proxy::start(cluster, SHARED).await;
    let (mut one, mut other) = (Wire::connect(proxy.port()), Wire::connect(proxy.port()));
    eventually("the catalog is loaded", async || {
        let mut reader = Wire::connect(proxy.port());
        reader.run("SELECT FROM pg_class");
        reader.last_route().contains("role=replica")
    })
    .await;
    one.run(
        "CREATE FUNCTION fresh.keeps(v text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN \
         PERFORM set_config('opt.kept', v, false); EXECUTE 'SET opt.also = ''' || v || ''''; END $f$",
    );
    one.run("SELECT fresh.keeps('mine')");
    other.run("SELECT fresh.keeps('yours')");
    let kept = "SELECT current_setting('opt.kept') || current_setting('opt.also')";
    assert_eq!(one.value(kept), "minemine");
    assert_eq!(other.value(kept), "yoursyours");
    other.run(ON_PRIMARY);
    assert_eq!(one.value(kept), "minemine");
}
