//! The real binary as a child process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use pgweir::sandbox::{LocalCluster, free_port};
use tokio_postgres::{Client, NoTls};

use super::metrics::Metrics;
use super::{LIMIT, eventually, http, yaml};

/// How much of the log a failing test shows, in bytes.
const LOG_TAIL: usize = 8_000;

/// A proxy in front of a cluster. Ends when dropped, and with the cluster.
#[derive(Debug)]
pub struct Proxy {
    child: Mutex<Child>,
    port: u16,
    http_port: u16,
    directory: PathBuf,
    config: String,
}

impl Proxy {
    /// Starts a proxy with the smallest configuration for the cluster and `overrides` (YAML) laid
    /// over it, and waits until it is ready.
    pub async fn start(cluster: &LocalCluster, overrides: &str) -> Self {
        let proxy = Self::launch(cluster, overrides);
        let ready = || async {
            assert!(
                proxy.is_running(),
                "the proxy ended at once:\n{}",
                proxy.log()
            );
            proxy
                .get("/readyz")
                .await
                .is_some_and(|(status, _)| status == 200)
        };
        eventually("the proxy is ready", ready).await;
        proxy
    }

    /// Starts a proxy and does not wait for anything.
    pub fn launch(cluster: &LocalCluster, overrides: &str) -> Self {
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        // The cluster ends what works in such a directory, should this process be killed.
        let directory = cluster.directory().join(format!("proxy{port}"));
        let work = directory.join("data");
        fs::create_dir_all(&work).unwrap();
        let config = yaml::config(cluster, (port, http_port), overrides);
        fs::write(directory.join("pgweir.yaml"), &config).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(["run", "--config"])
            .arg(directory.join("pgweir.yaml"))
            .current_dir(work)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child: Mutex::new(child),
            port,
            http_port,
            directory,
            config,
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of `/metrics`, `/healthz` and `/readyz`.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Where a user, whose password is the same as the name, connects.
    pub fn url(&self, user: &str) -> String {
        format!("postgresql://{user}:{user}@127.0.0.1:{}/app", self.port)
    }

    /// A session as `app` in the database `app`.
    pub async fn connect(&self) -> Client {
        let url = self.url("app");
        let connecting = tokio_postgres::connect(&url, NoTls);
        let (client, connection) = tokio::time::timeout(LIMIT, connecting)
            .await
            .expect("the proxy must let a client in within the limit")
            .unwrap_or_else(|error| panic!("no session: {error:?}\n{}", self.log()));
        tokio::spawn(connection);
        client
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics").await.expect("/metrics must answer");
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// Status and body of an HTTP answer; `None` if there is none.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.http_port, path).await
    }

    /// Resident memory in bytes (Linux).
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    /// Processor time used so far, user and system, in seconds (Linux).
    pub fn cpu_seconds(&self) -> f64 {
        // Fields 14 and 15 of proc_pid_stat(5); the name in field 2 may contain spaces.
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = [11, 12]
            .iter()
            .map(|i| fields[*i].parse::<f64>().unwrap())
            .sum();
        // The kernel reports in USER_HZ, 100 on every architecture Linux runs PostgreSQL on.
        ticks / 100.0
    }

    /// The configuration it was started with or last given.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Lays `overrides` over its configuration file; see [`Proxy::reload`].
    pub fn reconfigure(&mut self, overrides: &str) {
        self.config = yaml::merged(&self.config, overrides);
        self.write_config(&self.config);
    }

    /// Replaces its configuration file, valid or not.
    pub fn write_config(&self, text: &str) {
        fs::write(self.directory.join("pgweir.yaml"), text).unwrap();
    }

    /// Tells it to read its configuration again (SIGHUP).
    pub fn reload(&self) {
        self.signal("HUP");
    }

    /// Asks it to drain and stop (SIGTERM) and returns how it ended.
    pub async fn terminate(&self) -> ExitStatus {
        self.signal("TERM");
        eventually("the proxy has ended", || async { !self.is_running() }).await;
        self.child().try_wait().unwrap().unwrap()
    }

    /// How it ended, once it has.
    pub fn terminated(&self) -> ExitStatus {
        let status = self.child().try_wait().unwrap();
        status.expect("the proxy must have ended")
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let script = format!("kill -s {name} {}", self.process_id());
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child().id()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process_id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let start = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL));
            eprintln!(
                "--- end of the proxy's log ---\n{}",
                log.get(start..).unwrap_or_default()
            );
        }
        let mut child = self.child();
        // Errors mean that it has ended already.
        drop(child.kill());
        drop(child.wait());
    }
}
