//! Bounds of the monitor, with unit and source.

use std::time::Duration;

/// How often every node is probed when nobody waits for a fresher replica.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How often every node is probed while there is no primary.
pub const PROBE_INTERVAL_WITHOUT_PRIMARY: Duration = Duration::from_millis(50);

/// How often a replica is probed that did not have the floor asked for after
/// [`PROBE_EAGER_PERIOD`].
pub const PROBE_PATIENT_INTERVAL: Duration = Duration::from_millis(5);

/// How long after the newest floor asked for a replica is probed as often as
/// `core::freshness::pace` allows.
pub const PROBE_EAGER_PERIOD: Duration = Duration::from_millis(20);

/// How long after the newest floor asked for a replica is probed faster than every
/// [`PROBE_INTERVAL`].
pub const PROBE_WANTED_PERIOD: Duration = Duration::from_secs(1);

/// Deadline of one probe.
pub const PROBE_DEADLINE: Duration = Duration::from_millis(1500);

/// Deadline for connecting the monitor to a node, including authentication.
pub const MONITOR_CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// The first and the longest pause between two attempts to reach a node; the attempt right after a
/// failed probe is made at once.
pub const MONITOR_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(500));
