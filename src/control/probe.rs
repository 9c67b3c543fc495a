//! Asks one node what it is and how far it has come: one connection, one round trip a probe, in which
//! `brief` leaves out what cannot have changed.
//!
//! Invariants:
//! * Role and positions come from the same row, so a position is never read in the wrong role.
//! * Every network await has a deadline; no error carries a password.
//! * A value that is NULL or malformed is an error or `None`, never zero.
//! * A server that is made to wait first is still judged by the probe alone.
//! * A node that refuses to show its positions is asked in its service's way, by `service`, for as long
//!   as the connection lives.

mod brief;
mod driver;
mod error;
mod replay_wait;
mod service;

use std::time::{Duration, Instant};

use tokio::time::{timeout, timeout_at};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use brief::Brief;
use driver::Driver;

use super::connect::connect;
use super::limits::{MONITOR_CONNECT_DEADLINE, PROBE_DEADLINE};
use crate::config::{ClusterConfig, NodeConfig};
use crate::core::freshness::observer::{NodeIdentity, ServerIdentity};
use crate::core::freshness::replay_wait::{Ability, REPLAY_WAIT, ReplayState, WaitOutcome};
use crate::core::freshness::service::{ReaderSample, WriterSample};
use crate::core::freshness::{PrimarySample, ReplicaSample, WalGeometry};
use crate::core::lsn::Lsn;

pub use error::{ProbeError, Sign};
pub use replay_wait::Waited;

/// What holds for as long as a connection lives.
const IDENTITY_SQL: &str = "\
SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8,
       (SELECT system_identifier FROM pg_control_system()),
       pg_size_bytes(current_setting('wal_block_size')),
       pg_size_bytes(current_setting('wal_segment_size')),
       current_setting('server_version'),
       pg_has_role('pg_read_all_stats', 'USAGE'),
       to_regprocedure('pg_catalog.aurora_replica_status()') IS NOT NULL,
       current_setting('server_version_num')::int4";

/// Role and positions.
///
/// `OFFSET 0` keeps each level a step of its own: the role is read once, before the positions; the
/// replay position before the receiver's timeline, so that a position is never taken for one of an
/// older timeline than its own. Without a receiver (archive recovery, or cut off) the control file
/// tells the timeline; with a receiver whose timeline is hidden (privilege missing) nothing does.
const PROBE_SQL: &str = "\
SELECT p.in_recovery, p.flush, p.insert, p.replay, p.receive,
       CASE WHEN p.in_recovery THEN
         CASE WHEN r.pid IS NOT NULL THEN r.received_tli
              ELSE (SELECT greatest(c.timeline_id, m.min_recovery_end_timeline)
                    FROM pg_control_checkpoint() c, pg_control_recovery() m) END
       ELSE ('x' || left(pg_walfile_name(p.flush), 8))::bit(32)::int4 END,
       CASE WHEN NOT p.in_recovery THEN
         (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 1000)::int8 END,
       r.status,
       CASE WHEN p.in_recovery THEN pg_get_wal_replay_pause_state() END
FROM (SELECT s.in_recovery,
             CASE WHEN NOT s.in_recovery THEN pg_current_wal_flush_lsn() END AS flush,
             CASE WHEN NOT s.in_recovery THEN pg_current_wal_insert_lsn() END AS insert,
             CASE WHEN s.in_recovery THEN pg_last_wal_replay_lsn() END AS replay,
             CASE WHEN s.in_recovery THEN pg_last_wal_receive_lsn() END AS receive
      FROM (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) s OFFSET 0) p
LEFT JOIN LATERAL (SELECT w.pid, w.status, w.received_tli
                   FROM pg_stat_wal_receiver w WHERE p.in_recovery OFFSET 0) r ON true";

/// What one probe found.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Not in recovery.
    Primary(PrimarySample),
    /// In recovery.
    Replica(ReplicaSample, ReplicaDetail),
    /// Not in recovery, with hidden positions.
    Writer(WriterSample),
    /// In recovery, with hidden positions.
    Reader(ReaderSample),
}

