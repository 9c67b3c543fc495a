//! What the simulated sessions do. They treat the product's decisions as its frontend does: a read
//! goes elsewhere if its node is lost or cancels it before anything was delivered, a write never.

use std::time::Duration;

use super::judge;
use super::keys::KeyUse;
use super::log::bit;
use super::proxy::node_id;
use super::random::Random;
use super::server::{Kind, Server};
use super::world::{Committing, Event, Share, WalWrite, World, small};
use super::{Bug, Commits, Micros};
use crate::core::causality::keys::Effect;
use crate::core::guarantee::SessionGuarantee;
use crate::core::retry::{AfterError, NamesRecovery, after_replica_error};
use crate::core::router::{Decision, NodeSet, Patience, Route, RouteReason, Spill, Target};
use crate::core::snapshot::{Incarnation, NodeRole};
use crate::core::statement::Consistency;
use crate::limits::READ_ATTEMPTS;

#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    guarantee: SessionGuarantee,
    /// What it has written, as far as it knows, and what it has seen.
    pub(super) knows: Commits,
    pub(super) read: Option<Read>,
    write: Write,
    /// It only reads.
    only_reads: bool,
    pub(super) key: Option<KeyUse>,
}

impl Client {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            only_reads: random.one_in(3),
            key: (!random.one_in(4)).then(|| KeyUse::new(random)),
            ..Self::default()
        }
    }
}

/// A read under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) arrived: Micros,
    pub(super) mode: Consistency,
    pub(super) bound: Option<Duration>,
    /// What it was promised, from the truth alone.
    pub(super) must_see: Commits,
    excluded: NodeSet,
    attempts: usize,
    exhausted: bool,
    pub(super) sent: Option<Sent>,
    pub(super) seen: Commits,
    /// Rows have gone to the client.
    pub(super) delivered: bool,
}

/// Where a read was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) route: Route,
    /// What the read was promised, and what every replica in rotation shows.
    pub(super) must_see: Commits,
    /// The life of the server to which there was a connection.
    life: Option<u32>,
    incarnation: Option<Incarnation>,
    /// For the bug that takes the replay position for what a replica can show.
    proved: Option<std::time::Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Write {
    node: usize,
    life: u32,
    /// What this write has committed as.
    commits: Commits,
}

impl World {
    pub(super) fn next_thought(&mut self, client: usize) {
        self.clients[client].read = None;
        let pause = self.temper.pause;
        self.within(20, pause, Event::Think(small(client)));
    }

    pub(super) fn think(&mut self, client: usize) {
        if !self.clients[client].only_reads && self.random.one_in(4) {
            return self.begin_write(client);
        }
        let mode = self.random.of(&[
            Consistency::Session,
            Consistency::Session,
            Consistency::Session,
            Consistency::Session,
            Consistency::Eventual,
            Consistency::Latest,
            Consistency::Primary,
        ]);
        let bound = self.random.one_in(5);
        let bound = bound.then(|| Duration::from_millis(self.random.between(1, 400)));
        let read = Read {
            arrived: self.now,
            mode,
            bound,
            must_see: judge::promised(self, client, mode, bound),
            excluded: NodeSet::default(),
            attempts: 0,
            exhausted: false,
            sent: None,
            seen: 0,
            delivered: false,
        };
        self.clients[client].read = Some(read);
        self.tell(|_| format!("s{client} reads, {} {bound:?}", mode.as_str()));
        self.decide(client);
    }

    // Writes.

    fn begin_write(&mut self, client: usize) {
        let Some(primary) = self.proxy.snapshot.primary else {
            return self.next_thought(client);
        };
        let node = primary.index();
        self.tell(|_| format!("s{client} writes to n{node}"));
        if self.bug == Bug::TokenBeforeCommitRecord {
            let at = self.proxy.instant(self.now);
            self.clients[client].guarantee.on_write_acknowledged(at);
        }
        self.clients[client].write = Write {
            node,
            life: self.servers[node].life,
            commits: 0,
        };
        let life = self.proxy.incarnation(node);
        self.mark(client, (primary, NodeRole::Primary), life);
        self.after_travel(Event::WriteArrives(small(client)));
    }

