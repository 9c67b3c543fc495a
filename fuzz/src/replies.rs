//! What a node answers.

use std::sync::Arc;

use pgweir::protocol::description::{Columns, Described, Description};
use pgweir::protocol::frame::FrameHeader;
use pgweir::protocol::outstanding::{Around, Called, Disposition, Expected, OutstandingReplies};
use pgweir::protocol::replies::{
    Alias, Behind, Boundaries, Compare, Hold, ReplyScanner, Span, Stop, UnexpectedReply, Verdict,
};

use crate::{cuts, take};

/// How the scan begins, and what the node owes.
struct Case {
    hold: Hold,
    /// How it goes on behind a held error.
    then: Hold,
    behind: Behind,
    boundaries: Boundaries,
    compare: Compare,
    alias: Option<Alias>,
    expected: Vec<Expected>,
}

impl Case {
    fn read(data: &mut &[u8]) -> Self {
        let flags = take(data);
        let count = take(data) % 24;
        Self {
            hold: match flags & 3 {
                0 => Hold::UntilResult,
                1 => Hold::Discarding,
                _ => Hold::Released,
            },
            then: match flags & 4 {
                0 => Hold::Discarding,
                _ => Hold::Released,
            },
            boundaries: match flags & 8 {
                0 => Boundaries::Passed,
                _ => Boundaries::Kept,
            },
            compare: match flags & 16 {
                0 => Compare::No,
                _ => Compare::Yes,
            },
            alias: match flags & 32 {
                0 => None,
                _ => Alias::of(1, 7),
            },
            behind: match flags & 64 {
                0 => Behind::Passed,
                _ => Behind::Kept,
            },
            expected: (0..count).map(|at| expected(take(data), at)).collect(),
        }
    }

    /// Whether everything but reports of parameters goes to the client unchanged.
    fn only_forwards(&self) -> bool {
        let forwards = |one: &Expected| match one {
            Expected::Bound(None)
            | Expected::ClosedNamed
            | Expected::Described
            | Expected::Executed
            | Expected::Synced
            | Expected::Learned(Disposition::Forward, _)
            | Expected::Parsed(Disposition::Forward, _)
            | Expected::Closed(Disposition::Forward)
            | Expected::Query(Disposition::Forward) => true,
            Expected::Parsed(Disposition::Discard, _)
            | Expected::Closed(Disposition::Discard)
            | Expected::Query(Disposition::Discard)
            | Expected::Learned(Disposition::Discard, _)
            | Expected::Compared(_)
            | Expected::Guarded(..)
            | Expected::Checked(_)
            | Expected::Outdated
            | Expected::Inspection
            | Expected::Aside
            | Expected::Synthesize(_)
            | Expected::AfterCopy
            | Expected::CopySyncs
            | Expected::Bound(Some(_))
            | Expected::Refused(_)
            | Expected::Around(_)
            | Expected::AlreadyParsed(_)
            | Expected::AlreadyClosed(_) => false,
        };
        self.hold == Hold::Released && self.alias.is_none() && self.expected.iter().all(forwards)
    }
}

fn expected(kind: u8, at: u8) -> Expected {
    use Disposition::{Discard, Forward};
    match kind % 29 {
        0 => Expected::Parsed(Forward, Some(u64::from(at))),
        1 => Expected::Parsed(Discard, Some(u64::from(at))),
        2 => Expected::Parsed(Forward, None),
        3 => Expected::Bound(None),
        4 => Expected::Closed(Forward),
        5 => Expected::Closed(Discard),
        6 => Expected::Described,
        7 => Expected::Executed,
        8 => Expected::Synced,
        9 => Expected::Query(Forward),
        10 => Expected::Query(Discard),
        11 => Expected::Inspection,
        12 => Expected::Aside,
        13 => Expected::Synthesize([b'3', 0, 0, 0, 4].into()),
        14 => Expected::AlreadyParsed(Called::Named),
        15 => Expected::AlreadyClosed(Called::Named),
        16 => Expected::Bound(Some([b's', at].into())),
        17 => Expected::ClosedNamed,
        18 => Expected::Learned(Forward, Arc::default()),
        19 => Expected::Learned(Discard, Arc::default()),
        20 => Expected::Compared(Arc::default()),
        21 => Expected::Checked(Arc::default()),
        22 => Expected::Outdated,
        23 => Expected::Guarded(u64::from(at), Arc::default()),
        24 => Expected::Around(Around::Runs),
        25 => Expected::Around(Around::Closes),
        26 => Expected::AlreadyParsed(Called::Unnamed),
        27 => Expected::AlreadyClosed(Called::Unnamed),
        _ => Expected::Refused([b's', at].into()),
    }
}

