//! One server of a throw-away cluster: its directory and its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::SandboxError;
use super::limits;
use super::toolchain::{Toolchain, tail};
use super::wait::eventually;
use super::workspace::{signal_process, signal_server};

/// One server; its index is its name.
#[derive(Debug)]
pub(super) struct Node {
    /// Its index in the cluster.
    pub(super) index: usize,
    /// Its TCP port on 127.0.0.1.
    pub(super) port: u16,
    directory: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Node {
    /// A node whose files are to be below `directory`.
    pub(super) fn new(index: usize, port: u16, directory: PathBuf) -> Self {
        Self {
            index,
            port,
            directory,
            process: Mutex::new(None),
        }
    }

    /// Its own directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The file its server writes messages to.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Starts the server process; does not wait until it serves.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] if it cannot be started.
    pub(super) fn spawn(&self, toolchain: &Toolchain) -> Result<(), SandboxError> {
        let mut process = self.process();
        if process.is_none() {
            *process = Some(toolchain.spawn_server(&self.data(), &self.log())?);
        }
        Ok(())
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotStarted`] with the end of its log.
    pub(super) async fn ready(&self) -> Result<(), SandboxError> {
        let settled = || async { self.is_ready() || self.process_id().is_none() };
        let waited = eventually(limits::STEP, "a server accepts connections", settled).await;
        if waited.is_err() || !self.is_ready() {
            let log = tail(&fs::read(self.log()).unwrap_or_default());
            return Err(SandboxError::NotStarted {
                node: self.index,
                log,
            });
        }
        Ok(())
    }

    /// Sends a signal to the server with all its children.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotRunning`], or [`SandboxError::Io`] if it cannot be sent.
    pub(super) fn signal(&self, signal: &str) -> Result<(), SandboxError> {
        let pid = self
            .process_id()
            .ok_or(SandboxError::NotRunning { node: self.index })?;
        signal_server(signal, pid)
    }

    /// Sends a signal to the postmaster alone.
    ///
    /// # Errors
    ///
    /// As [`Node::signal`].
    pub(super) fn signal_postmaster(&self, signal: &str) -> Result<(), SandboxError> {
        let pid = self
            .process_id()
            .ok_or(SandboxError::NotRunning { node: self.index })?;
        signal_process(signal, pid)
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    ///
    /// [`SandboxError::TimedOut`] after `limit`.
    pub(super) async fn ended(&self, limit: Duration) -> Result<(), SandboxError> {
        let ended = || async { self.process_id().is_none() };
        eventually(limit, "a server has ended", ended).await
    }

    /// The postmaster's process id while it runs.
    pub(super) fn process_id(&self) -> Option<u32> {
        let mut process = self.process();
        if let Some(child) = process.as_mut()
            && !matches!(child.try_wait(), Ok(None))
        {
            *process = None;
        }
        process.as_ref().map(Child::id)
    }

    /// Whether it accepts connections. Line 1 of `postmaster.pid` is the process id, line 8 the
    /// status (`src/include/utils/pidfile.h`).
    fn is_ready(&self) -> bool {
        let Some(pid) = self.process_id() else {
            return false;
        };
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(pid.to_string().as_str())
            && lines.nth(6).map(str::trim) == Some("ready")
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    /// Takes the exit status of a server that the workspace has ended, so that no dead process
    /// stays in the system's table.
    fn drop(&mut self) {
        self.process_id();
    }
}
