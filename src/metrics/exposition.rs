//! The text of a scrape, written through `prometheus-client`'s encoder.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::atomic::{Histogram, LabelledCounters};
use super::{ClusterSeries, Metrics, NodeMetrics, PoolState, ProcessMetrics};
use crate::core::snapshot::{Eligibility, NodeRole, NodeState, ReplayLag, RoutingSnapshot};

pub(super) fn render(
    metrics: &Metrics,
    snapshots: &[(Arc<str>, Arc<RoutingSnapshot>)],
    now: Instant,
) -> Result<String, fmt::Error> {
    let clusters = metrics
        .clusters
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|(name, series)| (Arc::clone(name), series.clone()))
        .collect();
    let scrape = Scrape {
        process: Arc::clone(&metrics.process),
        clusters,
        snapshots: snapshots.to_vec(),
        now,
    };
    // A registry of its own for every scrape: the collector borrows the moment it describes.
    let mut registry = Registry::with_prefix("pgweir");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything a scrape shows, at one moment.
#[derive(Debug)]
struct Scrape {
    process: Arc<ProcessMetrics>,
    clusters: Vec<(Arc<str>, ClusterSeries)>,
    snapshots: Vec<(Arc<str>, Arc<RoutingSnapshot>)>,
    now: Instant,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        build_info(&mut encoder)?;
        self.queries(&mut encoder)?;
        self.query_seconds(&mut encoder)?;
        self.measured(&mut encoder)?;
        self.pools(&mut encoder)?;
        self.samples(&mut encoder)?;
        self.process.encode(&mut encoder)
    }
}

