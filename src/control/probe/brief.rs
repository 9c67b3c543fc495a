//! The short question: only what moves between two whole answers of one node.
//!
//! Most probes come in quick succession, because somebody waits for a replica. What such a probe need not
//! ask again (the timeline that a primary writes, whether replay is paused, the timeline of a receiver that
//! is not there) costs the node more than the positions themselves.
//!
//! Invariants:
//! * A whole answer is never older than `PROBE_INTERVAL` when a brief one is taken in addition.
//! * A brief answer is used only where it shows what the whole one showed: the same role on the same
//!   timeline. Else the whole question follows at once.

use std::time::Instant;

use tokio_postgres::{Client, Statement};

use super::{Answer, ProbeError, lsn, timeline_in};
use crate::control::limits::PROBE_INTERVAL;
use crate::core::freshness::{PrimarySample, ReplicaSample};

/// A primary stays one, on its timeline, as long as its process lives (`StartupXLOG` in
/// `src/backend/access/transam/xlog.c` is the only way back), and with it this connection. Both functions
/// are refused during recovery.
const PRIMARY_SQL: &str = "SELECT pg_current_wal_flush_lsn(), pg_current_wal_insert_lsn()";

/// `OFFSET 0` keeps the position a step of its own, before the timeline, as in the whole question.
/// The function is NULL without a receiver, and its timeline for a role that may not know.
const REPLICA_SQL: &str = "\
SELECT p.in_recovery, p.replay, (pg_stat_get_wal_receiver()).received_tli
FROM (SELECT pg_is_in_recovery() AS in_recovery, pg_last_wal_replay_lsn() AS replay OFFSET 0) p";

/// The statements of one connection, and what the last whole answer was.
#[derive(Debug)]
pub(super) struct Brief {
    primary: Statement,
    replica: Statement,
    last: Option<Answer>,
}

impl Brief {
    /// Makes the questions ready, in one round trip.
    ///
    /// # Errors
    /// When the server refuses, or is lost.
    pub(super) async fn prepare(client: &Client) -> Result<Self, ProbeError> {
        let (primary, replica) =
            tokio::try_join!(client.prepare(PRIMARY_SQL), client.prepare(REPLICA_SQL))?;
        Ok(Self {
            primary,
            replica,
            last: None,
        })
    }

    /// Takes note of a whole answer.
    pub(super) fn note(&mut self, whole: &Answer) {
        self.last = Some(whole.clone());
    }

    /// Asks briefly; `None` if that does not do.
    ///
    /// # Errors
    /// When the server refuses, or is lost, or its answer is not usable.
    pub(super) async fn ask(&self, client: &Client) -> Result<Option<Answer>, ProbeError> {
        let sent = Instant::now();
        match &self.last {
            Some(Answer::Primary(last)) if last.sent + PROBE_INTERVAL > sent => {
                let row = client.query_one(&self.primary, &[]).await?;
                Ok(Some(Answer::Primary(PrimarySample {
                    sent,
                    received: Instant::now(),
                    flush: lsn(&row, 0)?.ok_or(ProbeError::Answer("no flush position"))?,
                    insert: lsn(&row, 1)?.ok_or(ProbeError::Answer("no insert position"))?,
                    ..*last
                })))
            }
            Some(Answer::Replica(last, detail))
                if last.timeline.is_some() && last.sent + PROBE_INTERVAL > sent =>
            {
                let row = client.query_one(&self.replica, &[]).await?;
                let timeline = timeline_in(&row, 2)?;
                let (true, true) = (row.try_get(0)?, timeline == last.timeline) else {
                    return Ok(None);
                };
                let sample = ReplicaSample {
                    sent,
                    received: Instant::now(),
                    timeline,
                    replay: lsn(&row, 1)?.ok_or(ProbeError::Answer("no replay position"))?,
                };
                Ok(Some(Answer::Replica(sample, *detail)))
            }
            Some(
                Answer::Primary(_) | Answer::Replica(..) | Answer::Writer(_) | Answer::Reader(_),
            )
            | None => Ok(None),
        }
    }
}
