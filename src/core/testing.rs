//! A primary and two replicas, for the tests of several modules.

use std::time::Duration;

use super::policy::{ConsistencyPolicy, MonotonicReads, OnNoReplica, ReadAfterWrite};
use super::snapshot::{Incarnation, NodeId};
use super::statement::Consistency;

pub(super) const PRIMARY: NodeId = NodeId(0);
pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);

/// The life in which each of them was measured.
pub(super) const LIFE: Incarnation = Incarnation {
    started_at_unix_micros: 1,
    timeline: Some(1),
    connection: 1,
};

/// The promises that a configuration without a word about them makes.
pub(super) const POLICY: ConsistencyPolicy = ConsistencyPolicy {
    default: Consistency::Session,
    read_after_write: ReadAfterWrite::Position,
    max_staleness: None,
    wait: ms(10),
    max_wait: ms(1000),
    spill_limit: 100,
    monotonic_reads: MonotonicReads::Ordinary,
    audit_one_in: None,
    on_no_replica: OnNoReplica::Primary,
};

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
