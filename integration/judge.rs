//! PostgreSQL itself judges the routing: every trap and every read of `judge/` runs directly on the
//! primary and on a standby, which tells the truth about it, and through pgweir in every form in which
//! drivers send statements.
//!
//! A violation is an answer of a replica to what only the primary may answer, an error or a row that
//! the primary does not give, and a read that is not offloaded though it must be. `PGWEIR_JUDGE=1` is
//! the full size; without it every so manieth line is judged.

#![cfg(test)]

#[path = "judge/cases.rs"]
mod cases;
#[path = "judge/form.rs"]
mod form;
mod harness;

use cases::{Kind, Trap, orm_reads, traps};
use form::{Answer, FORMS, Form, ask};
use harness::wire::Wire;
use harness::{Proxy, cluster, eventually, full_size};
use pgweir::sandbox::LocalCluster;
use tokio_postgres::NoTls;

const DATABASE: (&str, &str) = ("database", "traps");

/// What was asked, and what is wrong with the answer.
type Violations = Vec<String>;

/// A cluster of a primary and a standby with these tables.
async fn stage(schema: &[&str]) -> LocalCluster {
    let cluster = cluster(1).await;
    cluster
        .superuser_sql(0, "CREATE DATABASE traps")
        .await
        .unwrap();
    let url = cluster.superuser_url(0).replace("/app", "/traps");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let port = cluster.port(0).to_string();
    for part in schema {
        let sql = part.replace("{PORT}", &port);
        client.batch_execute(&sql).await.unwrap();
    }
    let granted = "GRANT ALL ON ALL TABLES IN SCHEMA public TO app";
    client.batch_execute(granted).await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    cluster
}

/// A proxy in front of it whose replica serves reads.
async fn judged(cluster: &LocalCluster, overrides: &str) -> (Proxy, Wire) {
    let proxy = Proxy::start(cluster, overrides).await;
    let port = proxy.port();
    eventually("the replica serves reads", async || {
        let mut client = session(port);
        client.run("SELECT count(*) FROM users");
        client.last_route().contains("role=replica")
    })
    .await;
    let watch = session(port);
    (proxy, watch)
}

fn session(port: u16) -> Wire {
    Wire::connect_with(port, &[DATABASE])
}

