//! A directory that goes away, together with the servers in it, when its owner does.
//!
//! Invariant: a watching shell process holds the directory's fate from before it exists. When the
//! pipe from us ends (dropped, panicked, killed) it kills every server below the directory and
//! removes it. So there is one way of cleaning up, and no ending of this process escapes it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, process, thread};

use super::account::Account;
use super::error::SandboxError;
use super::limits;

/// The shell text which signals and removes servers.
const PROCESSES: &str = include_str!("processes.sh");

/// A temporary directory with a watching process.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    watcher: Child,
}

impl Workspace {
    /// Makes a directory below `parent` (default: the system's temporary directory), owned by
    /// `account` and closed to everybody else.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] if the system refuses.
    pub(super) fn create(parent: Option<&Path>, account: Account) -> Result<Self, SandboxError> {
        let parent = parent.map_or_else(env::temp_dir, Path::to_path_buf);
        let parent = fs::canonicalize(&parent).map_err(SandboxError::path("opening", &parent))?;
        let name = format!("pgweir-{}-{:08x}", process::id(), rand::random::<u32>());
        let path = parent.join(name);
        let watcher = shell("watch", &[path.as_os_str().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(SandboxError::io("starting the watching shell"))?;
        let workspace = Self { path, watcher };
        workspace.make_directory(account)?;
        Ok(workspace)
    }

    /// Where it is; an absolute path without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Has shell text run before the directory is removed.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] if the system refuses.
    pub(super) fn on_removal(&self, script: &str) -> Result<(), SandboxError> {
        let file = self.path.join("cleanup.sh");
        fs::write(&file, script).map_err(SandboxError::path("writing", file))
    }

    fn make_directory(&self, account: Account) -> Result<(), SandboxError> {
        DirBuilder::new()
            .mode(0o700)
            .create(&self.path)
            .map_err(SandboxError::path("creating", &self.path))?;
        account.own(&self.path)
    }
}

impl Drop for Workspace {
    /// Blocks until servers and directory are gone, a few milliseconds as a rule.
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        for _ in 0..limits::STEP.as_millis() / limits::POLL.as_millis() {
            if !matches!(self.watcher.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(limits::POLL);
        }
    }
}

/// Sends a signal (a name such as `KILL`) to a postmaster and all its children.
///
/// # Errors
///
/// [`SandboxError::Io`] if no shell can be run.
pub(super) fn signal_server(signal: &str, postmaster: u32) -> Result<(), SandboxError> {
    run(
        "signal",
        &[signal.as_ref(), postmaster.to_string().as_ref()],
    )
}

/// Sends a signal (a name such as `INT`) to one process.
///
/// # Errors
///
/// As [`signal_server`].
pub(super) fn signal_process(signal: &str, process: u32) -> Result<(), SandboxError> {
    run(
        "kill",
        &["-s".as_ref(), signal.as_ref(), process.to_string().as_ref()],
    )
}

/// Removes the shared memory that a killed server of a data directory left; no server may run
/// there.
///
/// # Errors
///
/// As [`signal_server`].
pub(super) fn release_memory(data: &Path) -> Result<(), SandboxError> {
    run("release", &[data])
}

/// Runs a verb of the shell text to its end. Its exit status says nothing: a process may end
/// between the look and the signal.
fn run(verb: &str, arguments: &[&Path]) -> Result<(), SandboxError> {
    shell(verb, arguments)
        .stdin(Stdio::null())
        .status()
        .map(drop)
        .map_err(SandboxError::io(format!("running the shell for `{verb}`")))
}

/// The shell text, called with a verb and its arguments.
fn shell(verb: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", PROCESSES, "sh", verb])
        .args(arguments)
        .current_dir("/");
    command
}
