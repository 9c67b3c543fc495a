//! One schedule: events in virtual time.

use std::sync::Arc;
use std::time::Duration;

use super::keys::Keys;
use super::log::Log;
use super::monitor::Monitor;
use super::proxy::Proxy;
use super::random::Random;
use super::server::{Kind, Server};
use super::session::Client;
use super::{Bug, Commits, Micros, Outcome};

/// Most events of one schedule.
const MOST_EVENTS: u64 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Think(u8),
    Decide(u8),
    GiveUp(u8),
    ReadArrives(u8),
    ReadEnds(u8),
    KeyNotes(u8),
    WriteArrives(u8),
    /// Somebody commits who does not use the proxy.
    StrangerCommits,
    Flushed(Committing),
    Visible(Committing),
    Acknowledged(Committing),
    ConnectArrives(u8, u32),
    ProbeArrives(u8, u32),
    ProbeAnswered(u8, u32),
    ConnectionLost(u8, u32),
    Republish,
    Ship(u8),
    Apply(u8, u32),
    WalWriter(u8, u32, WalWrite),
    /// WAL that no commit flushes.
    Noise,
    Fault,
    Up(u8),
    Promote,
    Follow(u8),
}

/// What the WAL writer flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalWrite {
    Everything,
    /// So the log may end in the middle of a record.
    FullPages,
}

/// A commit on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committing {
    pub(super) commit: u8,
    pub(super) node: u8,
    pub(super) life: u32,
    /// Who waits for the acknowledgement.
    pub(super) session: Option<u8>,
}

/// What is to happen, by when; what was scheduled first comes first at the same instant.
#[derive(Debug, Default)]
struct Agenda {
    /// Instant and number in one.
    keys: Vec<u64>,
    events: Vec<Event>,
    number: u64,
}

/// Low bits of a key that hold the number.
const NUMBER_BITS: u32 = 16;

impl Agenda {
    fn add(&mut self, at: Micros, event: Event) {
        self.number += 1;
        self.keys.push(at << NUMBER_BITS | self.number);
        self.events.push(event);
    }

    /// There are few at a time, so that looking at all of them costs less than keeping an order.
    fn next(&mut self) -> Option<(Micros, Event)> {
        let (mut first, mut least) = (0, u64::MAX);
        for (place, key) in self.keys.iter().enumerate() {
            if *key < least {
                (first, least) = (place, *key);
            }
        }
        if self.keys.is_empty() {
            return None;
        }
        self.keys.swap_remove(first);
        Some((least >> NUMBER_BITS, self.events.swap_remove(first)))
    }
}

/// What kind of schedule it is: each emphasises something else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Temper {
    /// How long it is.
    pub(super) length: Micros,
    /// The longest pause of whoever does something now and then.
    pub(super) pause: Micros,
    pub(super) wal_writer_delay: Micros,
    pub(super) asynchronous: Share,
    /// `synchronous_standby_names`: how long a commit may wait for a standby.
    pub(super) synchronous_wait: Micros,
    /// One read in so many is cancelled by a recovery conflict.
    pub(super) conflicts: u64,
}

/// How many commits have `synchronous_commit=off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    None,
    Some,
    All,
}

pub(super) struct World {
    pub(super) now: Micros,
    pub(super) random: Random,
    agenda: Agenda,
    pub(super) temper: Temper,
    pub(super) servers: Vec<Server>,
    pub(super) log: Log,
    pub(super) proxy: Proxy,
    pub(super) monitors: Vec<Monitor>,
    pub(super) clients: Vec<Client>,
    pub(super) keys: Option<Keys>,
    /// The highest timeline that any node has told the proxy of.
    pub(super) heard: u32,
    /// Written on a timeline of which the proxy had not heard, while an old primary went on.
    pub(super) unheard: Commits,
    pub(super) bug: Bug,
    trace: Option<Vec<String>>,
    pub(super) outcome: Outcome,
}

