//! What moves a monitor connection's bytes, and what the server said last on it.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ProbeError;

/// The task that moves the connection's bytes; ends with its owner.
#[derive(Debug)]
pub(super) struct Driver {
    task: JoinHandle<()>,
    /// How it ended.
    end: oneshot::Receiver<tokio_postgres::Error>,
}

impl Driver {
    pub(super) fn start(
        connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    ) -> Self {
        let (ends, end) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Whoever asks may have gone.
                let _ = ends.send(error);
            }
        });
        Self { task, end }
    }

    /// Resolves when the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn ended(&mut self) {
        if !self.task.is_finished() {
            // How the task ended does not matter: the next probe fails.
            drop((&mut self.task).await);
        }
    }

    /// The server's last words in place of `error`, if that only says that the connection is gone: what
    /// comes while nothing is asked reaches nobody but the task.
    pub(super) async fn explain(mut self, error: ProbeError) -> ProbeError {
        let gone = match error.silent_end() {
            Ok(gone) => gone,
            Err(said) => return said,
        };
        match (&mut self.end).await {
            Ok(end) => ProbeError::of_end(end),
            Err(_) => ProbeError::Lost(gone),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
