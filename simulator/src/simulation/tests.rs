use super::{Bug, Outcome, run, trace};

/// A small part of what the simulator's own program runs; that one is optimised.
const SEEDS: u64 = 4000;

#[test]
fn no_read_ever_breaks_a_promise() {
    let mut sum = Outcome::default();
    for seed in 0..SEEDS {
        let outcome = run(seed, Bug::None);
        assert_eq!(outcome.violation, None, "seed {seed}");
        sum.add(&outcome);
    }
    assert!(sum.reads > 10 * SEEDS, "too few mean nothing: {sum:?}");
    assert!(sum.replica_reads > sum.reads / 4, "{sum:?}");
    assert!(sum.replica_reads_after_promotion > 100, "{sum:?}");
    assert!(sum.waits > 100 && sum.refused > 100, "{sum:?}");
}

#[test]
fn every_seeded_mistake_is_found() {
    let missed: Vec<Bug> = Bug::SEEDED
        .into_iter()
        .filter(|bug| (0..20 * SEEDS).all(|seed| run(seed, *bug).violation.is_none()))
        .collect();
    assert_eq!(missed, [], "not found");
}

#[test]
fn a_schedule_is_the_same_whenever_it_is_run_and_its_trace_ends_with_the_violation() {
    let found = (0..SEEDS).find(|seed| run(*seed, Bug::NothingSeenBinds).violation.is_some());
    let seed = found.expect("a violation");
    let (first, lines) = trace(seed, Bug::NothingSeenBinds);
    let again = run(seed, Bug::NothingSeenBinds);
    assert_eq!(first.violation, again.violation);
    assert_eq!(first.events, again.events);
    let last = lines.last().expect("a trace");
    assert!(last.contains("VIOLATION"), "{last}");
}
