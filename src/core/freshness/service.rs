//! How fresh the readers of a service are that hides its WAL positions: by the service's own word.
//!
//! Amazon Aurora's instances share one storage and refuse to show positions. Its writer tells of every
//! instance, with `aurora_replica_status()`, by how many milliseconds it is behind and when that was
//! noted. Everything acknowledged that long before the note is visible there, it says.
//!
//! Invariants:
//! * A statement is no proof: it becomes [`ReplayLag::Stated`], never `Known`.
//! * Only the word of the node counts that takes writes and names itself the writer: a reader that is
//!   cut off does not know how far behind it is.
//! * What is missing, NULL, doubled, negative, not dated, too old or from a life before the one that is
//!   measured is unknown.
//! * Times are rounded to the old side. The latest word counts, also when it takes an earlier one back.

use std::time::{Duration, Instant};

use crate::core::snapshot::ReplayLag;

/// How often a service is asked, whoever waits for it.
pub const STATEMENT_INTERVAL: Duration = Duration::from_millis(100);

/// How old a note may be: past that the service has lost sight of the reader.
pub const NOTE_EXPIRY: Duration = Duration::from_secs(60);

/// How far in the writer's future a note may lie: more means that clocks disagree, and then the age of
/// no note can be told.
pub const NOTE_AHEAD: Duration = Duration::from_secs(1);

/// The most a lag can say that still means anything.
const LONGEST_LAG: Duration = Duration::from_secs(24 * 60 * 60);

/// What an instance is by `session_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceRole {
    /// `MASTER_SESSION_ID`.
    Writer,
    /// Anything else.
    Reader,
}

/// One row of `aurora_replica_status()`.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceNote {
    /// `server_id`, the instance's identifier.
    pub server: Box<str>,
    /// What it is.
    pub role: InstanceRole,
    /// `replica_lag_in_msec`.
    pub lag_millis: Option<f64>,
    /// How long ago `last_update_timestamp` was on the writer's clock, in milliseconds. NULL for the
    /// instance that was asked.
    pub age_millis: Option<f64>,
}

/// What the writer answered to one probe.
#[derive(Debug, Clone, PartialEq)]
pub struct WriterSample {
    /// Before the question was sent.
    pub sent: Instant,
    /// `aurora_db_instance_identifier()`.
    pub server: Box<str>,
    /// What it tells of all instances.
    pub notes: Vec<InstanceNote>,
}

/// What is said of a reader: it had everything acknowledged `lag` before a note that was `age` old when
/// the writer was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stated {
    /// How far behind it was.
    pub lag: Duration,
    /// How old the note was at most.
    pub age: Duration,
}

/// What a reader answered to one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderSample {
    /// Before the question was sent.
    pub sent: Instant,
    /// `aurora_db_instance_identifier()`.
    pub server: Box<str>,
}

/// A reader in the life that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderLife {
    server: Box<str>,
    /// It lived at this instant.
    since: Instant,
    last_asked: Instant,
}

impl ReaderLife {
    /// The life that `sample` belongs to, if the one `before` is known of the same connection. Another
    /// instance behind the same connection is another life.
    pub fn go_on(before: Option<Self>, sample: ReaderSample) -> Self {
        let since = before
            .filter(|life| life.server == sample.server)
            .map_or(sample.sent, |life| life.since);
        Self {
            server: sample.server,
            since,
            last_asked: sample.sent,
        }
    }
}

impl WriterSample {
    /// How far behind the reader is by the writer's word.
    pub fn lag_of(&self, reader: &ReaderLife) -> ReplayLag {
        match self.fresh_as_of(reader) {
            Some(fresh_as_of) => ReplayLag::Stated {
                fresh_as_of,
                measured_at: self.sent.min(reader.last_asked),
            },
            None => ReplayLag::Unknown,
        }
    }

    fn fresh_as_of(&self, reader: &ReaderLife) -> Option<Instant> {
        let stated = self.stated_of(&reader.server)?;
        // The writer's clock was read after the question was sent, so the note is no older than this.
        let noted = self.sent.checked_sub(stated.age)?;
        if noted < reader.since {
            return None;
        }
        noted.checked_sub(stated.lag)
    }

    /// What is said of the reader `server`, in whichever life; `None` if that is nothing.
    pub fn stated_of(&self, server: &str) -> Option<Stated> {
        let own = self.the_only_note_of(&self.server)?;
        let note = self.the_only_note_of(server)?;
        match (own.role, note.role) {
            (InstanceRole::Writer, InstanceRole::Reader) => Some(Stated {
                lag: note.lag()?,
                age: note.age()?,
            }),
            (InstanceRole::Reader, _) | (_, InstanceRole::Writer) => None,
        }
    }

    fn the_only_note_of(&self, server: &str) -> Option<&InstanceNote> {
        let mut notes = self.notes.iter().filter(|note| &*note.server == server);
        let note = notes.next();
        note.filter(|_| notes.next().is_none())
    }
}

impl InstanceNote {
    fn lag(&self) -> Option<Duration> {
        let lag = duration_up(self.lag_millis?)?;
        (lag <= LONGEST_LAG).then_some(lag)
    }

