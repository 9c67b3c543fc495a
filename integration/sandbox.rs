//! `pgweir sandbox` as a user runs it.

#![cfg(test)]

mod harness;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::{env, fs, process};

use harness::eventually;
use pgweir::sandbox::free_port;
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn the_printed_url_serves_and_an_interrupt_removes_everything() {
    let place = Place::new("whole");
    let mut sandbox = Sandbox::start(&place, &[]);
    let url = sandbox.url();
    assert!(!place.is_empty());

    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE t (v int)")
        .await
        .unwrap();
    for expected in 1..=20_i64 {
        client
            .execute("INSERT INTO t VALUES (1)", &[])
            .await
            .unwrap();
        let row = client
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), expected);
    }
    let eventual = connect(&format!("{url}?options=-c%20pgweir.consistency%3Deventual")).await;
    let both = || async {
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let row = eventual
                .query_one("SELECT inet_server_port()", &[])
                .await
                .unwrap();
            ports.insert(row.get::<_, i32>(0));
        }
        ports.len() == 2
    };
    eventually("eventual reads use both replicas", both).await;

    sandbox.signal("INT");
    assert!(sandbox.ended().await.success());
    place.becomes_empty().await;
}

#[tokio::test]
async fn an_interrupt_while_starting_removes_everything() {
    let place = Place::new("early");
    let mut sandbox = Sandbox::start(&place, &["--replicas", "1"]);
    let begun = || async { !place.is_empty() };
    eventually("files are there", begun).await;
    sandbox.signal("TERM");
    assert!(sandbox.ended().await.success());
    place.becomes_empty().await;
}

#[tokio::test]
async fn killing_the_sandbox_leaves_no_server_no_proxy_and_no_file() {
    let place = Place::new("killed");
    let mut sandbox = Sandbox::start(&place, &["--replicas", "0"]);
    sandbox.url();
    sandbox.signal("KILL");
    assert!(!sandbox.ended().await.success());
    place.becomes_empty().await;
}

#[tokio::test]
async fn a_taken_port_is_refused_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let place = Place::new("taken");
    let mut sandbox = Sandbox::start(&place, &["--port", &port]);
    assert_eq!(sandbox.ended().await.code(), Some(1));
    let mut said = String::new();
    sandbox
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains(&port), "{said}");
    assert!(place.is_empty());
}

#[tokio::test]
async fn without_programs_and_engine_the_command_to_run_is_printed() {
    let place = Place::new("none");
    let mut sandbox = Sandbox::start_with(&place, &[], &[("PGWEIR_PG_BIN", "/nowhere")]);
    assert_eq!(sandbox.ended().await.code(), Some(1));
    let mut said = String::new();
    sandbox
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("PGWEIR_PG_BIN is /nowhere"), "{said}");
}

/// A directory for a sandbox's files.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("sandbox-{name}-{}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }

    /// Waits until neither files nor processes are left.
    async fn becomes_empty(&self) {
        let empty = || async { self.is_empty() && !self.is_worked_in() };
        eventually("no process and no file is left", empty).await;
    }

    /// Whether a process works below it (Linux).
    fn is_worked_in(&self) -> bool {
        let works_here = |process: &Path| {
            fs::read_link(process.join("cwd")).is_ok_and(|place| place.starts_with(&self.0))
        };
        fs::read_dir("/proc").is_ok_and(|mut all| {
            all.any(|process| process.is_ok_and(|process| works_here(&process.path())))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

struct Sandbox {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Sandbox {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::start_with(place, arguments, &[])
    }

    fn start_with(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let port = free_port().unwrap().to_string();
        let port: &[&str] = if arguments.contains(&"--port") {
            &[]
        } else {
            &["--port", &port]
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .arg("sandbox")
            .arg("--dir")
            .arg(&place.0)
            .args(port)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The first line of its output, printed when all is up.
    fn url(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if !line.starts_with("postgresql://") {
            let mut said = String::new();
            self.child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("{line}{said}");
        }
        line.trim().to_owned()
    }

    fn signal(&self, name: &str) {
        let script = format!("kill -s {name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        let ended = || async { child.borrow_mut().try_wait().unwrap().is_some() };
        eventually("the sandbox has ended", ended).await;
        self.child.wait().unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
