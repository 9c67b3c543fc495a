//! Whether a replica that has served a read was what routing took it for.
//!
//! Routing believes of a server: it is in this life, and has replayed this far. The server is asked
//! the same behind the read, on the same connection; what it answers then is at least what it had
//! when the read began, so an answer short of the belief proves that the read may have been stale.
//!
//! Must not change where anything runs: an audit only tells.

use super::lsn::Lsn;
use super::snapshot::{Incarnation, NodeState, ReplayLag};

/// What routing believed of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belief {
    /// `pg_postmaster_start_time()` in microseconds since the Unix epoch.
    pub started_at_unix_micros: i64,
    /// It had replayed at least this far, by which its freshness was proved.
    pub replay: Lsn,
}

impl Belief {
    /// What is believed of `node` as it was last measured; `None` if nothing is, or if it is not in
    /// the life `chosen` in which it was chosen.
    pub fn of(node: &NodeState, chosen: Option<Incarnation>) -> Option<Self> {
        let life = node.incarnation.filter(|life| Some(*life) == chosen)?;
        match node.lag {
            ReplayLag::Unknown | ReplayLag::Stated { .. } => None,
            ReplayLag::Known { replay, .. } => Some(Self {
                started_at_unix_micros: life.started_at_unix_micros,
                replay,
            }),
        }
    }

    /// Holds the belief against what the server has told.
    pub fn judge(self, told: Option<Told>) -> AuditVerdict {
        let Some(told) = told else {
            return AuditVerdict::Undecided;
        };
        match told.replay {
            Some(replay) if replay < self.replay => AuditVerdict::Behind,
            _ if told.started_at_unix_micros != self.started_at_unix_micros => {
                AuditVerdict::OtherServer
            }
            Some(_) => AuditVerdict::Confirmed,
            // A server that never was in recovery under the start time of one that is.
            None => AuditVerdict::Undecided,
        }
    }
}

/// What a server says of itself; see [`QUERY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// `pg_postmaster_start_time()` in microseconds since the Unix epoch.
    pub started_at_unix_micros: i64,
    /// `pg_last_wal_replay_lsn()`; `None` on a server that never was in recovery.
    pub replay: Option<Lsn>,
}

impl Told {
    /// The two columns of [`QUERY`] as text; `None` if they are not that.
    pub fn read(started: Option<&str>, replay: Option<&str>) -> Option<Self> {
        Some(Self {
            started_at_unix_micros: started?.parse().ok()?,
            replay: replay.map(str::parse).transpose().ok()?,
        })
    }
}

/// Asks a server who it is and how far it has come. Names are qualified: it runs under the session's
/// own `search_path`.
pub const QUERY: &str = "SELECT (EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) \
 OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, pg_catalog.pg_last_wal_replay_lsn()";

/// What came of an audit: the label `outcome` of `pgweir_audits_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditVerdict {
    /// The server that was measured, and at least as far.
    Confirmed,
    /// It lacks WAL that the choice relied on: the read may have been stale.
    Behind,
    /// Another server, or another life of it, than the one that was measured: the read rests on no
    /// proof.
    OtherServer,
    /// The server did not answer the question (a cancel request hit it, a timeout, no such function).
    Undecided,
}

impl AuditVerdict {
    /// Every verdict, for metric tables.
    pub const ALL: [Self; 4] = [
        Self::Confirmed,
        Self::Behind,
        Self::OtherServer,
        Self::Undecided,
    ];

    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Behind => "behind",
            Self::OtherServer => "other_server",
            Self::Undecided => "undecided",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_server_at_least_as_far_confirms_a_read() {
        let belief = Belief {
            started_at_unix_micros: 7,
            replay: Lsn(100),
        };
        let told = |started_at_unix_micros, replay: Option<u64>| {
            Some(Told {
                started_at_unix_micros,
                replay: replay.map(Lsn),
            })
        };
        for (told, verdict) in [
            (told(7, Some(100)), AuditVerdict::Confirmed),
            (told(7, Some(101)), AuditVerdict::Confirmed),
            (told(7, Some(99)), AuditVerdict::Behind),
            (told(8, Some(99)), AuditVerdict::Behind),
            (told(8, Some(100)), AuditVerdict::OtherServer),
            (told(8, None), AuditVerdict::OtherServer),
            (told(7, None), AuditVerdict::Undecided),
            (None, AuditVerdict::Undecided),
        ] {
            assert_eq!(belief.judge(told), verdict, "{told:?}");
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_no_answer() {
        let told = Told::read(Some("1700000000000000"), Some("0/64"));
        assert_eq!(told.and_then(|told| told.replay), Some(Lsn(100)));
        assert_eq!(Told::read(None, Some("0/64")), None);
        assert_eq!(Told::read(Some("soon"), Some("0/64")), None);
        assert_eq!(Told::read(Some("1"), Some("64")), None);
        assert_eq!(
            Told::read(Some("1"), None).map(|told| told.replay),
            Some(None)
        );
    }
}
