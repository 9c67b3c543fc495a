//! Performs a script against one port.

use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pgweir::limits::STATEMENT_TRUST;
use pgweir::sandbox::LocalCluster;

use crate::harness::LIMIT;
use crate::harness::wire::{self, Message, Wire};
use crate::language::{Script, messages, parameters};
use crate::transcript::Transcript;

/// In a transcript: something that had to come did not.
pub(crate) const NO_ANSWER: &str = "(no answer)";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections of one performance, the first at index 0.
#[derive(Default)]
struct Stage {
    port: u16,
    connections: Vec<Option<Wire>>,
    transcript: Transcript,
}

/// A script stopped early; the transcript says why.
struct Stopped;

/// Empties the role's schema, runs a script against `port` and returns all it received.
pub(crate) fn perform(script: &Script, port: u16, watch: &mut Watch) -> Vec<String> {
    watch.clean();
    let mut stage = Stage {
        port,
        ..Stage::default()
    };
    // Where a script stopped is in its transcript.
    drop(stage.steps(script, watch));
    stage.transcript.into_lines()
}

impl Stage {
    fn steps(&mut self, script: &Script, watch: &mut Watch) -> Result<(), Stopped> {
        for line in &script.lines {
            let line = self.transcript.with_process_ids(line);
            let (connection, step) = match line.split_once(": ") {
                Some((number, step)) if number.len() == 1 => (number.parse().unwrap(), step),
                _ => (1, line.as_str()),
            };
            self.transcript.step(&format!("{connection}: {step}"));
            self.step(connection - 1, step, watch)?;
        }
        for connection in 0..self.connections.len() {
            if self.connections[connection].is_some() {
                self.transcript
                    .step(&format!("{}: goodbye", connection + 1));
                self.step(connection, "terminate", watch)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, connection: usize, step: &str, watch: &mut Watch) -> Result<(), Stopped> {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "direct" => {
                watch.run(rest);
                return Ok(());
            }
            "elsewhere" => {
                watch.close_idle();
                return Ok(());
            }
            "sleeping" => {
                watch.until_sleeping();
                return Ok(());
            }
            "later" => {
                thread::sleep(STATEMENT_TRUST);
                return Ok(());
            }
            _ => {}
        }
        if verb == "connect" {
            return self.connect(connection, &parameters(rest));
        }
        if self.connections.get(connection).is_none_or(Option::is_none) {
            self.connect(connection, &[])?;
        }
        match verb {
            "query" => self.send(connection, &wire::query(rest))?,
            "send" | "run" => {
                let (bytes, ready) = messages(rest);
                self.send(connection, &bytes)?;
                let ready = if verb == "run" { ready } else { 0 };
                return self.ready(connection, ready);
            }
            "ready" => return self.ready(connection, rest.parse().unwrap_or(1)),
            "until" => return self.until(connection, rest.as_bytes()[0]),
            "cancel" => {
                watch.until_sleeping();
                wire::cancel(self.port, &self.wire(connection).cancel_key());
                return Ok(());
            }
            "end" => return self.end(connection),
            "terminate" => {
                self.send(connection, &wire::terminate())?;
                return self.end(connection);
            }
            "vanish" => {
                self.connections[connection].take().unwrap().vanish();
                self.transcript.ended(connection + 1);
                return Ok(());
            }
            other => panic!("no step {other}"),
        }
        self.ready(connection, 1)
    }

    fn wire(&mut self, connection: usize) -> &mut Wire {
        self.connections[connection].as_mut().unwrap()
    }

    fn connect(&mut self, at: usize, with: &[(String, String)]) -> Result<(), Stopped> {
        let with: Vec<(&str, &str)> = with.iter().map(|(a, b)| (&**a, &**b)).collect();
        let wire = match Wire::try_connect(self.port, &with) {
            Ok(wire) => wire,
            Err(messages) => {
                for message in &messages {
                    self.transcript.received(message);
                }
                return Err(Stopped);
            }
        };
        wire.wait_at_most(PATIENCE);
        self.transcript.process_id(at + 1, wire.cancel_key().0);
        for message in &wire.greeting {
            self.transcript.received(message);
        }
        if self.connections.len() <= at {
            self.connections.resize_with(at + 1, || None);
        }
        self.connections[at] = Some(wire);
        Ok(())
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), Stopped> {
        if self.wire(connection).send_if_open(bytes) {
            return Ok(());
        }
        self.transcript.says("(cannot send)");
        Err(Stopped)
    }

    fn ready(&mut self, connection: usize, times: usize) -> Result<(), Stopped> {
        (0..times).try_for_each(|_| self.until(connection, b'Z'))
    }

    fn until(&mut self, connection: usize, tag: u8) -> Result<(), Stopped> {
        while self.receive(connection)?.tag != tag {}
        Ok(())
    }

    fn receive(&mut self, connection: usize) -> Result<Message, Stopped> {
        match self.wire(connection).try_receive() {
            Ok(message) => {
                self.transcript.received(&message);
                Ok(message)
            }
            Err(error) => {
                let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
                self.transcript
                    .says(if late { NO_ANSWER } else { "(closed)" });
                Err(Stopped)
            }
        }
    }

    fn end(&mut self, connection: usize) -> Result<(), Stopped> {
        while self.receive(connection).is_ok() {}
        self.connections[connection] = None;
        self.transcript.ended(connection + 1);
        if self.transcript.ended_well() {
            Ok(())
        } else {
            Err(Stopped)
        }
    }
}

/// A superuser's connections to all servers, the primary first.
pub(crate) struct Watch {
    servers: Vec<Wire>,
    /// What the idle connections of the role `app` are.
    pub(crate) idle: Idle,
}

/// What the idle connections of the role `app` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// A client's own.
    Owned,
    /// A pool's.
    Shared,
}