impl World {
    pub(super) fn new(seed: u64, bug: Bug, trace: Option<Vec<String>>) -> Self {
        let mut random = Random::new(seed);
        let temper = temper(&mut random);
        let nodes = random.of(&[2_usize, 3, 3, 3, 4, 5]);
        let names: Vec<Arc<str>> = NAMES.with(|names| names[..nodes].to_vec());
        let delay = Duration::from_micros(temper.wal_writer_delay);
        let mut servers = vec![Server::new(Kind::Primary)];
        for node in 1..nodes {
            servers.push(replica(node, &temper, &mut random));
        }
        let proxy = Proxy::new(&names, delay, bug, &mut random);
        let monitors = (0..nodes).map(|_| Monitor::new(&temper, &mut random));
        let monitors = monitors.collect();
        let sessions = random.of(&[1, 2, 3]);
        let keyed = random.one_in(4);
        let keys = keyed.then(|| Keys::new(proxy.instant(0), &mut random));
        let clients = (0..sessions).map(|_| Client::new(&mut random)).collect();
        let mut world = Self {
            now: 0,
            random,
            agenda: Agenda::default(),
            temper,
            servers,
            log: Log::new(),
            proxy,
            monitors,
            clients,
            keys,
            heard: 0,
            unheard: 0,
            bug,
            trace,
            outcome: Outcome::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.monitors.len() {
            self.connect(node);
        }
        for client in 0..self.clients.len() {
            self.within(1, 2 * self.temper.pause, Event::Think(small(client)));
        }
        self.within(1, 4 * self.temper.pause, Event::StrangerCommits);
        self.within(1, 3 * self.temper.pause, Event::Noise);
        self.within(1, 4 * self.temper.pause, Event::Fault);
        self.within(1, 4 * self.temper.pause, Event::Republish);
        if self.random.one_in(3) {
            let length = self.temper.length;
            self.within(length / 8, length / 2, Event::Promote);
        }
    }

    pub(super) fn after(&mut self, micros: Micros, event: Event) {
        let at = self.now + micros;
        if at <= self.temper.length {
            self.agenda.add(at, event);
        }
    }

    /// After a delay of at least `low` and less than `high` microseconds.
    pub(super) fn within(&mut self, low: Micros, high: Micros, event: Event) {
        let micros = self.random.between(low, high);
        self.after(micros, event);
    }

    /// After the way over the network and back, or one of both.
    pub(super) fn after_travel(&mut self, event: Event) {
        let longest = if self.random.one_in(16) { 3000 } else { 400 };
        self.within(20, longest, event);
    }

    pub(super) fn run(mut self) -> (Outcome, Option<Vec<String>>) {
        while let Some((at, event)) = self.agenda.next() {
            if self.outcome.events >= MOST_EVENTS {
                break;
            }
            self.now = at;
            self.outcome.events += 1;
            self.handle(event);
            if self.outcome.violation.is_some() {
                break;
            }
        }
        (self.outcome, self.trace)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Think(client) => self.think(client.into()),
            Event::Decide(client) => self.decide_again(client.into()),
            Event::GiveUp(client) => self.give_up(client.into()),
            Event::ReadArrives(client) => self.read_arrives(client.into()),
            Event::ReadEnds(client) => self.read_ends(client.into()),
            Event::KeyNotes(client) => self.key_notes(client.into()),
            Event::WriteArrives(client) => self.write_arrives(client.into()),
            Event::StrangerCommits => self.stranger_commits(),
            Event::Flushed(committing) => self.flushed(committing),
            Event::Visible(committing) => self.becomes_visible(committing),
            Event::Acknowledged(committing) => self.acknowledged(committing),
            Event::ConnectArrives(node, number) => self.connect_arrives(node.into(), number),
            Event::ProbeArrives(node, number) => self.probe_arrives(node.into(), number),
            Event::ProbeAnswered(node, number) => self.probe_answered(node.into(), number),
            Event::ConnectionLost(node, number) => self.connection_lost(node.into(), number),
            Event::Republish => self.republish(),
            Event::Ship(node) => self.ship(node.into()),
            Event::Apply(node, life) => self.apply(node.into(), life),
            Event::WalWriter(node, life, what) => self.wal_writer(node.into(), life, what),
            Event::Noise => self.noise(),
            Event::Fault => self.fault(),
            Event::Up(node) => self.up(node.into()),
            Event::Promote => self.promote(),
            Event::Follow(node) => self.follow(node.into()),
        }
    }

    /// Staleness grows without any answer.
    fn republish(&mut self) {
        self.proxy.publish(self.now);
        self.within(1000, 4 * self.temper.pause, Event::Republish);
    }

    /// Notes a line of the trace, if one is wanted.
    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} ms  {}", milliseconds(self.now), line(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub(super) fn violates(&mut self, what: impl FnOnce(&Self) -> String) {
        let what = what(self);
        self.tell(|_| format!("VIOLATION: {what}"));
        self.outcome.violation = Some(what);
    }

    /// Names what of `commits` is missing.
    pub(super) fn name(&self, commits: Commits) -> String {
        let names = (0..self.log.commits.len()).filter(|id| commits & 1 << id != 0);
        let names: Vec<String> = names
            .map(|id| format!("c{id} (ends at {})", self.log.commits[id].end))
            .collect();
        names.join(", ")
    }
}

thread_local! {
    static NAMES: Vec<Arc<str>> = ["n0", "n1", "n2", "n3", "n4"].map(Arc::from).to_vec();
}

pub(super) fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn milliseconds(micros: Micros) -> f64 {
    micros as f64 / 1000.0
}

fn temper(random: &mut Random) -> Temper {
    let length = random.of(&[20_000, 20_000, 100_000, 500_000, 3_000_000]);
    Temper {
        length,
        pause: length / random.of(&[6, 10, 14]),
        wal_writer_delay: random.of(&[1000, 10_000, 200_000]),
        asynchronous: random.of(&[Share::None, Share::Some, Share::Some, Share::All]),
        synchronous_wait: random.of(&[1, 1, length / 8]),
        conflicts: random.of(&[8, 40, 1000]),
    }
}

fn replica(node: usize, temper: &Temper, random: &mut Random) -> Server {
    let mut server = Server::new(Kind::Replica);
    if node > 1 && random.one_in(3) {
        server.upstream = 1 + usize::from(node > 2 && random.one_in(2));
    }
    if random.one_in(6) {
        server.apply_delay = random.between(1, temper.length / 2);
    }
    if random.one_in(40) {
        server.system = 2;
    }
    server
}
