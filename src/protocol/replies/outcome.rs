//! The vocabulary of a walk over replies: what they amounted to, why it stops, what it holds back.

use std::ops::Range;

use crate::protocol::backend::{SqlState, TransactionStatus, tag};
use crate::protocol::description::Comparison;
use crate::protocol::message::write_message;

/// What the replies to one segment amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome(u16);

impl Outcome {
    /// The node reported an error.
    pub const ERROR: Self = Self(1);
    /// `COMMIT` (also of a prepared transaction).
    pub const COMMITTED: Self = Self(2);
    /// `ROLLBACK`.
    pub const ROLLED_BACK: Self = Self(4);
    /// `DISCARD ALL`.
    pub const DISCARDED_ALL: Self = Self(8);
    /// `DEALLOCATE ALL`.
    pub const DEALLOCATED_ALL: Self = Self(16);
    /// The node announced the end of the connection.
    pub const FATAL: Self = Self(32);
    /// An error in a query that pgweir sent for itself.
    pub const OWN_QUERY_FAILED: Self = Self(64);
    /// `PREPARE TRANSACTION`.
    pub const PREPARED: Self = Self(128);
    /// A Sync that was sent before COPY data, and that the node has ignored.
    pub const SYNC_IGNORED: Self = Self(256);
    /// A Parse of the unnamed statement failed or was skipped: the node has another one, or none.
    pub const UNNAMED_LOST: Self = Self(512);
    /// A Close of pgweir's own that was skipped: the statement is still there.
    pub const CLOSE_LOST: Self = Self(1024);

    /// The client is to be skipped to its next Sync, while the node waits for none.
    pub const CLIENT_SKIPS: Self = Self(2048);

    /// The node reported a parameter behind what the client has sent.
    pub const REPORTED: Self = Self(16_384);

    /// Adds `other`.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes `other` away.
    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Whether `other` is part of it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What became of a Parse or a Close of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was carried out.
    Done,
    /// It failed.
    Failed,
    /// It was skipped because of an error before it.
    Skipped,
}

/// Whether bytes may still be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing has reached the client, and an error stops the scan.
    UntilResult,
    /// Everything is forwarded.
    Released,
    /// Everything is dropped (what is left of a statement that another node runs).
    Discarding,
}

/// Why a scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All bytes have been looked at, up to an incomplete message.
    NeedMore,
    /// A statement of pgweir's own that everything behind it depends on has failed, and the node skips
    /// to a Sync that was not sent.
    OwnFailed,
    /// With [`Hold::UntilResult`]: an error came before any result went out. The error has not been
    /// consumed; scan again with another hold to go on.
    HeldError(SqlState, ErrorKind),
    /// The node waits for COPY data.
    CopyIn,
    /// With [`Boundaries::Kept`]: one of several segments has been answered.
    Boundary,
    /// A statement has been compared with its first description.
    Compared(Comparison),
    /// A `ReadyForQuery` for the client comes next, and [`reports`](super::ReplyScanner::reports) may hold what it is
    /// to be told before.
    Reported(TransactionStatus),
    /// With [`Behind::Kept`]: an error came that answers nothing. It has not been consumed.
    Behind,
}

/// What becomes of an error behind the last answer: the connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// It is passed on.
    Passed,
    /// The scan stops in front of it.
    Kept,
}

/// What else the error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The connection lives on.
    Ordinary,
    /// "... during recovery" in the message (SQLSTATE XX000 is used for it too).
    DuringRecovery,
    /// The connection ends.
    Fatal,
}

/// Whether the scan stops between the answers to several segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundaries {
    /// It does not.
    Passed,
    /// It does.
    Kept,
}

/// Whether the client may have to be told of a parameter although the node reports none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// It need not.
    No,
    /// Settings were changed that the client knows nothing of.
    Yes,
}

/// Bytes for the client, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// A range of the scanned buffer.
    Range(Range<usize>),
    /// A reply of pgweir's own.
    Own(Box<[u8]>),
}

/// Two process ids for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The connection's own.
    pub(super) process_id: i32,
    /// The one that the client was told.
    pub(super) told: i32,
}

impl Alias {
    /// `None` if the client was told the connection's own.
    pub fn of(process_id: i32, told: i32) -> Option<Self> {
        (process_id != told).then_some(Self { process_id, told })
    }

    /// The connection's own notification, given its body, as coming from the process that the client
    /// was told of; `None` if another process has sent it.
    pub(super) fn renamed(self, body: &[u8]) -> Option<Box<[u8]>> {
        let (sender, rest) = body.split_first_chunk()?;
        if i32::from_be_bytes(*sender) != self.process_id {
            return None;
        }
        let mut message = Vec::new();
        write_message(&mut message, tag::NOTIFICATION, |out| {
            out.extend_from_slice(&self.told.to_be_bytes());
            out.extend_from_slice(rest);
        });
        Some(message.into())
    }
}
