//! What a client is told when no server connection could be had.

use super::SessionEnd;
use crate::backend::error::{ConnectError, ConnectFault};
use crate::backend::pool::CheckoutError;
use crate::frontend::error::ProxyError;

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
        CheckoutError::Connect(error) => match error.fault() {
            ConnectFault::NodeUnavailable | ConnectFault::RequestRefused => {
                ProxyError::NoNodeAvailable
            }
            ConnectFault::NodeSaturated => ProxyError::CheckoutTimeout,
        },
    }
}
