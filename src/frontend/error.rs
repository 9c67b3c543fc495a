//! The one place that turns pgweir's own errors into what a client sees.
//!
//! Invariants:
//! * Every error has a SQLSTATE, a lower-case message and, where it helps, a detail and a hint.
//! * Texts hold only what the client itself sent or may know: no host, no SQL, no other user.
//!
//! Must not handle errors of the nodes: those are forwarded as they are.
//!
//! Fields: manual, "Error and Notice Message Fields"; codes: manual, "PostgreSQL Error Codes".

use std::borrow::Cow;
use std::time::Duration;

use crate::protocol::message::{Malformed, write_message, write_string};
use crate::protocol::startup::{NEWEST_MINOR, StartupFault};

/// What an error does to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Error => b"ERROR",
            Self::Fatal => b"FATAL",
        }
    }
}

/// An error that pgweir itself raises towards a client. `Display` is the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// A message that cannot be: `08P01`. Lower-case, without peer bytes.
    #[error("{0}")]
    ProtocolViolation(&'static str),
    /// The protocol version is not spoken: `0A000`.
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
    )]
    UnsupportedProtocol {
        /// The major version asked for.
        major: u16,
        /// The minor version asked for.
        minor: u16,
    },
    /// A feature that pgweir does not have: `0A000`. Reads as "... not supported".
    #[error("{0}")]
    Unsupported(&'static str),
    /// No role in the startup message: `28000`.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// Nobody is asked for a password and the role is not configured: `28000`.
    #[error("role \"{user}\" does not exist")]
    UnknownRole {
        /// The name that the client gave.
        user: String,
    },
    /// Wrong password, or no such role: `28P01`.
    #[error("password authentication failed for user \"{user}\"")]
    AuthenticationFailed {
        /// The name that the client gave.
        user: String,
    },
    /// Too many passwords are being hashed, for longer than the client has time: `53300`.
    #[error("too many logins are being verified at the moment")]
    TooManyLogins,
    /// The role is not configured and cannot be looked up: `57P03`.
    #[error("the proxy cannot look up roles at the moment")]
    RolesUnavailable,
    /// No node accepts the keys of the session's client any more: `28P01`.
    #[error("the server no longer accepts the keys of this session's role")]
    KeysOutdated,
    /// Not encrypted, and `client_tls.mode` is `require`: `28000`.
    #[error("the proxy accepts encrypted connections only")]
    EncryptionRequired,
    /// `auth.method` is `cert` and the client has shown none: `28000`.
    #[error("connection requires a valid client certificate")]
    CertificateRequired,
    /// The certificate is not the role's: `28000`.
    #[error("certificate authentication failed for user \"{user}\"")]
    CertificateRefused {
        /// The name that the client gave.
        user: String,
    },
    /// The handshake took too long: `57014`, as PostgreSQL has it.
    #[error("canceling authentication due to timeout")]
    AuthenticationTimeout,
    /// No cluster serves the database: `3D000`.
    #[error("database \"{database}\" does not exist")]
    UnknownDatabase {
        /// The name that the client gave.
        database: String,
    },
    /// `limits.max_clients` is reached: `53300`.
    #[error("sorry, too many clients already")]
    TooManyClients,
    /// No server connection became free within `pool.checkout_timeout`: `53300`.
    #[error("no server connection became available in time")]
    CheckoutTimeout,
    /// A limit of the proxy: `53400`.
    #[error("{limit} exceeds the limit of the proxy")]
    LimitExceeded {
        /// What is too large, and the key that sets the bound.
        limit: Limit,
    },
    /// No node can serve the statement at the moment: `57P03`.
    #[error("no node is available to serve this statement yet")]
    NoNodeAvailable,
    /// No replica is fresh enough and the policy forbids the primary: `57P03`.
    #[error("no replica is fresh enough to serve this statement yet")]
    NoFreshReplica {
        /// After how long one will be, if it can be told.
        expected: Option<Duration>,
    },
    /// The primary does not show yet what a replica has shown to the session: `57P03`.
    #[error("the primary does not show yet what this session has read on a replica")]
    NotShownYet,
    /// The server connection was lost and nothing of the statement was committed: `08006`.
    #[error("the connection to the server was lost before the statement completed")]
    ConnectionLost,
    /// The server connection was lost and the statement may have been committed: `08007`.
    #[error("the connection to the server was lost and the outcome of the transaction is unknown")]
    OutcomeUnknown,
    /// The transaction was lost with its server connection: `40001`.
    #[error("the transaction was rolled back because its server connection was lost")]
    TransactionLost,
    /// A `pgweir.` setting has a value that it cannot have: `22023`.
    #[error("invalid value for parameter \"{name}\": \"{value}\"")]
    InvalidSetting {
        /// The setting's name.
        name: String,
        /// What the client wrote.
        value: String,
        /// Which values there are.
        allowed: Cow<'static, str>,
    },
    /// A prepared statement has this name already: `42P05`.
    #[error("prepared statement \"{name}\" already exists")]
    DuplicateStatement {
        /// The name that the client gave.
        name: String,
    },
    /// There is no such `pgweir.` setting: `42704`.
    #[error("unrecognized configuration parameter \"{name}\"")]
    UnknownSetting {
        /// What the client wrote.
        name: String,
    },
    /// A `pgweir.` setting that can only be read: `55P02`.
    #[error("parameter \"{name}\" cannot be changed")]
    ReadOnlySetting {
        /// The setting's name.
        name: String,
    },
    /// What the block must see is changed when its replica has been chosen: `25001`.
    #[error("a key or token must be set before the first query of a block on a replica")]
    TooLateInBlock,
    /// The block has failed, and pgweir's settings obey that too: `25P02`.
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    InFailedTransaction,
    /// The client cancelled a statement that waited for a connection: `57014`, as PostgreSQL has it.
    #[error("canceling statement due to user request")]
    QueryCanceled,
    /// A startup parameter is not UTF-8: `22021`.
    #[error("invalid byte sequence for encoding \"UTF8\" in startup parameter \"{parameter}\"")]
    InvalidEncoding {
        /// The parameter's name.
        parameter: String,
    },
    /// The proxy stops: `57P01`.
    #[error("terminating connection due to administrator command")]
    ShuttingDown,
    /// The session keeps a connection to a node that is not the primary any more: `57P01`, on which
    /// clients connect anew.
    #[error("terminating connection because another node has become the primary")]
    PrimaryChanged,
    /// A fault of pgweir: `XX000`. What it was stands in the log only.
    #[error("internal error of the proxy")]
    Internal,
}

