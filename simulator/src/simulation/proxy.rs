//! The product's own parts, with room for a seeded mistake between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::geometry;
use super::random::Random;
use super::{Bug, Micros};
use crate::core::freshness::observer::{ClusterObserver, NodeEntry, NodeIdentity};
use crate::core::freshness::{PrimarySample, ReplicaSample, WalGeometry};
use crate::core::guarantee::{Floor, SessionGuarantee};
use crate::core::health::RotationBounds;
use crate::core::lsn::Lsn;
use crate::core::policy::{
    Balance, ConsistencyPolicy, MonotonicReads, OnNoReplica, ReadAfterWrite, RoutingPolicy,
    Transactions,
};
use crate::core::router::{
    Decision, NodeSet, Patience, RouteRequest, RouteWorld, Spill, Target, route,
};
use crate::core::snapshot::{
    Eligibility, Incarnation, NodeId, NodeRole, ReplayLag, RoutingSnapshot,
};
use crate::core::statement::Consistency;

/// What a probe brought from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Primary {
        timeline: u32,
        flush: u64,
        insert: u64,
        /// The truth: where the last record ends.
        end: u64,
    },
    Replica {
        timeline: Option<u32>,
        replay: u64,
        received: u64,
    },
    /// A position was NULL.
    Null,
}

pub(super) struct Proxy {
    epoch: Instant,
    bug: Bug,
    observer: ClusterObserver,
    pub(super) snapshot: RoutingSnapshot,
    wal_writer_delay: Duration,
    /// For bugs that keep what they should forget: the highest replay position by node.
    highest_replay: Vec<u64>,
    first_primary: Option<NodeId>,
    pub(super) routing: RoutingPolicy,
    pub(super) consistency: ConsistencyPolicy,
}

pub(super) fn node_id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

impl Proxy {
    pub(super) fn new(
        names: &[Arc<str>],
        wal_writer_delay: Duration,
        bug: Bug,
        random: &mut Random,
    ) -> Self {
        let routing = routing(random);
        let consistency = consistency(&routing, random);
        let entry = |name: &Arc<str>| NodeEntry {
            name: Arc::clone(name),
            weight: 1,
            zone: None,
        };
        let bounds = RotationBounds::loosest(std::iter::once(&routing));
        let epoch = an_instant();
        let mut observer = ClusterObserver::new(names.iter().map(entry).collect(), bounds);
        Self {
            epoch,
            bug,
            snapshot: observer.snapshot(epoch),
            observer,
            wal_writer_delay,
            highest_replay: vec![0; names.len()],
            first_primary: None,
            routing,
            consistency,
        }
    }

    pub(super) fn instant(&self, micros: Micros) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    pub(super) fn micros(&self, instant: Instant) -> Micros {
        let since = instant.saturating_duration_since(self.epoch);
        u64::try_from(since.as_micros()).unwrap()
    }

    pub(super) fn connected(&mut self, node: usize, started_at_unix_micros: i64, system: i64) {
        if self.bug == Bug::ReplayKeptOverRestart && self.highest_replay[node] > 0 {
            return;
        }
        let geometry = match self.bug {
            Bug::NoNormalisation => WalGeometry::new(1 << 40, 1 << 40).unwrap(),
            _ => geometry(),
        };
        self.observer.on_connected(
            node_id(node),
            NodeIdentity {
                started_at_unix_micros,
                system_identifier: system,
                geometry,
            },
        );
    }

    pub(super) fn failed(&mut self, node: usize, now: Micros) {
        if self.bug != Bug::ReplayKeptOverRestart || self.highest_replay[node] == 0 {
            self.observer.on_failed(node_id(node));
        }
        self.publish(now);
    }

    pub(super) fn answered(
        &mut self,
        node: usize,
        reading: Reading,
        (sent, now): (Micros, Micros),
    ) {
        let noted = match self.bug {
            Bug::SampleDatedAtAnswer => self.instant(now),
            _ => self.instant(sent),
        };
        let received = self.instant(now);
        match reading {
            Reading::Null if self.bug == Bug::NullIsZero => {}
            Reading::Null => self.observer.on_failed(node_id(node)),
            Reading::Primary {
                timeline,
                flush,
                insert,
                ..
            } => {
                let sample = PrimarySample {
                    sent: noted,
                    received,
                    timeline,
                    flush: Lsn(flush),
                    insert: Lsn(match self.bug {
                        Bug::WritePositionForAsyncCommits => flush,
                        _ => insert,
                    }),
                    wal_writer_delay: self.wal_writer_delay,
                };
                self.observer.on_primary(node_id(node), sample);
            }
            Reading::Replica {
                timeline,
                replay,
                received: got,
            } => {
                let sample = ReplicaSample {
                    sent: noted,
                    received,
                    timeline: self.seen_timeline(timeline),
                    replay: Lsn(self.seen_replay(node, replay, got)),
                };
                self.observer.on_replica(node_id(node), sample);
            }
        }
        self.publish(now);
    }

    fn seen_timeline(&self, timeline: Option<u32>) -> Option<u32> {
        match self.bug {
            Bug::TimelinesIgnored => timeline.and(self.primary_timeline().or(timeline)),
            Bug::NullIsZero => timeline.or_else(|| self.primary_timeline()),
            _ => timeline,
        }
    }

