//! Which node is how fresh.
//!
//! The monitor notes the instant `sent`, then asks the primary for its positions. Everything
//! acknowledged before `sent` ends at or before the insert position it answers, so a replica that
//! has replayed up to that position is fresh as of `sent`. No write to the database, no comparison
//! of clocks, right for an idle primary, a cut-off receiver, a paused replay and a cascade alike.
//!
//! Invariants:
//! * Positions are compared on one timeline of one server life only.
//! * Within one life of a replica on one timeline, "fresh as of" never moves back; another life or
//!   timeline starts unknown.
//! * Losing samples (bounded history, lost probes) makes the answer older, never newer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::Lsn;

pub mod observer;
pub mod pace;
pub mod replay_wait;
pub mod service;

/// How many positions of the primary are remembered; older ones are thinned out beyond that. At one
/// sample a millisecond the newest two seconds are exact.
pub const PRIMARY_SAMPLES: usize = 4096;

/// Added to three times `wal_writer_delay` before an asynchronous commit is taken for flushed: the
/// WAL writer may be late on a busy host.
pub const ASYNC_COMMIT_MARGIN: Duration = Duration::from_millis(200);

/// Short page header, in bytes (`SizeOfXLogShortPHD`, `src/include/access/xlog_internal.h`).
const SHORT_HEADER_BYTES: u64 = 24;
/// Header of a segment's first page, in bytes (`SizeOfXLogLongPHD`, same file).
const LONG_HEADER_BYTES: u64 = 40;
/// A commit with `synchronous_commit=off` is flushed within this many `wal_writer_delay`
/// (PostgreSQL manual, "Asynchronous Commit").
const FLUSH_CYCLES: u32 = 3;

/// How the write-ahead log is cut into pages and segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalGeometry {
    block_bytes: u64,
    segment_bytes: u64,
}

impl WalGeometry {
    /// `wal_block_size` and `wal_segment_size` in bytes; `None` unless both are powers of two and
    /// the block fits into the segment.
    pub fn new(block_bytes: u64, segment_bytes: u64) -> Option<Self> {
        let usable = block_bytes.is_power_of_two()
            && segment_bytes.is_power_of_two()
            && block_bytes > LONG_HEADER_BYTES
            && block_bytes <= segment_bytes;
        usable.then_some(Self {
            block_bytes,
            segment_bytes,
        })
    }

    /// The last position at or before `insert` where a record can end.
    ///
    /// The insert position skips page headers, the replay position does not: it stays at the page
    /// boundary until the next record. No record ends inside a header.
    pub fn settled(self, insert: Lsn) -> Lsn {
        let in_segment = insert.0 & (self.segment_bytes - 1);
        let in_block = insert.0 & (self.block_bytes - 1);
        if in_segment <= LONG_HEADER_BYTES {
            Lsn(insert.0 - in_segment)
        } else if in_block <= SHORT_HEADER_BYTES {
            Lsn(insert.0 - in_block)
        } else {
            insert
        }
    }
}

/// What the primary answered to one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimarySample {
    /// Before the question was sent.
    pub sent: Instant,
    /// When the answer had come.
    pub received: Instant,
    /// The timeline it writes.
    pub timeline: u32,
    /// `pg_current_wal_flush_lsn()`.
    pub flush: Lsn,
    /// `pg_current_wal_insert_lsn()`.
    pub insert: Lsn,
    /// `wal_writer_delay`.
    pub wal_writer_delay: Duration,
}

/// What a replica answered to one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaSample {
    /// Before the question was sent.
    pub sent: Instant,
    /// When the answer had come.
    pub received: Instant,
    /// The timeline whose history it replays; `None` when it cannot be told.
    pub timeline: Option<u32>,
    /// `pg_last_wal_replay_lsn()`.
    pub replay: Lsn,
}

/// The positions of one primary in one life on one timeline, by the instant of asking.
#[derive(Debug, Clone)]
pub struct PrimaryTimeline {
    geometry: WalGeometry,
    timeline: u32,
    /// The longest time between an asynchronous commit and its flush.
    flush_delay: Duration,
    /// Never more than [`PRIMARY_SAMPLES`]; `insert` and `flush` never decrease.
    entries: VecDeque<Entry>,
}

/// Consecutive samples with the same positions.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first_received: Instant,
    last_sent: Instant,
    insert: Lsn,
    flush: Lsn,
}

impl PrimaryTimeline {
    /// A history that starts with `sample`.
    pub fn starting_with(geometry: WalGeometry, sample: &PrimarySample) -> Self {
        let mut history = Self {
            geometry,
            timeline: sample.timeline,
            flush_delay: Duration::ZERO,
            entries: VecDeque::new(),
        };
        history.note(sample);
        history
    }

    /// The timeline of every sample in it.
    pub const fn timeline(&self) -> u32 {
        self.timeline
    }

    /// The newest flush position.
    pub fn flush(&self) -> Option<Lsn> {
        self.entries.back().map(|entry| entry.flush)
    }

    /// When the newest sample was sent.
    pub fn newest_sent(&self) -> Option<Instant> {
        self.entries.back().map(|entry| entry.last_sent)
    }

