//! Has a replica's server wait for a position right before a probe (`WAIT FOR LSN`, PostgreSQL 19; manual,
//! "WAIT FOR").
//!
//! The command is sent as a query of its own, with the probe directly behind it: the server has no
//! snapshot while it waits, and the probe is answered whatever came of that.
//!
//! Must not end the monitor's connection because of a refusal: measuring goes on.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::error::describe;
use crate::core::freshness::replay_wait::{REPLAY_WAIT, WaitOutcome};
use crate::core::lsn::Lsn;

/// What came of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// For the metrics.
    pub outcome: WaitOutcome,
    /// The server's own words with their SQLSTATE, if it has refused with an error.
    pub refusal: Option<String>,
}

/// Waits until `client`'s server has replayed `target`, or for [`REPLAY_WAIT`].
///
/// # Errors
/// When the connection is lost.
pub(super) async fn wait_for(client: &Client, target: Lsn) -> Result<Waited, Error> {
    match client.simple_query(&command(target)).await {
        Ok(messages) => Ok(Waited {
            outcome: WaitOutcome::of_status(status(&messages)),
            refusal: None,
        }),
        Err(error) if error.as_db_error().is_some() => Ok(Waited {
            outcome: WaitOutcome::Refused,
            refusal: Some(describe(&error)),
        }),
        Err(error) => Err(error),
    }
}

fn command(target: Lsn) -> String {
    let limit = REPLAY_WAIT.as_millis();
    format!("WAIT FOR LSN '{target}' WITH (TIMEOUT '{limit}ms', NO_THROW)")
}

fn status(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().find_map(|message| {
        if let SimpleQueryMessage::Row(row) = message {
            row.get(0)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_position_and_its_limit() {
        assert_eq!(
            command(Lsn(0x16_B374_D848)),
            "WAIT FOR LSN '16/B374D848' WITH (TIMEOUT '20ms', NO_THROW)"
        );
    }
}