/// Bounds that a client can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `limits.max_message`.
    Message,
    /// Bytes of one extended-protocol pipeline up to its Sync.
    Pipeline,
    /// Prepared statements of one session.
    PreparedStatements,
    /// Causal keys of one transaction.
    CausalKeys,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Message => "the length of a message",
            Self::Pipeline => "the length of a pipeline",
            Self::PreparedStatements => "the number of prepared statements",
            Self::CausalKeys => "the number of causal keys of one transaction",
        })
    }
}

impl Limit {
    const fn hint(self) -> &'static str {
        match self {
            Self::Message => "Raise limits.max_message in the configuration of the proxy.",
            Self::Pipeline => "Send a Sync message more often.",
            Self::CausalKeys => "Use one key in each transaction.",
            Self::PreparedStatements => "Close prepared statements that are no longer used.",
        }
    }
}

impl ProxyError {
    /// The five characters of the SQLSTATE.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::ProtocolViolation(_) => "08P01",
            Self::UnsupportedProtocol { .. } | Self::Unsupported(_) => "0A000",
            Self::NoUser
            | Self::UnknownRole { .. }
            | Self::EncryptionRequired
            | Self::CertificateRequired
            | Self::CertificateRefused { .. } => "28000",
            Self::AuthenticationFailed { .. } | Self::KeysOutdated => "28P01",
            Self::AuthenticationTimeout | Self::QueryCanceled => "57014",
            Self::UnknownDatabase { .. } => "3D000",
            Self::TooManyClients | Self::CheckoutTimeout | Self::TooManyLogins => "53300",
            Self::LimitExceeded { .. } => "53400",
            Self::NoNodeAvailable
            | Self::NoFreshReplica { .. }
            | Self::NotShownYet
            | Self::RolesUnavailable => "57P03",
            Self::ConnectionLost => "08006",
            Self::OutcomeUnknown => "08007",
            Self::TransactionLost => "40001",
            Self::InvalidSetting { .. } => "22023",
            Self::UnknownSetting { .. } => "42704",
            Self::DuplicateStatement { .. } => "42P05",
            Self::ReadOnlySetting { .. } => "55P02",
            Self::TooLateInBlock => "25001",
            Self::InFailedTransaction => "25P02",
            Self::InvalidEncoding { .. } => "22021",
            Self::ShuttingDown | Self::PrimaryChanged => "57P01",
            Self::Internal => "XX000",
        }
    }

    /// What the error does to a session that is already established. During the handshake every
    /// error is fatal.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::ProtocolViolation(_)
            | Self::UnsupportedProtocol { .. }
            | Self::NoUser
            | Self::UnknownRole { .. }
            | Self::AuthenticationFailed { .. }
            | Self::EncryptionRequired
            | Self::CertificateRequired
            | Self::CertificateRefused { .. }
            | Self::AuthenticationTimeout
            | Self::UnknownDatabase { .. }
            | Self::TooManyClients
            | Self::TooManyLogins
            | Self::RolesUnavailable
            | Self::LimitExceeded {
                limit: Limit::Message | Limit::Pipeline,
            }
            | Self::InvalidEncoding { .. }
            | Self::ShuttingDown
            | Self::PrimaryChanged
            | Self::Internal => Severity::Fatal,
            Self::Unsupported(_)
            | Self::CheckoutTimeout
            | Self::KeysOutdated
            | Self::LimitExceeded {
                limit: Limit::PreparedStatements | Limit::CausalKeys,
            }
            | Self::NoNodeAvailable
            | Self::NoFreshReplica { .. }
            | Self::NotShownYet
            | Self::ConnectionLost
            | Self::OutcomeUnknown
            | Self::TransactionLost
            | Self::InvalidSetting { .. }
            | Self::UnknownSetting { .. }
            | Self::DuplicateStatement { .. }
            | Self::ReadOnlySetting { .. }
            | Self::TooLateInBlock
            | Self::InFailedTransaction
            | Self::QueryCanceled => Severity::Error,
        }
    }

    fn detail(&self) -> Option<&'static str> {
        match self {
            Self::CheckoutTimeout => {
                Some("All connections of the pool stayed in use for the whole checkout timeout.")
            }
            Self::OutcomeUnknown => Some("The transaction may have been committed."),
            Self::KeysOutdated => {
                Some("The password was changed since the session logged in, or the role is gone.")
            }
            Self::ConnectionLost => Some("The statement has not been committed."),
            Self::NotShownYet => Some(
                "A commit that the replica has shown still waits, such as for a synchronous standby.",
            ),
            Self::ProtocolViolation(_)
            | Self::UnsupportedProtocol { .. }
            | Self::Unsupported(_)
            | Self::NoUser
            | Self::UnknownRole { .. }
            | Self::AuthenticationFailed { .. }
            | Self::EncryptionRequired
            | Self::CertificateRequired
            | Self::CertificateRefused { .. }
            | Self::AuthenticationTimeout
            | Self::UnknownDatabase { .. }
            | Self::TooManyClients
            | Self::TooManyLogins
            | Self::RolesUnavailable
            | Self::LimitExceeded { .. }
            | Self::NoNodeAvailable
            | Self::NoFreshReplica { .. }
            | Self::TransactionLost
            | Self::InvalidSetting { .. }
            | Self::UnknownSetting { .. }
            | Self::DuplicateStatement { .. }
            | Self::ReadOnlySetting { .. }
            | Self::TooLateInBlock
            | Self::InFailedTransaction
            | Self::QueryCanceled
            | Self::InvalidEncoding { .. }
            | Self::ShuttingDown
            | Self::PrimaryChanged
            | Self::Internal => None,
        }
    }

    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::TooManyClients => {
                Some("Raise limits.max_clients in the configuration of the proxy.".into())
            }
            Self::EncryptionRequired => Some("Connect with sslmode=require.".into()),
            Self::CheckoutTimeout => {
                Some("Raise pool.size, or shorten transactions, and retry.".into())
            }
            Self::LimitExceeded { limit } => Some(limit.hint().into()),
            Self::NoNodeAvailable
            | Self::NoFreshReplica { expected: None }
            | Self::NotShownYet
            | Self::ConnectionLost
            | Self::TooManyLogins
            | Self::RolesUnavailable => Some("Retry in a moment.".into()),
            Self::NoFreshReplica {
                expected: Some(expected),
            } => Some(format!("Retry in about {} ms.", expected.as_millis()).into()),
            Self::KeysOutdated => Some("Log in again.".into()),
            Self::OutcomeUnknown => Some("Check whether its effects are there first.".into()),
            Self::TransactionLost => Some("Retry the transaction from its beginning.".into()),
            Self::InvalidSetting { allowed, .. } => {
                Some(format!("Available values: {allowed}.").into())
            }
            Self::ProtocolViolation(_)
            | Self::UnsupportedProtocol { .. }
            | Self::Unsupported(_)
            | Self::NoUser
            | Self::UnknownRole { .. }
            | Self::AuthenticationFailed { .. }
            | Self::CertificateRequired
            | Self::CertificateRefused { .. }
            | Self::AuthenticationTimeout
            | Self::UnknownDatabase { .. }
            | Self::UnknownSetting { .. }
            | Self::DuplicateStatement { .. }
            | Self::ReadOnlySetting { .. }
            | Self::TooLateInBlock
            | Self::InFailedTransaction
            | Self::QueryCanceled
            | Self::InvalidEncoding { .. }
            | Self::ShuttingDown
            | Self::PrimaryChanged
            | Self::Internal => None,
        }
    }

    /// Appends the `ErrorResponse` to `out`.
    pub fn write(&self, out: &mut Vec<u8>, severity: Severity) {
        write_message(out, b'E', |body| {
            let mut field = |code: u8, text: &[u8]| {
                body.push(code);
                write_string(body, text);
            };
            field(b'S', severity.text());
            field(b'V', severity.text());
            field(b'C', self.sqlstate().as_bytes());
            field(b'M', self.to_string().as_bytes());
            if let Some(detail) = self.detail() {
                field(b'D', detail.as_bytes());
            }
            if let Some(hint) = self.hint() {
                field(b'H', hint.as_bytes());
            }
            body.push(0);
        });
    }

    /// The `ErrorResponse` with the error's own severity.
    pub fn response(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out, self.severity());
        out
    }

    /// The `ErrorResponse` that ends the connection.
    pub fn fatal_response(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out, Severity::Fatal);
        out
    }
}

impl From<Malformed> for ProxyError {
    fn from(_: Malformed) -> Self {
        Self::ProtocolViolation("invalid message format")
    }
}

impl From<StartupFault> for ProxyError {
    fn from(fault: StartupFault) -> Self {
        match fault {
            StartupFault::Length => Self::ProtocolViolation("invalid length of startup packet"),
            StartupFault::Layout => Self::ProtocolViolation(
                "invalid startup packet layout: expected terminator as last byte",
            ),
            StartupFault::CancelLength => {
                Self::ProtocolViolation("invalid length of cancel request")
            }
            StartupFault::Version { major, minor } => Self::UnsupportedProtocol { major, minor },
            StartupFault::NoUser => Self::NoUser,
            StartupFault::Encoding { parameter } => Self::InvalidEncoding { parameter },
            StartupFault::Replication { value } => Self::InvalidSetting {
                name: "replication".to_owned(),
                value,
                allowed: "false, 0, true, 1, database".into(),
            },
            StartupFault::SettingWithoutValue { name } => Self::InvalidSetting {
                name,
                value: String::new(),
                allowed: "written as name=value".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
