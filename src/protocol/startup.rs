//! The first packet of a connection: startup message, encryption requests, cancel request.
//!
//! Invariants:
//! * Every read is checked; a lying length or a missing terminator is a [`StartupFault`].
//! * `pgweir.` settings never reach a node: they are taken out of the parameters and of `options`.
//! * Parameters keep the order in which the client sent them.
//!
//! Must not decide who may connect or read the socket.
//!
//! Formats: manual, "Message Formats" (`StartupMessage`, `SSLRequest`, `GSSENCRequest`,
//! `CancelRequest`); `ProcessStartupPacket` in `src/backend/tcop/backend_startup.c`.

mod options;

use super::message::{Malformed, Reader, write_counted, write_string};
use crate::limits::STARTUP_PACKET_BYTES;

pub use options::{SeparatedOptions, separate_options};

/// Bytes of the length field before every first packet.
pub const LENGTH_BYTES: usize = 4;

/// The newest minor version of protocol 3 that is spoken (3.2: PostgreSQL 18, longer cancel keys).
pub const NEWEST_MINOR: u16 = 2;

/// The only major version that is spoken.
const MAJOR: u16 = 3;

/// The pretended major version of requests that are not a startup message.
const REQUEST_MAJOR: u16 = 1234;

const CANCEL_REQUEST: u16 = 5678;
const SSL_REQUEST: u16 = 5679;
const GSSENC_REQUEST: u16 = 5680;

/// Shortest and longest cancel key, in bytes (4 before protocol 3.2, at most 256 since).
const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// Prefix of the settings that pgweir answers itself.
const OWN_PREFIX: &str = "pgweir.";

/// Prefix of protocol options inside a startup message.
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

/// Why a first packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupFault {
    /// The length field is impossible.
    #[error("invalid length of startup packet")]
    Length,
    /// The body is not a list of names and values with a terminator as its last byte.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// The protocol's major version is not spoken, or a request code is unknown or repeated.
    #[error("unsupported frontend protocol {major}.{minor}")]
    Version {
        /// The upper half of the version field.
        major: u16,
        /// The lower half of the version field.
        minor: u16,
    },
    /// A cancel request with a key that is too short or too long.
    #[error("invalid length of cancel request")]
    CancelLength,
    /// There is no `user`, or it is empty.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A value is not UTF-8.
    #[error("startup parameter is not valid UTF-8")]
    Encoding {
        /// The parameter, as far as it is UTF-8.
        parameter: String,
    },
    /// `replication` has none of its values.
    #[error("invalid value of replication")]
    Replication {
        /// What the client wrote.
        value: String,
    },
    /// A `pgweir.` setting in `options` has no value.
    #[error("setting has no value")]
    SettingWithoutValue {
        /// The setting's name.
        name: String,
    },
}

impl From<Malformed> for StartupFault {
    fn from(_: Malformed) -> Self {
        Self::Layout
    }
}

/// What the first packet of a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// TLS.
    SslRequest,
    /// GSSAPI encryption.
    GssEncryptionRequest,
    /// Cancel a statement of another connection.
    Cancel(CancelRequest),
    /// A session.
    Startup(StartupMessage),
}

/// Names the statement to cancel.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The process id of `BackendKeyData`.
    pub process_id: i32,
    /// The key of `BackendKeyData`: 4 to 256 bytes.
    pub key: Box<[u8]>,
}

impl std::fmt::Debug for CancelRequest {
    /// Prints no key: it is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest")
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

/// A name with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// As the client wrote it; of `pgweir.` settings in lower case.
    pub name: String,
    /// As the client wrote it.
    pub value: String,
}

/// Which protocol a session speaks after its start (manual, "Streaming Replication Protocol").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Replication {
    /// The ordinary one.
    #[default]
    None,
    /// That of a walsender which belongs to no database.
    Physical,
    /// That of a walsender which can decode changes of its database, and run SQL.
    Database,
}