impl Watch {
    pub(crate) fn new(cluster: &LocalCluster) -> Self {
        let root = [("user", "root")];
        let connect = |node| Wire::connect_with(cluster.port(node), &root);
        Self {
            servers: cluster.nodes().map(connect).collect(),
            idle: Idle::Owned,
        }
    }

    /// Leaves the schema of the role `app` empty on all servers.
    fn clean(&mut self) {
        self.run(
            "SET client_min_messages = error; SET lock_timeout = '10s'; \
             DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app AUTHORIZATION app; \
             SELECT lo_unlink(oid) FROM pg_largeobject_metadata; SET search_path = app",
        );
    }

    /// Runs SQL on the primary and waits until the replicas have replayed it.
    fn run(&mut self, sql: &str) {
        let (primary, replicas) = self.servers.split_first_mut().unwrap();
        primary.run(sql);
        let position = primary.value("SELECT pg_current_wal_flush_lsn()");
        let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        for replica in replicas {
            until(|| replica.value(&reached) == "t");
        }
    }

    /// Closes the pool's connections that hold no transaction.
    fn close_idle(&mut self) {
        if self.idle == Idle::Owned {
            return;
        }
        // Behind its answer, a session may still be asked what it has left on its connection.
        let ended = "SELECT string_agg(pid::text, ' ') FILTER (WHERE \
                     state_change < clock_timestamp() - interval '30 ms' AND pg_terminate_backend(pid)), \
                     count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle'";
        for server in &mut self.servers {
            until(|| {
                let answer = server.query(ended);
                let row = answer.iter().find(|message| message.tag == b'D').unwrap();
                let [processes, left] = &row.values()[..] else {
                    panic!("{answer:?}")
                };
                let processes = processes.as_deref().unwrap_or_default();
                // The server lists a process no longer when its socket is still open.
                let has_ended = |id: &str| !Path::new("/proc").join(id).exists();
                until(|| processes.split_whitespace().all(has_ended));
                left.as_deref() == Some("0")
            });
        }
    }

    /// Waits until a statement with `pg_sleep` runs on one of the servers.
    fn until_sleeping(&mut self) {
        let any = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        until(|| {
            self.servers
                .iter_mut()
                .any(|server| server.value(any) == "t")
        });
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        thread::yield_now();
    }
}