/// What a replica tells beside its replay position; for display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaDetail {
    /// `pg_last_wal_receive_lsn()`; `None` if nothing was ever streamed.
    pub receive: Option<Lsn>,
    /// Whether a WAL receiver is streaming; `None` when the privilege to know is missing.
    pub streaming: Option<Streaming>,
    /// Whether replay is paused or about to be.
    pub replay: ReplayState,
}

/// `pg_stat_wal_receiver.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// `streaming`.
    Yes,
    /// No receiver, or one in another state.
    No,
}

/// A connection for probes of one node.
#[derive(Debug)]
pub struct ProbeConnection {
    client: Client,
    way: Way,
    identity: ServerIdentity,
    server_version: String,
    privilege: Privilege,
    replay_wait: Ability,
    driver: Driver,
}

/// How a node is asked.
#[derive(Debug)]
enum Way {
    Positions { whole: Statement, brief: Box<Brief> },
    Service(Statement),
}

impl Way {
    async fn positions(client: &Client) -> Result<Self, ProbeError> {
        let (whole, brief) = tokio::try_join!(
            async { Ok(client.prepare(PROBE_SQL).await?) },
            Brief::prepare(client)
        )?;
        Ok(Self::Positions {
            whole,
            brief: Box::new(brief),
        })
    }

    async fn ask(&mut self, client: &Client) -> Result<Answer, ProbeError> {
        match self {
            Self::Positions { whole, brief } => {
                if let Some(answer) = brief.ask(client).await? {
                    return Ok(answer);
                }
                let sent = Instant::now();
                let row = client.query_one(whole, &[]).await?;
                let answer = answer(&row, sent, Instant::now())?;
                brief.note(&answer);
                Ok(answer)
            }
            Self::Service(probe) => {
                let sent = Instant::now();
                service::answer(&client.query(probe, &[]).await?, sent)
            }
        }
    }
}

/// Whether the monitor's role may read all statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    Granted,
    Missing,
}

impl ProbeConnection {
    /// Connects and learns the node's identity.
    ///
    /// # Errors
    /// When the node cannot be reached within `MONITOR_CONNECT_DEADLINE`, refuses, or does not
    /// answer as PostgreSQL does.
    pub async fn open(node: &NodeConfig, cluster: &ClusterConfig) -> Result<Self, ProbeError> {
        let deadline = Instant::now() + MONITOR_CONNECT_DEADLINE;
        timeout_at(
            deadline.into(),
            Self::open_unbounded(node, cluster, deadline),
        )
        .await
        .map_err(|_| ProbeError::Deadline(MONITOR_CONNECT_DEADLINE))?
    }

    async fn open_unbounded(
        node: &NodeConfig,
        cluster: &ClusterConfig,
        deadline: Instant,
    ) -> Result<Self, ProbeError> {
        let monitor = &cluster.monitor;
        let mut login = tokio_postgres::Config::new();
        login
            .user(&monitor.user)
            .password(monitor.password.expose())
            .dbname(&monitor.database)
            .application_name("pgweir-monitor");
        let (client, connection) = connect(node, &cluster.server_tls, login, deadline).await?;
        let driver = Driver::start(connection);
        let met = match meet(&client).await {
            Err(ProbeError::HidesPositions(refusal)) => meet_service(&client, refusal).await,
            met @ (Ok(_) | Err(_)) => met,
        };
        let met = match met {
            Ok(met) => met,
            Err(error) => return Err(driver.explain(error).await),
        };
        Ok(Self {
            way: met.way,
            identity: met.identity,
            server_version: met.server_version,
            privilege: met.privilege,
            replay_wait: met.replay_wait,
            client,
            driver,
        })
    }

    /// What the node said of itself when the connection was made.
    pub const fn identity(&self) -> ServerIdentity {
        self.identity
    }

    /// Whether the server can be made to wait for a position.
    pub const fn replay_wait(&self) -> Ability {
        self.replay_wait
    }

