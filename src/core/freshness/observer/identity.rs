//! What a node tells of itself when the monitor connects.

use super::super::WalGeometry;

/// What a node tells of itself when the monitor connects; it holds for that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIdentity {
    /// `pg_postmaster_start_time()` in microseconds since the Unix epoch.
    pub started_at_unix_micros: i64,
    /// `pg_control_system().system_identifier`.
    pub system_identifier: i64,
    /// The sizes of its pages and segments.
    pub geometry: WalGeometry,
}

/// The same of whichever node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerIdentity {
    /// It shows its WAL positions.
    Shown(NodeIdentity),
    /// It hides them, and with them what system it is a copy of.
    Hidden {
        /// `pg_postmaster_start_time()` in microseconds since the Unix epoch.
        started_at_unix_micros: i64,
    },
}

impl From<NodeIdentity> for ServerIdentity {
    fn from(identity: NodeIdentity) -> Self {
        Self::Shown(identity)
    }
}

impl ServerIdentity {
    /// When the server was started.
    pub const fn started_at_unix_micros(self) -> i64 {
        match self {
            Self::Shown(identity) => identity.started_at_unix_micros,
            Self::Hidden {
                started_at_unix_micros,
            } => started_at_unix_micros,
        }
    }

    /// What it tells if it shows its positions.
    pub const fn shown(self) -> Option<NodeIdentity> {
        match self {
            Self::Shown(identity) => Some(identity),
            Self::Hidden { .. } => None,
        }
    }
}
