//! Asks nodes for sessions that go from a replica to the primary, on the monitor's own connections:
//! what runs on the primary, and what of it a replica shows as committed (`core::crossing`).
//!
//! Every role may ask that: no statistics are read that are hidden from others. Where a node refuses
//! all the same, it is said once for each connection, nobody gets an answer, and no session goes on.
//!
//! Must not end the monitor's connection because of a refusal: measuring goes on.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::limits::PROBE_DEADLINE;
use super::probe::ProbeError;
use crate::core::crossing::{Listing, Scope, Shown};
use crate::core::snapshot::{Incarnation, NodeId};
use crate::limits::CROSSING_IDS;

/// The end of a snapshot, and what runs below it. Prepared transactions are among it.
const SNAPSHOT_SQL: &str = "\
SELECT pg_snapshot_xmax(s)::text::int8, ARRAY(SELECT x::text::int8 FROM pg_snapshot_xip(s) x)
FROM (SELECT pg_current_snapshot() AS s OFFSET 0) q";

/// Everything that runs and has an id, also beyond the end of a snapshot. A transaction keeps its id
/// here until it has left the array of those that run, also behind `COMMIT PREPARED`.
const EVERY_SQL: &str = "\
SELECT ARRAY(SELECT backend_xid::text::int8 FROM pg_stat_get_activity(NULL) WHERE backend_xid IS NOT NULL
             UNION SELECT transaction::text::int8 FROM pg_prepared_xact())";

/// Which of these ids (`$2`), and of those from `$1` on, have committed; NULL if that are too many to
/// tell. What is not below the end of the replica's own snapshot has not.
const COMMITTED_SQL: &str = "\
SELECT CASE WHEN e <= $1::int8 + $3::int8 THEN
         ARRAY(SELECT x FROM (SELECT unnest($2::int8[]) UNION SELECT generate_series($1::int8, e - 1)) t(x)
               WHERE CASE WHEN x < e THEN pg_xact_status(x::text::xid8) = 'committed' ELSE false END)
       END
FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS e OFFSET 0) q";

/// How long a node that has refused is left alone.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The node refuses, or says what cannot be: it can still be measured.
    Refused(String),
    /// The connection is not usable any more.
    Lost(ProbeError),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => Self::Refused(refusal.message().to_owned()),
            None => Self::Lost(error.into()),
        }
    }
}

/// What a connection knows of these questions: nothing before the first is asked.
#[derive(Debug, Default)]
pub(super) struct Questions {
    snapshot: Option<Statement>,
    every: Option<Statement>,
    committed: Option<Statement>,
    /// When the last listing was sent.
    listed_at: Option<Instant>,
    /// When the node refused last.
    refused_at: Option<Instant>,
}

impl Questions {
    /// When the last listing was sent.
    pub(super) const fn listed_at(&self) -> Option<Instant> {
        self.listed_at
    }

    /// Until when the node is left alone.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.refused_at?.checked_add(REFUSED_PAUSE)
    }

    /// The node has refused; `true` for the first time.
    pub(super) fn note_refusal(&mut self, at: Instant) -> bool {
        self.refused_at.replace(at).is_none()
    }

    /// What runs on the primary `node`.
    pub(super) async fn list(
        &mut self,
        client: &Client,
        node: NodeId,
        scope: Scope,
    ) -> Result<Listing, Unanswered> {
        let sent = Instant::now();
        self.listed_at = Some(sent);
        let snapshot = statement(client, &mut self.snapshot, SNAPSHOT_SQL).await?;
        let row = in_time(client.query_one(snapshot, &[])).await?;
        let listing = Listing::new(node, sent, id(row.try_get(0)?)?, ids(&row, 1)?);
        match scope {
            Scope::Snapshot => Ok(listing),
            Scope::Every => {
                let every = statement(client, &mut self.every, EVERY_SQL).await?;
                let row = in_time(client.query_one(every, &[])).await?;
                let ids = ids(&row, 0)?.into_iter().map(u32::try_from);
                let ids: Result<Vec<u32>, _> = ids.collect();
                Ok(listing.with_every(&ids.map_err(|_| out_of_range())?))
            }
        }
    }

    /// Which transactions of `listing` a replica shows; `None` if that cannot be told.
    pub(super) async fn committed(
        &mut self,
        client: &Client,
        listing: &Listing,
    ) -> Result<Option<Vec<u64>>, Unanswered> {
        let committed = statement(client, &mut self.committed, COMMITTED_SQL).await?;
        let signed = |id: u64| i64::try_from(id).map_err(|_| out_of_range());
        let beyond = signed(listing.beyond())?;
        let running = listing.running().iter().map(|id| signed(*id));
        let running: Vec<i64> = running.collect::<Result<_, _>>()?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&beyond, &running, &CROSSING_IDS];
        let row = in_time(client.query_one(committed, &parameters)).await?;
        let found: Option<Vec<i64>> = row.try_get(0)?;
        let found = found.map(|ids| ids.into_iter().map(id).collect());
        found.transpose()
    }
}

/// Who a replica is when it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) node: NodeId,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) fresh_as_of: Option<Instant>,
}

impl Standing {
    /// Its answer.
    pub(super) fn shows(self, listing: &Listing, committed: Option<Vec<u64>>) -> Shown {
        Shown {
            node: self.node,
            incarnation: self.incarnation,
            fresh_as_of: self.fresh_as_of,
            primary: listing.node,
            listed: listing.sent,
            committed,
        }
    }
}

async fn statement<'a>(
    client: &Client,
    prepared: &'a mut Option<Statement>,
    sql: &str,
) -> Result<&'a Statement, Unanswered> {
    if prepared.is_none() {
        *prepared = Some(in_time(client.prepare(sql)).await?);
    }
    prepared.as_ref().ok_or_else(out_of_range)
}

async fn in_time<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Unanswered> {
    match timeout(PROBE_DEADLINE, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Unanswered::Lost(ProbeError::Deadline(PROBE_DEADLINE))),
    }
}

fn ids(row: &Row, column: usize) -> Result<Vec<u64>, Unanswered> {
    let found: Vec<i64> = row.try_get(column)?;
    found.into_iter().map(id).collect()
}

fn id(signed: i64) -> Result<u64, Unanswered> {
    u64::try_from(signed).map_err(|_| out_of_range())
}

fn out_of_range() -> Unanswered {
    Unanswered::Refused("a transaction id out of range".to_owned())
}
