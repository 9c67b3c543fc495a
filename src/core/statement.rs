//! The vocabulary for what a statement means to routing.

mod effect;

use std::sync::Arc;
use std::time::Duration;

use super::residue::{Others, SettingNames};

pub use effect::{CatalogEffect, TouchedKind, TouchedName, TwoPhaseStep};

/// PostgreSQL's transaction access mode, applied to one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessMode {
    /// Proved to run on a hot standby with the same result as on the primary.
    ReadOnly,
    /// Everything else.
    ReadWrite,
}

/// `isolation_level` of BEGIN and SET TRANSACTION, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// A hot standby refuses it.
    Serializable,
    /// One snapshot for the whole transaction.
    RepeatableRead,
    /// READ COMMITTED, or READ UNCOMMITTED, which is the same in PostgreSQL (manual, "Transaction
    /// Isolation"): a snapshot for each statement.
    ReadCommitted,
}

/// The transaction modes a statement names; `None` where it is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransactionModes {
    /// READ ONLY or READ WRITE.
    pub access: Option<AccessMode>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
}

/// AND CHAIN or AND NO CHAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chain {
    /// A new block starts at once.
    Chain,
    /// The session leaves the block.
    NoChain,
}

/// What a statement does to the transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionControl {
    /// Nothing.
    None,
    /// BEGIN or START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT or END.
    Commit(Chain),
    /// ROLLBACK or ABORT.
    Rollback(Chain),
    /// SAVEPOINT, RELEASE or ROLLBACK TO.
    Savepoint,
    /// SET TRANSACTION.
    SetModes(TransactionModes),
    /// PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED.
    TwoPhase,
}

/// A change to a run-time parameter that can be repeated on another connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SettingChange {
    /// `SET name TO value`; `value_sql` is the right-hand side as SQL text, ready to be sent again.
    Set {
        /// Lower-case parameter name.
        name: String,
        /// Everything right of `TO` or `=`.
        value_sql: String,
    },
    /// `RESET name` or `SET name TO DEFAULT`.
    Reset {
        /// Lower-case parameter name.
        name: String,
    },
    /// `RESET ALL`.
    ResetAll,
}

/// A statement about one of pgweir's own settings; never sent to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProxyStatement {
    /// `SET pgweir.name = value` (session level).
    Set {
        /// Name without the `pgweir.` prefix, lower-case.
        name: String,
        /// The value with its quotes removed.
        value: String,
    },
    /// `SET LOCAL pgweir.name = value`.
    SetLocal {
        /// Name without the `pgweir.` prefix, lower-case.
        name: String,
        /// The value with its quotes removed.
        value: String,
    },
    /// `RESET pgweir.name`.
    Reset {
        /// Name without the `pgweir.` prefix, lower-case.
        name: String,
    },
    /// `SHOW pgweir.name`.
    Show {
        /// Name without the `pgweir.` prefix, lower-case.
        name: String,
    },
    /// `EXPLAIN ROUTE statement`.
    ExplainRoute {
        /// The text without the two words: the statement, and the comments around it.
        sql: String,
        /// The highest number of a parameter (`$1`) in it; 0 if it has none.
        parameters: u16,
    },
}

/// Why a session must keep the connection it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinReason {
    /// A temporary table, view or sequence was created.
    TemporaryObject,
    /// LISTEN.
    Listen,
    /// A session-level advisory lock may be held.
    AdvisoryLock,
    /// DECLARE ... WITH HOLD.
    HeldCursor,
    /// SQL-level PREPARE.
    SqlPrepare,
    /// A setting was changed in a way that the text does not tell (`set_config`, savepoints, SET
    /// SESSION CHARACTERISTICS).
    Setting,
    /// `currval` or `lastval` is used: they know what `nextval` gave on this connection.
    Sequence,
    /// LOAD.
    Load,
    /// A portal of an earlier segment, a replication origin.
    ServerResource,
    /// `setseed`.
    Seed,
    /// DO, CALL or a volatile function of the user's: what it left behind cannot be told.
    UnknownCode,
    /// A write, behind which code may run (a trigger, a default, a check) that leaves something behind.
    CodeBehindWrite,
    /// `pool.mode` is `session`: the connection is kept, which keeps no read from a replica.
    PoolMode,
    /// It speaks the replication protocol: a connection of its own serves it from the start.
    Replication,
    /// The text was not understood.
    NotUnderstood,
}

impl PinReason {
    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TemporaryObject => "temporary_object",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::HeldCursor => "held_cursor",
            Self::SqlPrepare => "sql_prepare",
            Self::Setting => "setting",
            Self::Sequence => "sequence",
            Self::Load => "load",
            Self::ServerResource => "server_resource",
            Self::Seed => "seed",
            Self::UnknownCode => "unknown_code",
            Self::CodeBehindWrite => "code_behind_write",
            Self::PoolMode => "pool_mode",
            Self::Replication => "replication",
            Self::NotUnderstood => "not_understood",
        }
    }
}

