//! Random schedules of a whole cluster in virtual time, judged by what is truly visible.
//!
//! The product's own code decides (observer, guarantee, router, retry); servers, network, monitor and
//! sessions are simulated. A **schedule** is one random run from one seed: two to five nodes (cascades
//! among them), one to three sessions that read and write, somebody who writes past the proxy, and at
//! most 300 events within 20 ms to 3 s of virtual time. It has:
//!
//! * every consistency mode, causal keys that sessions share and that are forgotten, bounds of staleness, positions and windows, every `on_no_replica`;
//! * commits that are flushed first and others that are not (`synchronous_commit=off`), commits that
//!   wait for a standby while replicas show them already, WAL that nobody flushes, records that end
//!   at pages and segments, a log that is flushed up to the middle of a record;
//! * replay that stalls, is paused, is delayed (`recovery_min_apply_delay`), and shows a record before
//!   it counts it;
//! * questions that are late or get no answer, answers with NULL, a sampler that stops, connections
//!   that end, timelines that cannot be seen, nodes of another system;
//! * crashes of replicas and of backends, after which less is visible than before, crashes of the
//!   primary with and without a promotion, old primaries that go on, replicas that change over,
//!   `pg_rewind`.
//!
//! # What is judged, at every read
//!
//! Read your writes, monotonic reads, both also across the sessions of a key, `latest`, bounded staleness; that the node was known; that the
//! policy let the read go there and wait that long; that its rows are of one snapshot; that no write
//! ran twice. At every answer: that the primary is on the highest timeline that was heard of, and that
//! what a caught-up replica has is proved. What a crash or a failover has taken back, and what a
//! primary does not show yet although a replica does, is exempt, as the README says.
//!
//! # What is taken for granted
//!
//! * The monitor hears of a server's end before that server can serve again.
//! * A statement is sent over a connection of the life of the server that it was routed to.
//! * Asynchronous commits are flushed within three `wal_writer_delay` and 150 ms.
//! * Two servers are never promoted to one timeline.
//!
//! Every [`Bug`] puts a known mistake between the product's parts and must be found, or the simulator
//! proves nothing.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a seeded mistake concerns one place"
)]
#![allow(
    clippy::struct_excessive_bools,
    reason = "facts about a server or a read that do not depend on each other"
)]
#![allow(unreachable_pub, reason = "in the simulator's own crate it is reached")]

mod faults;
mod judge;
mod keys;
mod log;
mod monitor;
mod proxy;
mod random;
mod replication;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod world;

use world::World;

/// Virtual time since the beginning of the schedule.
type Micros = u64;

/// A set of commits, by number.
type Commits = u64;

/// A mistake that other products make, seeded on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The product as it is.
    None,
    /// A write binds from when it was sent, so a sample may precede its commit record.
    TokenBeforeCommitRecord,
    /// The insert position counts with the page header behind it.
    NoNormalisation,
    /// The flushed position stands for what was written, whatever is not flushed.
    WritePositionForAsyncCommits,
    /// Positions are compared whatever the timeline.
    TimelinesIgnored,
    /// What is not known is no lag.
    NullIsZero,
    /// What was received counts as replayed.
    ReceivedForReplayed,
    /// The replica that a session has read is its home in every later life.
    IncarnationForgotten,
    /// Who was the primary once is the primary.
    RoleCached,
    /// A read counts as having seen what the replay position proves, not what it may have shown.
    ReplayAsSource,
    /// A read whose rows have gone to the client is repeated on another node.
    RetryAfterPartialDelivery,
    /// A write whose connection was lost is sent again.
    CommitRetried,
    /// Reads that lack a replica go to the primary however many of them are there.
    SpillUnlimited,
    /// A sample counts from the answer instead of the question.
    SampleDatedAtAnswer,
    /// What a replica had replayed counts after its restart.
    ReplayKeptOverRestart,
    /// An old measurement is as good as a new one.
    SampleNeverExpires,
    /// Only own writes bind a read.
    NothingSeenBinds,
    /// Every replica is the home of every session.
    EverywhereAtHome,
    /// A causal key learns of a statement when its answer has gone out, not before it is sent.
    KeyMarkedAfterwards,
}

impl Bug {
    /// All that are mistakes.
    pub const SEEDED: [Self; 18] = [
        Self::TokenBeforeCommitRecord,
        Self::NoNormalisation,
        Self::WritePositionForAsyncCommits,
        Self::TimelinesIgnored,
        Self::NullIsZero,
        Self::ReceivedForReplayed,
        Self::IncarnationForgotten,
        Self::RoleCached,
        Self::ReplayAsSource,
        Self::RetryAfterPartialDelivery,
        Self::CommitRetried,
        Self::SpillUnlimited,
        Self::SampleDatedAtAnswer,
        Self::ReplayKeptOverRestart,
        Self::SampleNeverExpires,
        Self::NothingSeenBinds,
        Self::EverywhereAtHome,
        Self::KeyMarkedAfterwards,
    ];
}

/// What became of one schedule.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The promise that was broken, if any.
    pub violation: Option<String>,
    /// Events handled.
    pub events: u64,
    /// Snapshots that reads have taken.
    pub reads: u64,
    /// Those on replicas.
    pub replica_reads: u64,
    /// Those after a promotion had been heard of.
    pub replica_reads_after_promotion: u64,
    /// Decisions for the primary.
    pub to_primary: u64,
    /// Decisions to wait.
    pub waits: u64,
    /// Decisions against every node.
    pub refused: u64,
    /// Reads on the primary that did not show yet what a replica had shown.
    pub shown_early: u64,
    /// Promotions.
    pub promotions: u64,
    /// Crashes of primaries.
    pub crashes_of_primaries: u64,
}

impl Outcome {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.reads += other.reads;
        self.replica_reads += other.replica_reads;
        self.replica_reads_after_promotion += other.replica_reads_after_promotion;
        self.to_primary += other.to_primary;
        self.waits += other.waits;
        self.refused += other.refused;
        self.shown_early += other.shown_early;
        self.promotions += other.promotions;
        self.crashes_of_primaries += other.crashes_of_primaries;
    }
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64, bug: Bug) -> Outcome {
    World::new(seed, bug, None).run().0
}

/// Runs the schedule of `seed` and tells what happens, a line each.
pub fn trace(seed: u64, bug: Bug) -> (Outcome, Vec<String>) {
    let (outcome, lines) = World::new(seed, bug, Some(Vec::new())).run();
    (outcome, lines.unwrap_or_default())
}
