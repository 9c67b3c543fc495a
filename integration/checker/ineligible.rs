//! What is not measured, or too far behind, serves nothing, not even reads that ask for nothing.

use std::time::Duration;

use pgweir::sandbox::LocalCluster;
use tokio::time::sleep;

use super::faults::{Stopped, heal};
use super::servers;
use super::stamps::{Reading, Writers, known, prepare, read};
use crate::harness::{Proxy, eventually};

/// The replica that it is about.
const ONE: usize = 1;
const WITHIN: &str = "routing: { max_staleness: 500ms }";

/// What is wrong with a replica. Two things that spoil other ways of measuring are not among them. A wrong
/// `application_name` changes nothing: every node is asked itself, and the primary's view of its replicas
/// is not looked at. And what is measured behind a balancer is not promised to be true (README, "Nodes
/// behind a virtual address or a balancer").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    ReceiverCutOff,
    ReceiverSilent,
    ReplayPaused,
    ReplayPausedByBytes,
    ReplayStopped,
    ApplyDelay,
    Frozen,
    Killed,
    NoWeight,
    MonitorWithoutPrivilege,
    AnotherSystemsReplica,
    FollowsOneThatGetsNothing,
}

impl Wrong {
    const ALL: [Self; 12] = [
        Self::ReceiverCutOff,
        Self::ReceiverSilent,
        Self::ReplayPaused,
        Self::ReplayStopped,
        Self::ApplyDelay,
        Self::Frozen,
        Self::Killed,
        Self::FollowsOneThatGetsNothing,
        Self::ReplayPausedByBytes,
        Self::NoWeight,
        Self::MonitorWithoutPrivilege,
        Self::AnotherSystemsReplica,
    ];

    /// The configuration with which it is so.
    fn policy(self, servers: &LocalCluster, stranger: &LocalCluster) -> String {
        let nodes = |first: &str| {
            let rest = [0, 2, 3].map(|node| {
                format!(
                    "{{ name: n{node}, host: 127.0.0.1, port: {} }}",
                    servers.port(node)
                )
            });
            format!(
                "{WITHIN}\nclusters: {{ main: {{ nodes: [{}, {first}] }} }}",
                rest.join(", ")
            )
        };
        let at = |port| format!("{{ name: n1, host: 127.0.0.1, port: {port} }}");
        match self {
            Self::NoWeight => nodes(&format!(
                "{{ name: n1, host: 127.0.0.1, port: {}, weight: 0 }}",
                servers.port(ONE)
            )),
            Self::AnotherSystemsReplica => nodes(&at(stranger.port(1))),
            Self::MonitorWithoutPrivilege => format!(
                "{WITHIN}\nclusters: {{ main: {{ monitor: {{ user: app, password: app }} }} }}"
            ),
            Self::ReplayPausedByBytes => "routing: { max_staleness: 1h, max_lag: 1kB }".to_owned(),
            Self::ReceiverCutOff
            | Self::ReceiverSilent
            | Self::ReplayPaused
            | Self::ReplayStopped
            | Self::ApplyDelay
            | Self::Frozen
            | Self::Killed
            | Self::FollowsOneThatGetsNothing => WITHIN.to_owned(),
        }
    }

    /// Makes it so. What stands still goes on when that is dropped.
    async fn befall(self, servers: &LocalCluster) -> Option<Stopped> {
        match self {
            Self::ReceiverCutOff => servers.cut_receiver(ONE).await.unwrap(),
            Self::ReceiverSilent => return Stopped::stop(servers, ONE, "walreceiver").await,
            Self::ReplayPaused | Self::ReplayPausedByBytes => {
                servers.pause_replay(ONE).await.unwrap();
            }
            Self::ReplayStopped => return Stopped::stop(servers, ONE, "startup").await,
            Self::ApplyDelay => {
                let delay = Duration::from_secs(5);
                servers.set_apply_delay(ONE, delay).await.unwrap();
            }
            Self::Frozen => servers.freeze_node(ONE).unwrap(),
            Self::Killed => servers.kill_node(ONE).await.unwrap(),
            Self::FollowsOneThatGetsNothing => {
                servers.follow(ONE, 2).await.unwrap();
                return Stopped::stop(servers, 2, "walreceiver").await;
            }
            Self::NoWeight | Self::MonitorWithoutPrivilege | Self::AnotherSystemsReplica => {}
        }
        None
    }

    /// Whether it is so from the start, so that there is nothing to compare with.
    const fn is_configured(self) -> bool {
        matches!(
            self,
            Self::NoWeight | Self::MonitorWithoutPrivilege | Self::AnotherSystemsReplica
        )
    }
}

/// How many of 60 reads the server at `port` answers, and how many there were.
async fn served_by(port: u16, proxy: &Proxy) -> (usize, usize) {
    let reading = Reading {
        readers: 4,
        reads: 60,
        settings: "SET pgweir.consistency = 'eventual'",
    };
    let seen = read(proxy, reading).await;
    let there = seen.count(|read| read.port == i32::from(port));
    (there, seen.all.len())
}

#[tokio::test]
async fn a_replica_with_anything_wrong_serves_nothing() {
    let (servers, _alone) = servers().await;
    let stranger = cluster_of_another_system().await;
    prepare(servers, 1).await;
    prepare(&stranger, 1).await;
    let mut writers = Writers::default();
    let pause = Duration::from_millis(5);
    writers.add(servers.connect(0).await.unwrap(), pause);
    let (mut policy, mut proxy) = (WITHIN.to_owned(), Proxy::start(servers, WITHIN).await);
    for wrong in Wrong::ALL {
        if policy != wrong.policy(servers, &stranger) {
            policy = wrong.policy(servers, &stranger);
            proxy = Proxy::start(servers, &policy).await;
        }
        let port = if wrong == Wrong::AnotherSystemsReplica {
            stranger.port(1)
        } else {
            servers.port(ONE)
        };
        if !wrong.is_configured() {
            known(&proxy).await;
            // The control: without it, the replica does serve.
            eventually("the replica serves", async || {
                served_by(port, &proxy).await.0 > 0
            })
            .await;
        }
        let stopped = wrong.befall(servers).await;
        sleep(Duration::from_millis(800)).await;
        let (there, all) = served_by(port, &proxy).await;
        println!("{wrong:?}: {there} of {all} reads");
        drop(stopped);
        heal(servers).await;
        assert_eq!(there, 0, "{wrong:?}");
        assert_eq!(all, 60, "{wrong:?}");
    }
    writers.end().await;
}

async fn cluster_of_another_system() -> LocalCluster {
    use pgweir::sandbox::{ClusterOptions, Identity};
    let options = ClusterOptions {
        identity: Identity::Own,
        ..ClusterOptions::new(1)
    };
    LocalCluster::start(options).await.unwrap()
}
