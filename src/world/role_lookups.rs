//! What sessions ask about roles that the configuration does not name, and what they are told.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};
use tokio::time::timeout;

use crate::credential::StoredPassword;
use crate::limits::{ROLE_LOOKUP_TIMEOUT, ROLE_LOOKUPS_WAITING};

/// What sessions ask about roles: logins ask, the control ring answers.
#[derive(Debug)]
pub struct RoleLookups {
    questions: mpsc::Sender<RoleQuestion>,
    inbox: Mutex<mpsc::Receiver<RoleQuestion>>,
}

/// What is stored of one role's password?
#[derive(Debug)]
pub struct RoleQuestion {
    /// The role's name, at most 63 bytes.
    pub user: Arc<str>,
    /// Where the answer goes; dropped when there is none.
    pub answer: oneshot::Sender<Option<StoredPassword>>,
}

/// Nobody could be asked, or nobody answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("roles cannot be looked up at the moment")]
pub struct Unanswered;

impl Default for RoleLookups {
    fn default() -> Self {
        let (questions, inbox) = mpsc::channel(ROLE_LOOKUPS_WAITING);
        Self {
            questions,
            inbox: Mutex::new(inbox),
        }
    }
}

impl RoleLookups {
    /// What is stored of the password of `user`; `None` if there is no such role or it has none.
    ///
    /// # Errors
    /// When too many wait already, no node can be asked, or no answer comes within
    /// [`ROLE_LOOKUP_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn ask(&self, user: Arc<str>) -> Result<Option<StoredPassword>, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let question = RoleQuestion { user, answer };
        self.questions.try_send(question).map_err(|_| Unanswered)?;
        match timeout(ROLE_LOOKUP_TIMEOUT, answered).await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    /// The questions; one at a time may have them.
    pub async fn inbox(&self) -> MutexGuard<'_, mpsc::Receiver<RoleQuestion>> {
        self.inbox.lock().await
    }
}
