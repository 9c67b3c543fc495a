//! Running one program against the primary and through the proxy.

use std::env;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgweir::sandbox::LocalCluster;
use tokio::process::Command;

use crate::harness::{Proxy, eventually, full_size, shared_cluster};

/// How long one run may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Chooses `pool.mode`: `transaction`, as without it, or `session`.
const MODE: &str = "PGWEIR_DRIVERS_MODE";

/// Fewer reads on replicas would mean that the program does not exercise the splitting.
const LEAST_READS_ON_REPLICAS: f64 = 50.0;

/// The headings, `# name` on lines of their own, that every program prints in this order.
const SECTIONS: [&str; 15] = [
    "prepared",
    "transaction",
    "savepoint",
    "copy",
    "notify",
    "cancel",
    "readback",
    "binary",
    "types",
    "error",
    "parts",
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
    probe: Vec<&'static str>,
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

    /// `main.js` with the packages of `package-lock.json`.
    pub(crate) fn node(folder: &'static str) -> Self {
        let modules = installed("node/node_modules");
        let command = vec![PathBuf::from("node"), source(folder, "main.js")];
        let needs = vec![program("node"), modules.clone()];
        let mut program = Self::new(folder, command, needs);
        program.environment.push(("NODE_PATH", modules));
        program
    }

    /// The compiled class `Main` with the driver of the system.
    pub(crate) fn java(folder: &'static str) -> Self {
        let jar = PathBuf::from("/usr/share/java/postgresql.jar");
        let classes = installed(folder);
        let mut path = jar.clone().into_os_string();
        path.push(":");
        path.push(&classes);
        let command = ["java", "-cp"].map(PathBuf::from);
        let command = command.into_iter().chain([path.into(), "Main".into()]);
        let needs = vec![program("java"), jar, classes.join("Main.class")];
        Self::new(folder, command.collect(), needs)
    }

    /// A script for an interpreter of the system; `probe` succeeds if it has the driver.
    pub(crate) fn script(folder: &'static str, command: &[&str], probe: &[&'static str]) -> Self {
        let (file, interpreter) = command.split_last().unwrap();
        let command = interpreter.iter().map(PathBuf::from);
        let command = command.chain([source(folder, file)]).collect();
        let mut program = Self::new(folder, command, Vec::new());
        program.probe = probe.to_vec();
        program
    }

    /// What `install.sh` has compiled.
    pub(crate) fn compiled(folder: &'static str, file: &str) -> Self {
        let file = installed(file);
        Self::new(folder, vec![file.clone()], vec![file])
    }

    fn new(folder: &'static str, command: Vec<PathBuf>, needs: Vec<PathBuf>) -> Self {
        Self {
            folder,
            command,
            environment: Vec::new(),
            needs,
            probe: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// The same, with a section of its own that must be there too.
    pub(crate) fn with_section(mut self, section: &'static str) -> Self {
        self.sections.push(section);
        self
    }

    /// What of it is not installed, if anything.
    fn missing(&self) -> Option<String> {
        let file = self.needs.iter().find(|path| !path.exists());
        if let Some(file) = file {
            return Some(format!("{} is not there", file.display()));
        }
        let [name, arguments @ ..] = self.probe.as_slice() else {
            return None;
        };
        let probe = std::process::Command::new(name).args(arguments).output();
        (!probe.is_ok_and(|output| output.status.success()))
            .then(|| format!("{:?} fails", self.probe))
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
        let reason = format!("{folder}: {missing}");
        assert!(env::var_os("PGWEIR_REQUIRE_DRIVERS").is_none(), "{reason}");
        println!("skipped: {reason}; see integration/drivers/install.sh");
        return;
    }
    let cluster = shared_cluster().await;
    prepare(cluster, folder).await;
    let direct = program.run(cluster.port(cluster.primary())).await;
    assert!(
        direct.succeeded && complete(&direct.lines, &program.sections),
        "{folder}: the direct run failed:\n{direct:#?}"
    );
    prepare(cluster, folder).await;
    let proxy = Proxy::start(cluster, pool()).await;
    know(&proxy, folder).await;
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

/// The configuration of the pool. Where sessions keep their connections, it has one for each.
fn pool() -> &'static str {
    match full_size::<String>(MODE).as_deref() {
        None | Some("transaction") => "{}",
        Some("session") => "clusters: { main: { pool: { size: 40, mode: session } } }",
        Some(other) => panic!("{MODE} is {other:?}, not transaction or session"),
    }
}

/// Gives the program its tables as if for the first time, on every node.
async fn prepare(cluster: &LocalCluster, folder: &str) {
    let sql = include_str!("schema.sql").replace(":schema", folder);
    cluster.sql(cluster.primary(), &sql).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
}

/// Waits until the proxy knows the tables, so that how fast it reads the catalog does not matter.
async fn know(proxy: &Proxy, folder: &str) {
    let client = &proxy.connect().await;
    let read = &format!("SELECT count(*) FROM {folder}.number");
    eventually("reads of the tables go to replicas", || async {
        client.simple_query(read).await.unwrap();
        let route = client.simple_query("SHOW pgweir.last_route").await.unwrap();
        format!("{route:?}").contains("role=replica")
    })
    .await;
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
    line.strip_prefix("# ")
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

/// Where a program of the system is; its name if it is nowhere.
fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}
