//! A client cannot tell the proxy from PostgreSQL: scripts of messages get the same answers from
//! both, however the bytes are cut.
//!
//! The scripts are in `wire/scripts/`; the module `language` says how they are written. What may
//! differ, and nothing else, is named in the module `transcript`.

#![cfg(test)]

mod harness;
#[path = "wire/language.rs"]
mod language;
#[path = "wire/performance.rs"]
mod performance;
#[path = "wire/transcript.rs"]
mod transcript;

use std::fs;
use std::path::{Path, PathBuf};

use harness::relay::{Travel, relay};
use harness::{Metrics, Proxy, ReadsServed, full_size};
use language::Script;
use performance::{Idle, NO_ANSWER, Watch, perform};
use pgweir::sandbox::{ClusterOptions, LocalCluster};
use tokio::sync::{Mutex, OnceCell};

/// How many scripts there must be.
const SCRIPTS: usize = 150;

/// Chooses another folder of scripts, and only those whose name contains a word.
const FOLDER: &str = "PGWEIR_WIRE_SCRIPTS";
const WORD: &str = "PGWEIR_WIRE_ONLY";

/// Where the transcripts of scripts with differences go.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/wire");

/// What one client has done shows in what another one reads next, as on one server: for scripts with
/// several clients. The others run in the default mode.
const LATEST: &str = "consistency: { default: latest }\n";

const USERS: &str = "users: [{ name: app, password: app }, { name: other, password: other }, { name: root, password: root }]\n";

static STAGE: OnceCell<Stage> = OnceCell::const_new();

/// The cluster, and what every script is to answer.
struct Stage {
    cluster: LocalCluster,
    expected: Vec<(Script, Vec<String>)>,
    /// Whoever has it performs.
    watch: Mutex<Watch>,
}

/// The cluster on which every script ran once against the primary.
async fn stage() -> &'static Stage {
    STAGE
        .get_or_init(|| async {
            let options = ClusterOptions::new(2).with_setting("max_prepared_transactions", "10");
            let cluster = LocalCluster::start(options).await.unwrap();
            // The privileges of the schema public are those of 15 and later.
            let roles = "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'root'; \
                         CREATE ROLE other LOGIN PASSWORD 'other'; GRANT other TO app; \
                         REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                         GRANT CREATE ON SCHEMA public TO app";
            cluster.superuser_sql(0, roles).await.unwrap();
            let table = "CREATE TABLE public.t (id int PRIMARY KEY, v text); \
                         INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 10) i; \
                         ANALYZE public.t";
            cluster.sql(0, table).await.unwrap();
            let mut watch = Watch::new(&cluster);
            let expected: Vec<_> = scripts()
                .into_iter()
                .map(|script| {
                    let transcript = perform(&script, cluster.port(0), &mut watch);
                    (script, transcript)
                })
                .collect();
            let stuck: Vec<_> = expected
                .iter()
                .filter(|(_, transcript)| transcript.iter().any(|line| line == NO_ANSWER))
                .collect();
            assert!(stuck.is_empty(), "{stuck:#?}");
            Stage {
                cluster,
                expected,
                watch: Mutex::new(watch),
            }
        })
        .await
}

fn scripts() -> Vec<Script> {
    let folder = full_size::<PathBuf>(FOLDER)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/wire/scripts"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "wire"))
        .collect();
    files.sort();
    let word = full_size::<String>(WORD).unwrap_or_default();
    files
        .iter()
        .flat_map(|file| language::scripts(file))
        .filter(|script| script.name.contains(&word))
        .collect()
}

/// Two proxies, each with the port where its clients connect.
struct Proxies {
    /// In the default mode.
    usual: (Proxy, u16),
    /// In mode `latest`.
    latest: (Proxy, u16),
}

impl Proxies {
    async fn start(stage: &Stage, pool: &str) -> Self {
        let usual = Proxy::start(&stage.cluster, &format!("{USERS}{pool}")).await;
        let latest = Proxy::start(&stage.cluster, &format!("{USERS}{LATEST}{pool}")).await;
        let (usual_port, latest_port) = (usual.port(), latest.port());
        Self {
            usual: (usual, usual_port),
            latest: (latest, latest_port),
        }
    }

    fn of(&self, script: &Script) -> &(Proxy, u16) {
        if script.has_several_clients() {
            &self.latest
        } else {
            &self.usual
        }
    }

    async fn metrics(&self) -> [Metrics; 2] {
        [self.usual.0.metrics().await, self.latest.0.metrics().await]
    }
}

