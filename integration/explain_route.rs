//! `EXPLAIN ROUTE` says where the next statement goes, and does nothing else.

#![cfg(test)]

mod harness;

use std::time::Duration;

use harness::wire::{Wire, bind, describe, execute, parse, query, sync};
use harness::{Proxy, cluster, eventually, shared_cluster};
use pgweir::sandbox::LocalCluster;

/// The facts about a statement.
struct Facts(Vec<(String, String)>);

impl Facts {
    fn of(client: &mut Wire, sql: &str) -> Self {
        let answer = client.query(&format!("EXPLAIN ROUTE {sql}"));
        Self::in_messages(&answer)
    }

    fn in_messages(answer: &[harness::wire::Message]) -> Self {
        let rows = answer.iter().filter(|message| message.tag == b'D');
        let facts = rows.map(|row| {
            let values: Vec<String> = row.values().into_iter().flatten().collect();
            let [name, value] = values.try_into().expect("two columns");
            (name, value)
        });
        let facts: Vec<_> = facts.collect();
        assert!(!facts.is_empty(), "{answer:?}");
        Self(facts)
    }

    fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn route(&self) -> String {
        let (node, role) = (self.get("node"), self.get("role"));
        format!(
            "node={node} role={role} reason={}",
            self.get("route reason")
        )
    }
}

async fn table(cluster: &LocalCluster, name: &str) {
    let make = format!(
        "CREATE TABLE {name} AS SELECT generate_series(1, 2) AS v; ALTER TABLE {name} OWNER TO app;
         CREATE FUNCTION {name}_writes() RETURNS int LANGUAGE sql AS $$ INSERT INTO {name} VALUES (3) RETURNING v $$"
    );
    cluster.sql(0, &make).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
}

/// A proxy whose replicas serve `read`.
async fn serving(cluster: &LocalCluster, overrides: &str, read: &str) -> Proxy {
    let proxy = Proxy::start(cluster, overrides).await;
    let port = proxy.port();
    eventually("replicas serve reads", async || {
        let mut client = Wire::connect(port);
        client.query(read);
        client.last_route().contains("role=replica")
    })
    .await;
    proxy
}

/// Every statement goes where its explanation said just before.
fn agree(client: &mut Wire, statements: &[&str]) {
    for sql in statements {
        let facts = Facts::of(client, sql);
        let before = client.last_route();
        assert_eq!(
            Facts::of(client, sql).get("route reason"),
            facts.get("route reason")
        );
        assert_eq!(client.last_route(), before, "an explanation is no route");
        client.query(sql);
        let ran = client.last_route();
        if facts.get("assumes").is_empty() {
            assert_eq!(facts.route(), ran, "{sql}: {:#?}", facts.0);
        } else {
            // What was assumed is asked for first, which may take a replica's turn.
            let (said, ran) = (facts.route(), ran.split_once(' '));
            assert_eq!(said.split_once(' ').map(|it| it.1), ran.map(|it| it.1));
        }
    }
}

#[tokio::test]
async fn a_statement_goes_where_its_explanation_said() {
    let cluster = shared_cluster().await;
    table(cluster, "er_goes").await;
    let read = "SELECT v FROM er_goes";
    let proxy = serving(
        cluster,
        "consistency: { wait: 0s, default: eventual }",
        read,
    )
    .await;
    let mut client = Wire::connect(proxy.port());
    agree(
        &mut client,
        &[
            read,
            "SELECT v, 'it''s' FROM er_goes /*pgweir_route='primary'*/",
            "/*pgweir_consistency='primary'*/ SELECT v FROM er_goes",
            "SELECT FROM WHERE",
            "SELECT er_goes_writes()",
            "INSERT INTO er_goes VALUES (4)",
            "SELECT now(), pg_backend_pid()",
            "SET work_mem = '5MB'",
            "CREATE TEMPORARY TABLE er_kept (v int)",
            read,
            "INSERT INTO er_kept VALUES (1)",
            "SELECT v FROM er_kept",
        ],
    );
    let facts = Facts::of(&mut client, "SELECT v FROM er_kept");
    assert_eq!(facts.get("route reason"), "pinned");
    assert_eq!(facts.get("connection"), "kept: temporary_object");
    // A read that has nothing to do with it leaves.
    let facts = Facts::of(&mut client, read);
    assert_eq!(facts.get("role"), "replica");
    assert_eq!(facts.get("connection"), "kept: temporary_object");
}

