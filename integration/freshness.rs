//! The monitor measures real streaming replication: what it proves is true, and what it cannot
//! prove is out of rotation.

#![cfg(test)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::config::{
    ClusterConfig, DatabasePattern, MonitorConfig, NodeConfig, OptionNames, Policies, PoolConfig,
    PoolMode, Secret, SequenceNumbers, ServerTls,
};
use pgweir::control::monitor::watch_cluster;
use pgweir::control::probe::{Answer, probe_once};
use pgweir::control::publisher::{Publisher, initial_snapshot};
use pgweir::core::policy::{
    Balance, ConsistencyPolicy, MonotonicReads, OnNoReplica, ReadAfterWrite, RoutingPolicy,
    Transactions,
};
use pgweir::core::snapshot::{Eligibility, Evidence, NodeId, NodeRole, NodeState, RoutingSnapshot};
use pgweir::core::statement::Consistency;
use pgweir::metrics::Metrics;
use pgweir::sandbox::{ClusterOptions, LocalCluster};
use pgweir::world::ClusterWorld;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);
const MAX_STALENESS: Duration = Duration::from_secs(2);
const TWO_PERIODS: Duration = Duration::from_millis(200);
/// What a busy machine may add to a measured time.
const SLACK: Duration = Duration::from_millis(500);

/// A cluster with the monitor running on it.
struct Watched {
    servers: LocalCluster,
    world: Arc<ClusterWorld>,
    monitor: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

impl Watched {
    async fn start(replicas: usize) -> Self {
        let servers = LocalCluster::start(ClusterOptions::new(replicas))
            .await
            .unwrap();
        let config = Arc::new(configuration(&servers, "pgweir"));
        let world = Arc::new(ClusterWorld::new(initial_snapshot(&config), Instant::now()));
        let metrics = Metrics::new().cluster(&config);
        let publisher = Arc::new(Publisher::new(&config, Arc::clone(&world)));
        let monitor = tokio::spawn(watch_cluster(config, publisher, metrics));
        let watched = Self {
            servers,
            world,
            monitor,
        };
        watched
            .until("all replicas in rotation", |snapshot| {
                snapshot.primary == Some(NodeId(0)) && snapshot.nodes.iter().skip(1).all(eligible)
            })
            .await;
        watched
    }

    /// How long it takes until the published snapshot is as described.
    async fn until(&self, what: &str, holds: impl Fn(&RoutingSnapshot) -> bool) -> Duration {
        let begun = Instant::now();
        let reached = self.world.routing.wait_for(|s| holds(s).then_some(()));
        let outcome = timeout(LIMIT, reached).await;
        let current = self.world.routing.load_full();
        assert!(outcome.is_ok(), "not reached: {what}: {current:#?}");
        begun.elapsed()
    }

