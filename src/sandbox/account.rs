//! Which account the servers run under: PostgreSQL refuses root.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::SandboxError;

/// Who the servers run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// The user of this process.
    Own,
    /// This process is root and drops to somebody else.
    Other {
        /// User id.
        uid: u32,
        /// Primary group id.
        gid: u32,
    },
}

impl Account {
    /// The account for servers started by this process.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoAccount`] if this is root and no unprivileged account exists.
    pub(super) fn for_servers() -> Result<Self, SandboxError> {
        if !is_root()? {
            return Ok(Self::Own);
        }
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(SandboxError::path("reading", "/etc/passwd"))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| entry(&passwd, name))
            .ok_or(SandboxError::NoAccount)
    }

    /// Makes `command` run as this account.
    pub(super) fn apply(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives `path` to this account.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] if the system refuses.
    pub(super) fn own(self, path: &Path) -> Result<(), SandboxError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(SandboxError::path("changing the owner of", path)),
        }
    }
}

/// Whether this process runs as root.
///
/// # Errors
///
/// [`SandboxError::Io`] if `id` cannot be run.
pub(super) fn is_root() -> Result<bool, SandboxError> {
    let output = Command::new("id")
        .arg("-u")
        .stdin(Stdio::null())
        .output()
        .map_err(SandboxError::io("running `id -u`"))?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// The account `name` of a passwd file (`name:password:uid:gid:...`), unless it is root itself.
fn entry(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account::Other { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_read_from_the_passwd_line_of_that_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n\
                      postgresql:x:5:5::/:\npostgres:x:101:104:PG,,,:/var/lib/postgresql:/bin/sh\n\
                      broken:x\ntoor:x:0:0::/:";
        for (name, expected) in [
            ("postgres", Some(Account::Other { uid: 101, gid: 104 })),
            (
                "nobody",
                Some(Account::Other {
                    uid: 65534,
                    gid: 65534,
                }),
            ),
            ("broken", None),
            ("toor", None),
            ("absent", None),
        ] {
            assert_eq!(entry(passwd, name), expected, "{name}");
        }
    }
}