    fn primary_timeline(&self) -> Option<u32> {
        let primary = self.snapshot.node(self.snapshot.primary?)?;
        primary.incarnation?.timeline
    }

    fn seen_replay(&mut self, node: usize, replay: u64, received: u64) -> u64 {
        let highest = &mut self.highest_replay[node];
        *highest = replay.max(*highest);
        match self.bug {
            Bug::ReplayKeptOverRestart => *highest,
            Bug::ReceivedForReplayed => received,
            _ => replay,
        }
    }

    /// What is known at `now`, whether something was answered or not.
    pub(super) fn publish(&mut self, now: Micros) {
        let now = self.instant(now);
        self.snapshot = self.observer.snapshot(now);
        match self.bug {
            Bug::NullIsZero => {
                for node in &mut self.snapshot.nodes {
                    if node.role == NodeRole::Replica && node.lag == ReplayLag::Unknown {
                        node.eligibility = Eligibility::Eligible;
                        node.lag = no_lag(now);
                    }
                }
            }
            Bug::RoleCached => {
                self.first_primary = self.first_primary.or(self.snapshot.primary);
                self.snapshot.primary = self.first_primary;
            }
            Bug::SampleNeverExpires => {
                for node in &mut self.snapshot.nodes {
                    if let ReplayLag::Known { measured_at, .. } = &mut node.lag {
                        *measured_at = now + Duration::from_secs(60);
                        if node.eligibility == Eligibility::Unmeasured {
                            node.eligibility = Eligibility::Eligible;
                        }
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn fresh_as_of(&self, node: usize) -> Option<Instant> {
        self.observer.fresh_as_of(node_id(node))
    }

    /// Who is the primary, without any mistake.
    pub(super) const fn elected(&self) -> Option<NodeId> {
        self.observer.primary()
    }

    pub(super) fn incarnation(&self, node: usize) -> Option<Incarnation> {
        self.snapshot.nodes[node].incarnation
    }

    pub(super) fn floor(
        &self,
        session: &SessionGuarantee,
        (mode, bound): (Consistency, Option<Duration>),
        arrived: Micros,
    ) -> Floor {
        let mut floor = session.floor(&self.consistency, mode, bound, self.instant(arrived));
        match (self.bug, floor.home) {
            (Bug::EverywhereAtHome, _) => floor.elsewhere = None,
            (Bug::IncarnationForgotten, Some((home, _))) => {
                let now = self.snapshot.node(home).and_then(|node| node.incarnation);
                floor.home = now.map(|incarnation| (home, incarnation));
            }
            (_, _) => {}
        }
        floor
    }

    pub(super) fn route(
        &self,
        (target, floor, excluded, spill): (Target, Floor, NodeSet, Spill),
        (now, pick): (Micros, u64),
        patience: Patience,
    ) -> Decision {
        let request = RouteRequest {
            target,
            floor,
            excluded,
            spill: match self.bug {
                Bug::SpillUnlimited => Spill::Room,
                _ => spill,
            },
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

/// Schedules count in microseconds from an instant of their own; which one does not matter.
fn an_instant() -> Instant {
    thread_local! {
        static EPOCH: Instant = Instant::now() + Duration::from_secs(1000);
    }
    EPOCH.with(|epoch| *epoch)
}

const fn no_lag(now: Instant) -> ReplayLag {
    ReplayLag::Known {
        bytes: 0,
        fresh_as_of: now,
        replay: Lsn(0),
        behind: Duration::ZERO,
        measured_at: now,
    }
}

fn routing(random: &mut Random) -> RoutingPolicy {
    RoutingPolicy {
        max_staleness: Duration::from_millis(random.of(&[20, 200, 2000, 10_000])),
        max_lag_bytes: random.of(&[1 << 20, 1 << 20, 600]),
        balance: random.of(&[Balance::Random, Balance::RoundRobin, Balance::LeastLoaded]),
        transactions: Transactions::Primary,
        zone: None,
        read_functions: vec![],
        write_functions: vec![],
        primary_tables: vec![],
    }
}

fn consistency(routing: &RoutingPolicy, random: &mut Random) -> ConsistencyPolicy {
    let ms = Duration::from_millis;
    ConsistencyPolicy {
        default: Consistency::Session,
        read_after_write: if random.one_in(6) {
            ReadAfterWrite::Window(routing.max_staleness)
        } else {
            ReadAfterWrite::Position
        },
        max_staleness: random.one_in(8).then(|| ms(random.between(5, 400))),
        wait: ms(random.of(&[0, 2, 10, 50])),
        max_wait: ms(random.of(&[20, 100])),
        spill_limit: random.of(&[100, 100, 34, 0]),
        monotonic_reads: MonotonicReads::Ordinary,
        audit_one_in: None,
        on_no_replica: random.of(&[
            OnNoReplica::Primary,
            OnNoReplica::Primary,
            OnNoReplica::Primary,
            OnNoReplica::Wait,
            OnNoReplica::Error,
            OnNoReplica::Stale,
        ]),
    }
}
