//! How the write-ahead log reaches the replicas.

use super::server::{Kind, Next};
use super::world::{Event, WalWrite, World, small};

impl World {
    /// `node` has more to send: to every replica that follows it.
    pub(super) fn send_on(&mut self, node: usize) {
        for follower in 1..self.servers.len() {
            let server = &self.servers[follower];
            if server.upstream == node && follower != node && !server.shipping {
                self.servers[follower].shipping = true;
                self.after_travel(Event::Ship(small(follower)));
            }
        }
    }

    pub(super) fn ship(&mut self, node: usize) {
        let server = &self.servers[node];
        let upstream = &self.servers[server.upstream];
        let same = upstream.branch == server.branch && server.upstream != node;
        let sent = upstream.sendable().filter(|_| same);
        let (Kind::Replica, Some(sent)) = (server.kind, sent) else {
            self.servers[node].shipping = false;
            return;
        };
        if server.cut_until > self.now {
            // It reconnects when it can.
            let left = server.cut_until - self.now;
            return self.after(left, Event::Ship(small(node)));
        }
        let server = &mut self.servers[node];
        server.shipping = false;
        if sent <= server.received {
            return;
        }
        server.received = sent;
        self.wake_replay(node);
        self.send_on(node);
    }

    pub(super) fn wake_replay(&mut self, node: usize) {
        let server = &mut self.servers[node];
        if !server.applying && server.kind == Kind::Replica {
            server.applying = true;
            let life = server.life;
            self.within(1, 60, Event::Apply(small(node), life));
        }
    }

    /// What was being applied counts as replayed; the next records become visible.
    pub(super) fn apply(&mut self, node: usize, life: u32) {
        let most = self.random.of(&[1, 1, 2, 8]);
        let stall = if self.random.one_in(8) {
            self.temper.pause.min(30_000)
        } else {
            60
        };
        let server = &mut self.servers[node];
        if server.life != life || server.kind != Kind::Replica {
            return;
        }
        let next = server.apply(&self.log, most, self.now);
        let (visible, replay) = (server.visible, server.replay);
        if server.cut_until <= self.now && self.random.one_in(8) {
            server.control_timeline = self.log.branches[server.branch].timeline;
        }
        if self.random.one_in(8) {
            server.restart_point = replay;
        }
        match next {
            Next::Applied => {
                self.tell(|_| format!("n{node} shows all before {visible}, reports {replay}"));
                self.within(1, stall, Event::Apply(small(node), life));
            }
            Next::At(due) => self.after(due - self.now, Event::Apply(small(node), life)),
            Next::Nothing => server.applying = false,
        }
    }

    pub(super) fn wal_writer(&mut self, node: usize, life: u32, what: WalWrite) {
        let server = &mut self.servers[node];
        if server.life != life || server.kind != Kind::Primary {
            return;
        }
        match what {
            WalWrite::Everything => server.flush_to(server.insert),
            WalWrite::FullPages => server.flush_full_pages(),
        }
        self.send_on(node);
    }

    /// WAL that no commit flushes: of a transaction that goes on, of pruning by a read.
    pub(super) fn noise(&mut self) {
        for node in 0..self.servers.len() {
            let server = &self.servers[node];
            if server.kind != Kind::Primary {
                continue;
            }
            let (branch, insert, life) = (server.branch, server.insert, server.life);
            let what = (None, self.now);
            let end = self.log.append(branch, insert, what, &mut self.random);
            self.servers[node].insert = end;
            self.tell(|_| format!("n{node} writes a record, ends at {end}"));
            if self.random.one_in(2) {
                let what = self.random.of(&[WalWrite::Everything, WalWrite::FullPages]);
                let longest = self.temper.pause;
                self.within(1, longest, Event::WalWriter(small(node), life, what));
            }
        }
        self.within(20, 4 * self.temper.pause, Event::Noise);
    }
}