    fn node(&self, node: usize) -> NodeState {
        self.world.routing.load().nodes[node].clone()
    }
}

fn eligible(node: &NodeState) -> bool {
    node.eligibility == Eligibility::Eligible
}

fn configuration(servers: &LocalCluster, user: &str) -> ClusterConfig {
    let node = |index: usize| NodeConfig {
        name: format!("n{index}").into(),
        host: "127.0.0.1".to_owned(),
        port: servers.port(index),
        zone: None,
        weight: 1,
    };
    ClusterConfig {
        name: "main".into(),
        databases: vec![DatabasePattern::AllOthers],
        nodes: servers.nodes().map(node).collect(),
        role_lookup: None,
        monitor: MonitorConfig {
            user: user.to_owned(),
            password: Secret::new(user),
            database: "app".to_owned(),
        },
        pool: PoolConfig {
            size: 1,
            mode: PoolMode::Transaction,
            idle_timeout: LIMIT,
            max_lifetime: LIMIT,
            checkout_timeout: LIMIT,
            option_names: OptionNames::Own,
            sequence_numbers: SequenceNumbers::OnceAsked,
        },
        server_tls: ServerTls::Disable,
        policies: Arc::new(policies()),
        user_policies: HashMap::new(),
    }
}

fn policies() -> Policies {
    Policies {
        routing: RoutingPolicy {
            max_staleness: MAX_STALENESS,
            max_lag_bytes: 64 << 20,
            balance: Balance::LeastLoaded,
            transactions: Transactions::Primary,
            zone: None,
            read_functions: vec![],
            write_functions: vec![],
            primary_tables: vec![],
        },
        consistency: ConsistencyPolicy {
            default: Consistency::Session,
            read_after_write: ReadAfterWrite::Position,
            max_staleness: None,
            wait: Duration::from_millis(10),
            max_wait: Duration::from_secs(1),
            spill_limit: 100,
            monotonic_reads: MonotonicReads::Ordinary,
            audit_one_in: None,
            on_no_replica: OnNoReplica::Primary,
        },
    }
}

/// Processor time that this process has used so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn an_idle_cluster_stays_fresh_and_in_rotation() {
    let watched = Watched::start(2).await;
    let begun = (Instant::now(), processor_time());
    let mut worst = Duration::ZERO;
    while begun.0.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(20)).await;
        for replica in [1, 2] {
            let node = watched.node(replica);
            assert!(eligible(&node), "{node:?}");
            worst = worst.max(node.lag.staleness(Instant::now()).unwrap());
        }
    }
    println!(
        "idle 10 s: worst staleness {worst:?}, processor time {:?} (all tests of this process)",
        processor_time().saturating_sub(begun.1)
    );
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[tokio::test]
async fn a_replica_proved_fresh_has_the_row_and_the_proof_comes_quickly() {
    let watched = Watched::start(2).await;
    let primary = watched.servers.connect(0).await.unwrap();
    let replicas = [
        watched.servers.connect(1).await.unwrap(),
        watched.servers.connect(2).await.unwrap(),
    ];
    primary
        .batch_execute("CREATE TABLE t (v int PRIMARY KEY)")
        .await
        .unwrap();
    let insert = primary.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let mut times = Vec::new();
    for round in 0..1000_i32 {
        if round % 2 == 0 {
            // The rest of the rounds find an idle primary between two samples.
            sleep(Duration::from_millis(1)).await;
        }
        // An asynchronous commit is not sent to replicas before it is flushed, up to 600 ms later.
        let mode = if round % 50 == 0 { "off" } else { "on" };
        primary
            .batch_execute(&format!("SET synchronous_commit = {mode}"))
            .await
            .unwrap();
        primary.execute(&insert, &[&round]).await.unwrap();
        let acknowledged = Instant::now();
        watched.world.demand.ask(acknowledged);
        let proved = watched.world.routing.wait_for(|snapshot| {
            snapshot
                .nodes
                .iter()
                .find(|node| node.lag.fresh_as_of(Evidence::Proved) >= Some(acknowledged))
                .map(|node| node.id)
        });
        let node = timeout(LIMIT, proved).await.unwrap();
        if mode == "on" {
            times.push(acknowledged.elapsed());
        }
        let seen = replicas[node.index() - 1]
            .query("SELECT 1 FROM t WHERE v = $1", &[&round])
            .await
            .unwrap();
        assert_eq!(seen.len(), 1, "round {round} on {node:?}");
    }
    times.sort();
    println!(
        "asked to proved: median {:?}, p99 {:?}, worst {:?}",
        times[490], times[970], times[979]
    );
    assert!(times[490] < Duration::from_millis(50), "{:?}", times[490]);
}

#[tokio::test]
async fn a_replica_that_stops_replaying_leaves_in_time_and_returns_at_once() {
    let watched = Watched::start(2).await;
    let servers = &watched.servers;
    for stop in ["pause", "cut"] {
        if stop == "pause" {
            servers.pause_replay(1).await.unwrap();
        } else {
            servers.cut_receiver(1).await.unwrap();
        }
        servers
            .sql(0, &format!("CREATE TABLE {stop} (v int)"))
            .await
            .unwrap();
        let left = watched
            .until("out", |s| s.nodes[1].eligibility == Eligibility::Lagging)
            .await;
        assert!(left <= MAX_STALENESS + TWO_PERIODS + SLACK, "{left:?}");
        assert!(eligible(&watched.node(2)), "the other one stays");
        if stop == "pause" {
            servers.resume_replay(1).await.unwrap();
        } else {
            servers.restore_receiver(1).await.unwrap();
        }
        servers.wait_for_replay(1).await.unwrap();
        let back = watched.until("back", |s| eligible(&s.nodes[1])).await;
        println!("{stop}: left after {left:?}, back {back:?} after catching up");
        assert!(back < Duration::from_secs(1), "{back:?}");
    }
}

#[tokio::test]
async fn a_replica_with_an_apply_delay_is_never_proved_fresh_early() {
    let watched = Watched::start(1).await;
    let delay = Duration::from_millis(300);
    let servers = &watched.servers;
    servers.sql(0, "CREATE TABLE t (v int)").await.unwrap();
    servers.set_apply_delay(1, delay).await.unwrap();
    for round in 0..5 {
        let sent = Instant::now();
        servers
            .sql(0, &format!("INSERT INTO t VALUES ({round})"))
            .await
            .unwrap();
        let acknowledged = Instant::now();
        watched.world.demand.ask(acknowledged);
        watched
            .until("fresh", |s| {
                s.nodes[1].lag.fresh_as_of(Evidence::Proved) >= Some(acknowledged)
            })
            .await;
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
    }
}