/// Runs every script through its proxy and reports all that is different.
async fn compare(stage: &Stage, proxies: &Proxies, idle: Idle) {
    let mut watch = stage.watch.lock().await;
    watch.idle = idle;
    let mut different = Vec::new();
    for (script, expected) in &stage.expected {
        let (proxy, port) = proxies.of(script);
        let got = perform(script, *port, &mut watch);
        if let Some(difference) = difference(expected, &got) {
            keep(&script.name, expected, &got);
            different.push(format!("== {}\n{difference}", script.name));
        }
        assert!(proxy.is_running(), "{}", script.name);
    }
    assert!(
        different.is_empty(),
        "{} of {} scripts differ (all of it in {KEPT}):\n{}",
        different.len(),
        stage.expected.len(),
        different.join("\n")
    );
}

/// Writes both transcripts where they can be compared as a whole.
fn keep(name: &str, expected: &[String], got: &[String]) {
    let folder = Path::new(KEPT);
    fs::create_dir_all(folder).unwrap();
    for (ending, lines) in [("direct", expected), ("proxy", got)] {
        let file = folder.join(format!("{}.{ending}", name.replace([' ', ':', '/'], "_")));
        fs::write(file, lines.join("\n") + "\n").unwrap();
    }
}

/// The lines around the first difference.
fn difference(expected: &[String], got: &[String]) -> Option<String> {
    let at = (0..expected.len().max(got.len())).find(|at| expected.get(*at) != got.get(*at))?;
    let from = at.saturating_sub(3);
    let mut lines: Vec<String> = expected.get(from..at)?.to_vec();
    for (mark, all) in [("-", expected), ("+", got)] {
        let some = all.iter().skip(at).take(4);
        lines.extend(some.map(|line| format!("{mark} {line}")));
    }
    Some(lines.join("\n"))
}

#[tokio::test]
async fn every_script_reads_the_same_through_the_proxy() {
    let stage = stage().await;
    let pool = "clusters: { main: { pool: { size: 4 } } }";
    let proxies = Proxies::start(stage, pool).await;
    let before = proxies.metrics().await;
    compare(stage, &proxies, Idle::Shared).await;
    if full_size::<String>(WORD).is_none() && full_size::<PathBuf>(FOLDER).is_none() {
        assert!(stage.expected.len() >= SCRIPTS, "{}", stage.expected.len());
        let after = proxies.metrics().await;
        let served: Vec<ReadsServed> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.reads_since(before))
            .collect();
        assert!(
            served.iter().map(|one| one.by_replicas).sum::<f64>() > 100.0,
            "{served:?}"
        );
    }
}

#[tokio::test]
async fn every_script_reads_the_same_when_sessions_keep_their_connections() {
    let stage = stage().await;
    let pool = "clusters: { main: { pool: { size: 40, mode: session } } }";
    let proxies = Proxies::start(stage, pool).await;
    compare(stage, &proxies, Idle::Owned).await;
}

#[tokio::test]
async fn every_script_reads_the_same_when_bytes_come_one_by_one() {
    let stage = stage().await;
    let nodes: Vec<String> = stage
        .cluster
        .nodes()
        .map(|node| {
            let port = relay(stage.cluster.port(node), Travel::Bytewise);
            format!("{{ name: node{node}, host: 127.0.0.1, port: {port} }}")
        })
        .collect();
    let nodes = nodes.join(", ");
    let pool = format!("clusters: {{ main: {{ pool: {{ size: 4 }}, nodes: [{nodes}] }} }}");
    let mut proxies = Proxies::start(stage, &pool).await;
    for (_, port) in [&mut proxies.usual, &mut proxies.latest] {
        *port = relay(*port, Travel::Bytewise);
    }
    // That a connection is closed would travel as slowly.
    compare(stage, &proxies, Idle::Owned).await;
}

#[tokio::test]
async fn a_difference_is_found() {
    let stage = stage().await;
    let proxy = Proxy::start(&stage.cluster, USERS).await;
    let script = Script {
        name: "control".to_owned(),
        lines: vec![
            "query SELECT 1".to_owned(),
            "query SHOW pgweir.last_route".to_owned(),
        ],
    };
    let mut watch = stage.watch.lock().await;
    watch.idle = Idle::Owned;
    let expected = perform(&script, stage.cluster.port(0), &mut watch);
    let got = perform(&script, proxy.port(), &mut watch);
    let found = difference(&expected, &got).expect("the answers must differ");
    assert!(found.contains("- ErrorResponse"), "{found}");
}
