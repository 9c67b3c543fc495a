//! The README's examples for frameworks, each run as it stands there: two connections serve a user's
//! requests in turn, and replicas are behind.
//!
//! `integration/drivers/install.sh` installs what they need. What is not there is skipped, unless
//! `PGWEIR_REQUIRE_DRIVERS` is set.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

use super::harness::{Proxy, eventually, full_size};
use super::{ALONE, lagging_cluster, shown, value};

const DEADLINE: Duration = Duration::from_secs(60);

/// Frameworks begin a transaction around what they read.
const CONFIG: &str = "routing: { transactions: until_write }";

struct Example {
    file: &'static str,
    interpreter: PathBuf,
    /// Succeeds if all is there.
    probe: &'static [&'static str],
}

fn root(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

impl Example {
    /// What stands between the two lines that say README, without the indentation of the first line.
    fn shown(&self) -> String {
        let source = root("integration/causality/examples").join(self.file);
        let source = std::fs::read_to_string(source).unwrap();
        let is_mark = |line: &&str| line.trim_start_matches(['#', '/', ' ']) == "README";
        let shown = source.lines().skip_while(|line| !is_mark(line)).skip(1);
        let shown: Vec<&str> = shown.take_while(|line| !is_mark(line)).collect();
        let first = shown.first().expect("an example is marked");
        let indentation = first.len() - first.trim_start().len();
        let shown = shown
            .iter()
            .map(|line| line.get(indentation..).unwrap_or_default());
        shown.collect::<Vec<_>>().join("\n")
    }

    async fn output(&self, arguments: &[&str], port: u16, key: &str) -> Output {
        let running = Command::new(&self.interpreter)
            .args(arguments)
            .env("NODE_PATH", root("target/drivers/node/node_modules"))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", "app")
            .env("PGPASSWORD", "app")
            .env("PGDATABASE", "app")
            .env("CAUSAL_KEY", key)
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(DEADLINE, running)
            .await
            .unwrap()
            .unwrap()
    }

    async fn is_installed(&self) -> bool {
        let known = self.interpreter.components().count() == 1 || self.interpreter.exists();
        let installed = known && self.output(self.probe, 1, "off").await.status.success();
        let required: Option<u8> = full_size("PGWEIR_REQUIRE_DRIVERS");
        assert!(installed || required.is_none(), "{} cannot run", self.file);
        if !installed {
            println!("skipped: {}; see integration/drivers/install.sh", self.file);
        }
        installed
    }

    /// How many of its rounds were stale, and of how many.
    async fn run(&self, proxy: &Proxy, key: &str) -> (u32, u32) {
        let source = root("integration/causality/examples").join(self.file);
        let ran = self
            .output(&[source.to_str().unwrap()], proxy.port(), key)
            .await;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&ran.stderr);
        println!("{} with key {key}: {said}", self.file);
        let words: Vec<&str> = said.split_whitespace().collect();
        let ["stale", stale, "of", rounds] = words.as_slice() else {
            panic!("{}: {said}{complaints}", self.file);
        };
        (stale.parse().unwrap(), rounds.parse().unwrap())
    }
}

/// With the example nothing is stale; without it much is.
async fn check(example: Example) {
    let readme = std::fs::read_to_string(root("README.md")).unwrap();
    let snippet = example.shown();
    assert!(readme.contains(&snippet), "not in the README:\n{snippet}");
    if !example.is_installed().await {
        return;
    }
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, CONFIG).await;
    let client = proxy.connect().await;
    // Until the catalog is known, every read goes to the primary.
    eventually("reads on replicas", async || {
        value(&client).await;
        let route = shown(&client, "SHOW pgweir.last_route").await;
        route.contains("role=replica")
    })
    .await;
    let (stale, rounds) = example.run(&proxy, "off").await;
    assert!(stale * 10 >= rounds, "{}: proves nothing", example.file);
    let write = "UPDATE family SET v = 0 WHERE id = 1";
    client.batch_execute(write).await.unwrap();
    let (stale, _) = example.run(&proxy, "on").await;
    assert_eq!(stale, 0, "{}", example.file);
}

#[tokio::test]
async fn djangos_requests_see_each_others_writes() {
    check(Example {
        file: "django_app.py",
        interpreter: root("target/drivers/python/bin/python"),
        probe: &["-c", "import django, psycopg"],
    })
    .await;
}

#[tokio::test]
async fn sqlalchemys_requests_see_each_others_writes() {
    check(Example {
        file: "sqlalchemy_app.py",
        interpreter: root("target/drivers/python/bin/python"),
        probe: &["-c", "import sqlalchemy, psycopg"],
    })
    .await;
}

#[tokio::test]
async fn rails_requests_see_each_others_writes() {
    check(Example {
        file: "rails_app.rb",
        interpreter: PathBuf::from("ruby"),
        probe: &["-ractive_record", "-rpg", "-e", ""],
    })
    .await;
}

#[tokio::test]
async fn expresss_requests_see_each_others_writes() {
    check(Example {
        file: "express_app.js",
        interpreter: PathBuf::from("node"),
        probe: &["-e", "require('express'); require('pg')"],
    })
    .await;
}