    pub(super) fn write_arrives(&mut self, client: usize) {
        let Write {
            node,
            life,
            commits,
        } = self.clients[client].write;
        let server = &self.servers[node];
        if server.life != life || server.kind != Kind::Primary {
            return self.write_lost(client);
        }
        let Some(commit) = self.commit(node, Some(small(client))) else {
            self.unmark(client, 0, Effect::Wrote);
            return self.next_thought(client);
        };
        if commits & !self.log.lost != 0 {
            self.violates(|_| format!("s{client}: one write was executed twice"));
        }
        self.clients[client].write.commits |= bit(commit);
    }

    /// Appends a commit on `node`; it becomes durable, visible and acknowledged in the order of its
    /// kind.
    pub(super) fn commit(&mut self, node: usize, session: Option<u8>) -> Option<u8> {
        let server = &self.servers[node];
        let (branch, insert, life) = (server.branch, server.insert, server.life);
        let commit = self.log.begin_commit(branch)?;
        let heard = self.heard >= self.log.branches[branch].timeline;
        if !heard && self.has_old_primary() {
            self.unheard |= bit(commit);
        }
        let what = (Some(commit), self.now);
        let end = self.log.append(branch, insert, what, &mut self.random);
        self.log.commits[usize::from(commit)].end = end;
        self.servers[node].insert = end;
        let committing = Committing {
            commit,
            node: small(node),
            life,
            session,
        };
        let asynchronous = match self.temper.asynchronous {
            Share::None => false,
            Share::Some => self.random.one_in(3),
            Share::All => true,
        };
        self.tell(|_| {
            let how = if asynchronous { ", not flushed" } else { "" };
            format!("n{node} writes c{commit}, ends at {end}{how}")
        });
        if asynchronous {
            // Flushed by the WAL writer, at the latest after three of its cycles and what pgweir
            // adds to them.
            let latest = 3 * self.temper.wal_writer_delay + 150_000;
            let everything = Event::WalWriter(small(node), life, WalWrite::Everything);
            if self.random.one_in(2) {
                self.after(latest, everything);
            } else {
                self.within(1, latest, everything);
            }
            self.after(0, Event::Visible(committing));
        } else {
            self.within(30, 2000, Event::Flushed(committing));
        }
        Some(commit)
    }

    pub(super) fn flushed(&mut self, committing: Committing) {
        let node = usize::from(committing.node);
        let server = &mut self.servers[node];
        if server.life != committing.life {
            return self.commit_lost(committing);
        }
        server.flush_to(self.log.commits[usize::from(committing.commit)].end);
        self.tell(|_| format!("n{node} has flushed c{}", committing.commit));
        self.send_on(node);
        let longest = 50 + self.temper.synchronous_wait;
        self.within(1, longest, Event::Visible(committing));
    }

    pub(super) fn becomes_visible(&mut self, committing: Committing) {
        let server = &mut self.servers[usize::from(committing.node)];
        if server.life != committing.life {
            return self.commit_lost(committing);
        }
        server.shown |= bit(committing.commit);
        self.log.in_flight &= !bit(committing.commit);
        if self.random.one_in(30) {
            // The proxy's connection ends instead: it does not know what has become of it.
            return self.commit_lost(committing);
        }
        self.after_travel(Event::Acknowledged(committing));
    }

    pub(super) fn acknowledged(&mut self, committing: Committing) {
        let commit = committing.commit;
        self.tell(|_| format!("c{commit} is acknowledged"));
        let acknowledged = &mut self.log.commits[usize::from(commit)];
        acknowledged.acknowledged = true;
        if self.unheard & bit(commit) == 0 {
            acknowledged.binding = Some(self.now);
        }
        let Some(client) = committing.session.map(usize::from) else {
            return;
        };
        self.clients[client].knows |= bit(commit);
        self.unmark(client, bit(commit), Effect::Wrote);
        if self.bug != Bug::TokenBeforeCommitRecord {
            let at = self.proxy.instant(self.now);
            self.clients[client].guarantee.on_write_acknowledged(at);
        }
        self.next_thought(client);
    }