#[tokio::test]
async fn a_killed_replica_leaves_at_once_and_returns_when_it_is_back() {
    let watched = Watched::start(1).await;
    let life = watched.node(1).incarnation;
    watched.servers.kill_node(1).await.unwrap();
    let left = watched
        .until("unreachable", |s| {
            s.nodes[1].eligibility == Eligibility::Unreachable
        })
        .await;
    assert!(left < Duration::from_secs(1), "{left:?}");
    watched.servers.start_node(1).await.unwrap();
    let back = watched.until("back", |s| eligible(&s.nodes[1])).await;
    println!("killed replica: out after {left:?}, back {back:?} after it serves");
    assert!(back < Duration::from_secs(1), "{back:?}");
    assert_ne!(watched.node(1).incarnation, life);
}

#[tokio::test]
async fn a_promotion_is_found_and_the_old_primary_is_fenced() {
    let watched = Watched::start(2).await;
    let servers = &watched.servers;
    servers.kill_node(0).await.unwrap();
    let gone = watched.until("no primary", |s| s.primary.is_none()).await;
    assert!(eligible(&watched.node(2)), "reads go on without a primary");
    servers.promote(1).await.unwrap();
    let found = watched
        .until("promoted", |s| s.primary == Some(NodeId(1)))
        .await;
    println!("primary gone after {gone:?}, the new one found {found:?} after its promotion");
    assert!(found < TWO_PERIODS + SLACK, "{found:?}");
    servers.follow(2, 1).await.unwrap();
    watched
        .until("the other follows", |s| eligible(&s.nodes[2]))
        .await;
    servers.start_node(0).await.unwrap();
    watched
        .until("the old one is back", |s| {
            s.nodes[0].role == NodeRole::Primary
        })
        .await;
    let snapshot = watched.world.routing.load_full();
    assert_eq!(snapshot.primary, Some(NodeId(1)), "{snapshot:#?}");
}

#[tokio::test]
async fn a_frozen_primary_is_given_up() {
    let watched = Watched::start(1).await;
    watched.servers.freeze_node(0).unwrap();
    let given_up = watched.until("no primary", |s| s.primary.is_none()).await;
    watched.servers.thaw_node(0).unwrap();
    assert!(given_up < Duration::from_secs(5), "{given_up:?}");
    watched
        .until("primary again", |s| s.primary == Some(NodeId(0)))
        .await;
}

#[tokio::test]
async fn without_the_privilege_to_see_the_receiver_no_replica_is_trusted() {
    let servers = LocalCluster::start(ClusterOptions::new(1)).await.unwrap();
    let config = Arc::new(configuration(&servers, "app"));
    let report = probe_once(&config.nodes[1], &config).await.unwrap();
    assert_eq!(report.missing_privileges, ["pg_monitor"]);
    assert!(matches!(report.answer, Answer::Replica(sample, _) if sample.timeline.is_none()));
    let world = Arc::new(ClusterWorld::new(initial_snapshot(&config), Instant::now()));
    let metrics = Metrics::new().cluster(&config);
    let publisher = Arc::new(Publisher::new(&config, Arc::clone(&world)));
    let monitor = tokio::spawn(watch_cluster(config, publisher, metrics));
    let measured = world.routing.wait_for(|snapshot| {
        let replica = snapshot.nodes[1].clone();
        (snapshot.primary.is_some() && replica.role == NodeRole::Replica).then_some(replica)
    });
    let replica = timeout(LIMIT, measured).await.unwrap();
    assert_eq!(replica.eligibility, Eligibility::Unmeasured);
    monitor.abort();
}

#[tokio::test]
async fn one_probe_tells_role_positions_and_version() {
    let servers = LocalCluster::start(ClusterOptions::new(1)).await.unwrap();
    let config = configuration(&servers, "pgweir");
    let primary = probe_once(&config.nodes[0], &config).await.unwrap();
    let replica = probe_once(&config.nodes[1], &config).await.unwrap();
    let Answer::Primary(sample) = primary.answer else {
        panic!("{primary:?}");
    };
    assert_eq!(sample.timeline, 1);
    assert_eq!(replica.lag_bytes(&sample), Some(0));
    assert_eq!(primary.lag_bytes(&sample), None);
    assert!(replica.missing_privileges.is_empty());
    assert!(!replica.server_version.is_empty());
    servers.kill_node(1).await.unwrap();
    assert!(probe_once(&config.nodes[1], &config).await.is_err());
}
