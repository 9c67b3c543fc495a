//! `pgweir check --connect`: what each node says of itself.

mod service;

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::{ExitStatus, Streams};
use crate::config::{ClusterConfig, Config, NodeConfig};
use crate::control::probe::{Answer, ProbeReport, probe_once};
use crate::control::roles::try_lookup;
use crate::core::freshness::PrimarySample;

/// How long one node may take in all; the monitor's own deadlines end sooner.
const NODE_DEADLINE: Duration = Duration::from_secs(10);

/// The most nodes that are asked at once.
const CONCURRENT_PROBES: usize = 64;

/// What came of asking one node; `Err` is a line for people.
type Outcome = Result<ProbeReport, String>;

/// Asks every node once and prints a table for each cluster.
///
/// [`ExitStatus::Failure`] if a node does not answer, if roles are to be looked up and cannot, or a cluster has not exactly one primary, or
/// holds nodes of another cluster.
pub(super) fn run(config: &Config, streams: &mut Streams<'_>) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut status = ExitStatus::Success;
    for cluster in &config.clusters {
        let outcomes = runtime.block_on(probe_all(cluster));
        writeln!(streams.out, "\ncluster {}", cluster.name)?;
        table(&cluster.nodes, &outcomes, streams.out)?;
        if let Err(error) = runtime.block_on(try_lookup(cluster)) {
            let why = causes(&error).escape_debug().to_string();
            writeln!(streams.err, "cluster {}: auth.query: {why}", cluster.name)?;
            status = ExitStatus::Failure;
        }
        let why = fault(&outcomes).or_else(|| service::fault(cluster, &outcomes));
        if let Some(why) = why {
            writeln!(streams.err, "cluster {}: {why}", cluster.name)?;
            status = ExitStatus::Failure;
        }
    }
    Ok(status)
}

/// What happened and why, in one line.
fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    line
}

/// The outcome of every node, in the order of the configuration.
async fn probe_all(cluster: &Arc<ClusterConfig>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    outcomes.resize_with(cluster.nodes.len(), || Err("was not asked".to_owned()));
    let mut waiting = cluster.nodes.iter().cloned().enumerate();
    let mut probes = JoinSet::new();
    loop {
        while probes.len() < CONCURRENT_PROBES {
            let Some((place, node)) = waiting.next() else {
                break;
            };
            let cluster = Arc::clone(cluster);
            probes.spawn(async move { (place, probe(&node, &cluster).await) });
        }
        let Some(ended) = probes.join_next().await else {
            return outcomes;
        };
        if let Ok((place, outcome)) = ended
            && let Some(slot) = outcomes.get_mut(place)
        {
            *slot = outcome;
        }
    }
}

async fn probe(node: &NodeConfig, cluster: &ClusterConfig) -> Outcome {
    match tokio::time::timeout(NODE_DEADLINE, probe_once(node, cluster)).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", NODE_DEADLINE.as_secs())),
    }
}

fn primaries(outcomes: &[Outcome]) -> impl Iterator<Item = &PrimarySample> {
    outcomes
        .iter()
        .filter_map(|outcome| match &outcome.as_ref().ok()?.answer {
            Answer::Primary(sample) => Some(sample),
            Answer::Replica(..) | Answer::Writer(_) | Answer::Reader(_) => None,
        })
}

/// Why the cluster cannot be served in full.
fn fault(outcomes: &[Outcome]) -> Option<String> {
    let unreached = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let mut systems = outcomes
        .iter()
        .filter_map(|outcome| Some(outcome.as_ref().ok()?.identity.shown()?.system_identifier));
    let first = systems.next();
    if systems.any(|system| Some(system) != first) {
        return Some("its nodes are not copies of one another (system_identifier)".to_owned());
    }
    let count = primaries(outcomes).count() + service::writers(outcomes).count();
    match (count, unreached) {
        (1, 0) => None,
        (1, _) => Some(format!(
            "{unreached} of {} nodes do not answer",
            outcomes.len()
        )),
        (0, _) => Some("no node is a primary".to_owned()),
        (count, _) => Some(format!("{count} nodes say they are the primary")),
    }
}

