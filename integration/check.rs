//! `pgweir check` as a shell sees it.

#![cfg(test)]

mod harness;

use std::fs;
use std::process::{Command, Output};

use harness::yaml;
use pgweir::sandbox::LocalCluster;

/// The exit status, standard output and standard error of `pgweir check` on `text`.
fn check(
    cluster: &LocalCluster,
    name: &str,
    text: &str,
    arguments: &[&str],
) -> (i32, String, String) {
    let file = cluster.directory().join(name);
    fs::write(&file, text).unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .args(["check", "--config"])
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The cells of the row that begins with `node`.
fn row(report: &str, node: &str) -> Vec<String> {
    let row = report
        .lines()
        .find(|line| line.split_whitespace().next() == Some(node));
    let row = row.unwrap_or_else(|| panic!("no {node} in\n{report}"));
    row.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn connect_shows_what_each_node_is_and_names_the_one_that_is_gone() {
    let cluster = harness::cluster(1).await;
    let good = yaml::config(&cluster, (6432, 9187), "");
    let (status, out, err) = check(&cluster, "good.yaml", &good, &["--connect"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert_eq!(row(&out, "node0")[2..4], ["primary", "1"]);
    let replica = row(&out, "node1");
    assert_eq!(replica[2..4], ["replica", "1"]);
    assert_eq!(replica[5], "B");

    let gone = good.replace(&cluster.port(1).to_string(), "1");
    let (status, out, err) = check(&cluster, "gone.yaml", &gone, &["--connect"]);
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("1 of 2 nodes do not answer"), "{err}");
    assert_eq!(row(&out, "node0")[2], "primary");
    assert!(out.to_lowercase().contains("refused"), "{out}");

    let wrong = good.replace("password: pgweir", "password: hunter2");
    let (status, out, err) = check(&cluster, "wrong.yaml", &wrong, &["--connect"]);
    assert_eq!(status, 1, "{out}");
    assert!(!format!("{out}{err}").contains("hunter2"), "{out}{err}");
}

/// As Amazon Aurora answers: its functions stand before PostgreSQL's own for the monitor's role.
#[tokio::test]
async fn connect_says_that_a_service_hides_its_positions() {
    let cluster = harness::cluster(1).await;
    for sql in [
        "CREATE SCHEMA aurora",
        "CREATE FUNCTION aurora.pg_last_wal_replay_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'Function pg_last_wal_replay_lsn() is currently not supported for Aurora' \
         USING ERRCODE = 'feature_not_supported'; END $$",
        "GRANT USAGE ON SCHEMA aurora TO PUBLIC",
        "ALTER ROLE pgweir SET search_path = aurora, pg_catalog",
    ] {
        cluster.superuser_sql(0, sql).await.unwrap();
    }
    cluster.wait_for_replay(1).await.unwrap();
    let database = "clusters: { main: { monitor: { database: app } } }";
    let text = yaml::config(&cluster, (6432, 9187), database);
    let (status, out, err) = check(&cluster, "hidden.yaml", &text, &["--connect"]);
    assert_eq!(status, 1, "{out}");
    assert_eq!(row(&out, "node0")[2], "primary");
    assert!(out.contains("hides its WAL positions"), "{out}");
    assert!(out.contains("not supported for Aurora"), "{out}");
    assert!(err.contains("1 of 2 nodes do not answer"), "{err}");
}

#[tokio::test]
async fn connect_tries_whether_roles_can_be_looked_up() {
    let cluster = harness::shared_cluster().await;
    let denied = yaml::config(cluster, (6432, 9187), "auth: { lookup: {} }");
    let (status, out, err) = check(cluster, "denied.yaml", &denied, &["--connect"]);
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("auth.query: the query failed"), "{err}");
    assert!(
        err.contains("permission denied for table pg_authid"),
        "{err}"
    );
    let query = "auth: { query: 'SELECT $1::text, NULL::text' }";
    let allowed = yaml::config(cluster, (6432, 9187), query);
    let (status, out, err) = check(cluster, "allowed.yaml", &allowed, &["--connect"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
}

#[tokio::test]
async fn a_broken_file_ends_with_78_before_any_node_is_reached() {
    let cluster = harness::shared_cluster().await;
    let broken = yaml::config(cluster, (6432, 9187), "lisen: x\nworkers: 0");
    let (status, out, _) = check(cluster, "broken.yaml", &broken, &["--connect"]);
    assert_eq!(status, 78);
    assert!(out.contains("did you mean `listen`?"), "{out}");
    assert!(out.contains("workers: `0` is out of range"), "{out}");
}
