//! One server connection and what is known of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::connect::{NodeAddress, NodeEncryption};
use crate::backend::custom::NamesOfConnection;
use crate::backend::home::Anchor;
use crate::backend::startup::StartupParameters;
use crate::backend::state::{AppliedSettings, PreparedNames};
use crate::core::snapshot::NodeId;
use crate::limits::UNSOLICITED_BYTES;
use crate::protocol::frame::FrameHeader;
use crate::protocol::message::Reader;
use crate::wire::socket::Socket;

/// Names one server connection for the life of its [`Pools`](crate::backend::pool::Pools).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Which worker thread's runtime a socket is registered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId(pub u16);

/// The values of a node's `ParameterStatus` messages: name to value, in order of arrival.
pub type ReportedParameters = Arc<[(String, String)]>;

/// One authenticated server connection, ready for queries.
pub struct BackendConnection {
    /// Its name.
    pub id: ConnectionId,
    /// The node it leads to.
    pub node: NodeId,
    /// The address it leads to; cancel requests go there.
    pub peer: NodeAddress,
    /// How cancel requests are encrypted; `None` if the connection itself is not.
    pub encryption: Option<NodeEncryption>,
    /// The socket; nothing of it is read ahead.
    pub stream: Socket,
    /// The worker whose runtime the socket is registered with.
    pub worker: WorkerId,
    /// The process on the node, from `BackendKeyData`; 0 if the node sent none.
    pub process_id: i32,
    /// The secret from `BackendKeyData`, 4 to 256 bytes; empty if the node sent none.
    pub cancel_key: Box<[u8]>,
    /// What the node reported at start-up, with what it reported while the connection was idle.
    pub parameters: ReportedParameters,
    /// What it was opened with.
    pub startup: Arc<StartupParameters>,
    /// Which sessions have it as their home.
    pub anchor: Anchor,
    /// When it became ready.
    pub opened_at: Instant,
    /// When it was given back last; `opened_at` before.
    pub idle_since: Instant,
    /// The node's generation in the pools when opening began.
    pub(crate) generation: u64,
    /// Settings on top of the start-up values.
    pub settings: Arc<AppliedSettings>,
    /// Names of customized options that sessions have made exist here.
    pub custom: NamesOfConnection,
    /// Statements that were prepared by us and exist here.
    pub prepared: PreparedNames,
    /// Which session parsed the unnamed statement last.
    pub unnamed_owner: Option<u64>,
    /// Which session used it last; 0 for none.
    pub last_session: u64,
}

impl fmt::Debug for BackendConnection {
    /// Leaves out the cancel key, and values that may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConnection")
            .field("id", &self.id)
            .field("node", &self.node)
            .field("process_id", &self.process_id)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl BackendConnection {
    /// Whether the connection, which must be idle, can be used: the socket is open and the node has
    /// sent nothing but notices and `ParameterStatus`. Costs no system call unless the runtime has
    /// seen the socket become readable.
    pub(crate) fn is_usable(&mut self) -> bool {
        // Asked at every checkout, and almost always answered here, without a buffer.
        if self.stream.is_silent() {
            return true;
        }
        let mut bytes = [0; UNSOLICITED_BYTES];
        let read = self.stream.try_read(&mut bytes);
        self.accept_unsolicited(&bytes, read)
    }

    /// Registers the socket with the runtime of the caller, which is `worker`'s, and checks like
    /// [`Self::is_usable`]. `None` when the connection cannot be used.
    pub(crate) fn adopt(mut self: Box<Self>, worker: WorkerId) -> Option<Box<Self>> {
        let mut bytes = [0; UNSOLICITED_BYTES];
        let (stream, read) = self.stream.move_here(&mut bytes).ok()?;
        self.stream = stream;
        self.worker = worker;
        self.anchor.moved(worker);
        self.accept_unsolicited(&bytes, read).then_some(self)
    }

    /// Tells the node that the connection ends, if the socket takes it at once, and closes it.
    pub(crate) fn terminate(mut self: Box<Self>) {
        // The node copes with a bare close too; it only would not know that it was meant.
        let _ = self.stream.try_write(b"X\0\0\0\x04");
    }

    /// Whether a Query behind a batch without a Sync leaves the batch's transaction open, as from
    /// PostgreSQL 18 on (`start_xact_command`, `src/backend/tcop/postgres.c`); also if it cannot be told.
    pub(crate) fn keeps_batches_open(&self) -> bool {
        let mut parameters = self.parameters.iter();
        let version = parameters.find(|(name, _)| name == "server_version");
        keeps_batches_open(version.map(|(_, version)| &**version))
    }

    fn accept_unsolicited(&mut self, bytes: &[u8], read: io::Result<usize>) -> bool {
        match read {
            Ok(0) => false,
            // A full buffer may hide more.
            Ok(count) if count < bytes.len() => match bytes.get(..count) {
                Some(bytes) => self.note_reports(bytes).is_some(),
                None => false,
            },
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Takes whole `ParameterStatus` and notice messages; `None` for anything else, also for a
    /// `NotificationResponse`: nobody should be listening on an idle connection.
    fn note_reports(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let header = FrameHeader::parse(bytes, u32::MAX - 1).ok()??;
            let (message, rest) = bytes.split_at_checked(header.total())?;
            bytes = rest;
            match header.tag {
                b'S' => {
                    let (name, value) = parameter_status(message.get(5..)?)?;
                    self.parameters = with_parameter(&self.parameters, name, value);
                }
                b'N' => {}
                _ => return None,
            }
        }
        Some(())
    }
}

/// The first major version in which a Query does not end the transaction of a batch before it.
const KEEPS_BATCHES_OPEN: u32 = 18;

fn keeps_batches_open(server_version: Option<&str>) -> bool {
    let digits = |version: &str| {
        let end = version.find(|letter: char| !letter.is_ascii_digit());
        version
            .split_at_checked(end.unwrap_or(version.len()))?
            .0
            .parse()
            .ok()
    };
    let major: Option<u32> = server_version.and_then(digits);
    major.is_none_or(|major| major >= KEEPS_BATCHES_OPEN)
}

/// Name and value of a `ParameterStatus` body; `None` if it is malformed.
pub(crate) fn parameter_status(body: &[u8]) -> Option<(String, String)> {
    let mut reader = Reader::new(body);
    let name = String::from_utf8_lossy(reader.string().ok()?).into_owned();
    let value = String::from_utf8_lossy(reader.string().ok()?).into_owned();
    reader.rest().is_empty().then_some((name, value))
}

/// The same parameters with this value of one.
pub(crate) fn with_parameter(
    old: &ReportedParameters,
    name: String,
    value: String,
) -> ReportedParameters {
    let mut parameters = old.to_vec();
    parameters.retain(|(old, _)| *old != name);
    parameters.push((name, value));
    parameters.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_batches_open_from_18_on_or_if_its_version_cannot_be_told() {
        for (version, keeps) in [
            (Some("14.23"), false),
            (Some("17.10 (Debian 17.10-1)"), false),
            (Some("18.4"), true),
            (Some("18"), true),
            (Some("19rc1 (Debian 19~rc1-1)"), true),
            (Some(""), true),
            (Some("unknown"), true),
            (None, true),
        ] {
            assert_eq!(keeps_batches_open(version), keeps, "{version:?}");
        }
    }
}
