//! How the simulated monitor asks the servers: one connection and one question at a time each.
//!
//! It hears of the end of a connection soon (the kernel of the other host says so), and has tried in
//! vain to connect again before a server can have started again.

use super::proxy::{Reading, node_id};
use super::random::Random;
use super::server::Kind;
use super::world::{Event, Temper, World, small};
use super::{Micros, judge};

/// When an unanswered question ends its connection.
const PROBE_DEADLINE: Micros = 1_500_000;

#[derive(Debug, Clone)]
pub(super) struct Monitor {
    /// The number of its connection: what belongs to an older one is dropped.
    number: u32,
    /// The life of the server at the other end.
    life: u32,
    sent: Micros,
    reading: Reading,
    /// The longest pause between two questions.
    pause: Micros,
    /// From then on it asks no more.
    stops_at: Micros,
    /// Its role may not see which timeline the receiver has.
    hidden: bool,
    /// The last answer over this connection.
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) sent: Micros,
    pub(super) reading: Reading,
    /// It came from the node that was the primary then.
    pub(super) of_primary: bool,
}

impl Monitor {
    pub(super) fn new(temper: &Temper, random: &mut Random) -> Self {
        let stops_at = if random.one_in(12) {
            random.between(1, temper.length)
        } else {
            Micros::MAX
        };
        Self {
            number: 0,
            life: 0,
            sent: 0,
            reading: Reading::Null,
            pause: temper.pause / random.of(&[1, 1, 3]),
            stops_at,
            hidden: random.one_in(40),
            answer: None,
        }
    }
}

impl World {
    /// A new connection to `node`; one that was there is forgotten.
    pub(super) fn connect(&mut self, node: usize) {
        let monitor = &mut self.monitors[node];
        monitor.number += 1;
        monitor.answer = None;
        let number = monitor.number;
        self.within(20, 400, Event::ConnectArrives(small(node), number));
    }

    pub(super) fn connect_arrives(&mut self, node: usize, number: u32) {
        let server = &self.servers[node];
        let (life, started_at, system) = (server.life, server.started_at, server.system);
        let is_down = server.kind == Kind::Down;
        let monitor = &mut self.monitors[node];
        if monitor.number != number {
            return;
        }
        if is_down {
            self.tell(|_| format!("monitor cannot connect to n{node}"));
            self.proxy.failed(node, self.now);
            monitor_backs_off(self, node);
            return;
        }
        monitor.life = life;
        monitor.sent = self.now;
        self.proxy.connected(node, started_at, system);
        self.tell(|_| format!("monitor connected to n{node}, life {life}"));
        self.after_travel(Event::ProbeArrives(small(node), number));
    }

    pub(super) fn probe_arrives(&mut self, node: usize, number: u32) {
        let server = &self.servers[node];
        let monitor = &self.monitors[node];
        // An answer needs somebody who is alive; that the connection has ended is told elsewhere.
        if monitor.number != number || monitor.life != server.life || server.kind == Kind::Down {
            return;
        }
        self.monitors[node].reading = if self.random.one_in(60) {
            Reading::Null
        } else {
            self.reading(node)
        };
        if self.random.one_in(60) {
            self.after(PROBE_DEADLINE, Event::ConnectionLost(small(node), number));
        } else if self.random.one_in(30) {
            let longest = 2 * self.temper.pause;
            self.within(20, longest, Event::ProbeAnswered(small(node), number));
        } else {
            self.after_travel(Event::ProbeAnswered(small(node), number));
        }
    }

    /// What `node` answers.
    fn reading(&self, node: usize) -> Reading {
        let server = &self.servers[node];
        let timeline = self.log.branches[server.branch].timeline;
        match server.kind {
            Kind::Primary => Reading::Primary {
                timeline,
                flush: server.flush,
                insert: server.reported_insert(),
                end: server.insert,
            },
            Kind::Replica => Reading::Replica {
                // Without a receiver only the control file tells.
                timeline: if server.cut_until > self.now {
                    Some(server.control_timeline)
                } else {
                    (!self.monitors[node].hidden).then_some(timeline)
                },
                replay: server.replay,
                received: server.received,
            },
            Kind::Down => Reading::Null,
        }
    }

    pub(super) fn probe_answered(&mut self, node: usize, number: u32) {
        let monitor = &self.monitors[node];
        if monitor.number != number {
            return;
        }
        let (sent, reading) = (monitor.sent, monitor.reading);
        self.tell(|_| format!("n{node}, asked at {sent} us: {reading:?}"));
        self.proxy.answered(node, reading, (sent, self.now));
        if reading == Reading::Null {
            // Unusable: the connection is given up.
            return self.connect(node);
        }
        if let Reading::Primary { timeline, .. }
        | Reading::Replica {
            timeline: Some(timeline),
            ..
        } = reading
            && self.servers[node].system == 1
        {
            self.hear(timeline);
        }
        self.monitors[node].answer = Some(Answer {
            sent,
            reading,
            of_primary: self.proxy.elected() == Some(node_id(node)),
        });
        judge::election(self);
        judge::progress(self);
        let pause = self.random.between(1, self.monitors[node].pause);
        let monitor = &mut self.monitors[node];
        monitor.sent = self.now + pause;
        if monitor.sent < monitor.stops_at {
            let travel = self.random.between(20, 400);
            self.after(pause + travel, Event::ProbeArrives(small(node), number));
        }
    }

    /// The proxy has been told of a timeline: what is acknowledged on it binds everybody from now on.
    fn hear(&mut self, timeline: u32) {
        if timeline <= self.heard {
            return;
        }
        self.heard = timeline;
        let now = self.now;
        for (id, commit) in self.log.commits.iter_mut().enumerate() {
            if self.unheard & 1 << id == 0 || commit.timeline > timeline {
                continue;
            }
            self.unheard &= !(1 << id);
            if commit.acknowledged {
                commit.binding = Some(now);
            }
        }
    }

    /// The other end of the monitor's connection is gone, which it hears of soon.
    pub(super) fn end_monitor_connection(&mut self, node: usize) {
        let number = self.monitors[node].number;
        self.within(20, 800, Event::ConnectionLost(small(node), number));
    }

    pub(super) fn connection_lost(&mut self, node: usize, number: u32) {
        if self.monitors[node].number != number {
            return;
        }
        self.tell(|_| format!("monitor has lost its connection to n{node}"));
        self.proxy.failed(node, self.now);
        self.connect(node);
    }
}

fn monitor_backs_off(world: &mut World, node: usize) {
    let monitor = &mut world.monitors[node];
    monitor.number += 1;
    let number = monitor.number;
    let pause = 1 + world.temper.pause / 4;
    world.within(pause, 2 * pause, Event::ConnectArrives(small(node), number));
}