    /// For other questions to the same server.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Resolves when the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&mut self) {
        self.driver.ended().await;
    }

    /// Why the connection failed, after a question to it failed with `error`.
    pub async fn explain(self, error: ProbeError) -> ProbeError {
        self.driver.explain(error).await
    }

    /// Has the server wait until it has replayed `target`, and asks directly behind that, in one go.
    /// What came of the wait is no evidence, and after a refusal it is not to be asked for again.
    ///
    /// # Errors
    /// As [`Self::ask`], `REPLAY_WAIT` later.
    ///
    /// # Cancel safety
    /// The connection is not usable after this future is dropped unfinished.
    pub async fn ask_behind(&mut self, target: Lsn) -> Result<(Answer, Waited), ProbeError> {
        let Way::Positions { whole, brief } = &mut self.way else {
            return Err(ProbeError::Answer("no positions to wait for"));
        };
        let sent = Instant::now();
        let asking = async {
            tokio::try_join!(
                biased;
                replay_wait::wait_for(&self.client, target),
                self.client.query_one(whole, &[]),
            )
        };
        let deadline = REPLAY_WAIT + PROBE_DEADLINE;
        let (waited, row) = timeout(deadline, asking)
            .await
            .map_err(|_| ProbeError::Deadline(deadline))??;
        match waited.outcome {
            WaitOutcome::Refused => self.replay_wait = Ability::Refused,
            WaitOutcome::Reached | WaitOutcome::TimedOut | WaitOutcome::NotInRecovery => {}
        }
        let answer = answer(&row, sent, Instant::now())?;
        brief.note(&answer);
        Ok((answer, waited))
    }

    /// Asks once.
    ///
    /// # Errors
    /// When the answer does not come within `PROBE_DEADLINE` or is not usable; the connection is
    /// not usable afterwards.
    ///
    /// # Cancel safety
    /// The connection is not usable after this future is dropped unfinished.
    pub async fn ask(&mut self) -> Result<Answer, ProbeError> {
        let asking = self.way.ask(&self.client);
        let late = |_| ProbeError::Deadline(PROBE_DEADLINE);
        timeout(PROBE_DEADLINE, asking).await.map_err(late)?
    }
}

/// What is learned of a server once.
struct Met {
    way: Way,
    replay_wait: Ability,
    identity: ServerIdentity,
    server_version: String,
    privilege: Privilege,
}

/// Learns who a server is, and that it shows its positions.
async fn meet(client: &Client) -> Result<Met, ProbeError> {
    let row = client.query_one(IDENTITY_SQL, &[]).await?;
    let met = Met {
        identity: identity(&row)?.into(),
        server_version: row.try_get(4)?,
        privilege: privilege(&row, 5)?,
        replay_wait: Ability::of_server(row.try_get(7)?),
        way: Way::positions(client).await?,
    };
    if row.try_get(6)? {
        // The writer of such a service may show positions, for logical decoding: its readers do not.
        return by_service(client, met).await;
    }
    // Positions are refused when they are asked for, not before.
    if let Way::Positions { whole, .. } = &met.way {
        client.query_one(whole, &[]).await?;
    }
    Ok(met)
}

/// Learns who a server is that has answered with `refusal`.
async fn meet_service(client: &Client, refusal: tokio_postgres::Error) -> Result<Met, ProbeError> {
    let row = client.query_one(service::IDENTITY_SQL, &[]).await?;
    let Ok(probe) = service::prepare(client).await else {
        return Err(ProbeError::HidesPositions(refusal));
    };
    Ok(Met {
        identity: ServerIdentity::Hidden {
            started_at_unix_micros: row.try_get(0)?,
        },
        server_version: row.try_get(1)?,
        privilege: privilege(&row, 2)?,
        replay_wait: Ability::Missing,
        way: Way::Service(probe),
    })
}

async fn by_service(client: &Client, met: Met) -> Result<Met, ProbeError> {
    Ok(Met {
        identity: ServerIdentity::Hidden {
            started_at_unix_micros: met.identity.started_at_unix_micros(),
        },
        way: Way::Service(service::prepare(client).await?),
        replay_wait: Ability::Missing,
        ..met
    })
}

fn privilege(row: &Row, column: usize) -> Result<Privilege, ProbeError> {
    Ok(if row.try_get(column)? {
        Privilege::Granted
    } else {
        Privilege::Missing
    })
}

