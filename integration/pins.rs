//! A session that keeps a connection to the primary reads on replicas what has nothing to do with
//! that.

#![cfg(test)]

mod harness;

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use harness::parity::filled;
use harness::wire::{Wire, bind, close, execute, parse, query, sync};
use harness::{LIMIT, Proxy};

/// A table and a sequence to read, and what else the cases need.
const MADE: &str = "CREATE TABLE notes AS SELECT 7 AS a; CREATE TABLE counts AS SELECT 0 AS a; \
    CREATE SEQUENCE numbers; GRANT ALL ON counts, numbers TO app; ALTER TABLE notes OWNER TO app";

static ONCE: OnceCell<()> = OnceCell::const_new();

async fn proxy() -> Proxy {
    let cluster = filled().await;
    let make = async {
        cluster.superuser_sql(0, MADE).await.unwrap();
        for replica in cluster.replicas() {
            cluster.wait_for_replay(replica).await.unwrap();
        }
    };
    ONCE.get_or_init(|| make).await;
    Proxy::start(cluster, "").await
}

/// Where a read goes, in words: the role, and why.
fn read(client: &mut Wire) -> String {
    assert_eq!(client.value("SELECT a FROM notes"), "7");
    let route = client.value("SHOW pgweir.last_route");
    let (_, words) = route.split_once("role=").unwrap();
    words.replace("reason=", "")
}

/// Has a read run on a replica before long.
#[track_caller]
fn assert_leaves(client: &mut Wire, made: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let words = read(client);
        if words.starts_with("replica") {
            return;
        }
        assert!(Instant::now() < deadline, "{made}: {words}");
        thread::sleep(Duration::from_millis(10));
    }
}

const CONNECTION: &str = "SELECT pg_backend_pid()";

#[tokio::test]
async fn what_no_read_can_mean_keeps_the_connection_and_not_the_reads() {
    let proxy = proxy().await;
    for (made, asked, expected) in [
        ("PREPARE one AS SELECT 1", "EXECUTE one", "1"),
        (
            "DECLARE held CURSOR WITH HOLD FOR SELECT a FROM notes",
            "FETCH ALL FROM held",
            "7",
        ),
        (
            "CREATE TEMP TABLE scratch AS SELECT 3 AS a",
            "SELECT a FROM scratch",
            "3",
        ),
        (
            "CREATE TEMP TABLE scratch AS SELECT 3 AS a; PREPARE two AS SELECT 2",
            "SELECT count(*) FROM pg_class WHERE relname = 'scratch' AND pg_table_is_visible(oid)",
            "1",
        ),
        (
            "CREATE TEMP VIEW scratch AS SELECT a + 1 AS a FROM notes",
            "SELECT 'scratch'::regclass::text || a FROM scratch",
            "scratch8",
        ),
        (
            "SELECT pg_advisory_lock(42)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND pid = pg_backend_pid()",
            "1",
        ),
        (
            "SELECT nextval('numbers'), lastval()",
            "SELECT lastval() = currval('numbers')",
            "t",
        ),
    ] {
        let mut client = Wire::connect(proxy.port());
        client.run("SET work_mem TO '1234kB'");
        client.run(made);
        let connection = client.value(CONNECTION);
        for _ in 0..3 {
            assert_leaves(&mut client, made);
            assert_eq!(client.value("SHOW work_mem"), "1234kB", "{made}");
            assert_eq!(client.value(CONNECTION), connection, "{made}");
        }
        assert_eq!(client.value(asked), expected, "{made}");
        client.run("BEGIN");
        assert_eq!(read(&mut client), "primary pinned", "{made}");
        client.run("COMMIT");
        client.run("BEGIN READ ONLY");
        assert_eq!(read(&mut client), "primary pinned", "{made}");
        client.run("COMMIT");
        assert_leaves(&mut client, made);
        assert_eq!(client.value(CONNECTION), connection, "{made}");
    }
}

#[tokio::test]
async fn what_a_read_may_mean_keeps_both() {
    let proxy = proxy().await;
    for made in [
        "CREATE TEMP TABLE notes AS SELECT 7 AS a",
        "CREATE TEMP TABLE part () INHERITS (notes)",
        "LISTEN news",
        "SELECT setseed(0.5)",
        "CREATE TEMP TABLE scratch (a int); LISTEN news",
        "SELECT pg_advisory_lock(43); LISTEN news",
        "SELECT nextval('numbers'), lastval(); CREATE TEMP VIEW notes AS SELECT 7 AS a",
    ] {
        let mut client = Wire::connect(proxy.port());
        assert_leaves(&mut client, made);
        client.run(made);
        for _ in 0..20 {
            assert_eq!(read(&mut client), "primary pinned", "{made}");
        }
    }
}

#[tokio::test]
async fn temporary_children_of_others_keep_nobody_from_the_replicas() {
    drop(proxy().await);
    let cluster = filled().await;
    let mut other = Wire::connect(cluster.port(0));
    other.run("CREATE TEMP TABLE part () INHERITS (notes)");
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    // What it knows, it has learnt with the child there.
    let proxy = Proxy::start(cluster, "").await;
    let mut client = Wire::connect(proxy.port());
    assert_leaves(&mut client, "a child of another session's");
    other.run("TABLE part");
}

