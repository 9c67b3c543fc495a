//! Positions of the primary and the instants at which they were learned: how a floor leaves this
//! process and how one comes in.
//!
//! A floor is an instant on this process's clock, which nobody else can read. What everybody can read is
//! the primary's WAL. A sample that was asked for after an instant is at or beyond everything that was
//! acknowledged before it; so an instant goes out as the position of such a sample. A position comes in
//! as the instant by which a sample at or beyond it had been received: a replica that is fresh as of
//! that instant has replayed it (by either proof of [`crate::core::freshness`]: the position of a sample
//! asked for then or later, or all commits that were in the WAL at that instant).
//!
//! Invariants:
//! * Positions are compared on one timeline of one database system only.
//! * Bounded: forgetting old samples makes an instant later, never earlier.

use std::collections::VecDeque;
use std::time::Instant;

use crate::core::lsn::Lsn;

/// How many samples are remembered: at one a millisecond, the last second; idle, minutes.
pub const POSITIONS_REMEMBERED: usize = 1024;

/// A position of one database system on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemPosition {
    /// `pg_control_system().system_identifier`.
    pub system: i64,
    /// The timeline.
    pub timeline: u32,
    /// The position; where a record can end.
    pub lsn: Lsn,
}

/// The elected primary's insert position, settled, with the instants around the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionSample {
    /// What it answered.
    pub at: SystemPosition,
    /// Before the question was sent.
    pub sent: Instant,
    /// When the answer had come.
    pub received: Instant,
}

/// What is known of the primary's positions.
#[derive(Debug, Default)]
pub struct PositionLog {
    /// The system and the timeline of every entry.
    of: Option<(i64, u32)>,
    entries: VecDeque<Entry>,
}

/// Consecutive samples of the same position.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lsn: Lsn,
    first_received: Instant,
    last_sent: Instant,
}

/// What a position that came in means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// A replica that is fresh as of this instant has it.
    By(Instant),
    /// It is on an earlier timeline: what has survived of it, the primary has; a replica must be fresh as
    /// of the arrival.
    EarlierTimeline,
    /// The primary had not come so far when it was asked last.
    NotYet,
    /// It is on a timeline that nothing was seen of here.
    LaterTimeline,
    /// It is of another database system.
    OtherSystem,
    /// No primary was sampled yet.
    Unknown,
}

impl PositionLog {
    /// Adds a sample. One that does not continue the log begins it anew.
    pub fn note(&mut self, sample: &PositionSample) {
        let of = Some((sample.at.system, sample.at.timeline));
        if self.of != of {
            self.entries.clear();
            self.of = of;
        }
        let entry = Entry {
            lsn: sample.at.lsn,
            first_received: sample.received,
            last_sent: sample.sent,
        };
        match self.entries.back_mut() {
            Some(last) if last.lsn == entry.lsn => {
                last.last_sent = last.last_sent.max(entry.last_sent);
                return;
            }
            // Answers of two connections may come in the other order; what is lower says nothing new.
            Some(last) if last.lsn > entry.lsn => self.entries.clear(),
            Some(_) | None => {}
        }
        if self.entries.len() >= POSITIONS_REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// A position that covers everything acknowledged before `instant`; `None` without a sample that was
    /// asked for later.
    pub fn covering(&self, instant: Instant) -> Option<SystemPosition> {
        let (system, timeline) = self.of?;
        let first = self
            .entries
            .partition_point(|entry| entry.last_sent < instant);
        let entry = self.entries.get(first)?;
        Some(SystemPosition {
            system,
            timeline,
            lsn: entry.lsn,
        })
    }

    /// The oldest position that is remembered.
    pub fn oldest(&self) -> Option<SystemPosition> {
        let (system, timeline) = self.of?;
        let lsn = self.entries.front()?.lsn;
        Some(SystemPosition {
            system,
            timeline,
            lsn,
        })
    }

    /// A position behind which every record is that was written after `instant`: the newest that had been
    /// received by then. `None` if none is remembered.
    pub fn before(&self, instant: Instant) -> Option<SystemPosition> {
        let (system, timeline) = self.of?;
        let behind = self
            .entries
            .partition_point(|entry| entry.first_received <= instant);
        let lsn = self.entries.get(behind.checked_sub(1)?)?.lsn;
        Some(SystemPosition {
            system,
            timeline,
            lsn,
        })
    }

    /// When the newest sample was asked for.
    pub fn newest_sent(&self) -> Option<Instant> {
        self.entries.back().map(|entry| entry.last_sent)
    }

    /// What `position` means here.
    pub fn reached(&self, position: SystemPosition) -> Reached {
        let Some((system, timeline)) = self.of else {
            return Reached::Unknown;
        };
        if position.system != system {
            return Reached::OtherSystem;
        }
        if position.timeline < timeline {
            return Reached::EarlierTimeline;
        }
        if position.timeline > timeline {
            return Reached::LaterTimeline;
        }
        let first = self
            .entries
            .partition_point(|entry| entry.lsn < position.lsn);
        match self.entries.get(first) {
            Some(entry) => Reached::By(entry.first_received),
            None => Reached::NotYet,
        }
    }
}

#[cfg(test)]
mod tests;
