//! `listen:`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// The directory it lies in.
        directory: PathBuf,
        /// The port in its name.
        port: u16,
    },
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { directory, port } => socket_path(directory, *port).display().fmt(f),
        }
    }
}

/// Where the Unix socket of a server with `port` lies (`UNIXSOCK_PATH`,
/// `src/include/libpq/pqcomm.h`).
pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}