#[tokio::test]
async fn what_comes_and_goes_decides_anew() {
    let proxy = proxy().await;
    let mut client = Wire::connect(proxy.port());
    client.run("SELECT nextval('numbers'), lastval()");
    assert_leaves(&mut client, "lastval");
    client.run("CREATE TEMP TABLE notes AS SELECT 7 AS a");
    assert_eq!(read(&mut client), "primary pinned");
    for made in [
        "DROP TABLE pg_temp.notes",
        "PREPARE one AS SELECT 1",
        "DISCARD ALL",
    ] {
        client.run(made);
        assert_leaves(&mut client, made);
    }
    // A new session of its own: the old statement is gone.
    let answer = client.query("EXECUTE one");
    let error = answer.iter().find_map(harness::wire::Message::sqlstate);
    assert_eq!(error.as_deref(), Some("26000"), "{answer:?}");
}

#[tokio::test]
async fn a_session_that_keeps_its_connection_reads_its_writes() {
    let proxy = proxy().await;
    let mut client = Wire::connect(proxy.port());
    client.run("PREPARE one AS SELECT 1");
    for value in 0..200 {
        client.run(&format!("UPDATE counts SET a = {value}"));
        // Now and then until a replica has the write too.
        let deadline = Instant::now() + LIMIT;
        loop {
            client.send(&query("SELECT a FROM counts"));
            let answer = client.until_ready();
            let row = answer.iter().find(|message| message.tag == b'D').unwrap();
            assert_eq!(row.values(), [Some(value.to_string())]);
            let route = client.value("SHOW pgweir.last_route");
            if value % 20 != 0 || route.contains("role=replica") {
                break;
            }
            assert!(Instant::now() < deadline, "no read ran on a replica");
        }
    }
}

#[tokio::test]
async fn a_statement_has_one_name_beside_those_that_sql_prepares() {
    let proxy = proxy().await;
    let mut client = Wire::connect(proxy.port());
    let value = |client: &mut Wire, messages: &[Vec<u8>]| {
        client.send(&messages.concat());
        let answer = client.until_ready();
        let row = answer.iter().find(|message| message.tag == b'D');
        row.map_or_else(|| panic!("{answer:?}"), harness::wire::Message::values)
    };
    client.run("PREPARE one AS SELECT a FROM notes");
    for (sql, expected) in [
        ("SELECT a FROM notes", "7"),
        ("SELECT a + 1 FROM notes", "8"),
    ] {
        assert_leaves(&mut client, "");
        let run = [bind("two", &[]), execute("", 0), sync()];
        let first = [&[parse("two", sql)], &run[..]].concat();
        assert_eq!(value(&mut client, &first), [Some(expected.to_owned())]);
        assert_leaves(&mut client, "");
        assert_eq!(client.value("EXECUTE two"), expected);
        assert_leaves(&mut client, "");
        assert_eq!(value(&mut client, &run), [Some(expected.to_owned())]);
        assert_leaves(&mut client, "");
        client.send(&[close(b'S', "two"), sync()].concat());
        client.until_ready();
    }
    let theirs = [bind("one", &[]), execute("", 0), sync()];
    assert_eq!(value(&mut client, &theirs), [Some("7".to_owned())]);
}

#[tokio::test]
async fn segments_behind_a_read_that_leaves_run_where_they_belong() {
    let proxy = proxy().await;
    let mut client = Wire::connect(proxy.port());
    client.run("CREATE TEMP TABLE counts AS SELECT 3 AS a");
    assert_leaves(&mut client, "");
    for _ in 0..50 {
        let run = |sql| [parse("", sql), bind("", &[]), execute("", 0), sync()].concat();
        client.send(&[run("SELECT a FROM notes"), run("SELECT a FROM counts")].concat());
        for expected in ["7", "3"] {
            let answer = client.until_ready();
            let row = answer.iter().find(|message| message.tag == b'D').unwrap();
            assert_eq!(row.values(), [Some(expected.to_owned())]);
        }
    }
}

#[tokio::test]
async fn who_looks_at_counters_is_counted_there() {
    let proxy = proxy().await;
    for (looks, expected) in [
        (
            "SELECT count(*) FROM pg_stat_user_tables",
            "primary requested",
        ),
        (
            "SELECT seq_scan FROM pg_catalog.pg_stat_all_tables LIMIT 1",
            "primary requested",
        ),
        (
            "SELECT pg_stat_get_numscans('notes'::regclass)",
            "primary requested",
        ),
        ("SELECT count(*) FROM pg_stat_activity", "replica"),
    ] {
        let mut client = Wire::connect(proxy.port());
        assert_leaves(&mut client, looks);
        client.run(looks);
        for _ in 0..20 {
            let route = read(&mut client);
            assert!(
                expected == "replica" || route == expected,
                "{looks}: {route}"
            );
        }
        client.run("DISCARD ALL");
        assert_leaves(&mut client, looks);
    }
}
