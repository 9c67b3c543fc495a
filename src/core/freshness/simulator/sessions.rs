//! What the simulated sessions do, and what they must see.

use std::time::Duration;

use super::Bug;
use super::servers::{CommitSet, Kind};
use super::world::{Event, Read, World};
use crate::core::guarantee::Floor;
use crate::core::router::{Decision, Patience, Route};
use crate::core::snapshot::{Incarnation, NodeId, NodeRole};
use crate::core::statement::Consistency;

impl World {
    pub(super) fn think(&mut self, session: usize) {
        if self.random.one_in(5) {
            let Some(primary) = self.proxy.primary() else {
                return self.next_thought(session);
            };
            if self.bug == Bug::WriteNotedWhenSent {
                let at = self.proxy.instant(self.now);
                self.sessions[session].0.on_write_acknowledged(at);
            }
            return self.within(20, 500, Event::WriteArrives(session, primary.index()));
        }
        let mode = match self.random.below(8) {
            0 => 0,
            1 => 1,
            _ => 2,
        };
        let bound_millis = self.random.one_in(6).then(|| self.random.between(5, 400));
        let must_see = self.must_see(session, mode, bound_millis);
        self.decide(Read {
            session,
            arrived: self.now,
            mode,
            bound_millis,
            must_see,
        });
    }

    pub(super) fn next_thought(&mut self, session: usize) {
        self.within(100, 8000, Event::Think(session));
    }

    /// What the read was promised to see, from the truth alone.
    pub(super) fn must_see(&self, session: usize, mode: u8, bound: Option<u64>) -> CommitSet {
        let mut must_see = CommitSet::default();
        let since = match (mode, bound) {
            (1, _) => Some(self.now),
            (_, Some(millis)) => self.now.checked_sub(millis * 1000),
            (_, None) => None,
        };
        if let Some(since) = since {
            for (id, commit) in self.log.commits.iter().enumerate() {
                if commit.acknowledged.is_some_and(|at| at <= since) {
                    must_see.insert(id);
                }
            }
        }
        if mode == 2 {
            must_see.extend(&self.sessions[session].1);
        }
        must_see
    }

    pub(super) fn floor(&self, read: &Read) -> Floor {
        let mode = match read.mode {
            0 => Consistency::Eventual,
            1 => Consistency::Latest,
            _ => Consistency::Session,
        };
        let bound = read.bound_millis.map(Duration::from_millis);
        self.proxy
            .floor(&self.sessions[read.session].0, mode, bound, read.arrived)
    }

    pub(super) fn decide(&mut self, read: Read) {
        let patience = Patience::Since(self.proxy.instant(read.arrived));
        self.decide_with(read, patience);
    }

    pub(super) fn decide_with(&mut self, read: Read, patience: Patience) {
        let pick = self.random.next();
        match self
            .proxy
            .route_read(self.floor(&read), (self.now, pick), patience)
        {
            Decision::Go(route) => self.send(read, route),
            Decision::Wait { until, .. } => {
                if self.now >= read.arrived + 10_000 || until <= self.proxy.instant(self.now) {
                    self.after(0, Event::GiveUp(read));
                } else {
                    self.within(100, 1500, Event::Decide(read));
                }
            }
            Decision::Refuse(_) => self.next_thought(read.session),
        }
    }

    pub(super) fn send(&mut self, read: Read, route: Route) {
        let node = route.node.index();
        let incarnation = self.proxy.snapshot.nodes[node].incarnation;
        let life = self.servers[node].life;
        let packed = incarnation.map(|i| (i.started_at_unix_micros, i.timeline, i.connection));
        self.within(20, 1500, Event::ReadArrives(read, node, life, packed));
    }

    pub(super) fn read(
        &mut self,
        read: Read,
        node: usize,
        life: i64,
        inc: Option<(i64, u32, u32)>,
    ) {
        let server = &self.servers[node];
        // A server connection ends with the server's life.
        if server.life != life || server.kind == Kind::Down {
            return self.next_thought(read.session);
        }
        let mut seen = CommitSet::default();
        for (id, commit) in self.log.commits.iter().enumerate() {
            if self.log.is_visible(commit, server) {
                seen.insert(id);
            } else if read.must_see.contains(id) && !self.log.is_lost(commit) {
                self.outcome.violation = Some(format!(
                    "at {} us: {read:?} does not see {commit:?} on node {node} {server:?}",
                    self.now
                ));
                return;
            }
        }
        let kind = server.kind;
        let primary = kind == Kind::Primary;
        self.outcome.reads += 1;
        self.outcome.replica_reads += u64::from(!primary);
        self.outcome.replica_reads_on_new_timeline += u64::from(!primary && server.timeline == 2);
        self.within(20, 1500, Event::ReadEnds(read, node, kind, inc, seen));
    }

    pub(super) fn read_ends(
        &mut self,
        read: &Read,
        node: usize,
        (kind, inc): (Kind, Option<(i64, u32, u32)>),
        seen: &CommitSet,
    ) {
        let (guarantee, must) = &mut self.sessions[read.session];
        must.extend(seen);
        let role = match kind {
            Kind::Primary => NodeRole::Primary,
            Kind::Replica => NodeRole::Replica,
            Kind::Down => NodeRole::Unknown,
        };
        let incarnation = inc.map(
            |(started_at_unix_micros, timeline, connection)| Incarnation {
                started_at_unix_micros,
                timeline,
                connection,
            },
        );
        let id = NodeId(u16::try_from(node).unwrap());
        if self.bug != Bug::NothingSeenBinds {
            guarantee.on_read_completed(id, role, incarnation, self.proxy.instant(self.now));
        }
        self.next_thought(read.session);
    }
}