/// Waits until pgweir knows the catalog again: till then every read goes to the primary, and nothing
/// could be found.
async fn knows_the_catalog(watch: &mut Wire) {
    let deadline = std::time::Instant::now() + harness::LIMIT;
    loop {
        let facts = watch.query("EXPLAIN ROUTE SELECT count(*) FROM users");
        let rows = facts.iter().filter(|message| message.tag == b'D');
        if rows
            .map(harness::wire::Message::values)
            .any(|row| row[1].as_deref() == Some("replica"))
        {
            return;
        }
        // The first read asks for the catalog.
        watch.run("SELECT count(*) FROM users");
        assert!(
            std::time::Instant::now() < deadline,
            "no replica serves: {facts:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Every so manieth, or all of them.
fn chosen<T>(all: Vec<T>, nth: usize) -> Vec<T> {
    let nth = full_size::<usize>("PGWEIR_JUDGE").map_or(nth, |_| 1);
    all.into_iter().step_by(nth).collect()
}

/// What one trap led to through the proxy.
fn judge_trap(cluster: &LocalCluster, proxy: &Proxy, trap: &Trap, form: Form) -> Violations {
    let mut violations = Vec::new();
    let mut primary = session(cluster.port(0));
    let truth: Vec<Answer> = trap
        .statements
        .iter()
        .map(|sql| ask(&mut primary, form, sql, &[]))
        .collect();
    drop(primary);
    let mut standby = session(cluster.port(1));
    let there: Vec<Answer> = trap
        .statements
        .iter()
        .map(|sql| ask(&mut standby, form, sql, &[]))
        .collect();
    let only_primary = truth != there;
    let mut client = session(proxy.port());
    for (sql, truth) in trap.statements.iter().zip(&truth) {
        let answer = ask(&mut client, form, sql, &[]);
        let route = if answer.failed_block {
            String::new()
        } else {
            client.last_route()
        };
        let mut wrong = |what: String| violations.push(format!("{form:?} {sql}: {what} ({route})"));
        if answer.errors != truth.errors {
            wrong(format!("{:?} instead of {:?}", answer.errors, truth.errors));
        }
        let by_replica = route.contains("role=replica");
        match trap.kind {
            Kind::Primary if by_replica => wrong("answered by a replica".to_owned()),
            Kind::Any | Kind::Replica if answer != *truth => {
                wrong(format!("{answer:?} instead of {truth:?}"));
            }
            Kind::Replica if !by_replica => wrong("not offloaded".to_owned()),
            Kind::Replica if only_primary => wrong("a standby answers otherwise".to_owned()),
            Kind::Primary | Kind::Any | Kind::Replica => {}
        }
    }
    violations
}

async fn judge_traps(
    cluster: &LocalCluster,
    proxy: &Proxy,
    watch: &mut Wire,
    traps: &[Trap],
) -> Violations {
    let mut violations = Vec::new();
    for trap in traps {
        for form in FORMS {
            knows_the_catalog(watch).await;
            violations.extend(judge_trap(cluster, proxy, trap, form));
        }
    }
    violations
}

#[tokio::test]
async fn traps_are_answered_by_the_primary_and_what_only_looks_like_one_by_a_replica() {
    let cluster = stage(&[cases::SHOP, cases::TRAPS_SCHEMA]).await;
    let (proxy, mut watch) = judged(&cluster, "").await;
    let traps = chosen(traps(), 20);
    let violations = judge_traps(&cluster, &proxy, &mut watch, &traps).await;
    println!(
        "{} traps in {} forms: {} violations",
        traps.len(),
        FORMS.len(),
        violations.len()
    );
    assert!(
        violations.is_empty(),
        "{} of {}:\n{}",
        violations.len(),
        traps.len(),
        violations.join("\n")
    );
}

#[tokio::test]
async fn every_read_of_a_mapper_is_offloaded() {
    let cluster = stage(&[cases::SHOP]).await;
    let (proxy, _) = judged(&cluster, "").await;
    let reads = chosen(orm_reads(), 12);
    let [mut primary, mut standby, mut client] =
        [cluster.port(0), cluster.port(1), proxy.port()].map(session);
    let mut violations = Vec::new();
    for (sql, parameters) in &reads {
        for form in FORMS {
            let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
            let truth = ask(&mut primary, form, sql, &parameters);
            let there = ask(&mut standby, form, sql, &parameters);
            if there != truth || !truth.errors.is_empty() {
                violations.push(format!("{form:?} {sql}: no read: {truth:?}, {there:?}"));
            }
            let answer = ask(&mut client, form, sql, &parameters);
            let route = client.last_route();
            if answer != truth || !route.contains("role=replica") {
                violations.push(format!(
                    "{form:?} {sql}: {route}: {answer:?} instead of {truth:?}"
                ));
            }
        }
    }
    println!(
        "{} reads in {} forms: {} violations",
        reads.len(),
        FORMS.len(),
        violations.len()
    );
    assert!(
        violations.is_empty(),
        "{} of {}:\n{}",
        violations.len(),
        reads.len(),
        violations.join("\n")
    );
}

#[tokio::test]
async fn a_weakened_classification_is_found_out() {
    let cluster = stage(&[cases::SHOP, cases::TRAPS_SCHEMA]).await;
    let weak =
        "routing: { read_functions: [held, touch, pg_is_in_recovery, pg_try_advisory_xact_lock] }";
    let (proxy, mut watch) = judged(&cluster, weak).await;
    let named = [
        "select held(1)",
        "select pg_is_in_recovery()",
        "select pg_try_advisory_xact_lock(3)",
    ];
    let traps: Vec<Trap> = traps()
        .into_iter()
        .filter(|trap| {
            trap.statements
                .iter()
                .any(|sql| named.contains(&sql.as_str()))
        })
        .collect();
    assert_eq!(traps.len(), named.len());
    let violations = judge_traps(&cluster, &proxy, &mut watch, &traps).await;
    let found = violations
        .iter()
        .filter(|it| it.contains("answered by a replica"));
    assert_eq!(found.count(), named.len() * FORMS.len(), "{violations:#?}");
}
