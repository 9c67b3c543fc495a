//! `pgweir check --connect` and `pgweir explain` on a live cluster.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::harness;

/// Exit status, standard output and standard error of a command.
fn pgweir(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn check_names_the_privilege_that_the_monitor_lacks() {
    let cluster = harness::shared_cluster().await;
    let monitor = "clusters: { main: { monitor: { user: app, password: app } } }";
    let config = harness::yaml::config(cluster, (6432, 9187), monitor);
    let file = cluster.directory().join("unprivileged.yaml");
    fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let (status, out, err) = pgweir(&["check", "--config", file, "--connect"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for node in ["node1", "node2"] {
        let row = out.lines().find(|line| line.trim_start().starts_with(node));
        assert!(row.unwrap().contains("pg_monitor"), "{out}");
    }
}

#[tokio::test]
async fn explain_judges_by_the_live_catalog_in_text_and_in_json() {
    let cluster = harness::shared_cluster().await;
    for sql in [
        "CREATE FUNCTION told_stable() RETURNS int STABLE RETURN 1",
        "CREATE FUNCTION told_volatile() RETURNS int RETURN 1",
    ] {
        cluster.sql(0, sql).await.unwrap();
    }
    let config = harness::yaml::config(cluster, (6432, 9187), "");
    let file = cluster.directory().join("explain.yaml");
    fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let online = ["--config", file, "--database", "app"];
    let read = "SELECT told_stable()";
    let write = "SELECT told_volatile()";
    let arguments = [&["explain"][..], &online, &[read, write]].concat();
    let (status, text, err) = pgweir(&arguments);
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("database app in cluster main"), "{err}");
    let classes: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("class:"))
        .map(str::trim)
        .collect();
    assert_eq!(classes, ["read", "write"], "{text}");
    let arguments = [
        &["explain", "--format", "json"][..],
        &online,
        &[read, write],
    ]
    .concat();
    let (status, json, err) = pgweir(&arguments);
    assert_eq!(status, 0, "{err}");
    let answers: Value = serde_json::from_str(&json).unwrap();
    for (place, sql, class, target) in [
        (0, read, "read", "a replica"),
        (1, write, "write", "the primary"),
    ] {
        let answer = &answers[place];
        assert_eq!(
            (&answer["sql"], &answer["class"]),
            (&sql.into(), &class.into()),
            "{json}"
        );
        assert!(
            answer["goes_to"].as_str().unwrap().starts_with(target),
            "{json}"
        );
        assert_ne!(answer["catalog"], "offline", "{json}");
    }
}