    fn age(&self) -> Option<Duration> {
        let millis = self.age_millis?;
        if millis < 0.0 {
            let ahead = duration_up(-millis)?;
            return (ahead <= NOTE_AHEAD).then_some(Duration::ZERO);
        }
        let age = duration_up(millis)?;
        (age <= NOTE_EXPIRY).then_some(age)
    }
}

/// Milliseconds as a duration, no shorter than they say; `None` for what is no duration.
fn duration_up(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis.ceil() / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn note(server: &str, role: InstanceRole, lag: Option<f64>, age: Option<f64>) -> InstanceNote {
        InstanceNote {
            server: server.into(),
            role,
            lag_millis: lag,
            age_millis: age,
        }
    }

    /// What the writer `w`, asked 100 s after the reader `r` was first seen alive, says of it.
    fn told(notes: Vec<InstanceNote>) -> Option<Duration> {
        let epoch = Instant::now();
        let sample = |at| ReaderSample {
            sent: epoch + ms(at),
            server: "r".into(),
        };
        let life = ReaderLife::go_on(None, sample(0));
        let life = ReaderLife::go_on(Some(life), sample(99_000));
        let writer = WriterSample {
            sent: epoch + ms(100_000),
            server: "w".into(),
            notes,
        };
        match writer.lag_of(&life) {
            ReplayLag::Unknown => None,
            ReplayLag::Known { .. } => panic!("a statement is no proof"),
            ReplayLag::Stated {
                fresh_as_of,
                measured_at,
            } => {
                assert_eq!(measured_at, epoch + ms(99_000), "the earlier of both");
                Some(fresh_as_of - epoch)
            }
        }
    }

    fn of_reader(lag: Option<f64>, age: Option<f64>) -> Vec<InstanceNote> {
        vec![
            note("w", InstanceRole::Writer, Some(0.0), None),
            note("r", InstanceRole::Reader, lag, age),
        ]
    }

    #[test]
    fn a_reader_is_as_fresh_as_its_lag_before_the_note_rounded_to_the_old_side() {
        for (lag, age, expected) in [
            (0.0, 0.0, 100_000),
            (20.0, 0.0, 99_980),
            (20.1, 0.0, 99_979),
            (20.0, 500.2, 99_479),
            (20.0, 60_000.0, 39_980),
            // The clocks differ a little.
            (20.0, -900.0, 99_980),
        ] {
            let told = told(of_reader(Some(lag), Some(age)));
            assert_eq!(told, Some(ms(expected)), "lag {lag}, age {age}");
        }
    }

    #[test]
    fn null_negative_impossible_and_old_notes_say_nothing() {
        for (lag, age) in [
            (None, Some(0.0)),
            (Some(0.0), None),
            (Some(-1.0), Some(0.0)),
            (Some(f64::NAN), Some(0.0)),
            (Some(f64::INFINITY), Some(0.0)),
            (Some(1e12), Some(0.0)),
            (Some(0.0), Some(f64::NAN)),
            (Some(0.0), Some(60_001.0)),
            (Some(0.0), Some(-1001.0)),
            (Some(0.0), Some(f64::NEG_INFINITY)),
        ] {
            assert_eq!(told(of_reader(lag, age)), None, "lag {lag:?}, age {age:?}");
        }
    }

    #[test]
    fn a_missing_a_doubled_and_a_wrong_row_say_nothing() {
        let writer = || note("w", InstanceRole::Writer, Some(0.0), None);
        let reader = || note("r", InstanceRole::Reader, Some(0.0), Some(0.0));
        let as_reader = note("w", InstanceRole::Reader, Some(0.0), None);
        let as_writer = note("r", InstanceRole::Writer, Some(0.0), Some(0.0));
        assert!(told(vec![writer(), reader()]).is_some());
        for (what, notes) in [
            ("no reader", vec![writer()]),
            ("two of the reader", vec![writer(), reader(), reader()]),
            ("the reader is the writer", vec![writer(), as_writer]),
            ("no writer", vec![reader()]),
            ("a writer that is none any more", vec![as_reader, reader()]),
            ("two of the writer", vec![writer(), writer(), reader()]),
        ] {
            assert_eq!(told(notes), None, "{what}");
        }
    }

    #[test]
    fn a_note_of_a_reader_before_it_was_started_again_says_nothing_of_it() {
        let epoch = Instant::now();
        let sample = |at, server: &str| ReaderSample {
            sent: epoch + ms(at),
            server: server.into(),
        };
        let writer = |age| WriterSample {
            sent: epoch + ms(1000),
            server: "w".into(),
            notes: of_reader(Some(5.0), Some(age)),
        };
        let life = ReaderLife::go_on(None, sample(900, "r"));
        assert_eq!(writer(101.0).lag_of(&life), ReplayLag::Unknown);
        assert_ne!(writer(100.0).lag_of(&life), ReplayLag::Unknown);
        let other = ReaderLife::go_on(None, sample(0, "another"));
        let moved = ReaderLife::go_on(Some(other), sample(900, "r"));
        assert_eq!(moved, life, "another instance is another life");
    }
}
