//! How long a relay goes on, and why it pauses or fails.

use std::io;

use tokio::io::AsyncWriteExt;

use super::block::{OpenBlock, Wrote};
use super::link::Link;
use super::outgoing::Output;
use super::{Session, SessionEnd};
use crate::backend::cancel::CancelTarget;
use crate::core::snapshot::NodeRole;
use crate::frontend::error::ProxyError;
use crate::protocol::backend::{SqlState, tag};
use crate::protocol::description::Comparison;
use crate::protocol::frame::FrameHeader;
use crate::protocol::frontend::tag::TERMINATE;
use crate::protocol::message::write_message;
use crate::protocol::replies::{ErrorKind, Outcome, UnexpectedReply};

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

impl Session {
    /// What the client is told when its connection cannot be used any more.
    pub(super) fn lost(&mut self, link: &Link, error: &LinkError) -> SessionEnd {
        let _ = self.registration.clear_target();
        match error {
            LinkError::ClientGone | LinkError::Client(_) => self.left_alone(link),
            LinkError::Refused(error) => SessionEnd::Fatal(error.clone()),
            LinkError::Server(_) | LinkError::Protocol(_) | LinkError::OwnFailed => {
                tracing::warn!(
                    node = %self.node_name(link.route.node),
                    error = error as &dyn std::error::Error,
                    "server connection lost in the middle of a session"
                );
                link.end_of_session(self.block.as_deref())
            }
        }
    }

    /// Asks what is left behind all answers. If the node ends the connection meanwhile, the client gets what it
    /// would have got from one that ends an idle connection.
    pub(super) async fn inspect_behind_answer(
        &mut self,
        link: &mut Link,
    ) -> Result<(), SessionEnd> {
        let Err(end) = self.inspect(link).await else {
            return Ok(());
        };
        let (Some(body), Output::Nothing) = (link.scanner.own_fatal.take(), &link.to_client) else {
            return Err(end);
        };
        let mut message = Vec::with_capacity(body.len() + 5);
        write_message(&mut message, tag::ERROR, |out| out.extend_from_slice(&body));
        let sent = async {
            self.client.write_all(&message).await?;
            self.client.flush().await
        };
        Err(match sent.await {
            Ok(()) => SessionEnd::Told,
            Err(_) => SessionEnd::Closed,
        })
    }

    /// The client has gone: what runs for it is not needed any more, unless it said goodbye behind
    /// its last statement.
    fn left_alone(&self, link: &Link) -> SessionEnd {
        let next = FrameHeader::parse(self.inbound.filled(), self.max_message_bytes);
        let said_goodbye = matches!(next, Ok(Some(header)) if header.tag == TERMINATE);
        if link.replies.is_empty() || said_goodbye {
            return SessionEnd::Closed;
        }
        SessionEnd::Abandoned(CancelTarget::from(&*link.lease))
    }
}

impl Link {
    /// What the client is told when the connection is lost.
    pub(super) fn end_of_session(&self, block: Option<&OpenBlock>) -> SessionEnd {
        if self.scanner.outcome.has(Outcome::FATAL) {
            return SessionEnd::Told;
        }
        let idle = self.replies.is_empty();
        let wrote = block.is_some_and(|block| block.wrote == Wrote::Maybe);
        SessionEnd::Fatal(match (block, idle) {
            (Some(_), true) => ProxyError::TransactionLost,
            (Some(_), false) if !wrote => ProxyError::ConnectionLost,
            (None, true) => ProxyError::ConnectionLost,
            (_, false) => match self.route.role {
                NodeRole::Replica => ProxyError::ConnectionLost,
                NodeRole::Primary | NodeRole::Unknown => ProxyError::OutcomeUnknown,
            },
        })
    }
}