impl Replication {
    /// The value of `replication` in a startup packet; `None` to leave it out.
    pub const fn parameter(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Physical => Some("true"),
            Self::Database => Some("database"),
        }
    }

    /// Reads a value of `replication`: `database`, or a Boolean as `parse_bool` takes it
    /// (`src/backend/utils/adt/bool.c`).
    fn read(value: &[u8]) -> Option<Self> {
        if value == b"database" {
            return Some(Self::Database);
        }
        let value = value.to_ascii_lowercase();
        let begins =
            |word: &[u8], at_least: usize| value.len() >= at_least && word.starts_with(&value);
        if begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) || value == b"1" {
            Some(Self::Physical)
        } else if begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0" {
            Some(Self::None)
        } else {
            None
        }
    }
}

/// The parameters of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// The minor version the client asks for; may be above [`NEWEST_MINOR`].
    pub minor: u16,
    /// The role; never empty.
    pub user: String,
    /// The database; the role's name when the client gave none.
    pub database: String,
    /// Which protocol it is to speak.
    pub replication: Replication,
    /// Everything for the server, in order, without user, database, replication, protocol options
    /// and `pgweir.` settings.
    pub parameters: Vec<Parameter>,
    /// The `pgweir.` settings from parameters and from `options`, in order.
    pub settings: Vec<Parameter>,
    /// The names of protocol options (`_pq_.`); none is known.
    pub unrecognized_options: Vec<Box<[u8]>>,
}

/// Checks the length field of a first packet and returns the bytes of the body that follows it.
///
/// # Errors
/// [`StartupFault::Length`] below 4 bytes of body or above [`STARTUP_PACKET_BYTES`].
pub fn body_length(field: [u8; LENGTH_BYTES]) -> Result<usize, StartupFault> {
    let length = usize::try_from(u32::from_be_bytes(field)).map_err(|_| StartupFault::Length)?;
    let body = length
        .checked_sub(LENGTH_BYTES)
        .ok_or(StartupFault::Length)?;
    if (LENGTH_BYTES..=STARTUP_PACKET_BYTES).contains(&body) {
        Ok(body)
    } else {
        Err(StartupFault::Length)
    }
}

/// Reads the body of a first packet (without its length field).
///
/// # Errors
/// The first fault found.
pub fn parse(body: &[u8]) -> Result<FirstPacket, StartupFault> {
    let mut reader = Reader::new(body);
    let [a, b, c, d] = reader.int32()?.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    match (major, minor) {
        (REQUEST_MAJOR, SSL_REQUEST) => Ok(FirstPacket::SslRequest),
        (REQUEST_MAJOR, GSSENC_REQUEST) => Ok(FirstPacket::GssEncryptionRequest),
        (REQUEST_MAJOR, CANCEL_REQUEST) => cancel_request(reader).map(FirstPacket::Cancel),
        (MAJOR, _) => startup_message(reader, minor).map(FirstPacket::Startup),
        _ => Err(StartupFault::Version { major, minor }),
    }
}

/// The fault of a second SSL request: PostgreSQL then takes the code for a version.
pub const REPEATED_SSL_REQUEST: StartupFault = StartupFault::Version {
    major: REQUEST_MAJOR,
    minor: SSL_REQUEST,
};

/// The fault of a second GSSAPI encryption request.
pub const REPEATED_GSSENC_REQUEST: StartupFault = StartupFault::Version {
    major: REQUEST_MAJOR,
    minor: GSSENC_REQUEST,
};

fn cancel_request(mut reader: Reader<'_>) -> Result<CancelRequest, StartupFault> {
    let process_id = reader.int32().map_err(|_| StartupFault::CancelLength)?;
    let key = reader.rest();
    if !CANCEL_KEY_BYTES.contains(&key.len()) {
        return Err(StartupFault::CancelLength);
    }
    Ok(CancelRequest {
        process_id,
        key: key.into(),
    })
}

fn startup_message(mut reader: Reader<'_>, minor: u16) -> Result<StartupMessage, StartupFault> {
    let mut draft = Draft::default();
    loop {
        let name = reader.string()?;
        if name.is_empty() {
            break;
        }
        draft.take(name, reader.string()?)?;
    }
    if !reader.rest().is_empty() {
        return Err(StartupFault::Layout);
    }
    draft.finish(minor)
}

