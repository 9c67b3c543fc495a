//! Running PostgreSQL's programs under the right account.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use std::os::unix::process::CommandExt as _;
use tokio::io::AsyncWriteExt as _;

use super::account::Account;
use super::error::SandboxError;

/// Variables of libpq and the server that would change what the programs do.
const FOREIGN_VARIABLES: [&str; 9] = [
    "PGDATA",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGOPTIONS",
    "PGSERVICE",
    "PGSSLMODE",
];

/// How much of a failed program's output an error carries, in bytes.
const OUTPUT_TAIL: usize = 2000;

/// The server programs and the account they run under.
#[derive(Debug, Clone)]
pub(super) struct Toolchain {
    /// The directory with `initdb`, `postgres` and `pg_basebackup`.
    directory: PathBuf,
    /// Who runs them.
    pub(super) account: Account,
}

impl Toolchain {
    /// The programs in `directory`, run as `account`.
    pub(super) fn new(directory: PathBuf, account: Account) -> Self {
        Self { directory, account }
    }

    /// Where the programs are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs a program to its end in `directory`, with `input` on its standard input.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Program`] if it fails, [`SandboxError::Io`] if it cannot be run.
    pub(super) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        directory: &Path,
        input: &str,
    ) -> Result<(), SandboxError> {
        let mut command = self.command(&self.directory.join(program), directory);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(program, command, input).await
    }

    /// Copies a directory tree, keeping modes.
    ///
    /// # Errors
    ///
    /// As [`Toolchain::run`].
    pub(super) async fn copy_tree(&self, from: &Path, to: &Path) -> Result<(), SandboxError> {
        let mut command = self.command(Path::new("cp"), from);
        command
            .arg("-a")
            .arg(from)
            .arg(to)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        finish("cp", command, "").await
    }

    /// Starts a server on `data`, its output appended to the file `log`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] if it cannot be started.
    pub(super) fn spawn_server(&self, data: &Path, log: &Path) -> Result<Child, SandboxError> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(SandboxError::path("opening", log))?;
        let errors = output
            .try_clone()
            .map_err(SandboxError::path("opening", log))?;
        let mut command = self.command(&self.directory.join("postgres"), data);
        command
            .arg("-D")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        // Its own group: Ctrl-C in the terminal is for us, who then remove the servers.
        command.process_group(0);
        command
            .spawn()
            .map_err(SandboxError::io("starting postgres"))
    }

    /// A program to be run in `directory` under the servers' account.
    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        self.account.apply(&mut command);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C").current_dir(directory);
        command
    }
}

/// Runs `command` to its end with `input` on its standard input. It is killed if this is dropped.
///
/// # Errors
///
/// [`SandboxError::Program`] if it fails, [`SandboxError::Io`] if it cannot be run.
pub(super) async fn finish(
    program: &str,
    mut command: Command,
    input: &str,
) -> Result<(), SandboxError> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Ctrl-C in the terminal is for us.
    command.process_group(0);
    let mut command = tokio::process::Command::from(command);
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .map_err(SandboxError::io(format!("running {program}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            // A program that ended without reading says why in its output.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(SandboxError::io(format!("writing to {program}"))(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(SandboxError::io(format!("waiting for {program}")))?;
    succeeded(program, &output)
}

/// Turns a failure of a program into an error with the end of its output.
fn succeeded(program: &str, output: &Output) -> Result<(), SandboxError> {
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(SandboxError::Program {
        program: program.to_owned(),
        status: output.status,
        output: tail(&said),
    })
}

/// The end of a text, as much of it as an error may carry.
pub(super) fn tail(text: &[u8]) -> String {
    let start = text.len().saturating_sub(OUTPUT_TAIL);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default())
        .trim()
        .to_owned()
}
