//! Views of the messages that a node sends.
//!
//! Formats: manual, "Message Formats" and "Error and Notice Message Fields".

use super::message::{Malformed, Reader};

/// Message types of the server, as bytes (`src/include/libpq/protocol.h`).
pub mod tag {
    /// `ParseComplete`.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// `BindComplete`.
    pub const BIND_COMPLETE: u8 = b'2';
    /// `CloseComplete`.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// `NotificationResponse`.
    pub const NOTIFICATION: u8 = b'A';
    /// `CommandComplete`.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// `DataRow`.
    pub const DATA_ROW: u8 = b'D';
    /// `ErrorResponse`.
    pub const ERROR: u8 = b'E';
    /// `CopyInResponse`.
    pub const COPY_IN: u8 = b'G';
    /// `CopyOutResponse`.
    pub const COPY_OUT: u8 = b'H';
    /// `EmptyQueryResponse`.
    pub const EMPTY_QUERY: u8 = b'I';
    /// `NoticeResponse`.
    pub const NOTICE: u8 = b'N';
    /// `ParameterStatus`.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// `RowDescription`.
    pub const ROW_DESCRIPTION: u8 = b'T';
    /// `FunctionCallResponse`.
    pub const FUNCTION_RESULT: u8 = b'V';
    /// `CopyBothResponse`.
    pub const COPY_BOTH: u8 = b'W';
    /// `ReadyForQuery`.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// `CopyDone`.
    pub const COPY_DONE: u8 = b'c';
    /// `CopyData`.
    pub const COPY_DATA: u8 = b'd';
    /// `NoData`.
    pub const NO_DATA: u8 = b'n';
    /// `PortalSuspended`.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// `ParameterDescription`.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
}

/// The transaction status of `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a block.
    Idle,
    /// In a block.
    InTransaction,
    /// In a failed block.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a `ReadyForQuery`.
    ///
    /// # Errors
    /// When the body is not one of `I`, `T` and `E`.
    pub const fn read(body: &[u8]) -> Result<Self, Malformed> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::InTransaction),
            b"E" => Ok(Self::Failed),
            _ => Err(Malformed),
        }
    }

    /// The byte that stands for it.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// A SQLSTATE: five characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// The code as text; `?????` if the node sent something that is not text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }
}

/// What the proxy reads of an `ErrorResponse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorView<'a> {
    /// ERROR, FATAL or PANIC, never localized (field `V`).
    pub severity: &'a [u8],
    /// The SQLSTATE (field `C`).
    pub sqlstate: SqlState,
    /// The primary message (field `M`), possibly localized.
    pub message: &'a [u8],
}

impl<'a> ErrorView<'a> {
    /// Reads the body of an `ErrorResponse`.
    ///
    /// # Errors
    /// When a field is not terminated or there is no SQLSTATE.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let mut severity: &[u8] = b"";
        let mut message: &[u8] = b"";
        let mut sqlstate = None;
        loop {
            match reader.byte()? {
                0 => break,
                b'V' => severity = reader.string()?,
                b'M' => message = reader.string()?,
                b'C' => {
                    sqlstate = Some(SqlState(
                        reader.string()?.try_into().map_err(|_| Malformed)?,
                    ));
                }
                _ => {
                    reader.string()?;
                }
            }
        }
        Ok(Self {
            severity,
            sqlstate: sqlstate.ok_or(Malformed)?,
            message,
        })
    }

    /// Whether the node ends the connection after this error.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

/// The tag of a `CommandComplete`, such as `SET` or `INSERT 0 1`.
///
/// # Errors
/// When it is not terminated.
pub fn command_tag(body: &[u8]) -> Result<&[u8], Malformed> {
    Reader::new(body).string()
}

/// Name and value of a `ParameterStatus`.
///
/// # Errors
/// When either is not terminated.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.string()?, reader.string()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gives_severity_code_and_message() {
        let view = ErrorView::read(b"SFEHLER\0VERROR\0C25006\0Mnein\0Fx.c\0\0").unwrap();
        assert_eq!((view.sqlstate.as_str(), view.is_fatal()), ("25006", false));
        assert_eq!(view.message, b"nein");
        for bad in [&b""[..], b"\0", b"SERROR", b"C123\0\0", b"C25006\0"] {
            assert_eq!(ErrorView::read(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_status_is_exactly_one_known_byte() {
        assert_eq!(
            TransactionStatus::read(b"T"),
            Ok(TransactionStatus::InTransaction)
        );
        assert_eq!(TransactionStatus::read(b""), Err(Malformed));
        assert_eq!(TransactionStatus::read(b"X"), Err(Malformed));
        assert_eq!(TransactionStatus::read(b"II"), Err(Malformed));
    }
}
