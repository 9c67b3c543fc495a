//! What can go wrong with a throw-away cluster.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a throw-away cluster could not be started or told to do something.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No directory with `initdb`, `postgres` and `pg_basebackup` was found.
    #[error("no PostgreSQL binaries found; {hint}")]
    NoBinaries {
        /// What the user can do.
        hint: String,
    },
    /// Running as root, and no unprivileged account exists for the servers.
    #[error("running as root, and neither `postgres` nor `nobody` is in /etc/passwd")]
    NoAccount,
    /// The operating system refused something.
    #[error("{doing}")]
    Io {
        /// What was being done, to what.
        doing: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// A server ended or did not become ready.
    #[error("node {node} did not start: {log}")]
    NotStarted {
        /// Its index.
        node: usize,
        /// The end of its log.
        log: String,
    },
    /// The node is not running.
    #[error("node {node} is not running")]
    NotRunning {
        /// Its index.
        node: usize,
    },
    /// There is no node with this index.
    #[error("there is no node {node}")]
    NoSuchNode {
        /// The index asked for.
        node: usize,
    },
    /// A statement or connection failed.
    #[error("node {node} refused `{statement}`")]
    Sql {
        /// The node's index.
        node: usize,
        /// What was asked.
        statement: String,
        /// The server's answer.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Something awaited did not happen in time.
    #[error("timed out waiting until {condition}")]
    TimedOut {
        /// What was waited for.
        condition: String,
    },
    /// A step of the `sandbox` command cannot go on.
    #[error("{0}")]
    Refused(String),
}

impl SandboxError {
    /// A closure for `map_err` that says what was being done, to what.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The same with a path.
    pub(crate) fn path(doing: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{doing} {}", path.into().display()))
    }
}
