//! What goes wrong: pauses, cuts, crashes, restarts, promotions.

use super::server::Kind;
use super::world::{Event, World, small};

impl World {
    pub(super) fn fault(&mut self) {
        let node = usize::from(small(self.servers.len()));
        let node = self.random.below(node as u64);
        let node = usize::try_from(node).unwrap();
        let longest = 2 + 4 * self.temper.pause;
        let until = self.now + self.random.between(1, longest);
        let choice = self.random.below(6);
        let server = &mut self.servers[node];
        match (choice, server.kind) {
            (0, Kind::Replica) => {
                server.paused_until = until;
                self.tell(|_| format!("n{node} pauses replay until {until} us"));
            }
            (1, Kind::Replica) => {
                server.cut_until = until;
                self.tell(|_| format!("n{node} has no receiver until {until} us"));
            }
            (2 | 3, Kind::Replica) => self.crash(node),
            // A primary that starts again by itself; rarer, as everything waits for it.
            (2, Kind::Primary) if self.random.one_in(2) => self.crash(node),
            (4, _) => {
                self.end_monitor_connection(node);
            }
            (_, _) => {}
        }
        self.within(1, 4 * self.temper.pause, Event::Fault);
    }

    /// All processes of the server end, or all backends of it.
    fn crash(&mut self, node: usize) {
        let restarted = self.random.one_in(2);
        let server = &mut self.servers[node];
        let was = server.kind;
        server.end_life();
        server.started_at += i64::from(restarted);
        let branch = server.branch;
        if was == Kind::Primary {
            self.outcome.crashes_of_primaries += 1;
            let server = &self.servers[node];
            let kept = self.log.records_until(branch, server.flush);
            // Its own log ends there; on the branch nobody else continues it.
            if branch == self.log.newest() {
                self.log.branches[branch].records.truncate(kept);
                let survivors = self.log.commits_until(branch, kept);
                self.log.lose_all_but(survivors);
            }
        }
        self.tell(|_| format!("n{node} crashes, postmaster too: {restarted}"));
        self.end_monitor_connection(node);
        let soonest = 2000;
        let longest = soonest + 2 * self.temper.pause;
        self.within(soonest, longest, Event::Up(small(node)));
    }

    /// A server comes back: a primary of the newest timeline as itself, any other as a replica.
    pub(super) fn up(&mut self, node: usize) {
        let newest = self.log.newest();
        let has_primary = self
            .servers
            .iter()
            .any(|server| server.kind == Kind::Primary && server.branch == newest);
        let server = &self.servers[node];
        if server.kind != Kind::Down {
            return;
        }
        let was_primary = server.upstream == node || (node == 0 && newest == 0);
        if was_primary && server.branch == newest && !has_primary {
            return self.recover_as_primary(node);
        }
        let ahead = server.restart_point.max(server.insert);
        let diverged = server.branch != newest && ahead > self.log.parting(server.branch, newest);
        if diverged || was_primary {
            return self.rewind(node);
        }
        let (branch, from, to) = (server.branch, server.restart_point, server.visible);
        // At least the minimum recovery point, not always as far as before.
        let from = self.log.records_until(branch, from);
        let to = self.log.records_until(branch, to).max(from);
        let back = self.random.between(from as u64, to as u64 + 1);
        let back = usize::try_from(back).unwrap();
        self.start_replica(node, branch, back);
    }

    fn start_replica(&mut self, node: usize, branch: usize, records: usize) {
        let position = match records.checked_sub(1) {
            Some(last) => self.log.branches[branch].records[last].end,
            None => super::log::BEGINNING,
        };
        let server = &mut self.servers[node];
        server.kind = Kind::Replica;
        server.stand_at(&self.log, branch, position);
        server.paused_until = 0;
        server.shipping = true;
        self.tell(|_| format!("n{node} is up again, a replica at {position}"));
        self.after_travel(Event::Ship(small(node)));
    }

    /// Crash recovery: what was not flushed is gone.
    fn recover_as_primary(&mut self, node: usize) {
        let server = &mut self.servers[node];
        let branch = server.branch;
        let records = &self.log.branches[branch].records;
        let end = records
            .last()
            .map_or(super::log::BEGINNING, |last| last.end);
        server.kind = Kind::Primary;
        server.stand_at(&self.log, branch, end);
        (server.insert, server.flush) = (end, end);
        for other in 0..self.servers.len() {
            let other = &mut self.servers[other];
            if other.branch == branch {
                other.received = other.received.min(end);
            }
        }
        self.tell(|_| format!("n{node} is the primary again, at {end}"));
        self.send_on(node);
    }

