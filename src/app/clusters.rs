//! The clusters of the configuration in force, with the tasks that keep them current.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::admin::AdminCluster;
use crate::backend::pool::{PoolObserver, Pools};
use crate::config::{CausalityConfig, ClusterConfig, Config};
use crate::control::catalog::keep_current;
use crate::control::causal_store::keep_store;
use crate::control::monitor::watch_cluster;
use crate::control::publisher::{Publisher, initial_snapshot};
use crate::control::roles::answer_lookups;
use crate::core::snapshot::{Incarnation, NodeId, NodeRole, RoutingSnapshot};
use crate::credential::hashing::Hashing;
use crate::frontend::causal_keys::CausalKeys;
use crate::frontend::cluster::{ClusterMemory, ServedCluster};
use crate::frontend::session::ServedClusters;
use crate::frontend::statements::StatementNumbers;
use crate::metrics::Metrics;
use crate::published::Published;
use crate::world::ClusterWorld;

/// The clusters of the configuration in force.
#[derive(Debug)]
pub(super) struct RunningClusters {
    metrics: Arc<Metrics>,
    /// Of all clusters that ever were.
    statement_numbers: StatementNumbers,
    /// Derives keys for the nodes.
    hashing: Hashing,
    causality: CausalityConfig,
    served: Arc<Published<ServedClusters>>,
    shown: Arc<Published<Vec<AdminCluster>>>,
    running: Vec<RunningCluster>,
}

#[derive(Debug)]
struct RunningCluster {
    cluster: Arc<ServedCluster>,
    publisher: Arc<Publisher>,
    /// Aborted when the cluster is dropped.
    _tasks: JoinSet<()>,
}

impl RunningClusters {
    pub(super) fn new(metrics: Arc<Metrics>, hashing: Hashing, causality: CausalityConfig) -> Self {
        Self {
            metrics,
            statement_numbers: StatementNumbers::default(),
            hashing,
            causality,
            served: Arc::new(Published::new(Vec::new())),
            shown: Arc::new(Published::new(Vec::new())),
            running: Vec::new(),
        }
    }

    /// For sessions.
    pub(super) fn served(&self) -> Arc<Published<ServedClusters>> {
        Arc::clone(&self.served)
    }

    /// For the pages.
    pub(super) fn shown(&self) -> Arc<Published<Vec<AdminCluster>>> {
        Arc::clone(&self.shown)
    }

