//! One schedule: events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Bug;
use super::proxy::{Proxy, Reading};
use super::servers::{Commit, CommitSet, Kind, Log, Random, Server};
use crate::core::guarantee::SessionGuarantee;
use crate::core::policy::ReadAfterWrite;
use crate::core::router::Patience;
use crate::core::snapshot::NodeId;

const SESSIONS: usize = 5;
/// Virtual length of one schedule, in microseconds.
const LENGTH: u64 = 1_200_000;

pub(super) type CommitId = usize;

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) violation: Option<String>,
    pub(super) reads: u64,
    pub(super) replica_reads: u64,
    pub(super) replica_reads_on_new_timeline: u64,
}

/// A read under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Read {
    pub(super) session: usize,
    pub(super) arrived: u64,
    pub(super) mode: u8,
    pub(super) bound_millis: Option<u64>,
    pub(super) must_see: CommitSet,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Think(usize),
    WriteArrives(usize, usize),
    SyncFlushed(usize, CommitId, i64),
    Acknowledged(usize, CommitId),
    Decide(Read),
    GiveUp(Read),
    ReadArrives(Read, usize, i64, Option<(i64, u32, u32)>),
    ReadEnds(Read, usize, Kind, Option<(i64, u32, u32)>, CommitSet),
    ProbeSent(usize, u32),
    ProbeArrives(usize, u32, u64),
    ProbeAnswered(usize, u32, u64, usize),
    Ship(usize),
    Apply(usize),
    Applied(usize, i64),
    WriteAheadLogWriter,
    Noise,
    Fault,
    Up(usize),
    Promote,
    Follow(usize),
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(super) sequence: u64,
    pub(super) servers: Vec<Server>,
    pub(super) log: Log,
    pub(super) proxy: Proxy,
    pub(super) sessions: Vec<(SessionGuarantee, CommitSet)>,
    /// Probe connections by node: answers of an older one are dropped.
    pub(super) connections: Vec<u32>,
    pub(super) readings: Vec<Reading>,
    /// Nothing but the WAL writer flushes.
    pub(super) only_asynchronous: bool,
    pub(super) bug: Bug,
    pub(super) outcome: Outcome,
}