    /// `pg_rewind`, then a replica of the newest timeline that has all that was flushed by now.
    fn rewind(&mut self, node: usize) {
        let newest = self.log.newest();
        let primary = self
            .servers
            .iter()
            .position(|server| server.kind == Kind::Primary && server.branch == newest);
        let Some(primary) = primary else {
            let pause = 1 + self.temper.pause;
            return self.after(pause, Event::Up(small(node)));
        };
        let records = self.log.records_until(newest, self.servers[primary].flush);
        let server = &mut self.servers[node];
        server.upstream = primary;
        server.control_timeline = self.log.branches[newest].timeline;
        self.start_replica(node, newest, records);
        let server = &mut self.servers[node];
        server.restart_point = server.replay;
        server.insert = super::log::BEGINNING;
    }

    /// A replica of the newest timeline becomes the primary of the next one.
    pub(super) fn promote(&mut self) {
        let newest = self.log.newest();
        let candidates: Vec<usize> = (1..self.servers.len())
            .filter(|node| {
                let server = &self.servers[*node];
                server.kind == Kind::Replica && server.branch == newest && server.system == 1
            })
            .collect();
        if candidates.is_empty() {
            let pause = 1 + self.temper.pause;
            return self.after(pause, Event::Promote);
        }
        let node = self.random.of(&candidates);
        let old = self
            .servers
            .iter()
            .position(|server| server.kind == Kind::Primary && server.branch == newest);
        self.begin_branch(node);
        if let Some(old) = old
            && self.random.one_in(2)
        {
            self.crash(old);
        } else if let Some(old) = old {
            self.tell(|_| format!("n{old} goes on as if nothing had happened"));
        }
        let longest = 2 + 4 * self.temper.pause;
        for follower in 0..self.servers.len() {
            if follower != node {
                self.within(1, longest, Event::Follow(small(follower)));
            }
        }
        if self.random.one_in(3) {
            self.within(longest, 2 * longest, Event::Promote);
        }
    }

    fn begin_branch(&mut self, node: usize) {
        let server = &self.servers[node];
        let (from, received) = (server.branch, server.received);
        let kept = self.log.records_until(from, received);
        let mut branch = self.log.branches[from].clone();
        branch.records.truncate(kept);
        branch.timeline += 1;
        let last = branch.records.last();
        let switch = last.map_or(super::log::BEGINNING, |record| record.end);
        let timeline = branch.timeline;
        self.log.branches.push(branch);
        let newest = self.log.newest();
        let survivors = self.log.commits_until(newest, kept);
        self.log.lose_all_but(survivors);
        let server = &mut self.servers[node];
        server.kind = Kind::Primary;
        server.stand_at(&self.log, newest, switch);
        (server.insert, server.flush) = (switch, switch);
        server.upstream = node;
        server.control_timeline = timeline;
        self.outcome.promotions += 1;
        self.tell(|_| format!("n{node} is promoted: timeline {timeline} from {switch}"));
    }

    /// A replica changes over to the newest timeline, unless it has more of an older one than
    /// survived; an old primary stops and comes back as a replica.
    pub(super) fn follow(&mut self, node: usize) {
        let newest = self.log.newest();
        let primary = self
            .servers
            .iter()
            .position(|server| server.kind == Kind::Primary && server.branch == newest);
        let server = &self.servers[node];
        let (Some(primary), true) = (primary, server.branch != newest) else {
            return;
        };
        let switch = self.log.parting(server.branch, newest);
        match server.kind {
            Kind::Down => {
                let pause = 1 + self.temper.pause;
                self.after(pause, Event::Follow(small(node)));
            }
            Kind::Replica if server.visible <= switch && server.restart_point <= switch => {
                let server = &mut self.servers[node];
                server.branch = newest;
                server.received = server.visible;
                server.upstream = primary;
                server.shipping = true;
                self.tell(|_| format!("n{node} follows n{primary}"));
                self.after_travel(Event::Ship(small(node)));
            }
            Kind::Primary | Kind::Replica => self.crash(node),
        }
    }
}
