//! The throw-away clusters do what the other suites rely on, and leave nothing behind.

#![cfg(test)]

mod harness;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use io::{BufRead as _, BufReader};
use pgweir::sandbox::{ClusterOptions, LocalCluster, eventually};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_row_written_on_the_primary_reaches_every_replica() {
    let begun = Instant::now();
    let cluster = started(2).await;
    println!("primary and two replicas started in {:?}", begun.elapsed());
    cluster
        .sql(0, "CREATE TABLE t (v int); INSERT INTO t VALUES (7)")
        .await
        .unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
        assert_eq!(first(&cluster, replica, "SELECT v FROM t").await, "7");
        assert_eq!(
            first(&cluster, replica, "SELECT pg_is_in_recovery()").await,
            "t"
        );
    }
}

#[tokio::test]
async fn paused_replay_holds_rows_back_until_it_is_resumed() {
    let cluster = started(1).await;
    cluster.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    cluster.pause_replay(1).await.unwrap();
    cluster.sql(0, "INSERT INTO t VALUES (1)").await.unwrap();
    received(&cluster, 1).await;
    assert_eq!(first(&cluster, 1, "SELECT count(*) FROM t").await, "0");
    cluster.resume_replay(1).await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    assert_eq!(first(&cluster, 1, "SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn apply_delay_holds_rows_back_for_that_time() {
    let cluster = started(1).await;
    cluster.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    let delay = Duration::from_millis(800);
    cluster.set_apply_delay(1, delay).await.unwrap();
    let written = Instant::now();
    cluster.sql(0, "INSERT INTO t VALUES (1)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    let held = written.elapsed();
    assert!(held >= delay && held < 4 * delay, "{held:?}");
    cluster.set_apply_delay(1, Duration::ZERO).await.unwrap();
    cluster.sql(0, "INSERT INTO t VALUES (2)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
}

#[tokio::test]
async fn a_replica_cut_off_receives_nothing_until_it_is_restored() {
    let cluster = started(1).await;
    cluster.cut_receiver(1).await.unwrap();
    cluster.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    let receivers = "SELECT count(*) FROM pg_stat_replication";
    assert_eq!(first(&cluster, 0, receivers).await, "0");
    assert!(cluster.sql(1, "SELECT * FROM t").await.is_err());
    cluster.restore_receiver(1).await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    assert_eq!(first(&cluster, 1, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn killed_and_stopped_nodes_come_back_on_their_ports() {
    let cluster = started(1).await;
    cluster.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    for node in [1, 0] {
        let port = cluster.port(node);
        cluster.kill_node(node).await.unwrap();
        assert!(cluster.sql(node, "SELECT 1").await.is_err());
        cluster.start_node(node).await.unwrap();
        cluster.restart_node(node).await.unwrap();
        assert_eq!(cluster.port(node), port);
    }
    cluster.wait_for_streaming(1).await.unwrap();
    cluster.sql(0, "INSERT INTO t VALUES (3)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    assert_eq!(first(&cluster, 1, "SELECT v FROM t").await, "3");
}

#[tokio::test]
async fn a_frozen_node_keeps_its_connections_and_answers_when_thawed() {
    let cluster = started(1).await;
    let client = cluster.connect(1).await.unwrap();
    cluster.freeze_node(1).unwrap();
    let short = Duration::from_millis(300);
    let answer = client.simple_query("SELECT 1");
    let mut answer = Box::pin(answer);
    assert!(tokio::time::timeout(short, &mut answer).await.is_err());
    cluster.thaw_node(1).unwrap();
    tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_promotion_the_others_can_follow_and_the_old_primary_is_rebuilt() {
    let cluster = started(2).await;
    cluster.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    cluster.kill_node(0).await.unwrap();
    cluster.promote(1).await.unwrap();
    assert_eq!(cluster.primary(), 1);
    cluster.follow(2, 1).await.unwrap();
    cluster.rebuild(0).await.unwrap();
    cluster.sql(1, "INSERT INTO t VALUES (9)").await.unwrap();
    for replica in cluster.replicas().collect::<Vec<_>>() {
        cluster.wait_for_replay(replica).await.unwrap();
        assert_eq!(first(&cluster, replica, "SELECT v FROM t").await, "9");
    }
}

#[tokio::test]
async fn several_clusters_run_at_once_and_differ_in_identity_when_asked_to() {
    let own = ClusterOptions {
        identity: pgweir::sandbox::Identity::Own,
        ..ClusterOptions::new(0)
    };
    let (one, two, three) = tokio::join!(started(0), started(0), async {
        LocalCluster::start(own).await.unwrap()
    });
    let identity = "SELECT system_identifier FROM pg_control_system()";
    let [one, two, three] = [&one, &two, &three].map(|c| c.superuser_sql(0, identity));
    let (one, two, three) = (one.await.unwrap(), two.await.unwrap(), three.await.unwrap());
    assert_eq!(one, two);
    assert_ne!(one, three);
}

#[tokio::test]
async fn settings_asked_for_hold_on_every_node() {
    let options = ClusterOptions::new(1).with_setting("work_mem", "7MB");
    let cluster = LocalCluster::start(options).await.unwrap();
    for node in cluster.nodes() {
        assert_eq!(first(&cluster, node, "SHOW work_mem").await, "7MB");
    }
}

#[tokio::test]
async fn dropping_a_cluster_leaves_no_process_and_no_file() {
    let cluster = started(1).await;
    // Frozen and killed nodes are the hard ones to clean up.
    cluster.freeze_node(1).unwrap();
    let directory = cluster.directory().to_path_buf();
    assert!(
        servers_below(&directory).len() > 8,
        "two servers have more processes"
    );
    drop(cluster);
    assert_eq!(servers_below(&directory), Vec::<String>::new());
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_start_that_fails_half_way_leaves_no_process_and_no_file() {
    let parent = env::temp_dir().join(format!("pgweir-half-way-{}", std::process::id()));
    fs::create_dir(&parent).unwrap();
    let mut options = ClusterOptions::new(1).with_setting("no_such_setting", "1");
    options.parent = Some(parent.clone());
    let error = LocalCluster::start(options).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    assert_eq!(servers_below(&parent), Vec::<String>::new());
    fs::remove_dir(&parent).unwrap();
}

/// Runs as a child of the next test, which kills it.
#[tokio::test]
async fn child_that_waits_to_be_killed() {
    if env::var_os("PGWEIR_TEST_CHILD").is_none() {
        return;
    }
    let cluster = started(1).await;
    println!("\nDIRECTORY {}", cluster.directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn killing_the_owner_leaves_no_process_and_no_file() {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_that_waits_to_be_killed", "--nocapture"])
        .env("PGWEIR_TEST_CHILD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let directory = lines
        .map_while(Result::ok)
        .find_map(|line| {
            line.strip_prefix("DIRECTORY ")
                .map(Path::new)
                .map(Path::to_path_buf)
        })
        .unwrap();
    assert!(!servers_below(&directory).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || async { servers_below(&directory).is_empty() && !directory.exists() };
    eventually(LIMIT, "servers and directory are gone", gone)
        .await
        .unwrap();
}

async fn started(replicas: usize) -> LocalCluster {
    LocalCluster::start(ClusterOptions::new(replicas))
        .await
        .unwrap()
}

/// The first value of a query's answer.
async fn first(cluster: &LocalCluster, node: usize, text: &str) -> String {
    let rows = cluster.sql(node, text).await.unwrap();
    rows[0][0].clone().unwrap()
}

/// Waits until a replica has received all WAL that the primary has flushed, applied or not.
async fn received(cluster: &LocalCluster, replica: usize) {
    let position = cluster
        .superuser_sql(0, "SELECT pg_current_wal_flush_lsn()")
        .await
        .unwrap();
    let position = position[0][0].as_deref().unwrap();
    let question = format!("SELECT pg_last_wal_receive_lsn() >= '{position}'::pg_lsn");
    let received = || async { first(cluster, replica, &question).await == "t" };
    eventually(LIMIT, "the WAL is received", received)
        .await
        .unwrap();
}

/// The processes that work in a directory or below it (Linux), or name it as their data directory.
fn servers_below(directory: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        let output = Command::new("ps")
            .args(["-A", "-o", "pid=,args="])
            .output()
            .unwrap();
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        let place = format!("-D {}/", directory.display());
        return listing
            .lines()
            .filter(|line| line.contains(&place))
            .map(str::to_owned)
            .collect();
    };
    let works_below = |path: &Path| {
        fs::read_link(path.join("cwd")).is_ok_and(|place| place.starts_with(directory))
    };
    processes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| works_below(path))
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn metrics_are_summed_over_the_labels_not_asked_for() {
    let text = "# HELP q Help.\n# TYPE q counter\nq{node=\"a\",role=\"replica\"} 2\n\
                q{node=\"b\",role=\"replica\"} 3\nq{node=\"c\",role=\"primary\"} 5\nq_other 7\n# EOF\n";
    let metrics = harness::Metrics::parse(text);
    for (name, labels, expected) in [
        ("q", vec![], 10.0),
        ("q", vec![("role", "replica")], 5.0),
        ("q", vec![("role", "replica"), ("node", "b")], 3.0),
        ("q", vec![("role", "none")], 0.0),
        ("q_other", vec![], 7.0),
    ] {
        let sum = metrics.sum(name, &labels);
        assert!(
            (sum - expected).abs() < f64::EPSILON,
            "{name} {labels:?}: {sum}"
        );
    }
}

#[test]
fn overrides_replace_values_and_keep_their_neighbours() {
    let merged = harness::yaml::merged(
        "a: { b: 1, c: [1, 2] }\nd: 4\n",
        "a: { c: [3] }\ne: { f: 5 }\n",
    );
    assert_eq!(merged, "a:\n  b: 1\n  c:\n  - 3\nd: 4\ne:\n  f: 5\n");
    assert_eq!(harness::yaml::merged("a: 1\n", ""), "a: 1\n");
}