fn table(nodes: &[NodeConfig], outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    let heading = [
        "node", "address", "role", "timeline", "lag", "missing", "error",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    // Bytes behind two primaries at once would mean nothing.
    let mut found = primaries(outcomes);
    let primary = found.next().filter(|_| found.next().is_none());
    for (node, outcome) in nodes.iter().zip(outcomes) {
        let stated = service::cell(outcome, outcomes);
        rows.push(row(node, outcome, (primary, stated)));
    }
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "  {}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(
    node: &NodeConfig,
    outcome: &Outcome,
    (primary, stated): (Option<&PrimarySample>, Option<String>),
) -> [String; 7] {
    let dash = || "-".to_owned();
    let address = format!("{}:{}", node.host, node.port);
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            let error = error.escape_debug().to_string();
            return [
                node.name.to_string(),
                address,
                dash(),
                dash(),
                dash(),
                dash(),
                error,
            ];
        }
    };
    let (role, timeline) = match &report.answer {
        Answer::Primary(sample) => ("primary", Some(sample.timeline)),
        Answer::Replica(sample, _) => ("replica", sample.timeline),
        Answer::Writer(_) => ("primary", None),
        Answer::Reader(_) => ("replica", None),
    };
    let lag = primary.and_then(|primary| report.lag_bytes(primary));
    let missing = &report.missing_privileges;
    [
        node.name.to_string(),
        address,
        role.to_owned(),
        timeline.map_or_else(dash, |timeline| timeline.to_string()),
        lag.map(|bytes| format!("{bytes} B"))
            .or(stated)
            .unwrap_or_else(dash),
        if missing.is_empty() {
            dash()
        } else {
            missing.join(" ")
        },
        dash(),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::control::probe::ReplicaDetail;
    use crate::core::freshness::observer::NodeIdentity;
    use crate::core::freshness::replay_wait::ReplayState;
    use crate::core::freshness::{ReplicaSample, WalGeometry};
    use crate::core::lsn::Lsn;

    fn node(name: &str) -> NodeConfig {
        NodeConfig {
            name: Arc::from(name),
            host: format!("{name}.test"),
            port: 5432,
            zone: None,
            weight: 1,
        }
    }

    fn report(answer: Answer, missing_privileges: Vec<&'static str>) -> ProbeReport {
        ProbeReport {
            server_version: "15.0".to_owned(),
            identity: NodeIdentity {
                started_at_unix_micros: 1,
                system_identifier: 1,
                geometry: WalGeometry::new(8192, 16 << 20).unwrap(),
            }
            .into(),
            answer,
            missing_privileges,
        }
    }

    fn primary() -> Answer {
        let now = Instant::now();
        Answer::Primary(PrimarySample {
            sent: now,
            received: now,
            timeline: 3,
            flush: Lsn(5000),
            insert: Lsn(5000),
            wal_writer_delay: Duration::from_millis(200),
        })
    }

    fn replica(replay: u64) -> Answer {
        let now = Instant::now();
        let sample = ReplicaSample {
            sent: now,
            received: now,
            timeline: Some(3),
            replay: Lsn(replay),
        };
        let detail = ReplicaDetail {
            receive: None,
            streaming: None,
            replay: ReplayState::Running,
        };
        Answer::Replica(sample, detail)
    }

    #[test]
    fn the_table_has_a_row_for_every_node_that_answers_or_not() {
        let nodes = [node("a"), node("b"), node("c")];
        let outcomes = [
            Ok(report(primary(), vec![])),
            Ok(report(replica(4000), vec!["pg_monitor"])),
            Err("refused\nforged".to_owned()),
        ];
        let mut out = Vec::new();
        table(&nodes, &outcomes, &mut out).unwrap();
        let expected = "  node  address      role     timeline  lag     missing     error
  a     a.test:5432  primary  3         -       -           -
  b     b.test:5432  replica  3         1000 B  pg_monitor  -
  c     c.test:5432  -        -         -       -           refused\\nforged
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_cluster_is_in_order_with_one_primary_and_every_node_reached() {
        let ok = |answer| Ok(report(answer, vec![]));
        let lost = || Err("lost".to_owned());
        let mut stranger = report(replica(1), vec![]);
        stranger.identity = NodeIdentity {
            system_identifier: 2,
            ..stranger.identity.shown().unwrap()
        }
        .into();
        for (outcomes, expected) in [
            (vec![ok(primary()), ok(replica(1))], None),
            (vec![ok(replica(1))], Some("no node is a primary")),
            (
                vec![ok(primary()), ok(primary())],
                Some("2 nodes say they are the primary"),
            ),
            (
                vec![ok(primary()), lost()],
                Some("1 of 2 nodes do not answer"),
            ),
            (
                vec![ok(primary()), Ok(stranger)],
                Some("its nodes are not copies of one another (system_identifier)"),
            ),
        ] {
            assert_eq!(fault(&outcomes).as_deref(), expected);
        }
    }
}