    fn has_old_primary(&self) -> bool {
        let newest = self.log.newest();
        let mut old = self.servers.iter();
        old.any(|server| server.kind == Kind::Primary && server.branch != newest)
    }

    /// The proxy hears nothing of a commit any more.
    fn commit_lost(&mut self, committing: Committing) {
        if let Some(client) = committing.session {
            // What has happened by now must be seen, what happens later need not.
            self.clients[usize::from(client)].knows |= bit(committing.commit);
            self.unmark(client.into(), bit(committing.commit), Effect::Wrote);
            self.write_lost(client.into());
        }
    }

    fn write_lost(&mut self, client: usize) {
        self.tell(|_| format!("s{client}: the connection of its write is lost"));
        if let (Bug::CommitRetried, Some(primary)) = (self.bug, self.proxy.snapshot.primary) {
            let node = primary.index();
            let write = &mut self.clients[client].write;
            (write.node, write.life) = (node, self.servers[node].life);
            return self.after_travel(Event::WriteArrives(small(client)));
        }
        self.unmark(client, 0, Effect::Wrote);
        let at = self.proxy.instant(self.now);
        self.clients[client].guarantee.on_write_acknowledged(at);
        self.next_thought(client);
    }

    /// Somebody else commits, on the primary that survives.
    pub(super) fn stranger_commits(&mut self) {
        let newest = self.log.newest();
        let primary = self
            .servers
            .iter()
            .position(|server| server.kind == Kind::Primary && server.branch == newest);
        if let Some(node) = primary {
            self.commit(node, None);
        }
        self.within(20, 3 * self.temper.pause, Event::StrangerCommits);
    }

    // Reads.

    pub(super) fn decide_again(&mut self, client: usize) {
        if self.clients[client].read.is_some() {
            self.decide(client);
        }
    }

    pub(super) fn give_up(&mut self, client: usize) {
        if let Some(read) = &mut self.clients[client].read {
            read.exhausted = true;
            self.decide(client);
        }
    }

    fn decide(&mut self, client: usize) {
        let Some(read) = self.clients[client].read else {
            return;
        };
        let target = if read.mode == Consistency::Primary {
            Target::Primary(RouteReason::Requested)
        } else {
            Target::Read
        };
        let patience = if read.exhausted {
            Patience::Exhausted
        } else {
            Patience::Since(self.proxy.instant(read.arrived))
        };
        let guarantee = &self.clients[client].guarantee;
        let floor = self
            .proxy
            .floor(guarantee, (read.mode, read.bound), read.arrived);
        let floor = match read.mode {
            Consistency::Session => {
                let arrived = self.proxy.instant(read.arrived);
                self.keyed_floor(client, floor, arrived)
            }
            Consistency::Eventual | Consistency::Latest | Consistency::Primary => floor,
        };
        let spill = if judge::has_room(self) {
            Spill::Room
        } else {
            Spill::Full
        };
        let pick = self.random.next();
        let decision = self.proxy.route(
            (target, floor, read.excluded, spill),
            (self.now, pick),
            patience,
        );
        match decision {
            Decision::Go(route) => {
                let must_see = judge::decision(self, client, &read, route);
                self.send(client, read, (route, must_see));
            }
            Decision::Wait { until, .. } => self.wait(client, &read, self.proxy.micros(until)),
            Decision::Refuse(_) => {
                self.outcome.refused += 1;
                self.tell(|_| format!("s{client} is refused"));
                self.next_thought(client);
            }
        }
    }

    fn wait(&mut self, client: usize, read: &Read, until: Micros) {
        judge::patience(self, read, until);
        self.outcome.waits += 1;
        let left = until.saturating_sub(self.now);
        if left == 0 || self.random.one_in(2) {
            self.after(left, Event::GiveUp(small(client)));
        } else {
            self.within(0, left + 1, Event::Decide(small(client)));
        }
    }

