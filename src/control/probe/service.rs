//! Asks a node of a service that hides its WAL positions: Amazon Aurora.
//!
//! Every function here is documented in the Aurora user guide, "Aurora PostgreSQL functions reference".
//!
//! Invariants:
//! * They are called only where PostgreSQL's own refuse or the service's stand in `pg_catalog`: nobody
//!   without the rights of a superuser can put others in their place.
//! * NULL stays NULL: the core judges it.

use std::time::Instant;

use tokio_postgres::{Client, Row, Statement};

use super::{Answer, ProbeError};
use crate::core::freshness::service::{InstanceNote, InstanceRole, ReaderSample, WriterSample};

/// What holds for as long as a connection lives.
pub(super) const IDENTITY_SQL: &str = "\
SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8,
       current_setting('server_version'),
       pg_has_role('pg_read_all_stats', 'USAGE')";

/// Role and identifier and, from the writer, what it knows of every instance, one to a row; no more of
/// them than any cluster has.
///
/// `OFFSET 0` keeps the role a step of its own, read once. A reader is not asked about instances: of
/// itself it does not date what it says (`last_update_timestamp` is NULL for the instance asked).
const PROBE_SQL: &str = "\
SELECT s.in_recovery, left(s.server, 256), left(r.server_id, 256), r.session_id = 'MASTER_SESSION_ID',
       r.replica_lag_in_msec::float8,
       (extract(epoch FROM clock_timestamp() - r.last_update_timestamp) * 1000)::float8
FROM (SELECT pg_is_in_recovery() AS in_recovery,
             aurora_db_instance_identifier()::text AS server OFFSET 0) s
LEFT JOIN LATERAL (SELECT i.server_id::text, i.session_id::text, i.replica_lag_in_msec,
                          i.last_update_timestamp
                   FROM aurora_replica_status() i WHERE NOT s.in_recovery OFFSET 0) r ON true
LIMIT 128";

/// Makes the probe ready.
///
/// # Errors
/// When the service has not these functions.
pub(super) async fn prepare(client: &Client) -> Result<Statement, tokio_postgres::Error> {
    client.prepare(PROBE_SQL).await
}

/// What the rows of one probe say, asked at `sent`.
pub(super) fn answer(rows: &[Row], sent: Instant) -> Result<Answer, ProbeError> {
    let first = rows.first().ok_or(ProbeError::Answer("no row"))?;
    let server: Option<&str> = first.try_get(1)?;
    let server = server.ok_or(ProbeError::Answer("no instance identifier"))?;
    if first.try_get(0)? {
        let server = server.into();
        return Ok(Answer::Reader(ReaderSample { sent, server }));
    }
    let mut notes = Vec::with_capacity(rows.len());
    for row in rows {
        notes.extend(note(row)?);
    }
    Ok(Answer::Writer(WriterSample {
        sent,
        server: server.into(),
        notes,
    }))
}

/// `None` for a row about no instance in particular.
fn note(row: &Row) -> Result<Option<InstanceNote>, ProbeError> {
    let Some(server) = row.try_get::<_, Option<&str>>(2)? else {
        return Ok(None);
    };
    // An instance without a session is not known to be the writer.
    let role = match row.try_get(3)? {
        Some(true) => InstanceRole::Writer,
        Some(false) | None => InstanceRole::Reader,
    };
    Ok(Some(InstanceNote {
        server: server.into(),
        role,
        lag_millis: row.try_get(4)?,
        age_millis: row.try_get(5)?,
    }))
}
