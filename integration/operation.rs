//! Reload, drain, limits, health, metrics, logs and the sandbox, as an operator meets them.

#![cfg(test)]

#[path = "operation/audit.rs"]
mod audit;
#[path = "operation/commands.rs"]
mod commands;
mod harness;
#[path = "operation/reload.rs"]
mod reload;
#[path = "operation/stopping.rs"]
mod stopping;
#[path = "operation/terminated.rs"]
mod terminated;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use harness::{Proxy, eventually};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The SQLSTATE of an error, or what it is instead.
fn code(error: &tokio_postgres::Error) -> String {
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

/// The first value of a simple query.
async fn value(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let rows = client.simple_query(sql).await?;
    let row = rows.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else {
            return None;
        };
        row.get(0)
    });
    Ok(row.unwrap_or_default().to_owned())
}

/// Tries to connect as `app`.
async fn connect(proxy: &Proxy, user: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&proxy.url(user), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn the_client_after_the_last_seat_gets_53300_and_a_seat_comes_free() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "limits: { max_clients: 3 }").await;
    let mut seated = Vec::new();
    for _ in 0..3 {
        seated.push(proxy.connect().await);
    }
    for _ in 0..5 {
        let error = connect(&proxy, "app").await.err().unwrap();
        assert_eq!(code(&error), "53300");
        for client in &seated {
            assert_eq!(value(client, "SELECT 1").await.unwrap(), "1");
        }
    }
    seated.pop();
    let admitted = || async { connect(&proxy, "app").await.is_ok() };
    eventually("a seat is free again", admitted).await;
}

#[tokio::test]
async fn readiness_follows_the_primary_and_health_does_not() {
    let cluster = harness::cluster(1).await;
    let proxy = Proxy::start(&cluster, "").await;
    let status = async |path| proxy.get(path).await.unwrap().0;
    assert_eq!(status("/healthz").await, 200);
    assert_eq!(status("/readyz").await, 200);
    cluster.kill_node(0).await.unwrap();
    let unready = || async { status("/readyz").await == 503 };
    eventually("it is not ready without a primary", unready).await;
    assert_eq!(status("/healthz").await, 200);
    let client = connect(&proxy, "app").await;
    if let Err(error) = client {
        assert!(
            ["57P03", "08006"].contains(&code(&error).as_str()),
            "{error}"
        );
    }
    cluster.start_node(0).await.unwrap();
    let ready = || async { status("/readyz").await == 200 };
    eventually("it is ready again", ready).await;
    let client = proxy.connect().await;
    assert_eq!(value(&client, "SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn metrics_count_what_a_known_workload_did() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "consistency: { default: eventual }").await;
    let client = proxy.connect().await;
    client
        .batch_execute("CREATE TABLE counted (v int)")
        .await
        .unwrap();
    for _ in 0..10 {
        client
            .batch_execute("INSERT INTO counted VALUES (1)")
            .await
            .unwrap();
    }
    for node in cluster.replicas() {
        cluster.wait_for_replay(node).await.unwrap();
    }
    let on_replica = || async {
        value(&client, "SELECT 1 FROM pg_class LIMIT 1")
            .await
            .unwrap();
        let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
        route.contains("role=replica")
    };
    eventually("the catalog is loaded", on_replica).await;
    let before = proxy.metrics().await;
    for _ in 0..20 {
        assert_eq!(
            value(&client, "SELECT count(*) FROM counted")
                .await
                .unwrap(),
            "10"
        );
    }
    client.batch_execute("LISTEN x").await.unwrap();
    // Connections are counted once a second.
    let counted = || async { proxy.metrics().await.sum("pgweir_pool_connections", &[]) > 0.0 };
    eventually("connections are counted", counted).await;
    let (_, text) = proxy.get("/metrics").await.unwrap();
    let metrics = proxy.metrics().await;
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        let found = metrics.sum(name, labels);
        assert!(
            (found - expected).abs() < 0.1,
            "{name} {labels:?}: {found}\n{text}"
        );
    };
    let replica = ("role", "replica");
    let served = before.sum("pgweir_queries_total", &[replica]);
    is("pgweir_queries_total", &[replica], served + 20.0);
    let write = [("role", "primary"), ("reason", "write")];
    is("pgweir_queries_total", &write, 12.0);
    let all = before.sum("pgweir_query_seconds_count", &[]);
    is("pgweir_query_seconds_count", &[], all + 21.0);
    is("pgweir_clients", &[], 1.0);
    is("pgweir_node_up", &[("role", "primary")], 1.0);
    is("pgweir_node_up", &[("role", "replica")], 2.0);
    // Before the catalog is loaded, writes are asked about.
    let asked = metrics.sum("pgweir_pins_total", &[("reason", "code_behind_write")]);
    assert!(asked < 10.5, "{asked}");
    is("pgweir_pins_total", &[], asked + 1.0);
    for node in ["node1", "node2"] {
        let staleness = metrics.max("pgweir_replica_staleness_seconds", &[("node", node)]);
        assert!(
            staleness.is_some_and(|seconds| seconds < 10.0),
            "{staleness:?}"
        );
        let lag = metrics.max("pgweir_replica_lag_bytes", &[("node", node)]);
        assert!(lag.is_some_and(|bytes| bytes < 1e6), "{lag:?}");
    }
    assert_announced(&text);
}

/// Metrics that count what has not happened are there too.
fn assert_announced(text: &str) {
    for name in [
        "pgweir_freshness_wait_seconds",
        "pgweir_reads_displaced",
        "pgweir_misrouted",
        "pgweir_retries",
        "pgweir_pins",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}\n{text}");
    }
}