/// What a statement leaves behind in its session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SessionEffect {
    /// Nothing that outlives its transaction.
    None,
    /// A setting that is repeated on whichever connection serves next.
    Setting(SettingChange),
    /// A setting that decides what texts mean ([`super::reading`]) is changed until the transaction ends;
    /// `None` if it was not read how.
    LocalSetting(Option<SettingChange>),
    /// It looks at what the node counts of its scans and calls: the session's later reads are to be
    /// counted there too.
    WatchesCounters,
    /// DISCARD ALL: the session is as new.
    DiscardAll,
    /// DEALLOCATE ALL: no named prepared statement is left.
    DeallocateAll,
    /// State that lives on one connection.
    Pins(PinReason),
    /// The same, and perhaps settings: these names are to be asked for.
    MayConfigure(PinReason, SettingNames),
    /// A statement for the proxy itself.
    Proxy(ProxyStatement),
}

/// Why a statement was classified as it was: a metric label and a column of the fixtures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The whole tree was proved to be a read.
    Read,
    /// SHOW of a run-time parameter.
    Show,
    /// Nothing but white space and comments.
    Empty,
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE or COPY FROM at the top.
    Write,
    /// A data-modifying statement inside WITH.
    ModifyingCte,
    /// FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE or FOR KEY SHARE.
    LockingClause,
    /// SELECT INTO.
    SelectInto,
    /// CREATE, ALTER, DROP, GRANT, COMMENT, ...
    Ddl,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT, REFRESH, ...
    Maintenance,
    /// EXPLAIN ANALYZE of something that is not a read.
    ExplainAnalyzeWrite,
    /// COPY with a data-modifying query or with a program or server file.
    CopyWrite,
    /// LOCK TABLE.
    LockTable,
    /// DO, CALL or EXECUTE.
    Code,
    /// BEGIN, COMMIT, SAVEPOINT, ...
    TransactionControl,
    /// SET, RESET, DISCARD, LISTEN, DECLARE, PREPARE, ...
    SessionState,
    /// A volatile function.
    VolatileFunction,
    /// A function that the catalog does not know.
    UnknownFunction,
    /// A function named in `routing.write_functions`.
    ListedFunction,
    /// An advisory lock function.
    AdvisoryLock,
    /// A sequence, or a function of sequences.
    Sequence,
    /// A function whose answer belongs to one session or one node (`pg_backend_pid`, `set_config`).
    NodeLocalFunction,
    /// A view, rule or policy that reaches a volatile function or a primary-only relation.
    UnsafeView,
    /// A row security policy that reaches a volatile function.
    UnsafePolicy,
    /// An operator whose function is not safe on a replica.
    UnsafeOperator,
    /// A type whose cast or domain check is not safe on a replica.
    UnsafeType,
    /// An unlogged relation.
    UnloggedRelation,
    /// A temporary relation.
    TemporaryRelation,
    /// A foreign relation.
    ForeignRelation,
    /// A statistics or activity view, whose rows differ from node to node.
    NodeLocalRelation,
    /// A relation named in `routing.primary_tables`.
    ListedRelation,
    /// A relation that the catalog does not know.
    UnknownRelation,
    /// A comment says `pgweir_route='primary'`.
    Hint,
    /// The catalog of this database has not been loaded, or DDL has made it old.
    CatalogUnknown,
    /// A replica answered this statement with a read-only error before.
    LearnedWrite,
    /// sqlparser did not understand the text.
    ParseFailed,
    /// The text is not UTF-8.
    NotUtf8,
    /// The text is longer or deeper than the limits allow.
    TooLong,
}