    /// Adds a sample. A position or a timeline that does not continue the history starts it anew.
    pub fn note(&mut self, sample: &PrimarySample) {
        self.flush_delay = self.flush_delay.max(flush_delay(sample.wal_writer_delay));
        let entry = Entry {
            first_received: sample.received,
            last_sent: sample.sent,
            insert: self.geometry.settled(sample.insert),
            flush: sample.flush,
        };
        if sample.timeline != self.timeline {
            self.timeline = sample.timeline;
            self.entries.clear();
        }
        match self.entries.back_mut() {
            Some(last) if last.insert == entry.insert && last.flush == entry.flush => {
                last.last_sent = last.last_sent.max(entry.last_sent);
                return;
            }
            Some(last) if entry.insert < last.insert || entry.flush < last.flush => {
                self.entries.clear();
            }
            Some(_) | None => {}
        }
        if self.entries.len() >= PRIMARY_SAMPLES {
            self.thin_out();
        }
        self.entries.push_back(entry);
    }

    /// Drops every other entry of the older half: recent history stays exact, old history coarse.
    fn thin_out(&mut self) {
        let half = self.entries.len() / 2;
        let mut place = 0;
        self.entries.retain(|_| {
            place += 1;
            place > half || place % 2 == 0
        });
    }

    /// The latest instant as of which a replica with this sample is proved fresh; `None` without a
    /// proof.
    ///
    /// Two proofs: replay has reached the insert position of a sample, or replay has reached the
    /// flush position of a sample, by which all that was acknowledged `flush_delay` before it was
    /// flushed. The second keeps WAL that nobody flushes for a while (pruning by a read) from
    /// looking like lag.
    pub fn fresh_as_of(&self, replica: &ReplicaSample) -> Option<Instant> {
        if replica.timeline != Some(self.timeline) {
            return None;
        }
        let inserted = self.last_where(|entry| entry.insert <= replica.replay);
        let flushed = self
            .last_where(|entry| entry.flush <= replica.replay)
            .and_then(|sent| sent.checked_sub(self.flush_delay));
        inserted.max(flushed)
    }

    /// The oldest position that was known when a replica gave this answer, and that it had not replayed:
    /// before that nothing more is proved of it. `None` if it had them all, or they cannot be compared.
    pub fn missing(&self, replica: &ReplicaSample) -> Option<Lsn> {
        if replica.timeline != Some(self.timeline) {
            return None;
        }
        let reached = self
            .entries
            .partition_point(|entry| entry.insert <= replica.replay);
        let oldest = self.entries.get(reached)?;
        (oldest.first_received <= replica.received).then_some(oldest.insert)
    }

    fn last_where(&self, reached: impl Fn(&Entry) -> bool) -> Option<Instant> {
        let reached = self.entries.partition_point(reached);
        let last = self.entries.get(reached.checked_sub(1)?)?;
        Some(last.last_sent)
    }

    /// For how long at least the replica had been missing something flushed when it was asked.
    pub fn behind(&self, replica: &ReplicaSample) -> Duration {
        let reached = self
            .entries
            .partition_point(|entry| entry.flush <= replica.replay);
        self.entries.get(reached).map_or(Duration::ZERO, |missing| {
            replica
                .sent
                .saturating_duration_since(missing.first_received)
        })
    }
}

fn flush_delay(wal_writer_delay: Duration) -> Duration {
    wal_writer_delay
        .saturating_mul(FLUSH_CYCLES)
        .saturating_add(ASYNC_COMMIT_MARGIN)
}

/// What is proved about one replica in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicaFreshness {
    /// Not measured in this life, or never proved. Never fresh.
    #[default]
    Unknown,
    /// It was measured.
    Measured {
        /// The last answer.
        sample: ReplicaSample,
        /// Proved by then; `None` while no primary position was reached.
        fresh_as_of: Option<Instant>,
    },
}

impl ReplicaFreshness {
    /// Takes a newer answer of the same connection. What was proved is forgotten if the replay
    /// position went back, which is another life, whatever the connection says; and if the timeline
    /// is another one: the primary of the old one may have answered after the new one had parted from
    /// it, when it had not what was acknowledged there.
    pub fn measure(&mut self, sample: ReplicaSample) {
        let proved = match *self {
            Self::Measured {
                sample: last,
                fresh_as_of,
            } if last.replay <= sample.replay && last.timeline == sample.timeline => fresh_as_of,
            Self::Unknown | Self::Measured { .. } => None,
        };
        *self = Self::Measured {
            sample,
            fresh_as_of: proved,
        };
    }

    /// Proves what the primary's history allows. Replay only advances within one life, so an older
    /// answer may be held against a newer sample.
    pub fn prove(&mut self, primary: &PrimaryTimeline) {
        if let Self::Measured {
            sample,
            fresh_as_of,
        } = self
        {
            *fresh_as_of = (*fresh_as_of).max(primary.fresh_as_of(sample));
        }
    }

    /// The last answer.
    pub const fn sample(&self) -> Option<&ReplicaSample> {
        match self {
            Self::Unknown => None,
            Self::Measured { sample, .. } => Some(sample),
        }
    }

    /// The instant as of which the replica is proved fresh.
    pub const fn fresh_as_of(&self) -> Option<Instant> {
        match self {
            Self::Unknown => None,
            Self::Measured { fresh_as_of, .. } => *fresh_as_of,
        }
    }
}

#[cfg(test)]
#[path = "../../../simulator/src/simulation/mod.rs"]
mod simulation;
#[cfg(test)]
mod tests;
