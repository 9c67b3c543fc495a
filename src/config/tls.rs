//! `client_tls` and `server_tls`, with what their files hold.

use std::fmt;
use std::sync::Arc;

use crate::tls::{Acceptor, Connector};

/// `client_tls:`.
#[derive(Debug, Clone)]
pub enum ClientTls {
    /// `disable`: encryption is refused.
    Disable,
    /// `prefer`: whoever asks for encryption gets it.
    Prefer(Acceptor),
    /// `require`: sessions over TCP must be encrypted.
    Require(Acceptor),
}

impl ClientTls {
    /// What accepts encrypted connections, if anything does.
    pub const fn acceptor(&self) -> Option<&Acceptor> {
        match self {
            Self::Disable => None,
            Self::Prefer(acceptor) | Self::Require(acceptor) => Some(acceptor),
        }
    }
}

/// `server_tls:`. Equal if modes and contents of files are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTls {
    /// `disable`: never encrypted.
    Disable,
    /// `prefer`: encrypted if the node can do it.
    Prefer(NodeTls),
    /// `require`, `verify-ca` and `verify-full`: always encrypted; what the node has to prove is
    /// the connector's matter.
    Require(NodeTls),
}

impl ServerTls {
    /// What opens encrypted connections, if anything does.
    pub const fn connector(&self) -> Option<&Connector> {
        match self {
            Self::Disable => None,
            Self::Prefer(tls) | Self::Require(tls) => Some(&tls.connector),
        }
    }
}

/// A connector with what it was made from.
#[derive(Clone)]
pub struct NodeTls {
    connector: Connector,
    written: Arc<Written>,
}

/// What the configuration and its files say.
#[derive(PartialEq, Eq)]
pub(super) struct Written {
    pub(super) mode: ServerTlsMode,
    pub(super) authorities: Option<Vec<u8>>,
    pub(super) identity: Option<[Vec<u8>; 2]>,
}

/// `server_tls.mode`, as libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerTlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl NodeTls {
    pub(super) fn new(connector: Connector, written: Written) -> Self {
        Self {
            connector,
            written: Arc::new(written),
        }
    }
}

impl PartialEq for NodeTls {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for NodeTls {}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls")
            .field("mode", &self.written.mode)
            .finish_non_exhaustive()
    }
}