    /// Starts what is new, keeps what is the same, ends what is gone.
    pub(super) fn follow(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.running);
        let mut ended = Vec::new();
        for cluster in &config.clusters {
            let known = old
                .iter()
                .position(|old| old.cluster.config.name == cluster.name);
            let known = known.map(|at| old.swap_remove(at));
            if let Some(known) = &known
                && !has_same_nodes(&known.cluster.config, cluster)
            {
                ended.push(Arc::clone(&known.cluster.pools));
            }
            self.running.push(self.follow_one(cluster, known));
        }
        ended.extend(old.iter().map(|gone| Arc::clone(&gone.cluster.pools)));
        let served = self
            .running
            .iter()
            .map(|running| Arc::clone(&running.cluster));
        self.served.store(Arc::new(served.collect()));
        let shown = self.running.iter().map(|running| AdminCluster {
            name: Arc::clone(&running.cluster.config.name),
            world: Arc::clone(&running.cluster.world),
            metrics: Arc::clone(&running.cluster.metrics),
        });
        self.shown.store(Arc::new(shown.collect()));
        // A session that finds its pool closed looks for the cluster that has taken its place.
        for pools in ended {
            pools.close_all();
        }
    }

    fn follow_one(
        &self,
        config: &Arc<ClusterConfig>,
        old: Option<RunningCluster>,
    ) -> RunningCluster {
        let Some(old) = old else {
            return self.watch(self.build(config, None));
        };
        if !has_same_nodes(&old.cluster.config, config) {
            return self.watch(self.build(config, Some(&*old.cluster)));
        }
        let cluster = ServedCluster {
            config: Arc::clone(config),
            ..parts_of(&old.cluster)
        };
        if is_asked_alike(&old.cluster.config, config) {
            // Who asks goes on: what is known of the nodes is known in every moment.
            old.publisher.judge_by(config);
            return RunningCluster {
                cluster: Arc::new(cluster),
                ..old
            };
        }
        drop(old);
        self.watch(cluster)
    }

    /// Starts the tasks that keep a cluster current.
    fn watch(&self, cluster: ServedCluster) -> RunningCluster {
        let cluster = Arc::new(cluster);
        let (config, world) = (Arc::clone(&cluster.config), Arc::clone(&cluster.world));
        let publisher = Arc::new(Publisher::new(&config, Arc::clone(&world)));
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_store(
            Arc::clone(&config.name),
            self.causality.clone(),
            Arc::clone(&world),
        ));
        tasks.spawn(watch_cluster(
            Arc::clone(&config),
            Arc::clone(&publisher),
            Arc::clone(&cluster.metrics),
        ));
        tasks.spawn(keep_current(Arc::clone(&config), Arc::clone(&world)));
        tasks.spawn(answer_lookups(config, world));
        tasks.spawn(close_changed(Arc::clone(&cluster)));
        RunningCluster {
            cluster,
            publisher,
            _tasks: tasks,
        }
    }

    fn build(&self, config: &Arc<ClusterConfig>, old: Option<&ServedCluster>) -> ServedCluster {
        let metrics = self.metrics.cluster(config);
        let nodes = config.nodes.len();
        let (now, numbers) = (Instant::now(), self.statement_numbers.clone());
        let snapshot = initial_snapshot(config);
        let (shared, world) = if let Some(old) = old {
            let shared = ClusterMemory::following(&old.shared, nodes, numbers);
            (shared, ClusterWorld::following(&old.world, snapshot, now))
        } else {
            let keys = CausalKeys::new(&self.causality, now);
            let shared = ClusterMemory::new(nodes, numbers, Arc::new(keys));
            (shared, ClusterWorld::new(snapshot, now))
        };
        let observer: Arc<dyn PoolObserver> = metrics.clone();
        ServedCluster {
            config: Arc::clone(config),
            world: Arc::new(world),
            pools: Arc::new(Pools::new(
                Arc::clone(config),
                observer,
                self.hashing.clone(),
            )),
            metrics,
            shared: Arc::new(shared),
        }
    }

    /// Closes connections that have been idle or alive too long.
    pub(super) fn reap(&self, now: Instant) {
        for running in &self.running {
            running.cluster.pools.reap(now);
        }
    }
}

/// What sessions lease and what is known of the nodes stays valid as long as these are the same.
fn has_same_nodes(old: &ClusterConfig, new: &ClusterConfig) -> bool {
    old.nodes == new.nodes && old.pool == new.pool && old.server_tls == new.server_tls
}

/// Whether the nodes are asked as before, and logins ask them as before.
fn is_asked_alike(old: &ClusterConfig, new: &ClusterConfig) -> bool {
    old.monitor == new.monitor && old.role_lookup == new.role_lookup
}

fn parts_of(cluster: &ServedCluster) -> ServedCluster {
    ServedCluster {
        config: Arc::clone(&cluster.config),
        world: Arc::clone(&cluster.world),
        pools: Arc::clone(&cluster.pools),
        metrics: Arc::clone(&cluster.metrics),
        shared: Arc::clone(&cluster.shared),
    }
}

/// Closes the pooled connections of a node that has changed its role or was restarted: they lead to
/// what the node was.
async fn close_changed(cluster: Arc<ServedCluster>) {
    let mut seen = lives(&cluster.world.routing.load());
    let mut pooled = seen.clone();
    loop {
        let next = cluster.world.routing.wait_for(|snapshot| {
            let next = lives(snapshot);
            (next != seen).then_some(next)
        });
        seen = next.await;
        for ((id, pooled), seen) in (0..).map(NodeId).zip(&mut pooled).zip(&seen) {
            // Not being reached is no new life: a node that comes back is compared with what it was.
            if seen.1.is_none() {
                continue;
            }
            if pooled.1.is_some() && pooled != seen {
                cluster.pools.close_idle(id);
            }
            *pooled = *seen;
        }
    }
}

fn lives(snapshot: &RoutingSnapshot) -> Vec<(NodeRole, Option<Incarnation>)> {
    snapshot
        .nodes
        .iter()
        .map(|node| (node.role, node.incarnation))
        .collect()
}
