//! Starting a primary with its replicas.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::SandboxError;
use super::limits;
use super::node::Node;
use super::ports::free_port;
use super::provision;
use super::template::{Template, write};
use super::toolchain::Toolchain;
use super::workspace::Workspace;

/// Which system identifier (`pg_control_system()`) a cluster carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// That of all other clusters of this process; starts faster.
    Shared,
    /// One of its own.
    Own,
}

/// What kind of cluster is wanted.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many replicas, at most [`limits::REPLICAS`].
    pub replicas: usize,
    /// Below which directory its files go; the system's temporary directory if none.
    pub parent: Option<PathBuf>,
    /// Settings of every node besides the defaults, as in `postgresql.conf`: name and value.
    pub settings: Vec<(String, String)>,
    /// Its system identifier.
    pub identity: Identity,
}

impl ClusterOptions {
    /// A cluster with this many replicas and nothing special.
    pub fn new(replicas: usize) -> Self {
        Self {
            replicas,
            parent: None,
            settings: Vec::new(),
            identity: Identity::Shared,
        }
    }

    /// The same with one more setting on every node.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A primary with streaming replicas on this machine. Node 0 starts as the primary, 1 and up as
/// its replicas, each with a physical slot `node<index>`. Dropping it ends the servers and removes
/// their files.
///
/// There are three roles: `postgres` (superuser, random password), `app` (password `app`, owner of
/// the database `app`) and `pgweir` (password `pgweir`, member of `pg_monitor`).
#[derive(Debug)]
pub struct LocalCluster {
    // Dropped before the nodes, whose processes it ends.
    workspace: Workspace,
    pub(super) nodes: Vec<Node>,
    pub(super) toolchain: Toolchain,
    pub(super) superuser_password: String,
    settings: Vec<(String, String)>,
    primary: AtomicUsize,
}

impl LocalCluster {
    /// Starts a cluster and waits until every replica streams and serves.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`]; whatever had been started by then is removed.
    pub async fn start(options: ClusterOptions) -> Result<Self, SandboxError> {
        if options.replicas > limits::REPLICAS {
            let most = limits::REPLICAS;
            return Err(SandboxError::Refused(format!(
                "at most {most} replicas can be started"
            )));
        }
        // Tests see what is said only if they fail.
        let toolchain = provision::toolchain(|_| {}).await?;
        let template = match options.identity {
            Identity::Shared => Template::shared(&toolchain).await?,
            Identity::Own => Arc::new(Template::fresh(&toolchain).await?),
        };
        let mut cluster = Self::prepare(options, toolchain, &template)?;
        cluster.bring_up(&template.data()).await?;
        Ok(cluster)
    }

    /// Which node is the primary: node 0, or the one promoted last.
    pub fn primary(&self) -> usize {
        self.primary.load(Ordering::Relaxed)
    }

    /// The indexes of all nodes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// The indexes of all nodes but the primary.
    pub fn replicas(&self) -> impl Iterator<Item = usize> {
        let primary = self.primary();
        self.nodes().filter(move |index| *index != primary)
    }

    /// A node's port on 127.0.0.1; 0 if there is no such node.
    pub fn port(&self, node: usize) -> u16 {
        self.nodes.get(node).map_or(0, |node| node.port)
    }

    /// Where to reach a node as the application, bypassing the proxy.
    pub fn url(&self, node: usize) -> String {
        format!("postgresql://app:app@127.0.0.1:{}/app", self.port(node))
    }

    /// Where to reach a node as the superuser.
    pub fn superuser_url(&self, node: usize) -> String {
        let password = &self.superuser_password;
        format!(
            "postgresql://postgres:{password}@127.0.0.1:{}/app",
            self.port(node)
        )
    }

    /// The directory below which all files of the cluster are.
    pub fn directory(&self) -> &Path {
        self.workspace.path()
    }

    /// The file a node's server writes its messages to.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoSuchNode`].
    pub fn log(&self, node: usize) -> Result<PathBuf, SandboxError> {
        self.node(node).map(Node::log)
    }

    /// The process id of a node's postmaster while it runs.
    pub fn process_id(&self, node: usize) -> Option<u32> {
        self.nodes.get(node).and_then(Node::process_id)
    }

    pub(super) fn node(&self, index: usize) -> Result<&Node, SandboxError> {
        self.nodes
            .get(index)
            .ok_or(SandboxError::NoSuchNode { node: index })
    }

