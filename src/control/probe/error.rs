//! Why a node could not be asked.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::backend::error::ConnectError;
use crate::control::connect::OpenError;

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer in time.
    #[error("no answer within {}", humane(*.0))]
    Deadline(Duration),
    /// There is no socket, or it could not be encrypted.
    #[error("{}", with_causes(.0))]
    Socket(#[source] ConnectError),
    /// The connection was lost after the server had let the monitor in.
    #[error("{}", describe(.0))]
    Lost(#[source] tokio_postgres::Error),
    /// The server refused, or could not be talked to.
    #[error("{}", describe(.0))]
    Postgres(#[source] tokio_postgres::Error),
    /// The server has no WAL positions to show, and states nothing in their place as Amazon Aurora does,
    /// whose replicas share their primary's storage.
    #[error(
        "it hides its WAL positions, and has no aurora_replica_status() that could stand for them: pgweir cannot serve this cluster ({})",
        describe(.0)
    )]
    HidesPositions(#[source] tokio_postgres::Error),
    /// The server answered something that is not what this probe asks for.
    #[error("unexpected answer: {0}")]
    Answer(&'static str),
}

fn humane(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// The server's own message with its SQLSTATE, or the library's kind of error with its cause.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// An error with all of its causes, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl From<tokio_postgres::Error> for ProbeError {
    fn from(error: tokio_postgres::Error) -> Self {
        if hides_positions(&error) {
            Self::HidesPositions(error)
        } else {
            Self::Postgres(error)
        }
    }
}

/// A function that is missing is an old server's, which hides nothing.
fn hides_positions(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| *code == SqlState::FEATURE_NOT_SUPPORTED)
}

impl From<OpenError> for ProbeError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Socket(error) => Self::Socket(error),
            OpenError::Login(error) => error.into(),
        }
    }
}

/// What a failure says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Nothing, or that it is not there.
    None,
    /// It had let the monitor in and ended this connection: on somebody's command, by an order to stop, or
    /// by its own end. The next attempt tells.
    Ended,
    /// It is alive and only lacks room for one more connection.
    Busy,
}

impl ProbeError {
    /// What it says, by the server's own word (appendix A of the manual) if it has said one. That is lost
    /// where the monitor was writing when the server closed the connection.
    pub fn sign(&self) -> Sign {
        match self {
            Self::Lost(_) => Sign::Ended,
            Self::Postgres(error) => match error.code() {
                Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => Sign::Busy,
                Some(code) if *code == SqlState::ADMIN_SHUTDOWN => Sign::Ended,
                Some(_) | None => Sign::None,
            },
            Self::HidesPositions(_) | Self::Deadline(_) | Self::Socket(_) | Self::Answer(_) => {
                Sign::None
            }
        }
    }

    /// How the connection ended that the monitor had been let in on.
    pub(super) fn of_end(end: tokio_postgres::Error) -> Self {
        match Self::Postgres(end).silent_end() {
            Ok(gone) => Self::Lost(gone),
            Err(said) => said,
        }
    }

    /// What the library says of a connection that is gone without a word from the server; else the error
    /// itself.
    pub(super) fn silent_end(self) -> Result<tokio_postgres::Error, Self> {
        let gone = match self {
            Self::Postgres(error) => error,
            Self::Lost(_)
            | Self::HidesPositions(_)
            | Self::Deadline(_)
            | Self::Socket(_)
            | Self::Answer(_) => return Err(self),
        };
        let cause = std::error::Error::source(&gone);
        let by_system = cause.is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        if gone.is_closed() || by_system {
            Ok(gone)
        } else {
            Err(Self::Postgres(gone))
        }
    }
}
