//! Why a server connection could not be opened.

use std::fmt;
use std::io;

use crate::backend::scram::ScramFault;
use crate::credential::hashing::HashingError;
use crate::protocol::frame::InvalidLength;
use crate::protocol::message::{Malformed, Reader};
use crate::wire::ReadError;

/// A server connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The node's host name has no address.
    #[error("resolving the node's host name")]
    Resolve(#[source] io::Error),
    /// No TCP connection: refused, unreachable, or no local port.
    #[error("connecting to the node")]
    Tcp(#[source] io::Error),
    /// The node does not encrypt connections, and must.
    #[error("the node does not support TLS, but server_tls requires it")]
    NoTls,
    /// The TLS handshake failed; most often the node does not prove what it must.
    #[error("negotiating TLS with the node")]
    Tls(#[source] io::Error),
    /// The deadline passed somewhere between name resolution and `ReadyForQuery`.
    #[error("the node did not complete the connection in time")]
    Timeout,
    /// The socket failed or ended during start-up.
    #[error("talking to the node during start-up")]
    Io(#[source] io::Error),
    /// The node answered with an `ErrorResponse`.
    #[error("the node refused the connection: {0}")]
    Server(ServerError),
    /// The node asks for an authentication method that is not supported.
    #[error("the node asks for unsupported authentication ({0})")]
    UnsupportedAuthentication(AuthenticationRequest),
    /// The node asks for a password and none is configured.
    #[error("the node asks for a password and the configuration has none for this user")]
    NoPassword,
    /// The node's part of the SCRAM exchange is wrong: it may not know the password itself.
    #[error("the node failed its part of the SCRAM exchange")]
    Scram(#[source] ScramFault),
    /// Only a client's keys are there, and the node keeps another verifier than the one they fit.
    #[error(
        "the client's keys do not fit the node's verifier: the password was changed, or the role is gone"
    )]
    KeysOutdated,
    /// Only a client's keys are there, and the node asks for something else.
    #[error("the node does not ask for SCRAM, and the client's keys are of no other use")]
    KeysUseless,
    /// The node asks for more iterations than are computed.
    #[error("the node asks for too many SCRAM iterations")]
    TooManyIterations,
    /// The keys could not be derived.
    #[error("deriving the keys for the node")]
    Hashing(#[source] HashingError),
    /// The node broke the protocol.
    #[error("the node broke the protocol: {0}")]
    Protocol(&'static str),
    /// The node sent a message of an impossible length.
    #[error("the node sent a message of an impossible length")]
    Length(#[source] InvalidLength),
    /// The start-up parameters hold a NUL or are longer than PostgreSQL accepts.
    #[error("the start-up parameters cannot be sent to a node")]
    StartupParameters,
}

/// What a failed connection says about the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFault {
    /// Nobody answers there, or not a working server: another node may do better.
    NodeUnavailable,
    /// The node works and refuses this database, user, password or parameter set.
    RequestRefused,
    /// The node works and has no free connection for us (SQLSTATE 53300).
    NodeSaturated,
}

impl ConnectError {
    /// The node's own `ErrorResponse`, if it sent one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            Self::Resolve(_)
            | Self::Tcp(_)
            | Self::NoTls
            | Self::Tls(_)
            | Self::Timeout
            | Self::Io(_)
            | Self::UnsupportedAuthentication(_)
            | Self::NoPassword
            | Self::Scram(_)
            | Self::KeysOutdated
            | Self::KeysUseless
            | Self::TooManyIterations
            | Self::Hashing(_)
            | Self::Protocol(_)
            | Self::Length(_)
            | Self::StartupParameters => None,
        }
    }

    /// Whether the node does not believe that we are who we say: class 28 of its errors, or another
    /// verifier than the one that a client's keys fit.
    pub fn is_disbelief(&self) -> bool {
        let sqlstate = self.server().map(ServerError::sqlstate);
        matches!(self, Self::KeysOutdated) || sqlstate.is_some_and(|code| code.starts_with("28"))
    }

    /// What the failure says about the node.
    pub fn fault(&self) -> ConnectFault {
        match self {
            Self::Server(error) => error.fault(),
            Self::Resolve(_)
            | Self::Tcp(_)
            | Self::NoTls
            | Self::Tls(_)
            | Self::Timeout
            | Self::Io(_)
            | Self::Protocol(_)
            | Self::Length(_) => ConnectFault::NodeUnavailable,
            Self::UnsupportedAuthentication(_)
            | Self::NoPassword
            | Self::Scram(_)
            | Self::KeysOutdated
            | Self::KeysUseless
            | Self::TooManyIterations
            | Self::StartupParameters => ConnectFault::RequestRefused,
            // Others are being served, and soon this one.
            Self::Hashing(_) => ConnectFault::NodeSaturated,
        }
    }
}

impl From<ReadError> for ConnectError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Length(error) => Self::Length(error),
        }
    }
}

