//! The same servers as containers, for a machine that has a Docker engine and no PostgreSQL.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::NoTls;

use super::account::Account;
use super::error::SandboxError;
use super::limits;
use super::ports::free_port;
use super::template::write;
use super::toolchain::finish;
use super::wait::eventually;
use super::workspace::Workspace;

const DOCKERFILE: &str = include_str!("../../docker/postgres-node.Dockerfile");
const ENTRYPOINT: &str = include_str!("../../docker/postgres-node.sh");
const IMAGE: &str = "pgweir-node";

/// How long a container may take to set up its server.
const NODE_START: Duration = Duration::from_secs(60);

/// A primary (node 0) with streaming replicas in containers; they go when it is dropped.
#[derive(Debug)]
pub(super) struct ContainerCluster {
    workspace: Workspace,
    /// Label and network of its containers.
    name: String,
    ports: Vec<u16>,
    superuser_password: String,
}

impl ContainerCluster {
    /// Builds the image unless that was done before, and starts the containers.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`]; whatever had been started by then is removed.
    pub(super) async fn start(replicas: usize, say: fn(&str)) -> Result<Self, SandboxError> {
        let workspace = Workspace::create(None, Account::Own)?;
        let name = format!("pgweir-{:08x}", rand::random::<u32>());
        let mut cluster = Self {
            workspace,
            name,
            ports: Vec::new(),
            superuser_password: format!("{:032x}", rand::random::<u128>()),
        };
        say("building the PostgreSQL image (the first time takes a minute)");
        cluster.build().await?;
        say("starting the containers");
        cluster.workspace.on_removal(&cluster.removal())?;
        docker(&["network", "create", &cluster.name]).await?;
        for index in 0..=replicas {
            cluster.run_node(index).await?;
            cluster.serves(index).await?;
        }
        Ok(cluster)
    }

    /// The published ports on 127.0.0.1, by node.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Where to reach a node as the superuser.
    pub(super) fn superuser_url(&self, port: u16) -> String {
        format!(
            "postgresql://postgres:{}@127.0.0.1:{port}/app",
            self.superuser_password
        )
    }

    async fn build(&self) -> Result<(), SandboxError> {
        let directory = self.workspace.path();
        write(&directory.join("Dockerfile"), DOCKERFILE)?;
        write(&directory.join("postgres-node.sh"), ENTRYPOINT)?;
        let place = directory.display().to_string();
        // The host's network, so that apt-get works wherever it works on the host.
        docker(&["build", "--network", "host", "--tag", IMAGE, &place]).await
    }

    async fn run_node(&mut self, index: usize) -> Result<(), SandboxError> {
        let port = free_port()?;
        self.ports.push(port);
        let (group, name) = (&self.name, format!("node{index}"));
        let mut variables = format!("PGWEIR_NODE={name}\nPRIMARY_HOST=node0\n");
        let role = if index == 0 { "primary" } else { "replica" };
        let password = &self.superuser_password;
        // Writing to a string cannot fail.
        let _: std::fmt::Result = writeln!(
            variables,
            "PGWEIR_ROLE={role}\nPOSTGRES_PASSWORD={password}"
        );
        // In a file, because arguments are seen by everybody.
        let file = self.workspace.path().join("variables");
        write(&file, &variables)?;
        let container = format!("{group}-{name}");
        let publish = format!("127.0.0.1:{port}:5432");
        let label = format!("pgweir={group}");
        let file = file.display().to_string();
        let place = [
            "--network",
            group,
            "--network-alias",
            &name,
            "--publish",
            &publish,
        ];
        let what = [
            "--label",
            &label,
            "--env-file",
            &file,
            "--name",
            &container,
            IMAGE,
        ];
        docker(&[&["run", "--detach"], &place[..], &what[..]].concat()).await
    }

    /// Waits until a node answers.
    async fn serves(&self, index: usize) -> Result<(), SandboxError> {
        let port = self.ports.get(index).copied().unwrap_or_default();
        let url = self.superuser_url(port);
        let condition = format!("the server in container {}-node{index} answers", self.name);
        let answers = || async {
            let connecting = tokio_postgres::connect(&url, NoTls);
            matches!(
                tokio::time::timeout(limits::STEP, connecting).await,
                Ok(Ok(_))
            )
        };
        eventually(NODE_START, &condition, answers).await
    }

    /// Shell text that removes containers, their volumes and the network. A container may appear
    /// just after the first look, if we end while it is being started.
    fn removal(&self) -> String {
        let name = &self.name;
        format!(
            "for _ in 1 2 3 4 5; do\n\
             containers=$(docker ps --all --quiet --filter label=pgweir={name})\n\
             [ -z \"$containers\" ] || docker rm --force --volumes $containers\n\
             docker network rm {name} && break\n\
             docker network inspect {name} || break\n\
             sleep 1\n\
             done\n"
        )
    }
}

async fn docker(arguments: &[&str]) -> Result<(), SandboxError> {
    let mut command = Command::new("docker");
    command.args(arguments);
    finish("docker", command, "").await
}
