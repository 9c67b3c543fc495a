//! Why a statement went where it went.

/// Why a statement went where it went: a label of `pgweir_queries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteReason {
    /// A replica is fresh enough.
    Fresh,
    /// A replica became fresh enough while the read waited.
    Waited,
    /// `on_no_replica: stale` let a replica serve that is not fresh enough.
    Stale,
    /// The statement is not a proved read.
    Write,
    /// The text was not understood.
    NotUnderstood,
    /// Inside a read-write transaction block.
    Transaction,
    /// Inside a read-only transaction block on a replica.
    ReadOnlyTransaction,
    /// The session is pinned to its connection.
    Pinned,
    /// The session's mode is `primary`, or a comment asks for the primary.
    Requested,
    /// No replica is configured or none is reachable.
    NoReplica,
    /// No replica is within `routing.max_staleness` and `routing.max_lag`.
    Lagging,
    /// Replicas are in rotation, but none has what this session must see.
    NotFresh,
    /// The replicas' freshness is only stated by the service that runs them, and the read needs a proof.
    Unproved,
    /// Inside the read-after-write window of `read_after_write: window`.
    Window,
    /// A replica refused the statement, so the primary runs it.
    Misrouted,
    /// A replica cancelled the statement or was lost, so another node runs it.
    Retried,
    /// Answered by pgweir itself.
    Proxy,
}

impl RouteReason {
    /// Every reason, for building metric tables.
    pub const ALL: [Self; 17] = [
        Self::Fresh,
        Self::Waited,
        Self::Stale,
        Self::Write,
        Self::NotUnderstood,
        Self::Transaction,
        Self::ReadOnlyTransaction,
        Self::Pinned,
        Self::Requested,
        Self::NoReplica,
        Self::Lagging,
        Self::NotFresh,
        Self::Unproved,
        Self::Window,
        Self::Misrouted,
        Self::Retried,
        Self::Proxy,
    ];

    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Waited => "waited",
            Self::Stale => "stale",
            Self::Write => "write",
            Self::NotUnderstood => "not_understood",
            Self::Transaction => "transaction",
            Self::ReadOnlyTransaction => "read_only_transaction",
            Self::Pinned => "pinned",
            Self::Requested => "requested",
            Self::NoReplica => "no_replica",
            Self::Lagging => "lagging",
            Self::NotFresh => "not_fresh",
            Self::Unproved => "unproved",
            Self::Window => "window",
            Self::Misrouted => "misrouted",
            Self::Retried => "retried",
            Self::Proxy => "proxy",
        }
    }
}