impl World {
    pub(super) fn new(seed: u64, bug: Bug) -> Self {
        let mut random = Random(seed.wrapping_mul(0x5851_F42D_4C95_7F2D));
        let guard = if random.one_in(4) {
            ReadAfterWrite::Window(super::proxy::MAX_STALENESS)
        } else {
            ReadAfterWrite::Position
        };
        let only_asynchronous = random.one_in(3);
        let mut world = Self {
            now: 0,
            random,
            queue: BinaryHeap::new(),
            sequence: 0,
            servers: vec![
                Server::new(Kind::Primary),
                Server::new(Kind::Replica),
                Server::new(Kind::Replica),
            ],
            log: Log::default(),
            proxy: Proxy::new(3, guard, bug),
            sessions: vec![(SessionGuarantee::new(), CommitSet::default()); SESSIONS],
            connections: vec![0; 3],
            readings: Vec::new(),
            only_asynchronous,
            bug,
            outcome: Outcome::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..3 {
            self.connect(node);
            self.after(1, Event::Ship(node));
            self.after(1, Event::Apply(node));
        }
        for session in 0..SESSIONS {
            self.after(1000, Event::Think(session));
        }
        self.after(1, Event::WriteAheadLogWriter);
        self.after(1, Event::Noise);
        self.after(1, Event::Fault);
        if self.random.one_in(2) {
            let at = self.random.between(LENGTH / 4, LENGTH / 2);
            self.after(at, Event::Promote);
        }
    }

    pub(super) fn after(&mut self, micros: u64, event: Event) {
        self.sequence += 1;
        self.queue
            .push(Reverse((self.now + micros, self.sequence, event)));
    }

    /// After a delay between `low` and `high` microseconds.
    pub(super) fn within(&mut self, low: u64, high: u64, event: Event) {
        let micros = self.random.between(low, high);
        self.after(micros, event);
    }

    pub(super) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            if at > LENGTH || self.outcome.violation.is_some() {
                break;
            }
            self.now = at;
            self.handle(event);
        }
        self.outcome
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Think(session) => self.think(session),
            Event::WriteArrives(session, node) => self.write(session, node),
            Event::SyncFlushed(session, commit, life) => self.sync_flushed(session, commit, life),
            Event::Acknowledged(session, commit) => self.acknowledged(session, commit),
            Event::Decide(read) => self.decide(read),
            Event::GiveUp(read) => self.decide_with(read, Patience::Exhausted),
            Event::ReadArrives(read, node, life, inc) => self.read(read, node, life, inc),
            Event::ReadEnds(read, node, kind, inc, seen) => {
                self.read_ends(&read, node, (kind, inc), &seen);
            }
            Event::ProbeSent(node, connection) => self.probe_sent(node, connection),
            Event::ProbeArrives(node, connection, sent) => {
                self.readings.push(Reading::of(&self.servers[node]));
                let reading = self.readings.len() - 1;
                self.within(
                    20,
                    2000,
                    Event::ProbeAnswered(node, connection, sent, reading),
                );
            }
            Event::ProbeAnswered(node, connection, sent, reading) => {
                self.probe_answered(node, connection, sent, reading);
            }
            Event::Ship(node) => self.ship(node),
            Event::Apply(node) => self.apply(node),
            Event::Applied(node, life) => self.applied(node, life),
            Event::WriteAheadLogWriter => self.wal_writer(),
            Event::Noise => self.noise(),
            Event::Fault => self.fault(),
            Event::Up(node) => self.up(node),
            Event::Promote => self.promote(),
            Event::Follow(node) => self.follow(node),
        }
    }

    // The primary.

    fn write(&mut self, session: usize, node: usize) {
        let server = &mut self.servers[node];
        if server.kind != Kind::Primary {
            return self.next_thought(session);
        }
        let end = self.log.append(server, &mut self.random);
        let (timeline, life) = (server.timeline, server.life);
        let asynchronous = self.only_asynchronous || self.random.one_in(3);
        self.log.commits.push(Commit {
            timeline,
            end,
            acknowledged: None,
            visible_on_primary: asynchronous,
        });
        let commit = self.log.commits.len() - 1;
        if asynchronous {
            self.within(20, 1500, Event::Acknowledged(session, commit));
        } else {
            self.within(50, 3000, Event::SyncFlushed(session, commit, life));
        }
    }

    fn sync_flushed(&mut self, session: usize, commit: CommitId, life: i64) {
        let end = self.log.commits[commit].end;
        let timeline = self.log.commits[commit].timeline;
        let writer = self
            .servers
            .iter_mut()
            .find(|s| s.kind == Kind::Primary && s.timeline == timeline && s.life == life);
        let Some(server) = writer else {
            return self.next_thought(session);
        };
        server.flush = server.flush.max(end);
        self.log.commits[commit].visible_on_primary = true;
        self.within(20, 1500, Event::Acknowledged(session, commit));
    }

    fn acknowledged(&mut self, session: usize, commit: CommitId) {
        self.log.commits[commit].acknowledged = Some(self.now);
        let (guarantee, must) = &mut self.sessions[session];
        must.insert(commit);
        if self.bug != Bug::WriteNotedWhenSent {
            guarantee.on_write_acknowledged(self.proxy.instant(self.now));
        }
        self.next_thought(session);
    }

    /// Flushes asynchronous commits at most three delays after the commit; nothing else.
    fn wal_writer(&mut self) {
        for server in &mut self.servers {
            if server.kind == Kind::Primary {
                let commits = self.log.commits.iter().rev();
                let newest = commits
                    .filter(|c| c.timeline == server.timeline && c.visible_on_primary)
                    .map(|c| c.end)
                    .max();
                server.flush = server.flush.max(newest.unwrap_or(0));
            }
        }
        self.within(1000, 590_000, Event::WriteAheadLogWriter);
    }

    /// WAL that no commit flushes.
    fn noise(&mut self) {
        for server in &mut self.servers {
            if server.kind == Kind::Primary {
                self.log.append(server, &mut self.random);
            }
        }
        self.within(1000, 100_000, Event::Noise);
    }

    // Replicas.

    fn upstream(&self, node: usize) -> Option<u64> {
        let timeline = self.servers[node].timeline;
        self.servers
            .iter()
            .find(|s| s.kind == Kind::Primary && s.timeline == timeline)
            .map(|s| s.flush)
    }

    fn ship(&mut self, node: usize) {
        let flushed = self.upstream(node);
        let server = &mut self.servers[node];
        if let (Kind::Replica, Some(flushed)) = (server.kind, flushed)
            && server.cut_until <= self.now
        {
            server.received = server.received.max(flushed);
        }
        self.within(50, 1500, Event::Ship(node));
    }

    /// Begins to apply one record: visible first, counted later.
    fn apply(&mut self, node: usize) {
        let server = &mut self.servers[node];
        let next = self.log.next_record(server.timeline, server.replay);
        if let (Kind::Replica, Some(end)) = (server.kind, next)
            && end <= server.received
            && server.paused_until <= self.now
        {
            server.visible = end;
            let life = server.life;
            let micros = match self.random.below(50) {
                0 => self.random.between(1000, 30_000),
                _ => self.random.between(5, 60),
            };
            return self.after(micros, Event::Applied(node, life));
        }
        self.within(20, 300, Event::Apply(node));
    }

    fn applied(&mut self, node: usize, life: i64) {
        let server = &mut self.servers[node];
        if server.life == life && server.kind == Kind::Replica {
            server.replay = server.visible;
            if self.random.one_in(20) {
                server.restart_point = server.replay;
            }
        }
        self.after(1, Event::Apply(node));
    }

    // Faults.

    fn fault(&mut self) {
        let node = usize::try_from(self.random.between(1, 3)).unwrap();
        let until = self.now + self.random.between(1000, 400_000);
        let server = &mut self.servers[node];
        match (self.random.below(4), server.kind) {
            (0, Kind::Replica) => server.paused_until = until,
            (1, Kind::Replica) => server.cut_until = until,
            (2, Kind::Replica) => self.crash(node),
            // The answer never comes; another connection must be made.
            (3, _) => self.connect(node),
            (_, _) => {}
        }
        self.within(20_000, 400_000, Event::Fault);
    }

    fn crash(&mut self, node: usize) {
        let server = &mut self.servers[node];
        server.kind = Kind::Down;
        server.life += 1;
        self.connections[node] += 1;
        let id = NodeId(u16::try_from(node).unwrap());
        self.proxy.failed(id, self.now);
        if node > 0 {
            self.within(500, 60_000, Event::Up(node));
        }
    }

    fn up(&mut self, node: usize) {
        let server = &mut self.servers[node];
        server.kind = Kind::Replica;
        server.replay = server.restart_point;
        server.visible = server.restart_point;
        server.paused_until = 0;
        self.connect(node);
    }

    fn promote(&mut self) {
        if self.servers[1].kind != Kind::Replica {
            return self.after(10_000, Event::Promote);
        }
        let server = &mut self.servers[1];
        server.visible = server.received;
        server.replay = server.received;
        server.insert = server.received;
        server.flush = server.received;
        server.kind = Kind::Primary;
        server.timeline = 2;
        self.log.switch = Some(server.received);
        if self.random.one_in(2) {
            self.crash(0);
        }
        self.within(1000, 300_000, Event::Follow(2));
    }

    /// The other replica changes over, unless it has more of the old timeline than survived.
    fn follow(&mut self, node: usize) {
        let Some(switch) = self.log.switch else {
            return;
        };
        let server = &mut self.servers[node];
        if server.kind == Kind::Down {
            return self.after(10_000, Event::Follow(node));
        }
        if server.visible <= switch && server.restart_point <= switch {
            server.timeline = 2;
            server.received = server.replay.max(server.visible);
        }
    }

    // Probes.

    fn connect(&mut self, node: usize) {
        self.connections[node] += 1;
        let id = NodeId(u16::try_from(node).unwrap());
        self.proxy.connected(id, self.servers[node].life);
        let connection = self.connections[node];
        self.within(50, 2000, Event::ProbeSent(node, connection));
    }

    fn probe_sent(&mut self, node: usize, connection: u32) {
        if self.connections[node] == connection && self.servers[node].kind != Kind::Down {
            let sent = self.now;
            self.within(20, 2000, Event::ProbeArrives(node, connection, sent));
        }
    }

    fn probe_answered(&mut self, node: usize, connection: u32, sent: u64, reading: usize) {
        if self.connections[node] != connection {
            return;
        }
        let id = NodeId(u16::try_from(node).unwrap());
        self.proxy
            .answered(id, self.readings[reading], (sent, self.now));
        self.within(200, 9000, Event::ProbeSent(node, connection));
    }
}
