//! What a scrape shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Environment, parse};
use crate::core::freshness::replay_wait::WaitOutcome;
use crate::core::lsn::Lsn;
use crate::core::snapshot::{Eligibility, Incarnation, NodeState, ReplayLag};

struct NoEnvironment;

impl Environment for NoEnvironment {
    fn value_of(&self, _name: &str) -> Option<String> {
        None
    }
}

fn cluster(nodes: &[&str]) -> Arc<ClusterConfig> {
    use std::fmt::Write as _;

    let mut text = "users: [{ name: u, password: p }]\nclusters:\n  main:\n    nodes:\n".to_owned();
    for node in nodes {
        writeln!(
            text,
            "      - {{ name: {node}, host: {node}.test, port: 5432 }}"
        )
        .unwrap();
    }
    Arc::clone(&parse(&text, "test.yaml", &NoEnvironment).unwrap().clusters[0])
}

fn text(metrics: &Metrics, now: Instant, snapshot: Option<RoutingSnapshot>) -> String {
    let snapshots: Vec<_> = snapshot
        .map(|snapshot| (Arc::from("main"), Arc::new(snapshot)))
        .into_iter()
        .collect();
    metrics.render(&snapshots, now).unwrap()
}

#[track_caller]
fn shows(text: &str, line: &str) {
    assert!(
        text.lines().any(|found| found == line),
        "no {line} in\n{text}"
    );
}

#[test]
fn every_count_appears_under_its_contract_name() {
    let metrics = Metrics::new();
    let main = metrics.cluster(&cluster(&["a", "b"]));
    main.count_query(NodeId(1), NodeRole::Replica, RouteReason::Fresh);
    main.count_answered();
    main.observe_query_seconds(NodeId(0), NodeRole::Primary, Duration::from_millis(3));
    main.observe_proxy_overhead(Duration::from_micros(20));
    main.observe_freshness_wait(Duration::from_millis(4));
    main.observe_pool_wait(Duration::from_secs(11));
    main.count_eviction(EvictionCause::Options);
    main.count_displaced(RouteReason::NotFresh);
    main.count_misrouted("25006");
    main.count_misrouted("42P01");
    main.count_retry(RetryCause::Conflict);
    main.count_pin(PinReason::Listen);
    main.count_classified(Reason::TooLong);
    main.count_classify_cache(CacheOutcome::Normalised);
    main.count_position_sample(NodeId(0));
    main.count_replay_wait(NodeId(1), WaitOutcome::TimedOut);
    main.pool_connections(NodeId(0), PoolState::Idle).inc();
    metrics.clients().inc();

    let text = text(&metrics, Instant::now(), None);
    for line in [
        r#"pgweir_queries_total{cluster="main",node="b",role="replica",reason="fresh"} 1"#,
        r#"pgweir_queries_total{cluster="main",node="",role="proxy",reason="proxy"} 1"#,
        r#"pgweir_query_seconds_count{cluster="main",node="a",role="primary"} 1"#,
        r#"pgweir_query_seconds_bucket{le="0.0025",cluster="main",node="a",role="primary"} 0"#,
        r#"pgweir_query_seconds_bucket{le="0.005",cluster="main",node="a",role="primary"} 1"#,
        r#"pgweir_proxy_overhead_seconds_bucket{le="0.00005"} 1"#,
        "pgweir_freshness_wait_seconds_sum 0.004",
        r#"pgweir_pool_wait_seconds_bucket{le="10.0"} 0"#,
        r#"pgweir_pool_wait_seconds_bucket{le="+Inf"} 1"#,
        r#"pgweir_pool_evictions_total{cause="options"} 1"#,
        r#"pgweir_reads_displaced_total{cause="not_fresh"} 1"#,
        r#"pgweir_misrouted_total{sqlstate="25006"} 1"#,
        r#"pgweir_misrouted_total{sqlstate="other"} 1"#,
        r#"pgweir_retries_total{cause="conflict"} 1"#,
        r#"pgweir_pins_total{reason="listen"} 1"#,
        r#"pgweir_classified_total{reason="too_long"} 1"#,
        r#"pgweir_classify_cache_total{outcome="normalised"} 1"#,
        r#"pgweir_position_samples_total{cluster="main",node="a"} 1"#,
        r#"pgweir_replay_waits_total{cluster="main",node="b",outcome="timed_out"} 1"#,
        r#"pgweir_pool_connections{cluster="main",node="a",state="idle"} 1"#,
        "pgweir_clients 1",
        concat!(
            r#"pgweir_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#""} 1"#
        ),
        "# EOF",
    ] {
        shows(&text, line);
    }
    assert_eq!(text.matches("pgweir_queries_total{").count(), 2, "{text}");
}