fn build_info(encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut info = family(encoder, "build", "the running version", MetricType::Info)?;
    info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

impl Scrape {
    /// Every node of every cluster with the labels that name it.
    fn nodes(&self) -> impl Iterator<Item = ([Label<'_>; 2], &NodeMetrics)> {
        self.clusters.iter().flat_map(|(cluster, series)| {
            let nodes = series.nodes.iter();
            nodes.map(|(name, node)| ([("cluster", &**cluster), ("node", &**name)], &**node))
        })
    }

    /// Every node of every snapshot with the labels that name it.
    fn states(&self) -> impl Iterator<Item = ([Label<'_>; 2], &NodeState)> {
        self.snapshots.iter().flat_map(|(cluster, snapshot)| {
            let states = snapshot.nodes.iter();
            states.map(|state| ([("cluster", &**cluster), ("node", &*state.name)], state))
        })
    }

    fn queries(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "statements by the node that served them and the reason for the choice";
        let mut queries = family(encoder, "queries", help, MetricType::Counter)?;
        for (labels, node) in self.nodes() {
            for (role, series) in ROLES.into_iter().zip(&node.roles) {
                for (reason, count) in series.queries.counted() {
                    let labels = (labels, [("role", role.as_str()), ("reason", reason)]);
                    counter(&mut queries, &labels, count)?;
                }
            }
        }
        for (cluster, series) in &self.clusters {
            for (reason, count) in series.answered.counted() {
                let labels = [
                    ("cluster", &**cluster),
                    ("node", ""),
                    ("role", "proxy"),
                    ("reason", reason),
                ];
                counter(&mut queries, &labels, count)?;
            }
        }
        Ok(())
    }

    fn query_seconds(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "time from a statement's arrival to the end of its answer";
        let mut seconds = family(encoder, "query_seconds", help, MetricType::Histogram)?;
        for (labels, node) in self.nodes() {
            for (role, series) in ROLES.into_iter().zip(&node.roles) {
                if let Some(histogram) = series.seconds.get() {
                    let labels = (labels, [("role", role.as_str())]);
                    distribution(&mut seconds.encode_family(&labels)?, histogram)?;
                }
            }
        }
        Ok(())
    }

    fn measured(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "upper bound of a replica's staleness, proved or stated by its service; absent while it is unknown";
        let name = "replica_staleness_seconds";
        let mut staleness = family(encoder, name, help, MetricType::Gauge)?;
        for (labels, state) in self.states() {
            if let Some(behind) = state.lag.staleness(self.now) {
                let mut series = staleness.encode_family(&labels)?;
                series.encode_gauge(&behind.as_secs_f64())?;
            }
        }
        let help = "WAL a replica has yet to replay; absent while it is unknown";
        let mut lag = family(encoder, "replica_lag_bytes", help, MetricType::Gauge)?;
        for (labels, state) in self.states() {
            if let ReplayLag::Known { bytes, .. } = state.lag {
                gauge(&mut lag, &labels, i64::try_from(bytes).unwrap_or(i64::MAX))?;
            }
        }
        let help =
            "where a replica's replay has come to, in bytes of WAL; absent while it is unknown";
        let mut replay = family(encoder, "replica_replay_lsn", help, MetricType::Gauge)?;
        for (labels, state) in self.states() {
            if let ReplayLag::Known { replay: lsn, .. } = state.lag {
                gauge(
                    &mut replay,
                    &labels,
                    i64::try_from(lsn.0).unwrap_or(i64::MAX),
                )?;
            }
        }
        self.lives(encoder)?;
        let help = "1 while the node answers, under the role it said it has";
        let mut up = family(encoder, "node_up", help, MetricType::Gauge)?;
        for (labels, state) in self.states() {
            let labels = (labels, [("role", state.role.as_str())]);
            gauge(&mut up, &labels, i64::from(is_up(state)))?;
        }
        Ok(())
    }

    /// Which life of its server each node was measured in.
    fn lives(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lives = || {
            self.states()
                .filter_map(|(labels, state)| Some((labels, state.incarnation?)))
        };
        let help = "the timeline the node was on when it was measured";
        let mut timelines = family(encoder, "node_timeline", help, MetricType::Gauge)?;
        for (labels, life) in lives() {
            if let Some(timeline) = life.timeline {
                gauge(&mut timelines, &labels, i64::from(timeline))?;
            }
        }
        let help = "when the node's server was started, by its own clock";
        let name = "node_start_time_seconds";
        let mut started = family(encoder, name, help, MetricType::Gauge)?;
        for (labels, life) in lives() {
            gauge(
                &mut started,
                &labels,
                life.started_at_unix_micros / 1_000_000,
            )?;
        }
        Ok(())
    }

    fn pools(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "server connections by what they are doing";
        let mut pools = family(encoder, "pool_connections", help, MetricType::Gauge)?;
        for (labels, node) in self.nodes() {
            for (state, connections) in PoolState::ALL.into_iter().zip(&node.connections) {
                let labels = (labels, [("state", state.as_str())]);
                gauge(&mut pools, &labels, connections.value())?;
            }
        }
        Ok(())
    }

    fn samples(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "WAL positions asked of a node";
        let mut samples = family(encoder, "position_samples", help, MetricType::Counter)?;
        for (labels, node) in self.nodes() {
            for (_, count) in node.samples.counted() {
                counter(&mut samples, &labels, count)?;
            }
        }
        let help =
            "times that a replica's server was to wait for a WAL position before it was asked";
        let mut waits = family(encoder, "replay_waits", help, MetricType::Counter)?;
        for (labels, node) in self.nodes() {
            for (outcome, count) in node.replay_waits.counted() {
                let labels = (labels, [("outcome", outcome)]);
                counter(&mut waits, &labels, count)?;
            }
        }
        Ok(())
    }
}

impl ProcessMetrics {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut clients = family(encoder, "clients", "connected clients", MetricType::Gauge)?;
        clients.encode_gauge(&self.clients.value())?;
        for (name, help, histogram) in [
            (
                "proxy_overhead_seconds",
                "part of a statement's time that was pgweir's own",
                &self.proxy_overhead,
            ),
            (
                "freshness_wait_seconds",
                "time that reads waited for a replica to be fresh enough",
                &self.freshness_wait,
            ),
            (
                "pool_wait_seconds",
                "time that sessions waited for a server connection",
                &self.pool_wait,
            ),
        ] {
            let mut encoder = family(encoder, name, help, MetricType::Histogram)?;
            distribution(&mut encoder, histogram)?;
        }
        let help = "reads that went to the primary because a replica might have been stale";
        self.displaced
            .encode(encoder, ["reads_displaced", "cause", help])?;
        let help = "statements that a replica refused, by SQLSTATE";
        self.misrouted
            .encode(encoder, ["misrouted", "sqlstate", help])?;
        let help = "statements that were sent to a second node";
        self.retries.encode(encoder, ["retries", "cause", help])?;
        let help =
            "idle server connections that were closed to make room, by what they could not serve";
        self.evictions
            .encode(encoder, ["pool_evictions", "cause", help])?;
        let help = "sessions that were pinned to one connection";
        self.pins.encode(encoder, ["pins", "reason", help])?;
        let help = "texts by what classification made of them";
        self.classified
            .encode(encoder, ["classified", "reason", help])?;
        let help = "reads of replicas that were verified behind the read, by what came of it";
        self.audits.encode(encoder, ["audits", "outcome", help])?;
        let help = "statements that were held until the primary shows what a replica has shown";
        self.barriers
            .encode(encoder, ["primary_barriers", "outcome", help])?;
        let help = "how the store of causal keys has answered";
        self.causal_store
            .encode(encoder, ["causal_store", "outcome", help])?;
        let help = "how texts found their classification";
        self.classify_cache
            .encode(encoder, ["classify_cache", "outcome", help])
    }
}

impl<const N: usize> LabelledCounters<N> {
    /// `[name, label, help]` of a counter with one label.
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        [name, label, help]: [&str; 3],
    ) -> Result<(), fmt::Error> {
        let mut series = family(encoder, name, help, MetricType::Counter)?;
        self.counted()
            .try_for_each(|(value, count)| counter(&mut series, &[(label, value)], count))
    }
}

type Label<'a> = (&'static str, &'a str);

/// In the order of `NodeMetrics::roles`.
const ROLES: [NodeRole; 3] = [NodeRole::Primary, NodeRole::Replica, NodeRole::Unknown];

fn is_up(state: &NodeState) -> bool {
    match state.role {
        NodeRole::Unknown => false,
        NodeRole::Primary | NodeRole::Replica => state.eligibility != Eligibility::Unreachable,
    }
}

fn family<'s>(
    encoder: &'s mut DescriptorEncoder<'_>,
    name: &'s str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn counter(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    count: u64,
) -> Result<(), fmt::Error> {
    let mut series = family.encode_family(labels)?;
    series.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn gauge(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: i64,
) -> Result<(), fmt::Error> {
    family.encode_family(labels)?.encode_gauge(&value)
}

fn distribution(encoder: &mut MetricEncoder<'_>, histogram: &Histogram) -> Result<(), fmt::Error> {
    let found = histogram.distribution();
    encoder.encode_histogram::<NoLabelSet>(found.sum_seconds, found.count, &found.buckets, None)
}
