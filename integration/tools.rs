//! PostgreSQL's own programs work through the proxy as they do on the primary.

#![cfg(test)]

mod harness;
#[path = "tools/programs.rs"]
mod programs;
#[path = "tools/replication.rs"]
mod replication;
#[path = "tools/walsender.rs"]
mod walsender;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use harness::Proxy;
use pgweir::sandbox::{ClusterOptions, LocalCluster, SearchPath};

/// A cluster of a test's own whose role `repl` may replicate, with a proxy in front.
struct Bench {
    // Ends before its cluster.
    proxy: Proxy,
    cluster: LocalCluster,
}

impl Bench {
    async fn start(replicas: usize, overrides: &str) -> Self {
        let options = ClusterOptions::new(replicas).with_setting("wal_level", "logical");
        let cluster = LocalCluster::start(options).await.unwrap();
        let role = "CREATE ROLE repl LOGIN REPLICATION PASSWORD 'repl'";
        cluster.superuser_sql(0, role).await.unwrap();
        let users = "users: [{ name: app, password: app }, { name: repl, password: repl }]";
        let proxy = Proxy::start(&cluster, &format!("{users}\n{overrides}")).await;
        Self { proxy, cluster }
    }

    /// An empty directory of the bench's own.
    fn directory(&self, name: &str) -> PathBuf {
        let directory = self.cluster.directory().join(name);
        std::fs::create_dir(&directory).unwrap();
        directory
    }

    /// The ports of the primary and of the proxy, named.
    fn both(&self) -> [(&'static str, u16); 2] {
        [
            ("direct", self.cluster.port(0)),
            ("proxy", self.proxy.port()),
        ]
    }
}

/// One of PostgreSQL's programs, to connect to `port` as `user`.
fn tool(program: &str, port: u16, user: &str, arguments: &[&str]) -> Command {
    let binaries = SearchPath::from_environment().find().unwrap();
    let mut command = Command::new(binaries.join(program));
    command
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        // No file of whoever runs the tests has a say.
        .env("HOME", "/nonexistent")
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", user)
        .env("PGPASSWORD", user)
        .env("PGDATABASE", "app")
        .env("PGCONNECT_TIMEOUT", "20")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a program to its end without blocking the test's runtime.
async fn finish(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let limit = 4 * harness::LIMIT;
    tokio::time::timeout(limit, run)
        .await
        .expect("a program must end within the limit")
        .unwrap()
}

/// What a program prints; panics if it fails.
async fn printed(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = finish(command).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{shown}: {:?}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn spawn(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The names and contents of the files of a directory, sorted.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// The value of a query on the primary, as the superuser.
async fn value(cluster: &LocalCluster, sql: &str) -> String {
    let rows = cluster.superuser_sql(0, sql).await.unwrap();
    rows[0][0].clone().unwrap()
}
