//! `pgweir sandbox`: a throw-away cluster with the proxy in front, to try pgweir out.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use std::{env, fs};

use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::NoTls;

use super::account::Account;
use super::cluster::{ClusterOptions, LocalCluster};
use super::containers::ContainerCluster;
use super::error::SandboxError;
use super::limits;
use super::ports::{free_port, is_free};
use super::provision::{Supply, supply};
use super::template::write;
use super::toolchain::tail;
use super::wait::eventually;
use super::workspace::Workspace;

/// The port tried first if none is asked for.
const PROXY_PORT: u16 = 6432;

/// Try pgweir out: a throw-away primary with replicas, and the proxy in front.
///
/// Uses the PostgreSQL programs of this machine, else containers, else installs a package (root on
/// Debian or Ubuntu). Ctrl-C removes everything.
#[derive(Debug, Clone, clap::Args)]
pub struct SandboxArgs {
    /// How many streaming replicas to start (0 to 16).
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(0..=16))]
    pub replicas: u16,
    /// The port to connect to; 6432, or a free one if that is taken.
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The directory below which all files go; the system's temporary directory if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Starts servers and proxy, prints where they are, and removes all of it on SIGINT, SIGTERM or
/// SIGHUP, or when a step fails. Addresses go to standard output, talk to standard error.
///
/// # Errors
///
/// Any [`SandboxError`].
pub async fn run(args: &SandboxArgs) -> Result<(), SandboxError> {
    let begun = Instant::now();
    tokio::select! {
        // Signals first: they are listened for from the start.
        biased;
        // Dropping the unfinished start removes what it has made.
        ended = interrupted() => ended?,
        outcome = serve(args, begun) => outcome?,
    }
    say("everything is removed");
    Ok(())
}

/// Brings everything up and waits; ends by itself only if the proxy does.
async fn serve(args: &SandboxArgs, begun: Instant) -> Result<(), SandboxError> {
    let port = proxy_port(args.port)?;
    let servers = Servers::start(args).await?;
    let mut proxy = SandboxProxy::start(args, port, &servers).await?;
    say(&format!(
        "ready after {:.1} s; Ctrl-C removes everything",
        begun.elapsed().as_secs_f64()
    ));
    print(&proxy.introduction(&servers))?;
    let removing = Removing;
    let ended = proxy.child.wait().await;
    drop(removing);
    ended.map_err(SandboxError::io("waiting for the proxy"))?;
    Err(proxy.ended_early())
}