#[tokio::test]
async fn blocks_are_explained_as_they_run() {
    let cluster = shared_cluster().await;
    table(cluster, "er_block").await;
    let read = "SELECT v FROM er_block";
    for mode in ["primary", "until_write"] {
        let overrides = format!(
            "routing: {{ transactions: {mode} }}\nconsistency: {{ wait: 0s, default: eventual }}"
        );
        let proxy = serving(cluster, &overrides, read).await;
        let mut client = Wire::connect(proxy.port());
        for begin in [
            "BEGIN",
            "BEGIN READ ONLY",
            "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ",
        ] {
            let facts = Facts::of(&mut client, begin);
            assert_eq!(facts.get("node"), "none: pgweir answers it");
            client.run(begin);
            agree(&mut client, &[read, read]);
            assert_eq!(
                Facts::of(&mut client, read).get("connection"),
                "kept: transaction block"
            );
            if begin == "BEGIN" {
                agree(&mut client, &["INSERT INTO er_block VALUES (9)", read]);
            } else {
                agree(&mut client, &["SHOW work_mem"]);
                let facts = Facts::of(&mut client, "SELECT er_block_writes()");
                let known = if begin.contains("REPEATABLE") {
                    facts.get("refused").starts_with("0A000")
                } else {
                    facts.get("route reason") == "transaction"
                };
                assert!(known, "{begin}: {:#?}", facts.0);
            }
            client.query("SELECT 1/0");
            let refused = client.query(&format!("EXPLAIN ROUTE {read}"));
            assert_eq!(
                refused[0].sqlstate().as_deref(),
                Some("25P02"),
                "{refused:?}"
            );
            client.run("ROLLBACK");
        }
    }
}

#[tokio::test]
async fn both_protocols_describe_two_columns_of_text() {
    let cluster = shared_cluster().await;
    table(cluster, "er_shape").await;
    let proxy = serving(cluster, "", "SELECT v FROM er_shape").await;
    let mut client = Wire::connect(proxy.port());
    let sql = "EXPLAIN ROUTE SELECT v FROM er_shape WHERE v = $1 AND v < $2";
    let simple = client.query(sql);
    client.send(&[parse("a", sql), describe(b'S', "a"), sync()].concat());
    let prepared = client.until_ready();
    assert_eq!(prepared[1].tag, b't');
    assert_eq!(prepared[1].body, [0, 2, 0, 0, 0, 25, 0, 0, 0, 25]);
    assert_eq!(prepared[2], simple[0]);
    // The portal is bound by one segment and run by the next.
    client.send(&[bind("a", &[b"1", b"2"]), describe(b'P', ""), sync()].concat());
    assert_eq!(client.until_ready()[1], simple[0]);
    client.send(&[query("BEGIN"), bind("a", &[b"1", b"2"]), sync()].concat());
    client.until_ready();
    client.until_ready();
    client.send(&[execute("", 0), sync()].concat());
    let run = client.until_ready();
    assert_eq!(Facts::in_messages(&run).get("class"), "read");
    let tags: Vec<u8> = run.iter().map(|message| message.tag).collect();
    let end = tags.len() - 2;
    assert!(tags[..end].iter().all(|tag| *tag == b'D'), "{run:?}");
    assert_eq!(run[end].body, b"EXPLAIN\0");
    // A driver that prepares, describes and binds on its own.
    let client = proxy.connect().await;
    let rows = client.query("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>("fact"), "class");
    assert_eq!(rows[0].get::<_, &str>("value"), "read");
}

#[tokio::test]
async fn beside_another_statement_it_is_an_error_of_syntax() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    for sql in [
        "EXPLAIN ROUTE SELECT 1; SELECT 2",
        "SELECT 2; EXPLAIN ROUTE SELECT 1",
        "EXPLAIN ROUTE",
        "EXPLAIN ROUTE;",
        "EXPLAIN EXPLAIN ROUTE SELECT 1",
        "EXPLAIN ROUTE SELECT 'open",
    ] {
        let direct = Wire::connect(cluster.port(0)).query(sql);
        let through = Wire::connect(proxy.port()).query(sql);
        assert_eq!(through, direct, "{sql}");
    }
}

