//! Waiting for a condition with a deadline.

use std::time::Duration;

use super::error::SandboxError;
use super::limits;

/// Asks `probe` again and again until it says yes.
///
/// # Errors
///
/// [`SandboxError::TimedOut`] naming `condition` when it did not within `limit`.
pub async fn eventually<P, F>(
    limit: Duration,
    condition: &str,
    probe: P,
) -> Result<(), SandboxError>
where
    P: Fn() -> F,
    F: Future<Output = bool>,
{
    let asking = async {
        while !probe().await {
            tokio::time::sleep(limits::POLL).await;
        }
    };
    tokio::time::timeout(limit, asking)
        .await
        .map_err(|_elapsed| SandboxError::TimedOut {
            condition: condition.to_owned(),
        })
}
