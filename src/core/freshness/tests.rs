#![expect(
    clippy::unchecked_time_subtraction,
    reason = "the clock of a running machine is far from its beginning"
)]

use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 8192;
const SEGMENT: u64 = 16 << 20;

fn geometry() -> WalGeometry {
    WalGeometry::new(BLOCK, SEGMENT).unwrap()
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A sample sent `at` ms after `epoch` and answered 1 ms later.
fn primary(epoch: Instant, at: u64, flush: u64, insert: u64) -> PrimarySample {
    PrimarySample {
        sent: epoch + ms(at),
        received: epoch + ms(at + 1),
        timeline: 1,
        flush: Lsn(flush),
        insert: Lsn(insert),
        wal_writer_delay: ms(200),
    }
}

fn replica(epoch: Instant, at: u64, replay: u64) -> ReplicaSample {
    ReplicaSample {
        sent: epoch + ms(at),
        received: epoch + ms(at + 1),
        timeline: Some(1),
        replay: Lsn(replay),
    }
}

fn history(samples: &[PrimarySample]) -> PrimaryTimeline {
    let mut history = PrimaryTimeline::starting_with(geometry(), &samples[0]);
    for sample in &samples[1..] {
        history.note(sample);
    }
    history
}

#[test]
fn an_insert_position_past_a_page_header_settles_at_the_page() {
    for (insert, settled) in [
        (SEGMENT, SEGMENT),
        (SEGMENT + 1, SEGMENT),
        (SEGMENT + 40, SEGMENT),
        (SEGMENT + 41, SEGMENT + 41),
        (SEGMENT + BLOCK, SEGMENT + BLOCK),
        (SEGMENT + BLOCK + 24, SEGMENT + BLOCK),
        (SEGMENT + BLOCK + 25, SEGMENT + BLOCK + 25),
        (SEGMENT + BLOCK - 1, SEGMENT + BLOCK - 1),
    ] {
        assert_eq!(geometry().settled(Lsn(insert)), Lsn(settled), "{insert:#X}");
    }
}

#[test]
fn sizes_that_are_no_powers_of_two_are_refused() {
    for (block, segment) in [
        (0, SEGMENT),
        (BLOCK, 0),
        (8000, SEGMENT),
        (SEGMENT, BLOCK),
        (32, 64),
    ] {
        assert_eq!(WalGeometry::new(block, segment), None);
    }
}

#[test]
fn replay_at_the_page_boundary_has_what_was_inserted_up_to_the_page_header() {
    let epoch = Instant::now();
    let boundary = SEGMENT + BLOCK;
    let idle = history(&[primary(epoch, 100, boundary, boundary + 24)]);
    let fresh = idle.fresh_as_of(&replica(epoch, 101, boundary));
    assert_eq!(fresh, Some(epoch + ms(100)));
}

#[test]
fn an_idle_primary_keeps_a_caught_up_replica_fresh() {
    let epoch = Instant::now();
    let samples: Vec<_> = (0..1000)
        .map(|i| primary(epoch, i * 100, 500, 500))
        .collect();
    let idle = history(&samples);
    assert_eq!(idle.entries.len(), 1, "an idle hour is one entry");
    assert_eq!(
        idle.fresh_as_of(&replica(epoch, 0, 500)),
        Some(epoch + ms(99_900))
    );
    assert_eq!(idle.behind(&replica(epoch, 99_900, 500)), Duration::ZERO);
}

#[test]
fn a_replica_is_as_fresh_as_the_last_position_it_has_reached() {
    let epoch = Instant::now();
    let history = history(&[
        primary(epoch, 0, 100, 100),
        primary(epoch, 10, 200, 200),
        primary(epoch, 20, 300, 300),
    ]);
    for (replay, fresh, behind, missing) in [
        (99, None, 999, Some(Lsn(100))),
        (100, Some(0), 989, Some(Lsn(200))),
        (199, Some(0), 989, Some(Lsn(200))),
        (250, Some(10), 979, Some(Lsn(300))),
        (300, Some(20), 0, None),
        (900, Some(20), 0, None),
    ] {
        let sample = replica(epoch, 1000, replay);
        assert_eq!(history.missing(&sample), missing, "{replay}");
        assert_eq!(history.fresh_as_of(&sample), fresh.map(|at| epoch + ms(at)));
        assert_eq!(history.behind(&sample), ms(behind), "{replay}");
    }
}

#[test]
fn what_a_replica_lacks_was_known_before_it_answered() {
    let epoch = Instant::now();
    // Answered 1 ms after they were sent, as the replica does.
    let history = history(&[primary(epoch, 0, 100, 100), primary(epoch, 10, 200, 200)]);
    for (at, replay, missing) in [
        (9, 100, None),
        (10, 100, Some(Lsn(200))),
        (10, 99, Some(Lsn(100))),
        (0, 99, Some(Lsn(100))),
    ] {
        let sample = replica(epoch, at, replay);
        assert_eq!(history.missing(&sample), missing, "{at} ms, {replay}");
        let timeline = Some(2);
        let elsewhere = ReplicaSample { timeline, ..sample };
        assert_eq!(history.missing(&elsewhere), None, "another timeline");
    }
}

#[test]
fn an_asynchronous_commit_counts_only_when_it_must_have_been_flushed() {
    let epoch = Instant::now();
    let unflushed = history(&[primary(epoch, 0, 100, 150), primary(epoch, 1000, 100, 150)]);
    let delay = ms(3 * 200) + ASYNC_COMMIT_MARGIN;
    let sample = replica(epoch, 1001, 100);
    assert_eq!(
        unflushed.fresh_as_of(&sample),
        Some(epoch + ms(1000) - delay),
        "not as of the sample: an asynchronous commit may end at 150"
    );
    assert_eq!(
        unflushed.behind(&sample),
        Duration::ZERO,
        "nobody sends what is not flushed"
    );
}

#[test]
fn a_longer_wal_writer_delay_is_remembered_after_it_was_shortened() {
    let epoch = Instant::now();
    let mut long = primary(epoch, 0, 100, 150);
    long.wal_writer_delay = ms(10_000);
    let history = history(&[long, primary(epoch, 1000, 100, 150)]);
    let fresh = history.fresh_as_of(&replica(epoch, 1001, 100));
    assert!(fresh < Some(epoch + ms(1000) - ms(30_000)));
}

#[test]
fn positions_of_another_or_unknown_timeline_prove_nothing() {
    let epoch = Instant::now();
    let history = history(&[primary(epoch, 0, 100, 100)]);
    for timeline in [None, Some(2)] {
        let stranger = ReplicaSample {
            timeline,
            ..replica(epoch, 1, 900)
        };
        assert_eq!(history.fresh_as_of(&stranger), None);
    }
}

#[test]
fn a_new_timeline_or_a_position_that_went_back_starts_anew() {
    let epoch = Instant::now();
    let old = primary(epoch, 0, 100, 100);
    let promoted = PrimarySample {
        timeline: 2,
        ..primary(epoch, 10, 200, 200)
    };
    let went_back = primary(epoch, 10, 50, 50);
    for next in [promoted, went_back] {
        let history = history(&[old, next]);
        assert_eq!(history.entries.len(), 1);
        assert_eq!(history.timeline(), next.timeline);
    }
}

#[test]
fn replay_that_went_back_forgets_what_was_proved() {
    let epoch = Instant::now();
    let history = history(&[primary(epoch, 0, 100, 100), primary(epoch, 10, 200, 200)]);
    let mut freshness = ReplicaFreshness::default();
    assert_eq!(freshness.fresh_as_of(), None);
    freshness.measure(replica(epoch, 11, 200));
    freshness.prove(&history);
    assert_eq!(freshness.fresh_as_of(), Some(epoch + ms(10)));
    freshness.measure(replica(epoch, 12, 150));
    assert_eq!(freshness.fresh_as_of(), None);
    freshness.prove(&history);
    assert_eq!(freshness.fresh_as_of(), Some(epoch));
}

#[test]
fn what_an_old_primary_proved_is_forgotten_on_another_timeline() {
    let epoch = Instant::now();
    let history = history(&[primary(epoch, 0, 100, 100)]);
    for timeline in [None, Some(2)] {
        let mut freshness = ReplicaFreshness::default();
        freshness.measure(replica(epoch, 1, 100));
        freshness.prove(&history);
        assert_eq!(freshness.fresh_as_of(), Some(epoch));
        freshness.measure(ReplicaSample {
            timeline,
            ..replica(epoch, 2, 100)
        });
        assert_eq!(freshness.fresh_as_of(), None, "{timeline:?}");
    }
}

/// Positions that never decrease, a few bytes apart, `flush <= insert`.
fn growing(len: usize) -> impl Strategy<Value = Vec<PrimarySample>> {
    prop::collection::vec((0_u64..5, 0_u64..30, 0_u64..40), 1..len).prop_map(|steps| {
        let epoch = Instant::now();
        let (mut at, mut insert, mut flush) = (0, SEGMENT, SEGMENT);
        steps
            .into_iter()
            .map(|(time, grown, unflushed)| {
                at += time;
                insert += grown;
                flush = flush.max(insert.saturating_sub(unflushed));
                primary(epoch, at, flush, insert)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn what_is_proved_never_exceeds_the_definition(samples in growing(60), ahead in 0_u64..2000) {
        let history = history(&samples);
        let epoch = samples[0].sent;
        let sample = replica(epoch, 0, SEGMENT + ahead);
        let inserted = samples
            .iter()
            .filter(|s| geometry().settled(s.insert) <= sample.replay)
            .map(|s| s.sent)
            .max();
        let flushed = samples
            .iter()
            .filter(|s| s.flush <= sample.replay)
            .map(|s| s.sent - flush_delay(s.wal_writer_delay))
            .max();
        prop_assert_eq!(history.fresh_as_of(&sample), inserted.max(flushed));
    }

    #[test]
    fn freshness_never_decreases_within_one_life(
        samples in growing(60),
        replays in prop::collection::vec(0_u64..300, 1..60),
    ) {
        let mut history = history(&samples[..1]);
        let mut freshness = ReplicaFreshness::default();
        let (mut replay, mut last) = (SEGMENT, None);
        for (sample, step) in samples.iter().zip(replays) {
            history.note(sample);
            replay += step;
            freshness.measure(replica(sample.sent, 0, replay));
            freshness.prove(&history);
            prop_assert!(freshness.fresh_as_of() >= last);
            last = freshness.fresh_as_of();
        }
    }
}

#[test]
fn a_full_history_stays_bounded_and_errs_to_the_old_side() {
    let epoch = Instant::now();
    let count = 4 * u64::try_from(PRIMARY_SAMPLES).unwrap();
    let samples: Vec<_> = (0..count)
        .map(|i| primary(epoch, i, 64 * i + 41, 64 * i + 41))
        .collect();
    let history = history(&samples);
    assert!(history.entries.len() <= PRIMARY_SAMPLES);
    let mut exact = 0;
    for sample in &samples {
        let proved = history.fresh_as_of(&replica(epoch, count, sample.insert.0));
        assert!(proved <= Some(sample.sent));
        exact += u64::from(proved == Some(sample.sent));
    }
    assert!(exact >= count / 8, "{exact} of {count}");
}

const HAZARDS: &str = include_str!("../../../integration/hazards.md");
const README: &str = include_str!("../../../README.md");

/// What the last column of each row names.
fn named_in_hazards() -> Vec<&'static str> {
    let rows = HAZARDS.lines().filter(|line| line.starts_with("| "));
    let shown_by = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    shown_by
        .filter(|cell| *cell != "Shown by")
        .flat_map(|cell| cell.split("`, `").map(|name| name.trim_matches('`')))
        .collect()
}

#[test]
fn every_hazard_names_a_test_that_exists_or_what_the_readme_does_not_promise() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for directory in ["src", "integration", "simulator/src/simulation"] {
        collect(&root.join(directory), &mut sources);
    }
    let words = README.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = named_in_hazards();
    assert!(named.len() > 60, "{}", named.len());
    let unknown: Vec<_> = named
        .into_iter()
        .filter(|name| match name.split_once(": ") {
            Some(("README", phrase)) => !words.contains(phrase),
            Some(_) => true,
            None => match name.strip_prefix("Bug::") {
                Some(bug) => !sources.contains(&format!("        Self::{bug},")),
                None => !sources.contains(&format!("fn {name}(")),
            },
        })
        .collect();
    assert_eq!(unknown, [""; 0]);
}

/// Adds the text of every source file below `directory`.
fn collect(directory: &std::path::Path, sources: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