#[tokio::test]
async fn replicas_that_lag_are_named_with_the_time_it_takes_them() {
    let cluster = cluster(1).await;
    table(&cluster, "er_lag").await;
    let read = "SELECT v FROM er_lag";
    let strict = "consistency: { on_no_replica: error, wait: 0s }";
    let proxy = serving(&cluster, strict, read).await;
    let patient = serving(&cluster, "consistency: { wait: 20s, max_wait: 30s }", read).await;
    let mut client = Wire::connect(patient.port());
    cluster
        .set_apply_delay(1, Duration::from_millis(700))
        .await
        .unwrap();
    client.run("INSERT INTO er_lag VALUES (3)");
    let facts = Facts::of(&mut client, read);
    assert_eq!(facts.get("route reason"), "waited", "{:#?}", facts.0);
    assert!(
        facts.get("freshness floor").ends_with("ms ago"),
        "{:#?}",
        facts.0
    );
    assert!(facts.get("expected wait").ends_with("ms"), "{:#?}", facts.0);
    client.query(read);
    assert_eq!(facts.route(), client.last_route());

    cluster.pause_replay(1).await.unwrap();
    let mut client = Wire::connect(proxy.port());
    client.run("INSERT INTO er_lag VALUES (4)");
    let facts = Facts::of(&mut client, read);
    let refused = client.query(read)[0].sqlstate().unwrap();
    assert!(facts.get("refused").starts_with(&refused), "{:#?}", facts.0);
    let name = facts
        .0
        .iter()
        .find(|(name, _)| name.starts_with("replica "));
    assert!(
        name.unwrap().1.starts_with("not fresh enough"),
        "{:#?}",
        facts.0
    );
    let before = proxy.metrics().await;
    Facts::of(&mut client, read);
    let after = proxy.metrics().await;
    let counted = |metrics: &harness::Metrics| {
        let samples = metrics.samples().iter().filter(|(name, _)| {
            let routed = name.contains("role=\"primary\"") || name.contains("role=\"replica\"");
            let counts = name.starts_with("pgweir_queries_total") && routed;
            counts || name.starts_with("pgweir_reads_displaced_total")
        });
        samples
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(counted(&before), counted(&after));
    assert!(!counted(&after).is_empty(), "{after:?}");
}

#[tokio::test]
async fn a_database_whose_catalog_cannot_be_read_says_so() {
    let cluster = cluster(1).await;
    cluster
        .superuser_sql(0, "CREATE DATABASE closed")
        .await
        .unwrap();
    let close =
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC; GRANT CONNECT ON DATABASE closed TO app";
    cluster.superuser_sql(0, close).await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    let proxy = Proxy::start(&cluster, "").await;
    let mut client = Wire::connect_with(proxy.port(), &[("database", "closed")]);
    let facts = Facts::of(&mut client, "SELECT count(*) FROM pg_class");
    assert_eq!(facts.get("class"), "write");
    assert_eq!(facts.get("reason"), "catalog_unknown");
    assert_eq!(facts.get("role"), "primary");
    assert_eq!(facts.get("route reason"), "not_understood");
}
