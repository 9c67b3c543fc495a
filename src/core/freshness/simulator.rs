//! Random schedules of a whole cluster in virtual time, judged by what is truly visible.
//!
//! Real code decides (observer, guarantee, router); the servers, the network and the sessions are
//! simulated. A read violates its promise if a commit that the session must see is not visible on
//! the node at the instant at which the read takes its snapshot. Every [`Bug`] puts a known mistake
//! between the real parts and must be found, or the simulator proves nothing.

mod proxy;
mod servers;
mod sessions;
mod world;

use world::{Outcome, World};

/// A mistake that other products make, seeded on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A sample counts from the answer instead of the question.
    SentNotedAtAnswer,
    /// The flush position stands in for the insert position.
    FlushForInsert,
    /// Flushed positions count at once, as if there were no asynchronous commit.
    NoFlushDelay,
    /// A replica that was never measured has no lag.
    UnknownIsFresh,
    /// What a replica had replayed counts after its restart.
    ReplayKeptOverRestart,
    /// What was received counts as replayed.
    ReceivedForReplayed,
    /// Positions are compared whatever the timeline.
    TimelinesIgnored,
    /// Only own writes bind a read.
    NothingSeenBinds,
    /// A write binds from when it was sent.
    WriteNotedWhenSent,
    /// Every replica is the home of every session.
    EverywhereAtHome,
}

const SEEDS: u64 = 60;

fn run(seed: u64, bug: Bug) -> Outcome {
    World::new(seed, bug).run()
}

#[test]
fn no_session_ever_reads_before_its_floor() {
    let (mut on_replicas, mut reads, mut after_promotion) = (0, 0, 0);
    for seed in 0..SEEDS {
        let outcome = run(seed, Bug::None);
        assert_eq!(outcome.violation, None, "seed {seed}");
        on_replicas += outcome.replica_reads;
        reads += outcome.reads;
        after_promotion += outcome.replica_reads_on_new_timeline;
    }
    assert!(reads > 15_000, "{reads} reads are too few to mean anything");
    assert!(on_replicas > reads / 4, "{on_replicas} of {reads}");

    assert!(after_promotion > 100, "{after_promotion}");
}

#[test]
fn every_seeded_bug_is_found() {
    let mut missed = Vec::new();
    for bug in [
        Bug::SentNotedAtAnswer,
        Bug::FlushForInsert,
        Bug::NoFlushDelay,
        Bug::UnknownIsFresh,
        Bug::ReplayKeptOverRestart,
        Bug::ReceivedForReplayed,
        Bug::TimelinesIgnored,
        Bug::NothingSeenBinds,
        Bug::WriteNotedWhenSent,
        Bug::EverywhereAtHome,
    ] {
        let found = (0..8 * SEEDS).find(|seed| run(*seed, bug).violation.is_some());
        println!("{bug:?}: found by seed {found:?}");
        missed.extend(found.is_none().then_some(bug));
    }
    assert_eq!(missed, [], "not found");
}