fn identity(row: &Row) -> Result<NodeIdentity, ProbeError> {
    let size = |column| {
        let bytes: i64 = row.try_get(column)?;
        u64::try_from(bytes).map_err(|_| ProbeError::Answer("a negative size"))
    };
    Ok(NodeIdentity {
        started_at_unix_micros: row.try_get(0)?,
        system_identifier: row.try_get(1)?,
        geometry: WalGeometry::new(size(2)?, size(3)?)
            .ok_or(ProbeError::Answer("WAL sizes that are no powers of two"))?,
    })
}

fn answer(row: &Row, sent: Instant, received: Instant) -> Result<Answer, ProbeError> {
    let timeline = timeline_in(row, 5)?;
    if row.try_get(0)? {
        let sample = ReplicaSample {
            sent,
            received,
            timeline,
            replay: lsn(row, 3)?.ok_or(ProbeError::Answer("no replay position"))?,
        };
        return Ok(Answer::Replica(sample, detail(row)?));
    }
    let millis: i64 = row.try_get(6)?;
    Ok(Answer::Primary(PrimarySample {
        sent,
        received,
        timeline: timeline.ok_or(ProbeError::Answer("no timeline"))?,
        flush: lsn(row, 1)?.ok_or(ProbeError::Answer("no flush position"))?,
        insert: lsn(row, 2)?.ok_or(ProbeError::Answer("no insert position"))?,
        wal_writer_delay: u64::try_from(millis)
            .map(Duration::from_millis)
            .map_err(|_| ProbeError::Answer("a negative wal_writer_delay"))?,
    }))
}

fn timeline_in(row: &Row, column: usize) -> Result<Option<u32>, ProbeError> {
    let timeline: Option<i32> = row.try_get(column)?;
    match timeline.map(u32::try_from) {
        None | Some(Ok(0)) => Ok(None),
        Some(Ok(timeline)) => Ok(Some(timeline)),
        Some(Err(_)) => Err(ProbeError::Answer("a timeline beyond 2^31")),
    }
}

fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, ProbeError> {
    let position: Option<PgLsn> = row.try_get(column)?;
    Ok(position.map(|position| Lsn(position.into())))
}

fn detail(row: &Row) -> Result<ReplicaDetail, ProbeError> {
    let status: Option<String> = row.try_get(7)?;
    let timeline: Option<i32> = row.try_get(5)?;
    let pause: Option<String> = row.try_get(8)?;
    Ok(ReplicaDetail {
        receive: lsn(row, 4)?,
        streaming: match (status.as_deref(), timeline) {
            (Some("streaming"), _) => Some(Streaming::Yes),
            (Some(_), _) | (None, Some(_)) => Some(Streaming::No),
            (None, None) => None,
        },
        replay: match pause.as_deref() {
            Some("paused" | "pause requested") => ReplayState::Paused,
            Some(_) | None => ReplayState::Running,
        },
    })
}

/// One node, asked once: for `check --connect`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// `server_version`.
    pub server_version: String,
    /// What holds for the life of the server process.
    pub identity: ServerIdentity,
    /// Role, timeline and positions.
    pub answer: Answer,
    /// Privileges the monitor's role lacks, by the name of the predefined role to grant.
    pub missing_privileges: Vec<&'static str>,
}

impl ProbeReport {
    /// How many bytes of WAL this node's answer is behind a primary's; `None` on a primary. Two
    /// answers of different instants: good for display, never for routing.
    pub fn lag_bytes(&self, primary: &PrimarySample) -> Option<u64> {
        match &self.answer {
            Answer::Primary(_) | Answer::Writer(_) | Answer::Reader(_) => None,
            Answer::Replica(sample, _) => Some(primary.flush.bytes_ahead_of(sample.replay)),
        }
    }
}

/// Connects to `node` of `cluster`, asks once and disconnects.
///
/// # Errors
/// When the node cannot be reached or does not answer in time.
pub async fn probe_once(
    node: &NodeConfig,
    cluster: &ClusterConfig,
) -> Result<ProbeReport, ProbeError> {
    let mut connection = ProbeConnection::open(node, cluster).await?;
    let answer = connection.ask().await?;
    let missing_privileges = match connection.privilege {
        Privilege::Granted => vec![],
        Privilege::Missing => vec!["pg_monitor"],
    };
    Ok(ProbeReport {
        server_version: connection.server_version.clone(),
        identity: connection.identity,
        answer,
        missing_privileges,
    })
}