impl From<Malformed> for ConnectError {
    fn from(_: Malformed) -> Self {
        Self::Protocol("malformed message")
    }
}

/// The code of an authentication request (`src/include/libpq/protocol.h`, `AUTH_REQ_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticationRequest(pub i32);

impl fmt::Display for AuthenticationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            2 => f.write_str("Kerberos V5"),
            7 | 8 => f.write_str("GSSAPI"),
            9 => f.write_str("SSPI"),
            10 => f.write_str("SASL without SCRAM-SHA-256"),
            other => write!(f, "request code {other}"),
        }
    }
}

/// An `ErrorResponse`, whole, so that it can be passed on unchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    body: Box<[u8]>,
    sqlstate: Box<str>,
    message: Box<str>,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse`.
    ///
    /// # Errors
    /// When a field is cut off, or there is no five-character SQLSTATE.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let (mut sqlstate, mut message) = (None, None);
        let mut reader = Reader::new(body);
        loop {
            let value = match reader.byte()? {
                0 => break,
                b'C' => &mut sqlstate,
                b'M' => &mut message,
                _ => &mut None,
            };
            *value = Some(String::from_utf8_lossy(reader.string()?).into_owned());
        }
        let sqlstate = sqlstate.filter(|code| {
            code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        Ok(Self {
            body: body.into(),
            sqlstate: sqlstate.ok_or(Malformed)?.into(),
            message: message.unwrap_or_default().into(),
        })
    }

    /// The body without tag and length, as the node sent it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The five characters of field `C`.
    pub fn sqlstate(&self) -> &str {
        &self.sqlstate
    }

    /// Field `M`, in the node's language; for logs.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the error, met while connecting, says about the node. `57P01` to `57P03` (shutting
    /// down, starting up) and class 58 and XX mean that it cannot serve anybody.
    pub fn fault(&self) -> ConnectFault {
        match self.sqlstate.as_ref() {
            "53300" => ConnectFault::NodeSaturated,
            "57P01" | "57P02" | "57P03" => ConnectFault::NodeUnavailable,
            code if code.starts_with("58") || code.starts_with("XX") => {
                ConnectFault::NodeUnavailable
            }
            _ => ConnectFault::RequestRefused,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_keeps_its_body_and_is_read_with_checks() {
        let body = b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"x\" does not exist\0\0";
        let error = ServerError::parse(body).unwrap();
        assert_eq!((error.sqlstate(), error.body()), ("3D000", &body[..]));
        assert_eq!(error.message(), "database \"x\" does not exist");
        assert_eq!(error.fault(), ConnectFault::RequestRefused);
        for bad in [
            &b""[..],
            b"C3D000\0",
            b"C3D000",
            b"Mx\0\0",
            b"C3D\0\0",
            b"C3D0 0\0\0",
        ] {
            assert_eq!(ServerError::parse(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn saturation_is_not_node_failure() {
        for (code, fault) in [
            ("53300", ConnectFault::NodeSaturated),
            ("57P03", ConnectFault::NodeUnavailable),
            ("XX000", ConnectFault::NodeUnavailable),
            ("28P01", ConnectFault::RequestRefused),
        ] {
            let body = format!("C{code}\0\0");
            assert_eq!(ServerError::parse(body.as_bytes()).unwrap().fault(), fault);
        }
        assert_eq!(ConnectError::Timeout.fault(), ConnectFault::NodeUnavailable);
    }
}