/// Everything that can be seen from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    client: Vec<u8>,
    own: usize,
    consumed: usize,
    stops: Vec<Stop>,
    failed: Option<UnexpectedReply>,
    owed: usize,
    changes: Vec<Verdict>,
    reports: Vec<Box<[u8]>>,
    captured: Vec<Box<[u8]>>,
    unlike: Vec<u64>,
}

/// What is known of a statement: of every second one, that it returns no rows.
fn fresh(id: u64) -> Described {
    let known = Described::default();
    if id.is_multiple_of(2) {
        let none = Description {
            types: [0, 0].into(),
            columns: Columns::None,
        };
        assert!(known.set(none).is_ok());
    }
    known
}

fn relay(case: &Case, stream: &[u8], ends: &[usize]) -> Seen {
    let mut replies = OutstandingReplies::default();
    for one in &case.expected {
        // What is learned in one run must not be known in the next.
        replies.push(match one {
            Expected::Learned(disposition, _) => Expected::Learned(*disposition, Arc::default()),
            Expected::Compared(_) => Expected::Compared(Arc::default()),
            Expected::Checked(_) => Expected::Checked(Arc::default()),
            Expected::Guarded(id, _) => Expected::Guarded(*id, fresh(*id)),
            other => other.clone(),
        });
    }
    let mut scanner = ReplyScanner::default();
    scanner.begin(case.hold);
    scanner.behind = case.behind;
    scanner.boundaries = case.boundaries;
    scanner.compare = case.compare;
    scanner.alias = case.alias;
    let mut seen = Seen {
        client: Vec::new(),
        own: 0,
        consumed: 0,
        stops: Vec::new(),
        failed: None,
        owed: 0,
        changes: Vec::new(),
        reports: Vec::new(),
        captured: Vec::new(),
        unlike: Vec::new(),
    };
    for end in ends {
        if !seen.part(&mut scanner, case, &stream[..*end], &mut replies) {
            break;
        }
    }
    seen.owed = replies.len();
    seen.changes = scanner.changes;
    seen.captured = scanner.captured;
    seen.unlike = scanner.unlike;
    seen
}

impl Seen {
    /// Scans what has not been consumed yet of `stream`; `false` if that is the end.
    fn part(
        &mut self,
        scanner: &mut ReplyScanner,
        case: &Case,
        stream: &[u8],
        replies: &mut OutstandingReplies,
    ) -> bool {
        let buffer = &stream[self.consumed..];
        let (mut at, mut spans) = (0, Vec::new());
        let goes_on = loop {
            let before = at;
            let stop = match scanner.scan(buffer, &mut at, replies, &mut spans) {
                Ok(Stop::NeedMore) => break true,
                Ok(stop) => stop,
                Err(failed) => {
                    self.failed = Some(failed);
                    break false;
                }
            };
            assert!(before <= at && at <= buffer.len());
            self.stops.push(stop);
            match stop {
                Stop::HeldError(..) => scanner.hold = case.then,
                Stop::Reported(_) => self.reports.append(&mut scanner.reports),
                Stop::OwnFailed | Stop::Behind => break false,
                Stop::NeedMore | Stop::CopyIn | Stop::Boundary | Stop::Compared(_) => {}
            }
        };
        let mut last = 0;
        for span in spans {
            match span {
                Span::Range(range) => {
                    assert!(last <= range.start && range.start < range.end && range.end <= at);
                    last = range.end;
                    self.client.extend_from_slice(&buffer[range]);
                }
                Span::Own(own) => {
                    self.own += own.len();
                    self.client.extend_from_slice(&own);
                }
            }
        }
        self.consumed += at;
        goes_on
    }
}

/// Replies: what the client gets does not depend on how they arrive, and nothing is lost or made up.
pub fn replies(mut data: &[u8]) {
    let case = Case::read(&mut data);
    let seed = take(&mut data);
    let whole = relay(&case, data, &[data.len()]);
    let parts = relay(&case, data, &cuts(data.len(), seed));
    assert_eq!(whole, parts);
    assert!(whole.client.len() - whole.own <= whole.consumed);
    assert!(whole.captured.len() <= 128 * 1024 / 5);
    if case.only_forwards() && !data.contains(&b'G') {
        assert_eq!(whole.client, without_reports(&data[..whole.consumed]));
    }
}

/// The stream without `ParameterStatus`.
fn without_reports(mut stream: &[u8]) -> Vec<u8> {
    let mut client = Vec::new();
    while let Ok(Some(header)) = FrameHeader::parse(stream, u32::MAX) {
        let (message, rest) = stream.split_at(header.total().min(stream.len()));
        if header.tag != b'S' {
            client.extend_from_slice(message);
        }
        stream = rest;
    }
    client
}
