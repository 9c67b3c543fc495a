//! The compose file of `docker/` as a project of a test's own.
//!
//! Images are made from the binary under test and from a base image of this machine's own
//! distribution, so that the C library fits: there already, else pulled, else made with
//! `debootstrap`.

#![allow(unreachable_pub, reason = "shared by inclusion")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::{env, fs, process};

use pgweir::sandbox::free_port;
use tokio_postgres::{Client, NoTls};

use crate::harness::{LIMIT, eventually, http};

const NODE_IMAGE: &str = "pgweir-node-test";
const PROXY_IMAGE: &str = "pgweir-test";
/// Where images cannot be pulled, finding out must not take long; in seconds.
const PULL_SECONDS: &str = "60";

static IMAGES: OnceLock<()> = OnceLock::new();

/// Why there are no containers on this machine, if so. Set `PGWEIR_REQUIRE_CONTAINERS` to fail
/// instead of skipping.
pub fn unavailable() -> Option<String> {
    let reason = if !succeeds("docker", &["version"]) {
        "no Docker engine answers (`docker version`)"
    } else if compose_program().is_none() {
        "neither `docker compose` nor `docker-compose` is there"
    } else {
        return None;
    };
    assert!(
        env::var_os("PGWEIR_REQUIRE_CONTAINERS").is_none(),
        "{reason}"
    );
    Some(reason.to_owned())
}

/// A running project: node0 (primary), node1, node2 and pgweir. It is taken down when dropped.
pub struct Project {
    name: String,
    port: u16,
    http_port: u16,
}

impl Project {
    /// Builds the images once per process, starts everything and waits until the proxy is ready.
    pub async fn start() -> Self {
        IMAGES.get_or_init(build_images);
        let port = free_port().unwrap();
        let name = format!("pgweir{}x{port}", process::id());
        let project = Self {
            name,
            port,
            http_port: free_port().unwrap(),
        };
        project.compose(&["up", "--detach", "--no-build"]);
        let ready = || async {
            http::get(project.http_port, "/readyz")
                .await
                .is_some_and(|(status, _)| status == 200)
        };
        eventually("the proxy in its container is ready", ready).await;
        project
    }

    /// A session through the proxy.
    pub async fn connect(&self) -> Client {
        let url = format!("postgresql://app:app@127.0.0.1:{}/app", self.port);
        let connecting = tokio_postgres::connect(&url, NoTls);
        let (client, connection) = tokio::time::timeout(LIMIT, connecting)
            .await
            .unwrap()
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs a statement on a node as its superuser and returns what psql prints.
    pub fn superuser_sql(&self, node: &str, sql: &str) -> String {
        let script =
            "PGPASSWORD=$POSTGRES_PASSWORD exec psql -h 127.0.0.1 -U postgres app -Atc \"$0\"";
        self.compose(&["exec", "-T", node, "sh", "-c", script, sql])
    }

    /// A node's address on the project's network.
    pub fn address(&self, node: &str) -> String {
        self.compose(&["exec", "-T", node, "hostname", "-i"])
            .trim()
            .to_owned()
    }

    /// Ends a container at once.
    pub fn kill(&self, service: &str) {
        self.compose(&["kill", service]);
    }

    /// Starts a container again.
    pub fn start_service(&self, service: &str) {
        self.compose(&["start", service]);
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let output = self.compose_command(arguments).output().unwrap();
        checked(&arguments.join(" "), &output)
    }

    fn compose_command(&self, arguments: &[&str]) -> Command {
        let (program, first) = compose_program().unwrap();
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["--project-name", &self.name, "--file"])
            .arg(root().join("docker/compose.yaml"))
            .args(arguments)
            .env("PGWEIR_IMAGE", PROXY_IMAGE)
            .env("PGWEIR_NODE_IMAGE", NODE_IMAGE)
            .env("PGWEIR_PORT", self.port.to_string())
            .env("PGWEIR_HTTP_PORT", self.http_port.to_string())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose_command(&["logs", "--tail", "40"]).output();
            eprintln!("{}", logs.map(|output| text(&output)).unwrap_or_default());
        }
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        // A failure here would hide the test's own.
        drop(self.compose_command(&down).output());
    }
}

fn build_images() {
    let base = base_image();
    let docker = root().join("docker");
    let argument = format!("BASE={base}");
    let file = docker.join("postgres-node.Dockerfile");
    build(NODE_IMAGE, &argument, &file, &docker);
    // A context of its own: the binary's directory holds gigabytes.
    let context = env::temp_dir().join(format!("pgweir-image-{}", process::id()));
    fs::create_dir_all(&context).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_pgweir"), context.join("pgweir")).unwrap();
    build(
        PROXY_IMAGE,
        &argument,
        &docker.join("pgweir-binary.Dockerfile"),
        &context,
    );
    fs::remove_dir_all(&context).unwrap();
}

fn build(tag: &str, argument: &str, file: &Path, context: &Path) {
    let (file, context) = (file.to_str().unwrap(), context.to_str().unwrap());
    let options = [
        "build",
        "--network",
        "host",
        "--build-arg",
        argument,
        "--tag",
        tag,
    ];
    run(
        "docker",
        &[&options[..], &["--file", file, context]].concat(),
    );
}

/// An image of this machine's distribution and release, such as `debian:bookworm`.
fn base_image() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let line = release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let (Some(system), Some(codename)) = (field("ID"), field("VERSION_CODENAME")) else {
        return "debian:bookworm-slim".to_owned();
    };
    let image = format!("{system}:{codename}");
    let own = format!("pgweir-base:{codename}");
    for there in [&own, &image] {
        if succeeds("docker", &["image", "inspect", there]) {
            return there.clone();
        }
    }
    if succeeds(
        "timeout",
        &[PULL_SECONDS, "docker", "pull", "--quiet", &image],
    ) {
        return image;
    }
    println!("{image} cannot be pulled: making {own} with debootstrap");
    make_base(&codename, &own);
    own
}

/// Makes an image from packages. It fetches packages the way this machine does.
fn make_base(codename: &str, image: &str) {
    let directory = env::temp_dir().join(format!("pgweir-base-{}", process::id()));
    let place = directory.to_str().unwrap();
    run("debootstrap", &["--variant=minbase", codename, place]);
    let settings = run("apt-config", &["dump", "Acquire"]);
    fs::write(directory.join("etc/apt/apt.conf.d/99host"), settings).unwrap();
    let import = "tar -C \"$0\" -c . | docker import - \"$1\"";
    run("sh", &["-c", import, place, image]);
    fs::remove_dir_all(&directory).unwrap();
}

/// The program for compose files with its first arguments.
fn compose_program() -> Option<(&'static str, &'static [&'static str])> {
    if succeeds("docker", &["compose", "version"]) {
        return Some(("docker", &["compose"]));
    }
    succeeds("docker-compose", &["version"]).then_some(("docker-compose", &[]))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    checked(program, &output)
}

fn checked(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}
