//! Running one program against the primary and through the proxy.

use std::env;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::harness::{Proxy, shared_cluster};

/// How long one run may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Fewer reads on replicas would mean that the program does not exercise the splitting.
const LEAST_READS_ON_REPLICAS: f64 = 50.0;

/// The headings, `[name]` on lines of their own, that every program prints in this order.
const SECTIONS: [&str; 15] = [
    "prepared",
    "transaction",
    "savepoint",
    "copy",
    "notify",
    "cancel",
    "binary",
    "types",
    "error",
    "parts",
    "readback",
    "temporary",
    "settings",
    "locks",
    "end",
];

/// What one run wrote and how it ended.
#[derive(Debug)]
struct Run {
    lines: Vec<String>,
    complaints: String,
    succeeded: bool,
}

/// A driver's program: how it is started, and what must be there for it.
#[derive(Debug)]
pub(crate) struct Program {
    folder: &'static str,
    command: Vec<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
    needs: Vec<PathBuf>,
    sections: Vec<&'static str>,
}

impl Program {
    /// `main.py` with the packages of `requirements.txt`.
    pub(crate) fn python(folder: &'static str) -> Self {
        let python = installed("python/bin/python");
        let package = installed("python").join(format!("{folder}.installed"));
        Self::new(
            folder,
            vec![python.clone(), source(folder, "main.py")],
            vec![python, package],
        )
    }

    fn new(folder: &'static str, command: Vec<PathBuf>, needs: Vec<PathBuf>) -> Self {
        Self {
            folder,
            command,
            environment: Vec::new(),
            needs,
            sections: Vec::new(),
        }
    }

    /// The same, with a section of its own that must be there too.
    pub(crate) fn with_section(mut self, section: &'static str) -> Self {
        self.sections.push(section);
        self
    }

    /// What of it is not installed, if anything.
    fn missing(&self) -> Option<&Path> {
        self.needs
            .iter()
            .map(PathBuf::as_path)
            .find(|path| !path.exists())
    }

    async fn run(&self, port: u16) -> Run {
        let [program, arguments @ ..] = self.command.as_slice() else {
            panic!("{}: no command", self.folder);
        };
        let running = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", "app")
            .env("PGPASSWORD", "app")
            .env("PGDATABASE", "app")
            .env("PGSSLMODE", "disable")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, running)
            .await
            .unwrap_or_else(|_| panic!("{}: not done within {DEADLINE:?}", self.folder))
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        Run {
            lines: text.lines().map(str::to_owned).collect(),
            complaints: String::from_utf8_lossy(&output.stderr).into_owned(),
            succeeded: output.status.success(),
        }
    }
}

/// Runs the program twice and compares; some of its reads must have been served by replicas.
pub(crate) async fn check(program: &Program) {
    let folder = program.folder;
    if let Some(missing) = program.missing() {
        let reason = format!("{folder}: {} is not there", missing.display());
        assert!(env::var_os("PGWEIR_REQUIRE_DRIVERS").is_none(), "{reason}");
        println!("skipped: {reason}; see integration/drivers/install.sh");
        return;
    }
    let cluster = shared_cluster().await;
    let direct = program.run(cluster.port(cluster.primary())).await;
    assert!(
        direct.succeeded && complete(&direct.lines, &program.sections),
        "{folder}: the direct run failed:\n{direct:#?}"
    );
    let proxy = Proxy::start(cluster, "{}").await;
    let before = proxy.metrics().await;
    let proxied = program.run(proxy.port()).await;
    let served = proxy.metrics().await.reads_since(&before);
    println!("{folder}: {served:?}");
    if let Some(difference) = difference(&direct.lines, &proxied.lines) {
        panic!("{folder}: {difference}\n{}", proxied.complaints);
    }
    assert!(proxied.succeeded, "{folder}:\n{}", proxied.complaints);
    assert!(
        served.by_replicas >= LEAST_READS_ON_REPLICAS,
        "{folder}: {served:?} of {:#?}",
        proxy.metrics().await.samples()
    );
}

/// Whether every section has begun, and something stands in each but the last.
fn complete(lines: &[String], own: &[&str]) -> bool {
    let headings: Vec<&str> = lines.iter().filter_map(|line| heading(line)).collect();
    let common: Vec<&str> = headings
        .iter()
        .copied()
        .filter(|name| !own.contains(name))
        .collect();
    common == SECTIONS
        && own.iter().all(|name| headings.contains(name))
        && !lines
            .windows(2)
            .any(|pair| pair.iter().all(|line| heading(line).is_some()))
}

fn heading(line: &str) -> Option<&str> {
    line.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// The first line that is not the same, with the section it stands in.
fn difference(direct: &[String], proxied: &[String]) -> Option<String> {
    let at = (0..direct.len().max(proxied.len())).find(|at| direct.get(*at) != proxied.get(*at))?;
    let section = direct
        .get(..at)?
        .iter()
        .rev()
        .find_map(|line| heading(line));
    Some(format!(
        "line {}, section {}\n direct: {:?}\nproxied: {:?}",
        at + 1,
        section.unwrap_or("none"),
        direct.get(at),
        proxied.get(at)
    ))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of a program.
fn source(folder: &str, file: &str) -> PathBuf {
    root().join("integration/drivers").join(folder).join(file)
}

/// Where `install.sh` puts what is not a package of the system.
fn installed(path: &str) -> PathBuf {
    root().join("target/drivers").join(path)
}
