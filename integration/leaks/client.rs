//! A client that changes its session at random and looks whether it is still its own.

use rand::random_range;

use crate::expected::{Expected, SETTINGS};
use crate::harness::wire::{self, Message, Wire};

/// How many different things a client does.
const EFFECTS: u32 = 15;

/// One client.
pub(crate) struct Client {
    wire: Wire,
    port: u16,
    user: &'static str,
    number: usize,
    turn: usize,
    expected: Expected,
    /// Whether the statement `s` of the protocol exists.
    prepared: Option<String>,
    /// What it saw that was not its own.
    pub(crate) leaks: Vec<String>,
    /// How often it looked.
    pub(crate) checks: usize,
}

impl Client {
    pub(crate) fn connect(port: u16, user: &'static str, number: usize) -> Self {
        Self {
            wire: connect(port, user),
            port,
            user,
            number,
            turn: 0,
            expected: Expected::fresh(user),
            prepared: None,
            leaks: Vec::new(),
            checks: 0,
        }
    }

    /// Does one to three things, looks after each, and holds nothing in the end.
    pub(crate) fn take_a_turn(&mut self) {
        self.turn += 1;
        self.check("at the start of a turn");
        for _ in 0..random_range(1..4) {
            let effect = random_range(0..EFFECTS);
            self.do_something(effect);
            self.check(&format!("behind effect {effect}"));
        }
        self.let_go();
        self.check("at the end of a turn");
    }

    /// Compares what it sees with what it expects.
    pub(crate) fn check(&mut self, when: &str) {
        self.checks += 1;
        let found = self.expected.differences(&mut self.wire);
        let (number, turn) = (self.number, self.turn);
        let told = found
            .into_iter()
            .map(|found| format!("client {number}, turn {turn}, {when}: {found}"));
        self.leaks.extend(told);
        if let Some(mark) = self.prepared.clone() {
            self.use_prepared(&mark);
        }
    }

    /// Runs what it does not expect to have an effect.
    pub(crate) fn run_unnoticed(&mut self, sql: &str) {
        self.run(sql);
    }

    /// What only this client, in this turn, says.
    fn mark(&self) -> String {
        format!("client_{}_{}", self.number, self.turn)
    }

    fn run(&mut self, sql: &str) {
        let answer = self.query(sql);
        let error = answer.iter().find(|message| message.tag == b'E');
        assert!(error.is_none(), "{sql}: {error:?}");
    }

    /// Runs statements; a notification of somebody else's is a leak.
    fn query(&mut self, sql: &str) -> Vec<Message> {
        let answer = self.wire.query(sql);
        let own = format!("client_{}_", self.number);
        for message in answer.iter().filter(|message| message.tag == b'A') {
            let text = String::from_utf8_lossy(&message.body[4..]).into_owned();
            if !text.starts_with(&own) {
                self.leaks
                    .push(format!("notification {text:?} for client {}", self.number));
            }
        }
        answer
    }

    /// A setting, a value for it in SQL, and as SHOW tells it.
    fn setting(&self) -> (&'static str, String) {
        let name = SETTINGS[random_range(0..SETTINGS.len())];
        let value = match name {
            "work_mem" => format!("{}kB", 100 + self.number),
            "statement_timeout" => format!("{}ms", 1_000_001 + 2 * self.number),
            "search_path" => format!("schema_{}", self.mark()),
            "TimeZone" => format!("Etc/GMT-{}", self.number % 14 + 1),
            _ => self.mark(),
        };
        (name, value)
    }