/// Marks that stand in what a client sends, and must stand in no log.
const SECRETS: [&str; 4] = [
    "mark_password",
    "mark_literal",
    "mark_bound",
    "mark_setting",
];

/// Runs statements of many kinds, good and bad, with marks in them.
async fn marked_workload(proxy: &Proxy) {
    let client = proxy.connect().await;
    for sql in [
        "SELECT 'mark_literal'",
        "SELECT 'mark_literal' FROM nowhere",
        "SELECT 'mark_literal'::int",
        "CREATE TABLE IF NOT EXISTS marked (v text)",
        "INSERT INTO marked VALUES ('mark_literal')",
        "SET application_name = 'mark_setting'",
        "SET pgweir.consistency = 'mark_setting'",
        "SET pgweir.mark_setting = 1",
        "CREATE ROLE r PASSWORD 'mark_password'",
        "BEGIN; SELECT 'mark_literal'; ROLLBACK",
        "SELECT nextval('mark_literal')",
        "SELECT 'mark_literal",
        "LISTEN mark_literal",
        "/*pgweir_consistency='mark_setting'*/ SELECT 1",
    ] {
        // Most of them fail, which is what they are for.
        drop(client.simple_query(sql).await);
    }
    drop(
        client
            .query("SELECT $1::text || 'mark_literal'", &[&"mark_bound"])
            .await,
    );
    let wrong = proxy.url("app").replace("app:app", "app:mark_password");
    assert!(tokio_postgres::connect(&wrong, NoTls).await.is_err());
    let option = format!(
        "{}?options=-c%20pgweir.consistency=mark_setting",
        proxy.url("app")
    );
    assert!(tokio_postgres::connect(&option, NoTls).await.is_err());
}

#[tokio::test]
async fn debug_logs_are_json_line_by_line_and_hold_no_secret() {
    let cluster = harness::shared_cluster().await;
    for format in ["json", "text"] {
        let overrides = format!(
            "log: {{ format: {format}, level: debug }}\n\
             users: [{{ name: app, password: app }}, {{ name: other, password: mark_password }}]"
        );
        let proxy = Proxy::start(cluster, &overrides).await;
        marked_workload(&proxy).await;
        proxy.reload();
        let told = || async { proxy.log().contains("configuration reloaded") };
        eventually("the reload is logged", told).await;
        assert!(proxy.terminate().await.success());
        let log = proxy.log();
        assert!(log.lines().count() > 5, "{log}");
        for secret in SECRETS {
            assert!(!log.contains(secret), "{secret} in\n{log}");
        }
        if format == "json" {
            for line in log.lines() {
                let event: serde_json::Value = serde_json::from_str(line).expect(line);
                for key in ["timestamp", "level", "message", "target"] {
                    assert!(event[key].is_string(), "{key} in {line}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_broken_file_end_the_start_with_a_reason() {
    let cluster = harness::shared_cluster().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = pgweir::sandbox::free_port().unwrap();
    let good = harness::yaml::config(cluster, (port, free), "");
    let (status, text) = run_to_end(&cluster.directory().join("taken.yaml"), &good);
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && text.contains("in use"),
        "{text}"
    );

    let http = harness::yaml::config(cluster, (free, port), "");
    let (status, text) = run_to_end(&cluster.directory().join("http.yaml"), &http);
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && text.contains("in use"),
        "{text}"
    );

    let faults = "lisen: x\nworkers: 0\nlimits: { max_message: 1 }\nrouting: { balance: best }";
    let broken = harness::yaml::config(cluster, (free, port), faults);
    let (status, text) = run_to_end(&cluster.directory().join("broken.yaml"), &broken);
    assert_eq!(status, 78, "{text}");
    for fault in ["lisen", "workers", "max_message", "balance"] {
        assert!(text.contains(fault), "{fault}: {text}");
    }
}

/// Exit status and output of `pgweir run` on `text`, which must end by itself.
fn run_to_end(file: &Path, text: &str) -> (i32, String) {
    fs::write(file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .args(["run", "--config"])
        .arg(file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

/// There is room for the catalogs of a number of databases: one that does not exist must not take the
/// room of one that does, whose reads would all go to the primary.
#[tokio::test]
async fn databases_that_do_not_exist_take_no_room() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let to = |database: &str| {
        let config = proxy.url("app").parse::<tokio_postgres::Config>();
        let mut config = config.unwrap();
        config.dbname(database);
        config
    };
    for at in 0..300 {
        let refused = to(&format!("none{at}")).connect(NoTls).await;
        assert_eq!(code(&refused.err().unwrap()), "3D000");
    }
    let (client, connection) = to("postgres").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    eventually("a replica serves another database", async || {
        value(&client, "SELECT now()").await.unwrap();
        let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
        route.contains("role=replica")
    })
    .await;
    assert!(!proxy.log().contains("none0"), "{}", proxy.log());
}