    pub(super) fn set_primary(&self, index: usize) {
        self.primary.store(index, Ordering::Relaxed);
    }

    /// How node `index` reaches the node at `port` for streaming.
    pub(super) fn conninfo(&self, index: usize, port: u16) -> String {
        let password = &self.superuser_password;
        format!(
            "host=127.0.0.1 port={port} user=postgres password={password} \
             application_name=node{index} sslmode=disable gssencmode=disable"
        )
    }

    /// Writes the settings that differ from node to node; `upstream` is the port of the node to
    /// stream from.
    pub(super) fn write_settings(
        &self,
        node: &Node,
        upstream: Option<u16>,
    ) -> Result<(), SandboxError> {
        let path = node.data().join("pgweir.node.conf");
        write(&path, &self.settings_text(node, upstream))?;
        self.toolchain.account.own(&path)
    }

    fn settings_text(&self, node: &Node, upstream: Option<u16>) -> String {
        let name = format!("node{}", node.index);
        let mut lines = vec![
            format!("port = {}", node.port),
            format!("cluster_name = '{name}'"),
        ];
        if let Some(port) = upstream {
            lines.push(format!(
                "primary_conninfo = '{}'",
                self.conninfo(node.index, port)
            ));
            lines.push(format!("primary_slot_name = '{name}'"));
        }
        let quoted = |value: &str| value.replace('\'', "''");
        lines.extend(
            self.settings
                .iter()
                .map(|(key, value)| format!("{key} = '{}'", quoted(value))),
        );
        lines.join("\n") + "\n"
    }

    fn prepare(
        options: ClusterOptions,
        toolchain: Toolchain,
        template: &Template,
    ) -> Result<Self, SandboxError> {
        let workspace = Workspace::create(options.parent.as_deref(), toolchain.account)?;
        let nodes = (0..=options.replicas)
            .map(|index| {
                let directory = workspace.path().join(format!("node{index}"));
                DirBuilder::new()
                    .mode(0o700)
                    .create(&directory)
                    .map_err(SandboxError::path("creating", &directory))?;
                toolchain.account.own(&directory)?;
                Ok(Node::new(index, free_port()?, directory))
            })
            .collect::<Result<_, SandboxError>>()?;
        Ok(Self {
            workspace,
            nodes,
            toolchain,
            superuser_password: template.superuser_password.clone(),
            settings: options.settings,
            primary: AtomicUsize::new(0),
        })
    }

    /// Starts the primary, then all replicas at once.
    async fn bring_up(&mut self, template: &Path) -> Result<(), SandboxError> {
        self.copy(0, template).await?;
        self.write_settings(self.node(0)?, None)?;
        self.node(0)?.spawn(&self.toolchain)?;
        for index in self.replicas() {
            self.copy(index, template).await?;
            let signal = self.node(index)?.data().join("standby.signal");
            write(&signal, "")?;
            self.toolchain.account.own(&signal)?;
        }
        self.settle(0, None).await?;
        let upstream = self.port(0);
        for index in self.replicas() {
            self.ensure_slot(0, index).await?;
            self.write_settings(self.node(index)?, Some(upstream))?;
            self.node(index)?.spawn(&self.toolchain)?;
        }
        for index in 1..self.nodes.len() {
            self.settle(index, Some(upstream)).await?;
        }
        for index in self.replicas() {
            self.wait_for_streaming(index).await?;
        }
        Ok(())
    }

    async fn copy(&self, index: usize, template: &Path) -> Result<(), SandboxError> {
        self.toolchain
            .copy_tree(template, &self.node(index)?.data())
            .await
    }

    /// Waits until a spawned node serves; gives it another port if its own was taken meanwhile.
    async fn settle(&mut self, index: usize, upstream: Option<u16>) -> Result<(), SandboxError> {
        for _ in 0..limits::PORT_TRIES {
            match self.node(index)?.ready().await {
                Err(SandboxError::NotStarted { log, .. })
                    if log.contains("Address already in use") => {}
                other => return other,
            }
            if let Some(node) = self.nodes.get_mut(index) {
                node.port = free_port()?;
            }
            self.write_settings(self.node(index)?, upstream)?;
            self.node(index)?.spawn(&self.toolchain)?;
        }
        self.node(index)?.ready().await
    }
}
