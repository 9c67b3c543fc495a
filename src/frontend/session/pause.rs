//! How long a relay goes on, and why it pauses or fails.

use std::io;

use crate::frontend::error::ProxyError;
use crate::protocol::backend::SqlState;
use crate::protocol::description::Comparison;
use crate::protocol::replies::{ErrorKind, UnexpectedReply};

/// What the relay is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Relay until every reply has come.
    Answered,
    /// Relay, and hand over what the client sends (COPY data, a batch without its Sync yet, or an
    /// idle session that keeps its connection).
    Input,
}

/// Why the relay paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Every reply has come and has been written.
    Answered,
    /// The client has sent something.
    Input,
    /// An error came before any result; nothing has reached the client.
    HeldError(SqlState, ErrorKind),
    /// A statement has been compared, and the rest of the segment waits for the outcome.
    Compared(Comparison),
}

/// The relay cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The client has gone.
    #[error("the client closed its connection")]
    ClientGone,
    /// The client's socket failed.
    #[error("writing to the client")]
    Client(#[source] io::Error),
    /// The node closed the connection or its socket failed.
    #[error("the server connection was lost")]
    Server(#[source] Option<io::Error>),
    /// The node refused a statement of pgweir's own, and runs nothing behind it.
    #[error("the node refused the session's settings")]
    OwnFailed,
    /// The node broke the protocol.
    #[error(transparent)]
    Protocol(#[from] UnexpectedReply),
    /// What is left of a segment that waited for a comparison cannot be sent.
    #[error(transparent)]
    Refused(#[from] ProxyError),
}