    fn send(&mut self, client: usize, mut read: Read, (route, must_see): (Route, Commits)) {
        let node = route.node.index();
        self.tell(|_| {
            let (role, reason) = (route.role.as_str(), route.reason.as_str());
            format!("s{client} is sent to n{node}, {role}, {reason}")
        });
        let server = &self.servers[node];
        read.sent = Some(Sent {
            route,
            must_see,
            life: (server.kind != Kind::Down).then_some(server.life),
            incarnation: self.proxy.incarnation(node),
            proved: self.proxy.fresh_as_of(node),
        });
        read.attempts += 1;
        self.clients[client].read = Some(read);
        let life = self.proxy.incarnation(node);
        self.mark(client, (route.node, route.role), life);
        self.after_travel(Event::ReadArrives(small(client)));
    }

    /// The statement takes its snapshot.
    pub(super) fn read_arrives(&mut self, client: usize) {
        let Some((read, sent)) = self.under_way(client) else {
            return;
        };
        let server = &self.servers[sent.route.node.index()];
        if Some(server.life) != sent.life || server.kind == Kind::Down {
            return self.elsewhere(client, read, sent);
        }
        let shown = server.shown;
        judge::read(self, client, &read, sent);
        if let Some(read) = &mut self.clients[client].read {
            read.seen |= shown;
        }
        if sent.route.role == NodeRole::Replica && self.random.one_in(self.temper.conflicts) {
            return self.cancelled(client, sent);
        }
        self.after_travel(Event::ReadEnds(small(client)));
    }

    fn under_way(&self, client: usize) -> Option<(Read, Sent)> {
        let read = self.clients[client].read?;
        Some((read, read.sent?))
    }

    /// Replay had to proceed: before the first row, or after it.
    fn cancelled(&mut self, client: usize, sent: Sent) {
        let delivered = self.random.one_in(2);
        self.tell(|_| format!("s{client} is cancelled, rows delivered: {delivered}"));
        let Some(read) = &mut self.clients[client].read else {
            return;
        };
        read.delivered |= delivered;
        let read = *read;
        let repeats = !read.delivered || self.bug == Bug::RetryAfterPartialDelivery;
        let after = after_replica_error(b"40001", NamesRecovery::No);
        if repeats && after == AfterError::Elsewhere {
            self.elsewhere(client, read, sent);
        } else {
            self.read_ends(client);
        }
    }

    /// The read is repeated on another node, if it has not been repeated too often.
    fn elsewhere(&mut self, client: usize, mut read: Read, sent: Sent) {
        self.tell(|_| format!("s{client} goes elsewhere"));
        self.unmark(client, 0, Effect::Wrote);
        if read.attempts >= READ_ATTEMPTS || sent.route.role != NodeRole::Replica {
            return self.next_thought(client);
        }
        read.excluded = read.excluded.with(sent.route.node);
        read.sent = None;
        if !read.delivered {
            read.seen = 0;
        }
        self.clients[client].read = Some(read);
        self.decide(client);
    }

    pub(super) fn read_ends(&mut self, client: usize) {
        let Some((read, sent)) = self.under_way(client) else {
            return;
        };
        let at = match (self.bug, sent.route.role, sent.proved) {
            (Bug::ReplayAsSource, NodeRole::Replica, Some(proved)) => proved,
            (_, _, _) => self.proxy.instant(self.now),
        };
        let client_state = &mut self.clients[client];
        client_state.knows |= read.seen;
        if self.bug != Bug::NothingSeenBinds {
            let route = sent.route;
            let guarantee = &mut client_state.guarantee;
            guarantee.on_read_completed(route.node, route.role, sent.incarnation, at);
        }
        self.unmark(client, read.seen, Effect::Read);
        self.tell(|_| format!("s{client} has its result"));
        self.next_thought(client);
    }

    /// Whether the server with this number is what the route takes it for.
    pub(super) fn server_of(&self, sent: Sent) -> &Server {
        debug_assert_eq!(node_id(sent.route.node.index()), sent.route.node);
        &self.servers[sent.route.node.index()]
    }
}
