//! The real parts, with room for a seeded mistake between them.

use std::time::{Duration, Instant};

use super::super::observer::{ClusterObserver, NodeEntry, NodeIdentity};
use super::super::{PrimarySample, ReplicaSample};
use super::Bug;
use super::servers::{Kind, Server, geometry};
use crate::core::guarantee::{Floor, SessionGuarantee};
use crate::core::health::RotationBounds;
use crate::core::lsn::Lsn;
use crate::core::policy::{
    Balance, ConsistencyPolicy, OnNoReplica, ReadAfterWrite, RoutingPolicy, Transactions,
};
use crate::core::router::{Decision, NodeSet, Patience, RouteRequest, RouteWorld, Target, route};
use crate::core::snapshot::{Eligibility, NodeId, NodeRole, ReplayLag, RoutingSnapshot};
use crate::core::statement::Consistency;

pub(super) const WAL_WRITER_DELAY: Duration = Duration::from_millis(200);
pub(super) const MAX_STALENESS: Duration = Duration::from_secs(1);

/// What a probe brought from a server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    Primary {
        timeline: u32,
        flush: u64,
        insert: u64,
    },
    Replica {
        timeline: u32,
        replay: u64,
        received: u64,
    },
    Nothing,
}

impl Reading {
    pub(super) fn of(server: &Server) -> Self {
        match server.kind {
            Kind::Primary => Self::Primary {
                timeline: server.timeline,
                flush: server.flush,
                insert: server.reported_insert(),
            },
            Kind::Replica => Self::Replica {
                timeline: server.timeline,
                replay: server.replay,
                received: server.received,
            },
            Kind::Down => Self::Nothing,
        }
    }
}

pub(super) struct Proxy {
    epoch: Instant,
    bug: Bug,
    observer: ClusterObserver,
    pub(super) snapshot: RoutingSnapshot,
    /// For the bug that keeps positions: the highest replay position by node.
    highest_replay: Vec<u64>,
    pub(super) routing: RoutingPolicy,
    pub(super) consistency: ConsistencyPolicy,
}

impl Proxy {
    pub(super) fn new(nodes: usize, read_after_write: ReadAfterWrite, bug: Bug) -> Self {
        let entry = |id| NodeEntry {
            name: format!("n{id}").into(),
            weight: 1,
            zone: None,
        };
        let bounds = RotationBounds {
            max_staleness: MAX_STALENESS,
            max_lag_bytes: 1 << 20,
        };
        let mut observer = ClusterObserver::new((0..nodes).map(entry).collect(), bounds);
        let epoch = Instant::now();
        Self {
            epoch,
            bug,
            snapshot: observer.snapshot(epoch),
            observer,
            highest_replay: vec![0; nodes],
            routing: RoutingPolicy {
                max_staleness: MAX_STALENESS,
                max_lag_bytes: 1 << 20,
                balance: Balance::Random,
                transactions: Transactions::Primary,
                zone: None,
                read_functions: vec![],
                write_functions: vec![],
                primary_tables: vec![],
            },
            consistency: ConsistencyPolicy {
                default: Consistency::Session,
                read_after_write,
                max_staleness: None,
                wait: Duration::from_millis(10),
                max_wait: Duration::from_millis(100),
                on_no_replica: OnNoReplica::Primary,
            },
        }
    }

    pub(super) fn instant(&self, micros: u64) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    pub(super) fn connected(&mut self, node: NodeId, life: i64) {
        if self.bug == Bug::ReplayKeptOverRestart && life > 1 {
            return;
        }
        self.observer.on_connected(
            node,
            NodeIdentity {
                started_at_unix_micros: life,
                system_identifier: 1,
                geometry: geometry(),
            },
        );
    }

    pub(super) fn failed(&mut self, node: NodeId, now: u64) {
        if self.bug != Bug::ReplayKeptOverRestart || node == NodeId(0) {
            self.observer.on_failed(node);
        }
        self.publish(now);
    }

    pub(super) fn answered(&mut self, node: NodeId, reading: Reading, (sent, now): (u64, u64)) {
        let noted = if self.bug == Bug::SentNotedAtAnswer {
            now
        } else {
            sent
        };
        let (noted, received_at) = (self.instant(noted), self.instant(now));
        match reading {
            Reading::Nothing => self.observer.on_failed(node),
            Reading::Primary {
                timeline,
                flush,
                insert,
            } => {
                let sample = PrimarySample {
                    sent: noted,
                    received: received_at,
                    timeline,
                    flush: Lsn(flush),
                    insert: Lsn(if self.bug == Bug::FlushForInsert {
                        flush
                    } else {
                        insert
                    }),
                    wal_writer_delay: if self.bug == Bug::NoFlushDelay {
                        Duration::ZERO
                    } else {
                        WAL_WRITER_DELAY
                    },
                };
                self.observer.on_primary(node, sample);
            }
            Reading::Replica {
                timeline,
                replay,
                received,
            } => {
                let sample = ReplicaSample {
                    sent: noted,
                    received: received_at,
                    timeline: Some(self.seen_timeline(timeline)),
                    replay: Lsn(self.seen_replay(node, replay, received)),
                };
                self.observer.on_replica(node, sample);
            }
        }
        self.publish(now);
    }

    fn seen_timeline(&self, timeline: u32) -> u32 {
        let primary = self.snapshot.primary.and_then(|id| self.snapshot.node(id));
        match (self.bug, primary.and_then(|node| node.incarnation)) {
            (Bug::TimelinesIgnored, Some(incarnation)) => incarnation.timeline,
            (_, _) => timeline,
        }
    }

    fn seen_replay(&mut self, node: NodeId, replay: u64, received: u64) -> u64 {
        let highest = &mut self.highest_replay[node.index()];
        *highest = replay.max(*highest);
        if self.bug == Bug::ReplayKeptOverRestart {
            *highest
        } else if self.bug == Bug::ReceivedForReplayed {
            received
        } else {
            replay
        }
    }

    fn publish(&mut self, now: u64) {
        let now = self.instant(now);
        self.snapshot = self.observer.snapshot(now);
        if self.bug == Bug::UnknownIsFresh {
            for node in &mut self.snapshot.nodes {
                if node.role == NodeRole::Replica && node.lag == ReplayLag::Unknown {
                    node.eligibility = Eligibility::Eligible;
                    node.lag = ReplayLag::Known {
                        bytes: 0,
                        fresh_as_of: now,
                        replay: Lsn(0),
                        behind: Duration::ZERO,
                        measured_at: now,
                    };
                }
            }
        }
    }

    pub(super) fn floor(
        &self,
        session: &SessionGuarantee,
        mode: Consistency,
        bound: Option<Duration>,
        arrived: u64,
    ) -> Floor {
        let mut floor = session.floor(&self.consistency, mode, bound, self.instant(arrived));
        if self.bug == Bug::EverywhereAtHome {
            floor.elsewhere = None;
        }
        floor
    }

    pub(super) fn primary(&self) -> Option<NodeId> {
        self.snapshot.primary
    }

    pub(super) fn route_read(
        &self,
        floor: Floor,
        (now, pick): (u64, u64),
        patience: Patience,
    ) -> Decision {
        let request = RouteRequest {
            target: Target::Read,
            floor,
            excluded: NodeSet::default(),
        };
        let world = RouteWorld {
            snapshot: &self.snapshot,
            routing: &self.routing,
            consistency: &self.consistency,
            loads: &[],
            now: self.instant(now),
            pick,
        };
        route(&request, &world, patience)
    }
}
