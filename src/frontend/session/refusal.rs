//! What a client is told when no server connection could be had, or its bytes are no segment.

use super::SessionEnd;
use crate::backend::error::{ConnectError, ConnectFault};
use crate::backend::pool::CheckoutError;
use crate::frontend::error::{Limit, ProxyError};
use crate::protocol::frame::{InvalidLength, MIN_LENGTH};
use crate::protocol::segment::InvalidSegment;

impl SessionEnd {
    /// A node's own refusal is passed on as it came.
    pub(super) fn from_checkout(error: &CheckoutError) -> Self {
        if let CheckoutError::Connect(ConnectError::Server(error)) = error {
            Self::Refused(error.body().into())
        } else {
            Self::Fatal(checkout_refusal(error))
        }
    }
}

/// What the client is told when no server connection could be had.
pub(super) fn checkout_refusal(error: &CheckoutError) -> ProxyError {
    match error {
        CheckoutError::Timeout(_) | CheckoutError::TooManyWaiters | CheckoutError::TooManyPools => {
            ProxyError::CheckoutTimeout
        }
        CheckoutError::Closed | CheckoutError::UnknownNode => ProxyError::NoNodeAvailable,
        CheckoutError::Connect(ConnectError::KeysOutdated) => ProxyError::KeysOutdated,
        CheckoutError::Connect(error) => match error.fault() {
            ConnectFault::NodeUnavailable | ConnectFault::RequestRefused => {
                ProxyError::NoNodeAvailable
            }
            ConnectFault::NodeSaturated => ProxyError::CheckoutTimeout,
        },
    }
}

/// What the client is told of bytes that are no segment.
pub(super) fn segment_refusal(error: InvalidSegment) -> SessionEnd {
    SessionEnd::Fatal(match error {
        InvalidSegment::Length(invalid) => length_refusal(invalid),
        InvalidSegment::Type(_) => ProxyError::ProtocolViolation("invalid frontend message type"),
    })
}

/// A length that the protocol cannot have is not the fault of a limit.
pub(super) fn length_refusal(invalid: InvalidLength) -> ProxyError {
    if (MIN_LENGTH..=i32::MAX.unsigned_abs()).contains(&invalid.length) {
        ProxyError::LimitExceeded {
            limit: Limit::Message,
        }
    } else {
        ProxyError::ProtocolViolation("invalid message length")
    }
}
