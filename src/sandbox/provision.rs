//! Where the servers come from: programs on this machine, else containers, else, as root on Debian
//! or Ubuntu, a package that is installed; else the user is told the command to run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::sync::OnceCell;

use super::account::{Account, is_root};
use super::binaries::SearchPath;
use super::error::SandboxError;
use super::toolchain::{Toolchain, finish};

/// Says to postgresql-common that the package must not make and start a server of its own.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/pgweir-sandbox.conf";

/// What the servers of a sandbox are made from.
#[derive(Debug)]
pub(super) enum Supply {
    /// Programs on this machine.
    Programs(Toolchain),
    /// Containers of the Docker engine that answers.
    Containers,
}

/// The programs on this machine, which all clusters of the process use.
static TOOLCHAIN: OnceCell<Toolchain> = OnceCell::const_new();

/// Finds what to make servers from. `say` is told what takes long.
///
/// # Errors
///
/// [`SandboxError::NoBinaries`] with the command to run, or why the installation failed.
pub(super) async fn supply(say: fn(&str)) -> Result<Supply, SandboxError> {
    let search = SearchPath::from_environment();
    if search.find().is_none() && search.chosen.is_none() && docker_answers() {
        return Ok(Supply::Containers);
    }
    toolchain(say).await.map(Supply::Programs)
}

/// The programs on this machine, installed if need be and allowed.
///
/// # Errors
///
/// As [`supply`].
pub(super) async fn toolchain(say: fn(&str)) -> Result<Toolchain, SandboxError> {
    TOOLCHAIN
        .get_or_try_init(|| find_or_install(say))
        .await
        .cloned()
}

async fn find_or_install(say: fn(&str)) -> Result<Toolchain, SandboxError> {
    let search = SearchPath::from_environment();
    let account = Account::for_servers;
    if let Some(directory) = search.find() {
        return Ok(Toolchain::new(directory, account()?));
    }
    if search.chosen.is_some() || !can_install()? {
        return Err(SandboxError::NoBinaries {
            hint: hint(&search),
        });
    }
    say("no PostgreSQL on this machine: installing Debian's package `postgresql`");
    install().await?;
    let directory = search.find().ok_or_else(|| SandboxError::NoBinaries {
        hint: hint(&search),
    })?;
    Ok(Toolchain::new(directory, account()?))
}

/// Whether a Docker engine answers.
fn docker_answers() -> bool {
    Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this is root on Debian or a system like it.
fn can_install() -> Result<bool, SandboxError> {
    Ok(Path::new("/etc/debian_version").exists() && is_root()?)
}

/// Installs the package without letting it start a server.
async fn install() -> Result<(), SandboxError> {
    let switch = Path::new(NO_MAIN_CLUSTER);
    if let Some(directory) = switch.parent() {
        fs::create_dir_all(directory).map_err(SandboxError::path("creating", directory))?;
    }
    fs::write(switch, "create_main_cluster = false\n")
        .map_err(SandboxError::path("writing", switch))?;
    let outcome = async {
        apt_get(&["update"]).await?;
        apt_get(&["install", "--yes", "--no-install-recommends", "postgresql"]).await
    }
    .await;
    fs::remove_file(switch).map_err(SandboxError::path("removing", switch))?;
    outcome
}

async fn apt_get(arguments: &[&str]) -> Result<(), SandboxError> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    finish("apt-get", command, "").await
}

/// One sentence that says how to get the programs.
fn hint(search: &SearchPath) -> String {
    if let Some(chosen) = &search.chosen {
        return format!(
            "PGWEIR_PG_BIN is {}, which lacks one of initdb, postgres and pg_basebackup",
            chosen.display()
        );
    }
    let command = match () {
        () if cfg!(target_os = "macos") => "brew install postgresql@17",
        () if Path::new("/etc/debian_version").exists() => "sudo apt-get install postgresql",
        () if Path::new("/etc/alpine-release").exists() => "sudo apk add postgresql",
        () if Path::new("/etc/redhat-release").exists() => {
            "sudo dnf install postgresql-server postgresql-contrib"
        }
        () if Path::new("/etc/arch-release").exists() => "sudo pacman -S postgresql",
        () => {
            return "install PostgreSQL's server programs and put their directory into \
                    PGWEIR_PG_BIN, or start a Docker engine"
                .to_owned();
        }
    };
    format!("run `{command}`, or start a Docker engine, or set PGWEIR_PG_BIN to their directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_names_a_command_or_the_wrong_choice() {
        let wrong = SearchPath {
            chosen: Some("/nowhere".into()),
            ..SearchPath::default()
        };
        assert!(hint(&wrong).contains("/nowhere"));
        assert!(hint(&SearchPath::default()).contains("install"));
    }
}
