#![expect(
    clippy::unchecked_time_subtraction,
    reason = "the clock of a running machine is far from its beginning"
)]

use std::time::Duration;

use super::*;
use crate::core::testing::{A, B, LIFE, PRIMARY};

/// A session that has read on A, was shown nothing elsewhere, and asks 10 ms later.
struct Case {
    read_at: Instant,
    crossing: Crossing,
    known: Known,
}

impl Case {
    fn new() -> Self {
        let read_at = Instant::now();
        let shown = Floor {
            elsewhere: Some(read_at),
            home: Some((A, LIFE)),
            ..Floor::default()
        };
        Self {
            read_at,
            crossing: Crossing::new(PRIMARY, shown, read_at + Duration::from_millis(10)),
            known: Known::default(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.read_at + Duration::from_millis(millis)
    }

    fn listing(&self, millis: u64, beyond: u64, running: &[u64]) -> Listing {
        Listing::new(PRIMARY, self.at(millis), beyond, running.to_vec())
    }

    fn list(&mut self, millis: u64, beyond: u64, running: &[u64]) {
        self.known.listing = Some(self.listing(millis, beyond, running));
    }

    fn answer(&self, listed: u64, committed: &[u64]) -> Shown {
        Shown {
            node: A,
            incarnation: Some(LIFE),
            fresh_as_of: None,
            primary: PRIMARY,
            listed: self.at(listed),
            committed: Some(committed.to_vec()),
        }
    }

    fn look(&mut self) -> Option<Progress> {
        self.crossing.look(&self.known)
    }
}

const PASSED: Option<Progress> = Some(Progress::Over(CrossingOutcome::Passed));
const WAITED: Option<Progress> = Some(Progress::Over(CrossingOutcome::Waited));

#[test]
fn nothing_that_runs_is_committed_on_the_replica_so_the_session_passes() {
    let mut case = Case::new();
    assert_eq!(case.look(), None);
    case.list(10, 100, &[70, 80]);
    assert_eq!(case.look(), None, "the replica was not asked");
    case.known.shown = vec![case.answer(10, &[])];
    assert_eq!(case.look(), PASSED);
}

#[test]
fn what_the_replica_shows_and_the_primary_does_not_is_waited_for_to_its_end() {
    let mut case = Case::new();
    case.list(10, 100, &[70, 80]);
    // 100 and 101 ran beyond the end of the snapshot.
    case.known.shown = vec![case.answer(10, &[80, 100, 101])];
    assert_eq!(case.look(), Some(Progress::Once));
    assert_eq!(case.look(), None, "there is no newer listing");
    case.list(11, 101, &[70, 80]);
    assert_eq!(case.look(), Some(Progress::Again));
    case.list(12, 110, &[70, 101]);
    assert_eq!(case.look(), Some(Progress::Again));
    // A younger transaction with no part in it does not matter.
    case.list(13, 110, &[70, 109]);
    assert_eq!(case.look(), WAITED);
}

#[test]
fn what_ended_while_the_replica_was_asked_counts_as_passed() {
    let mut case = Case::new();
    case.list(10, 100, &[80]);
    case.known.shown = vec![case.answer(10, &[80])];
    case.list(11, 101, &[]);
    assert_eq!(case.look(), PASSED);
}

#[test]
fn only_answers_about_listings_sent_after_the_question_count() {
    let mut case = Case::new();
    case.list(9, 100, &[]);
    case.known.shown = vec![case.answer(9, &[])];
    assert_eq!(case.look(), None);
    assert!(case.crossing.is_blind());
}

#[test]
fn only_a_replica_that_has_what_was_shown_is_believed() {
    let other_life = Incarnation {
        connection: 2,
        ..LIFE
    };
    let (early, late) = (Some(0), Some(2));
    for (node, life, fresh, believed) in [
        (A, LIFE, None, true),
        (A, other_life, early, false),
        (A, other_life, late, true),
        (B, LIFE, None, false),
        (B, LIFE, early, false),
        (B, LIFE, late, true),
    ] {
        let mut case = Case::new();
        let before_read = case.read_at - Duration::from_millis(1);
        let fresh_as_of = fresh.map(|millis| before_read + Duration::from_millis(millis));
        case.list(10, 100, &[]);
        case.known.shown = vec![Shown {
            node,
            incarnation: Some(life),
            fresh_as_of,
            ..case.answer(10, &[])
        }];
        let expected = believed.then_some(Progress::Over(CrossingOutcome::Passed));
        assert_eq!(case.look(), expected, "{node:?} {life:?} {fresh:?}");
    }
}

#[test]
fn an_eventual_read_elsewhere_keeps_what_was_shown_before_binding() {
    let mut case = Case::new();
    let shown = Floor {
        everywhere: Some(case.read_at),
        elsewhere: Some(case.at(5)),
        home: Some((B, LIFE)),
        ..Floor::default()
    };
    case.crossing = Crossing::new(PRIMARY, shown, case.at(10));
    case.list(10, 100, &[]);
    let answer = |fresh_as_of| Shown {
        node: B,
        fresh_as_of,
        ..case.answer(10, &[])
    };
    let (behind, fresh) = (answer(None), answer(Some(case.read_at)));
    case.known.shown = vec![behind];
    assert_eq!(case.look(), None);
    case.known.shown = vec![fresh];
    assert_eq!(case.look(), PASSED);
}

#[test]
fn another_primary_says_nothing() {
    let mut case = Case::new();
    case.known.listing = Some(Listing::new(B, case.at(10), 100, vec![]));
    case.known.shown = vec![Shown {
        primary: B,
        ..case.answer(10, &[])
    }];
    assert_eq!(case.look(), None);
}

#[test]
fn without_an_answer_all_that_ran_is_waited_for() {
    let mut case = Case::new();
    case.known.shown = vec![Shown {
        committed: None,
        ..case.answer(10, &[])
    }];
    case.list(10, 100, &[]);
    assert_eq!(case.look(), None, "it does not say what runs beyond");
    let listing = case.listing(20, 100, &[90]).with_every(&[90, 100, 102]);
    assert!(listing.has_every());
    case.known.listing = Some(listing);
    assert_eq!(case.look(), Some(Progress::Once));
    case.list(21, 103, &[90]);
    assert_eq!(case.look(), Some(Progress::Again));
    case.list(22, 103, &[]);
    assert_eq!(case.look(), WAITED);
}

#[test]
fn an_answer_that_comes_late_frees_from_waiting_for_all_that_ran() {
    let mut case = Case::new();
    case.known.listing = Some(case.listing(10, 100, &[90]).with_every(&[90]));
    assert_eq!(case.look(), Some(Progress::Once));
    assert!(case.crossing.is_blind());
    case.list(11, 100, &[90]);
    assert_eq!(case.look(), Some(Progress::Again));
    case.known.shown = vec![case.answer(10, &[])];
    assert_eq!(case.look(), WAITED);
}

#[test]
fn ids_get_the_epoch_that_is_nearest() {
    let epoch = 1 << 32;
    for (full, id, expected) in [
        (100, 90, 90),
        (epoch + 5, 7, epoch + 7),
        (epoch + 5, u32::MAX, epoch - 1),
        (epoch - 3, 2, epoch + 2),
    ] {
        assert_eq!(near(full, id), expected, "{full} {id}");
    }
}