    fn do_something(&mut self, effect: u32) {
        let mark = self.mark();
        let (name, value) = self.setting();
        match effect {
            0 | 1 => {
                self.run(&format!("SET {name} = '{value}'"));
                self.expected.set(name, &value);
            }
            2 => {
                self.run(&format!("SELECT set_config('{name}', '{value}', false)"));
                self.expected.set(name, &value);
            }
            3 => self.set_within_a_block("SET LOCAL", "COMMIT"),
            4 => self.set_within_a_block("SET", "ROLLBACK"),
            5 => {
                let set = format!("BEGIN; SET {name} = '{value}'; SELECT 1/0");
                assert_eq!(self.query(&set).last().unwrap().body, b"E");
                self.run("ROLLBACK");
            }
            6 => {
                self.run("SET ROLE other");
                self.expected.set("current_user", "other");
            }
            7 if self.user == "root" => {
                self.run("RESET ROLE; SET SESSION AUTHORIZATION app");
                self.expected.set("current_user", "app");
                self.expected.set("session_user", "app");
            }
            7 | 8 => self.hold("temporary", &mark, &format!("CREATE TEMP TABLE {mark} ()")),
            9 => {
                let key = (1_000 + self.number).to_string();
                self.hold("locks", &key, &format!("SELECT pg_advisory_lock({key})"));
            }
            10 => {
                self.hold("channels", &mark, &format!("LISTEN {mark}"));
                self.run(&format!("NOTIFY {mark}"));
            }
            11 => self.hold("prepared", &mark, &format!("PREPARE {mark} AS SELECT 1")),
            12 => {
                let declare = format!("DECLARE {mark} CURSOR WITH HOLD FOR SELECT 1");
                self.hold("cursors", &mark, &declare);
            }
            13 => self.prepare(),
            _ => self.leave_in_the_middle(),
        }
    }

    fn hold(&mut self, kind: &str, name: &str, sql: &str) {
        let held = self.expected.held.get(kind);
        if held.is_some_and(|held| held.contains(name)) {
            return;
        }
        self.run(sql);
        self.expected.hold(kind, name);
    }

    fn set_within_a_block(&mut self, set: &str, end: &str) {
        let (name, value) = self.setting();
        let before = self.expected.clone();
        self.run("BEGIN");
        self.run(&format!("{set} {name} = '{value}'"));
        self.expected.set(name, &value);
        self.check(&format!("within a block with {set}"));
        self.run(end);
        self.expected = before;
    }

    /// All clients call theirs `s`, and each means something else.
    fn prepare(&mut self) {
        let mark = self.mark();
        let parse = wire::parse("s", &format!("SELECT '{mark}'"));
        self.wire
            .send(&[wire::close(b'S', "s"), parse, wire::sync()].concat());
        let answer = self.wire.until_ready();
        assert!(
            answer.iter().any(|message| message.tag == b'1'),
            "{answer:?}"
        );
        self.prepared = Some(mark);
    }

    fn use_prepared(&mut self, mark: &str) {
        let run = [wire::bind("s", &[]), wire::execute("", 0), wire::sync()];
        self.wire.send(&run.concat());
        let answer = self.wire.until_ready();
        let row = answer.iter().find(|message| message.tag == b'D');
        if row.is_none_or(|row| row.values() != [Some(mark.to_owned())]) {
            self.leaks.push(format!("statement of {mark}: {answer:?}"));
        }
    }

    /// Is gone while something runs, in a block, or with all it holds, and comes back.
    fn leave_in_the_middle(&mut self) {
        let (name, value) = self.setting();
        self.run(&format!("SET {name} = '{value}'"));
        match random_range(0..4) {
            0 => self.wire.send(&wire::query("SELECT pg_sleep(0.005)")),
            1 => self.run(&format!("BEGIN; SET LOCAL {name} = '{value}'")),
            2 => self.wire.send(&wire::terminate()),
            _ => {}
        }
        self.come_back();
    }

    fn come_back(&mut self) {
        std::mem::replace(&mut self.wire, connect(self.port, self.user)).vanish();
        self.expected = Expected::fresh(self.user);
        self.prepared = None;
    }

    /// Others wait for the connection of a client that holds something on it.
    fn let_go(&mut self) {
        let keep = !self.expected.holds_anything() && random_range(0..2) == 0;
        match random_range(0..4) {
            _ if keep && !self.is_somebody_else() => {}
            0 => self.come_back(),
            1 => {
                self.run("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL");
                self.run("DEALLOCATE ALL");
                self.run("UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP");
                self.expected = Expected::fresh(self.user);
                self.prepared = None;
                // It may be taken to hold something still.
                self.run("DISCARD ALL");
            }
            _ => {
                self.run("DISCARD ALL");
                self.expected = Expected::fresh(self.user);
                self.prepared = None;
            }
        }
    }

    fn is_somebody_else(&self) -> bool {
        self.expected.settings["current_user"] != self.user
    }
}

fn connect(port: u16, user: &str) -> Wire {
    let wire = Wire::connect_with(port, &[("user", user)]);
    wire.wait_at_most(std::time::Duration::from_secs(600));
    wire
}
