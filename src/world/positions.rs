//! The primary's positions as they were sampled, for what leaves this process and what comes in.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::core::causality::positions::{PositionLog, PositionSample};

/// The primary's positions: written by the monitor, read by sessions that make or take a token.
#[derive(Debug, Default)]
pub struct Positions {
    log: Mutex<PositionLog>,
    noted: Notify,
}

impl Positions {
    /// The elected primary has answered.
    pub fn note(&self, sample: &PositionSample) {
        self.look_at(|log| log.note(sample));
        self.noted.notify_waiters();
    }

    /// Looks at what is known now.
    pub fn look<R>(&self, look: impl FnOnce(&PositionLog) -> R) -> R {
        self.look_at(|log| look(log))
    }

    fn look_at<R>(&self, look: impl FnOnce(&mut PositionLog) -> R) -> R {
        look(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves to what `accept` first maps to `Some`, now or after a sample.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for<R>(&self, mut accept: impl FnMut(&PositionLog) -> Option<R>) -> R {
        loop {
            let mut noted = std::pin::pin!(self.noted.notified());
            noted.as_mut().enable();
            if let Some(found) = self.look(&mut accept) {
                return found;
            }
            noted.await;
        }
    }
}