#[test]
fn measured_values_are_those_of_the_snapshot_at_the_scrape() {
    let metrics = Metrics::new();
    let now = Instant::now();
    let state = |place: u16, role, lag, eligibility| NodeState {
        id: NodeId(place),
        name: Arc::from(["a", "b", "c"][usize::from(place)]),
        weight: 1,
        zone: None,
        role,
        // The second one does not show its timeline, the third one was never measured.
        incarnation: (place < 2).then_some(Incarnation {
            started_at_unix_micros: 1_700_000_000_999_999 + i64::from(place) * 1_000_000,
            timeline: (place == 0).then_some(7),
            connection: 3,
        }),
        lag,
        eligibility,
    };
    let known = ReplayLag::Known {
        bytes: 4096,
        fresh_as_of: now,
        replay: Lsn(0x2_0000_0010),
        behind: Duration::ZERO,
        measured_at: now,
    };
    let snapshot = RoutingSnapshot {
        generation: 1,
        primary: Some(NodeId(0)),
        nodes: vec![
            state(
                0,
                NodeRole::Primary,
                ReplayLag::Unknown,
                Eligibility::NotReplica,
            ),
            state(1, NodeRole::Replica, known, Eligibility::Eligible),
            state(
                2,
                NodeRole::Replica,
                ReplayLag::Unknown,
                Eligibility::Unreachable,
            ),
        ],
    };
    let text = text(&metrics, now + Duration::from_millis(250), Some(snapshot));
    for line in [
        r#"pgweir_replica_staleness_seconds{cluster="main",node="b"} 0.25"#,
        r#"pgweir_replica_lag_bytes{cluster="main",node="b"} 4096"#,
        r#"pgweir_replica_replay_lsn{cluster="main",node="b"} 8589934608"#,
        r#"pgweir_node_timeline{cluster="main",node="a"} 7"#,
        r#"pgweir_node_start_time_seconds{cluster="main",node="a"} 1700000000"#,
        r#"pgweir_node_start_time_seconds{cluster="main",node="b"} 1700000001"#,
        r#"pgweir_node_up{cluster="main",node="a",role="primary"} 1"#,
        r#"pgweir_node_up{cluster="main",node="b",role="replica"} 1"#,
        r#"pgweir_node_up{cluster="main",node="c",role="replica"} 0"#,
    ] {
        shows(&text, line);
    }
    for unknown in [
        r#"staleness_seconds{cluster="main",node="c""#,
        r#"replay_lsn{cluster="main",node="a""#,
        r#"replay_lsn{cluster="main",node="c""#,
        r#"timeline{cluster="main",node="b""#,
        r#"timeline{cluster="main",node="c""#,
        r#"start_time_seconds{cluster="main",node="c""#,
    ] {
        assert!(!text.contains(unknown), "{unknown} is no number");
    }
}

#[test]
fn a_reload_keeps_the_counts_of_nodes_that_stay_and_drops_nodes_that_left() {
    let metrics = Metrics::new();
    let before = metrics.cluster(&cluster(&["a", "b"]));
    before.count_query(NodeId(0), NodeRole::Primary, RouteReason::Write);
    before.count_query(NodeId(1), NodeRole::Replica, RouteReason::Fresh);
    let after = metrics.cluster(&cluster(&["c", "a"]));
    after.count_query(NodeId(1), NodeRole::Primary, RouteReason::Write);
    assert_eq!(after.queries_of(NodeId(1)), 2);
    drop(before);
    let _ = metrics.cluster(&cluster(&["c", "a"]));
    let text = text(&metrics, Instant::now(), None);
    shows(
        &text,
        r#"pgweir_queries_total{cluster="main",node="a",role="primary",reason="write"} 2"#,
    );
    assert!(!text.contains(r#"node="b""#), "{text}");
}

#[test]
fn a_node_that_is_not_configured_is_counted_nowhere() {
    let metrics = Metrics::new();
    let main = metrics.cluster(&cluster(&["a"]));
    main.count_query(NodeId(7), NodeRole::Primary, RouteReason::Write);
    assert!(!text(&metrics, Instant::now(), None).contains("pgweir_queries_total{"));
}