/// Resolves when the user wants an end.
async fn interrupted() -> Result<(), SandboxError> {
    let listen = |kind| signal(kind).map_err(SandboxError::io("listening for signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

/// Says that the end has begun, whichever way it comes.
struct Removing;

impl Drop for Removing {
    fn drop(&mut self) {
        say("stopping and removing everything");
    }
}

/// The servers behind the proxy.
enum Servers {
    Local(LocalCluster),
    Containers(ContainerCluster),
}

impl Servers {
    async fn start(args: &SandboxArgs) -> Result<Self, SandboxError> {
        let replicas = usize::from(args.replicas);
        say("looking for PostgreSQL");
        match supply(say).await? {
            Supply::Containers => {
                say("no PostgreSQL on this machine, but a Docker engine: using containers");
                ContainerCluster::start(replicas, say)
                    .await
                    .map(Self::Containers)
            }
            Supply::Programs(toolchain) => {
                let place = toolchain.directory().display();
                say(&format!(
                    "starting a primary and {replicas} replicas with {place}"
                ));
                let options = ClusterOptions {
                    parent: args.dir.clone(),
                    ..ClusterOptions::new(replicas)
                };
                LocalCluster::start(options).await.map(Self::Local)
            }
        }
    }

    /// Ports on 127.0.0.1, the primary's first.
    fn ports(&self) -> Vec<u16> {
        match self {
            Self::Local(cluster) => cluster.nodes().map(|node| cluster.port(node)).collect(),
            Self::Containers(cluster) => cluster.ports().to_vec(),
        }
    }

    /// Where to reach the primary as the superuser.
    fn superuser_url(&self) -> String {
        match self {
            Self::Local(cluster) => cluster.superuser_url(0),
            Self::Containers(cluster) => {
                cluster.superuser_url(cluster.ports().first().copied().unwrap_or_default())
            }
        }
    }
}

/// The proxy as a process of its own, with its files.
struct SandboxProxy {
    // Dropping it first kills the process.
    child: Child,
    files: Workspace,
    port: u16,
    http_port: u16,
}

impl SandboxProxy {
    async fn start(args: &SandboxArgs, port: u16, servers: &Servers) -> Result<Self, SandboxError> {
        say("starting the proxy");
        let files = Workspace::create(args.dir.as_deref(), Account::Own)?;
        let http_port = free_port()?;
        write(
            &files.path().join("pgweir.yaml"),
            &config(port, http_port, &servers.ports()),
        )?;
        let child = spawn(files.path())?;
        let mut proxy = Self {
            child,
            files,
            port,
            http_port,
        };
        proxy.ready().await?;
        Ok(proxy)
    }

    /// Waits until a query comes through.
    async fn ready(&mut self) -> Result<(), SandboxError> {
        let url = self.url();
        let answers = || async {
            let connecting = tokio_postgres::connect(&url, NoTls);
            matches!(
                tokio::time::timeout(limits::STEP, connecting).await,
                Ok(Ok(_))
            )
        };
        let answered = tokio::select! {
            answered = eventually(limits::STEP, "the proxy answers", answers) => answered,
            _ = self.child.wait() => return Err(self.ended_early()),
        };
        answered.map_err(|error| SandboxError::Refused(format!("{error}\n{}", self.log_end())))
    }

    fn url(&self) -> String {
        format!("postgresql://app:app@127.0.0.1:{}/app", self.port)
    }

    fn ended_early(&self) -> SandboxError {
        SandboxError::Refused(format!("the proxy ended: {}", self.log_end()))
    }

    fn log_end(&self) -> String {
        tail(&fs::read(self.files.path().join("pgweir.log")).unwrap_or_default())
    }

    /// What the user is told.
    fn introduction(&self, servers: &Servers) -> String {
        let url = self.url();
        let files = self.files.path().display();
        let nodes: Vec<String> = servers
            .ports()
            .iter()
            .enumerate()
            .map(|(index, port)| {
                let role = if index == 0 { "primary" } else { "replica" };
                format!("  node{index}      127.0.0.1:{port}  {role}\n")
            })
            .collect();
        let program = env::current_exe().unwrap_or_else(|_unknown| PathBuf::from("pgweir"));
        let program = program.display();
        format!(
            "{url}\n\n\
             {nodes}\
             \x20 metrics    http://127.0.0.1:{http}/metrics\n\
             \x20 files      {files}/pgweir.yaml, {files}/pgweir.log\n\
             \x20 superuser  {superuser}  (the primary itself)\n\n\
             Three things to try in another terminal:\n\n\
             1. A write, then a read that sees it, wherever it runs:\n   \
             psql {url} -c 'CREATE TABLE IF NOT EXISTS t (v int)' -c 'INSERT INTO t VALUES (1)' \
             -c 'SELECT count(*) FROM t'\n\n\
             2. Reads without guarantees use all replicas:\n   \
             for i in 1 2 3 4 5 6; do PGOPTIONS='-c pgweir.consistency=eventual' psql {url} -Atc \
             'SELECT inet_server_addr(), inet_server_port()'; done\n\n\
             3. Why a statement goes where it goes:\n   \
             {program} explain --config {files}/pgweir.yaml 'SELECT now()' \
             'SELECT * FROM t FOR UPDATE'\n",
            nodes = nodes.concat(),
            http = self.http_port,
            superuser = servers.superuser_url(),
        )
    }
}

/// The port for the proxy.
fn proxy_port(wanted: Option<u16>) -> Result<u16, SandboxError> {
    match wanted {
        Some(port) if is_free(port) => Ok(port),
        Some(port) => Err(SandboxError::Refused(format!(
            "port {port} on 127.0.0.1 is taken"
        ))),
        None if is_free(PROXY_PORT) => Ok(PROXY_PORT),
        None => free_port(),
    }
}

/// The proxy's configuration.
fn config(port: u16, http_port: u16, nodes: &[u16]) -> String {
    let nodes: Vec<String> = nodes
        .iter()
        .enumerate()
        .map(|(index, port)| {
            format!("      - {{ name: node{index}, host: 127.0.0.1, port: {port} }}\n")
        })
        .collect();
    format!(
        "listen: 127.0.0.1:{port}\n\
         http: 127.0.0.1:{http_port}\n\
         clusters:\n  \
           main:\n    \
             nodes:\n{}    \
             monitor: {{ user: pgweir, password: pgweir, database: postgres }}\n\
         users:\n  \
           - {{ name: app, password: app }}\n",
        nodes.concat()
    )
}

/// Starts this program as the proxy on the files in `directory`.
fn spawn(directory: &Path) -> Result<Child, SandboxError> {
    let program = env::current_exe().map_err(SandboxError::io("finding this program"))?;
    let log_path = directory.join("pgweir.log");
    let log = fs::File::create(&log_path).map_err(SandboxError::path("creating", &log_path))?;
    let errors = log
        .try_clone()
        .map_err(SandboxError::path("opening", &log_path))?;
    // A workspace's watcher ends what works in such a directory, should we be killed.
    let place = directory.join("proxy/data");
    fs::create_dir_all(&place).map_err(SandboxError::path("creating", &place))?;
    Command::new(program)
        .args(["run", "--config"])
        .arg(directory.join("pgweir.yaml"))
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(SandboxError::io("starting the proxy"))
}

/// Talk goes to standard error; if nobody listens, that is no reason to stop.
fn say(text: &str) {
    drop(writeln!(io::stderr(), "sandbox: {text}"));
}

/// Data goes to standard output.
fn print(text: &str) -> Result<(), SandboxError> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(SandboxError::io("writing to standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_sandbox_configuration_is_valid() {
        let text = config(6432, 9187, &[6001, 6002, 6003]);
        let parsed = config::parse(&text, "pgweir.yaml", &config::ProcessEnvironment).unwrap();
        let ports: Vec<u16> = parsed.clusters[0]
            .nodes
            .iter()
            .map(|node| node.port)
            .collect();
        assert_eq!(ports, [6001, 6002, 6003]);
    }
}