/// A startup message as far as it has been read.
#[derive(Default)]
struct Draft {
    user: String,
    database: String,
    replication: Replication,
    parameters: Vec<Parameter>,
    settings: Vec<Parameter>,
    unrecognized_options: Vec<Box<[u8]>>,
}

impl Draft {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), StartupFault> {
        if name.starts_with(PROTOCOL_OPTION_PREFIX) {
            self.unrecognized_options.push(name.into());
            return Ok(());
        }
        let name = std::str::from_utf8(name).map_err(|_| StartupFault::Encoding {
            parameter: String::from_utf8_lossy(name).into_owned(),
        })?;
        match name {
            // A name that is not UTF-8 is no configured one; the marks make that visible.
            "user" => self.user = String::from_utf8_lossy(value).into_owned(),
            "database" => self.database = String::from_utf8_lossy(value).into_owned(),
            "replication" => {
                let asked = Replication::read(value).ok_or_else(|| StartupFault::Replication {
                    value: String::from_utf8_lossy(value).into_owned(),
                });
                self.replication = asked?;
            }
            // Servers replace what is not printable ASCII in this one anyway.
            "application_name" => self.keep(name, String::from_utf8_lossy(value).into_owned()),
            "options" => self.take_options(text(name, value)?)?,
            _ if is_own(name) => self.settings.push(Parameter {
                name: name.to_ascii_lowercase(),
                value: text(name, value)?.to_owned(),
            }),
            _ => self.keep(name, text(name, value)?.to_owned()),
        }
        Ok(())
    }

    fn keep(&mut self, name: &str, value: String) {
        let name = name.to_owned();
        self.parameters.push(Parameter { name, value });
    }

    fn take_options(&mut self, value: &str) -> Result<(), StartupFault> {
        let separated = separate_options(value)?;
        self.settings.extend(separated.settings);
        // The server takes the last `options` only.
        self.parameters.retain(|known| known.name != "options");
        if !separated.rest.is_empty() {
            self.keep("options", separated.rest);
        }
        Ok(())
    }

    fn finish(self, minor: u16) -> Result<StartupMessage, StartupFault> {
        if self.user.is_empty() {
            return Err(StartupFault::NoUser);
        }
        let database = if self.database.is_empty() {
            self.user.clone()
        } else {
            self.database
        };
        Ok(StartupMessage {
            minor,
            user: self.user,
            database,
            replication: self.replication,
            parameters: self.parameters,
            settings: self.settings,
            unrecognized_options: self.unrecognized_options,
        })
    }
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, StartupFault> {
    std::str::from_utf8(value).map_err(|_| StartupFault::Encoding {
        parameter: name.to_owned(),
    })
}

/// Whether `name` is a setting that pgweir answers itself; names of settings ignore case.
fn is_own(name: &str) -> bool {
    name.as_bytes()
        .get(..OWN_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX.as_bytes()))
}

/// The minor version that is spoken with a client that asks for `requested`.
pub fn agreed_minor(requested: u16) -> u16 {
    requested.min(NEWEST_MINOR)
}

/// Appends `NegotiateProtocolVersion` when `startup` asks for more than is spoken: a newer minor
/// version or any protocol option (`SendNegotiateProtocolVersion`, `backend_startup.c`).
pub fn write_negotiation(out: &mut Vec<u8>, startup: &StartupMessage) {
    if startup.minor <= NEWEST_MINOR && startup.unrecognized_options.is_empty() {
        return;
    }
    out.push(b'v');
    write_counted(out, |body| {
        // The field holds the whole version, unlike what its name in the manual suggests.
        body.extend_from_slice(&MAJOR.to_be_bytes());
        body.extend_from_slice(&agreed_minor(startup.minor).to_be_bytes());
        let count = u32::try_from(startup.unrecognized_options.len()).unwrap_or(u32::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        for name in &startup.unrecognized_options {
            write_string(body, name);
        }
    });
}

#[cfg(test)]
mod tests;