impl Reason {
    /// The metric label and log value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Show => "show",
            Self::Empty => "empty",
            Self::Write => "write",
            Self::ModifyingCte => "modifying_cte",
            Self::LockingClause => "locking_clause",
            Self::SelectInto => "select_into",
            Self::Ddl => "ddl",
            Self::Maintenance => "maintenance",
            Self::ExplainAnalyzeWrite => "explain_analyze_write",
            Self::CopyWrite => "copy_write",
            Self::LockTable => "lock_table",
            Self::Code => "code",
            Self::TransactionControl => "transaction_control",
            Self::SessionState => "session_state",
            Self::VolatileFunction => "volatile_function",
            Self::UnknownFunction => "unknown_function",
            Self::ListedFunction => "listed_function",
            Self::AdvisoryLock => "advisory_lock",
            Self::Sequence => "sequence",
            Self::NodeLocalFunction => "node_local_function",
            Self::UnsafeView => "unsafe_view",
            Self::UnsafePolicy => "unsafe_policy",
            Self::UnsafeOperator => "unsafe_operator",
            Self::UnsafeType => "unsafe_type",
            Self::UnloggedRelation => "unlogged_relation",
            Self::TemporaryRelation => "temporary_relation",
            Self::ForeignRelation => "foreign_relation",
            Self::NodeLocalRelation => "node_local_relation",
            Self::ListedRelation => "listed_relation",
            Self::UnknownRelation => "unknown_relation",
            Self::Hint => "hint",
            Self::CatalogUnknown => "catalog_unknown",
            Self::LearnedWrite => "learned_write",
            Self::ParseFailed => "parse_failed",
            Self::NotUtf8 => "not_utf8",
            Self::TooLong => "too_long",
        }
    }
}

/// What a sqlcommenter comment at the start or end of the text asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint {
    /// `pgweir_consistency`.
    pub consistency: Option<Consistency>,
    /// `pgweir_max_staleness`; the inner `None` is the word `none`.
    pub max_staleness: Option<Option<Duration>>,
    /// `pgweir_route='primary'`.
    pub route_primary: Option<RoutePrimary>,
    /// `pgweir_key`.
    pub key: Option<Arc<str>>,
}

impl Hint {
    /// Whether it asks for nothing, but perhaps names a key: that matters to what reads or writes only.
    pub fn is_key_only(&self) -> bool {
        self.consistency.is_none() && self.max_staleness.is_none() && self.route_primary.is_none()
    }
}

/// `pgweir_route='primary'` was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePrimary;

/// The consistency modes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Any replica within `routing.max_staleness`.
    Eventual,
    /// Read your writes and monotonic reads.
    Session,
    /// Everything acknowledged to anybody before the read arrived.
    Latest,
    /// The primary only.
    Primary,
}

impl Consistency {
    /// The word used in YAML, SET and comments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Session => "session",
            Self::Latest => "latest",
            Self::Primary => "primary",
        }
    }

    /// The inverse of [`Self::as_str`]; case is ignored.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Eventual, Self::Session, Self::Latest, Self::Primary]
            .into_iter()
            .find(|mode| word.eq_ignore_ascii_case(mode.as_str()))
    }
}

/// All that routing may know of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementVerdict {
    /// Read or write.
    pub access: AccessMode,
    /// Effect on the transaction block.
    pub transaction: TransactionControl,
    /// Effect on the session.
    pub session: SessionEffect,
    /// Effect on the catalog.
    pub catalog: CatalogEffect,
    /// Why `access` is what it is.
    pub reason: Reason,
}

/// All that routing may know of one text: a Query message's batch, or a Parse message's statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classification {
    /// The strictest access mode of all statements.
    pub access: AccessMode,
    /// Why: the reason of the first statement that has the strictest access mode.
    pub reason: Reason,
    /// One verdict a statement, in order; empty for an empty text.
    pub statements: Box<[StatementVerdict]>,
    /// The effect of all statements on the catalog.
    pub catalog: CatalogEffect,
    /// What the text's comment asks for.
    pub hint: Hint,
    /// What it has to do with customized options.
    pub options: OptionUse,
    /// Whether it may change as what a role logs in.
    pub logins: Logins,
}

/// Whether a role's next login may be another one's, or be refused: connections that were opened earlier are
/// not what it would get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Logins {
    /// It is as before.
    #[default]
    Kept,
    /// DROP ROLE, or ALTER ROLE with a new name, password, attribute or date.
    Changed,
}

/// What a text has to do with customized options (manual, "Customized Options"): a server connection keeps
/// the name of one for good, without a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionUse {
    /// How it may tell an option without a value from one that does not exist.
    pub asks: Asks,
    /// Whether code in the database asks for options, which much of what runs there may run.
    pub database: Asks,
    /// Those that it makes exist, if it runs.
    pub names: Box<[NamedOption]>,
    /// How many of them stand before anything that asks.
    pub before: usize,
    /// Whether it makes others exist whose names are made at run time.
    pub others: Others,
}

/// An option that a statement names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedOption {
    /// Its lower-case name.
    pub name: Box<str>,
    /// Whether the statement makes it exist.
    pub made: Made,
}

/// Whether a statement that succeeds makes an option exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It does: SET or RESET.
    Surely,
    /// By a call that may never be run.
    Perhaps,
}

/// How something may tell an option without a value from one that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Asks {
    /// Not at all.
    #[default]
    Nothing,
    /// By code of users that it may run, if any does.
    Code,
    /// By itself.
    Itself,
}
