use std::time::Duration;

use super::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn at(timeline: u32, lsn: u64) -> SystemPosition {
    SystemPosition {
        system: 7,
        timeline,
        lsn: Lsn(lsn),
    }
}

/// One sample a millisecond, each answered within half of one.
fn log(t0: Instant, samples: &[(u32, u64)]) -> PositionLog {
    let mut log = PositionLog::default();
    for (count, (timeline, lsn)) in (0..).zip(samples) {
        log.note(&PositionSample {
            at: at(*timeline, *lsn),
            sent: t0 + ms(count),
            received: t0 + ms(count) + Duration::from_micros(500),
        });
    }
    log
}

#[test]
fn an_instant_goes_out_as_the_position_of_a_sample_asked_for_later() {
    let t0 = Instant::now();
    let log = log(t0, &[(1, 100), (1, 200), (1, 200), (1, 300)]);
    for (instant, position) in [
        (t0, Some(100)),
        (t0 + Duration::from_micros(1), Some(200)),
        (t0 + ms(2), Some(200)),
        (t0 + ms(3), Some(300)),
        (t0 + Duration::from_micros(3001), None),
    ] {
        let expected = position.map(|lsn| at(1, lsn));
        assert_eq!(log.covering(instant), expected);
    }
    assert_eq!(log.oldest(), Some(at(1, 100)));
    assert_eq!(PositionLog::default().covering(t0), None);
}

#[test]
fn a_position_comes_in_as_the_instant_by_which_it_was_received() {
    let t0 = Instant::now();
    let log = log(t0, &[(1, 100), (1, 200), (1, 200), (1, 300)]);
    let received = |count| Reached::By(t0 + ms(count) + Duration::from_micros(500));
    for (lsn, expected) in [
        (1, received(0)),
        (100, received(0)),
        (101, received(1)),
        (200, received(1)),
        (300, received(3)),
        (301, Reached::NotYet),
    ] {
        assert_eq!(log.reached(at(1, lsn)), expected, "{lsn}");
    }
}

#[test]
fn positions_of_other_timelines_and_systems_are_never_compared() {
    let t0 = Instant::now();
    assert_eq!(PositionLog::default().reached(at(1, 1)), Reached::Unknown);
    let log = log(t0, &[(1, 900), (2, 100)]);
    assert_eq!(log.reached(at(1, 50)), Reached::EarlierTimeline);
    assert_eq!(log.reached(at(3, 50)), Reached::LaterTimeline);
    assert_eq!(log.reached(at(2, 150)), Reached::NotYet);
    let foreign = SystemPosition {
        system: 8,
        ..at(2, 50)
    };
    assert_eq!(log.reached(foreign), Reached::OtherSystem);
    assert_eq!(log.covering(t0), Some(at(2, 100)));
}

#[test]
fn every_write_after_an_instant_is_behind_the_position_before_it() {
    let t0 = Instant::now();
    let log = log(t0, &[(1, 100), (1, 200), (1, 300)]);
    assert_eq!(log.before(t0), None, "the answer had not come yet");
    assert_eq!(log.before(t0 + ms(1)), Some(at(1, 100)));
    assert_eq!(log.before(t0 + ms(9)), Some(at(1, 300)));
}

#[test]
fn what_is_forgotten_makes_an_instant_later() {
    let t0 = Instant::now();
    let many = u64::try_from(POSITIONS_REMEMBERED).unwrap() * 2;
    let samples: Vec<(u32, u64)> = (0..many).map(|count| (1, count * 10)).collect();
    let log = log(t0, &samples);
    let Reached::By(instant) = log.reached(at(1, 5)) else {
        panic!("{:?}", log.reached(at(1, 5)));
    };
    assert!(instant >= t0 + ms(many / 2));
}
