//! The data directory every cluster of this process starts from.
//!
//! `initdb` takes longer than everything else together, so it runs once per process, and each node
//! is a copy of its result: a cleanly stopped server's directory is a complete backup (PostgreSQL
//! manual, "File System Level Backup"). All clusters of one process therefore carry the same
//! system identifier, unless [`Template::fresh`] is asked for one of its own.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::error::SandboxError;
use super::toolchain::Toolchain;
use super::workspace::Workspace;

/// Settings of every node. Durability is off: nothing here outlives a crash of the machine.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
wal_level = replica
hot_standby = on
max_wal_senders = 20
max_replication_slots = 20
max_connections = 200
shared_buffers = 16MB
max_wal_size = 256MB
jit = off
password_encryption = 'scram-sha-256'
dynamic_shared_memory_type = mmap
# A replica notices within this time that its primary is back.
wal_retrieve_retry_interval = 100ms
include_if_exists = 'pgweir.node.conf'
";

/// Who may connect: everybody with a password, over TCP on loopback only.
const ACCESS: &str = "\
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

/// The application's role and database, and the monitor's role; one command a line, for
/// `postgres --single`.
const ROLES: &str = "\
CREATE ROLE app LOGIN PASSWORD 'app'
CREATE DATABASE app OWNER app
CREATE ROLE pgweir LOGIN PASSWORD 'pgweir' IN ROLE pg_monitor
";

/// One template serves all clusters of the process.
static SHARED: OnceCell<Arc<Template>> = OnceCell::const_new();

/// A stopped server's data directory.
#[derive(Debug)]
pub(super) struct Template {
    workspace: Workspace,
    /// The password of the superuser `postgres`, random so that nobody else on this machine can
    /// make the servers act with the rights of their account.
    pub(super) superuser_password: String,
}

impl Template {
    /// The template all clusters of this process share.
    ///
    /// # Errors
    ///
    /// As [`Template::fresh`].
    pub(super) async fn shared(toolchain: &Toolchain) -> Result<Arc<Self>, SandboxError> {
        let make = || async { Self::fresh(toolchain).await.map(Arc::new) };
        SHARED.get_or_try_init(make).await.cloned()
    }

    /// A template of its own, with a system identifier of its own.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Program`] if `initdb` fails, [`SandboxError::Io`] if the system refuses.
    pub(super) async fn fresh(toolchain: &Toolchain) -> Result<Self, SandboxError> {
        let workspace = Workspace::create(None, toolchain.account)?;
        let superuser_password = format!("{:032x}", rand::random::<u128>());
        let template = Self {
            workspace,
            superuser_password,
        };
        template.initialize(toolchain).await?;
        Ok(template)
    }

    /// The data directory to copy.
    pub(super) fn data(&self) -> PathBuf {
        self.workspace.path().join("data")
    }

    async fn initialize(&self, toolchain: &Toolchain) -> Result<(), SandboxError> {
        let root = self.workspace.path();
        let password_file = root.join("password");
        write(&password_file, &self.superuser_password)?;
        toolchain.account.own(&password_file)?;
        let arguments = [
            "--pgdata=data",
            "--username=postgres",
            "--pwfile=password",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ];
        toolchain.run("initdb", &arguments, root, "").await?;
        let data = self.data();
        toolchain
            .run(
                "postgres",
                &["--single", "-D", "data", "postgres"],
                root,
                ROLES,
            )
            .await?;
        write(&data.join("pg_hba.conf"), ACCESS)?;
        append(&data.join("postgresql.conf"), SETTINGS)
    }
}

/// Replaces a file's content; its owner stays.
pub(super) fn write(path: &Path, content: &str) -> Result<(), SandboxError> {
    fs::write(path, content).map_err(SandboxError::path("writing", path))
}

/// Adds to a file's end.
pub(super) fn append(path: &Path, content: &str) -> Result<(), SandboxError> {
    OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(SandboxError::path("writing", path))
}
