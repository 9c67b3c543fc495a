//! What sessions tell and ask the store that causal keys share with other proxies.
//!
//! A statement enters its key before it is sent, and leaves it when it has ended; in between, other
//! proxies' reads with the key must see all that was acknowledged before they arrived. So the position
//! that it leaves behind can be found out after its client was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};
use tokio::time::timeout;

use crate::core::causality::positions::SystemPosition;
use crate::limits::{STORE_MESSAGES, STORE_TIMEOUT};

/// What sessions tell and ask the store: sessions ask, the control ring answers.
#[derive(Debug)]
pub struct CausalStore {
    messages: mpsc::Sender<StoreMessage>,
    inbox: Mutex<mpsc::Receiver<StoreMessage>>,
    /// Whether something could not be told since the store was last marked incomplete.
    gap: AtomicBool,
}

/// One thing that a session tells or asks.
#[derive(Debug)]
pub enum StoreMessage {
    /// A statement is about to be sent.
    Enter {
        /// Its key.
        key: Arc<str>,
        /// Where the answer goes; dropped when there is none.
        answer: oneshot::Sender<SharedKey>,
    },
    /// A statement that has entered the key has ended.
    Leave {
        /// Its key.
        key: Arc<str>,
        /// All that it wrote or saw was acknowledged or visible before.
        covers: Instant,
    },
}

/// What other proxies have told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedKey {
    /// What their statements have left behind.
    pub positions: Vec<SystemPosition>,
    /// Whether any of them is under way.
    pub others: Others,
    /// What is older than this may be missing.
    pub complete_for: Duration,
}

/// Whether statements of other proxies are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// None is.
    Quiet,
    /// Some are.
    UnderWay,
}

impl Default for CausalStore {
    fn default() -> Self {
        let (messages, inbox) = mpsc::channel(STORE_MESSAGES);
        Self {
            messages,
            inbox: Mutex::new(inbox),
            gap: AtomicBool::new(false),
        }
    }
}

impl CausalStore {
    /// Enters `key`; `None` when the store cannot be told in time, which is remembered.
    ///
    /// # Cancel safety
    /// When the future is dropped the key may have been entered: others take it for under way until it
    /// expires.
    pub async fn enter(&self, key: &Arc<str>) -> Option<SharedKey> {
        let (answer, answered) = oneshot::channel();
        let key = Arc::clone(key);
        let sent = self.messages.try_send(StoreMessage::Enter { key, answer });
        if sent.is_ok()
            && let Ok(Ok(shared)) = timeout(STORE_TIMEOUT, answered).await
        {
            return Some(shared);
        }
        self.note_gap();
        None
    }

    /// Leaves a key that was entered. If that cannot be told, others take the statement for under way
    /// until the key expires.
    pub fn leave(&self, key: Arc<str>, covers: Instant) {
        if self
            .messages
            .try_send(StoreMessage::Leave { key, covers })
            .is_err()
        {
            self.note_gap();
        }
    }

    /// Something has not been told.
    pub fn note_gap(&self) {
        self.gap.store(true, Ordering::Release);
    }

    /// Whether something has not been told since this was asked last.
    pub fn take_gap(&self) -> bool {
        self.gap.swap(false, Ordering::AcqRel)
    }

    /// The messages; one at a time may have them.
    pub async fn inbox(&self) -> MutexGuard<'_, mpsc::Receiver<StoreMessage>> {
        self.inbox.lock().await
    }
}
