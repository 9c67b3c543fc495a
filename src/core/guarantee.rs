//! What one session must see.

use std::time::Instant;

use super::snapshot::{Incarnation, NodeId};

/// What a read must see, as instants on the proxy's own clock.
///
/// A replica qualifies if it is fresh as of `everywhere`, and also fresh as of `elsewhere` unless it
/// is `home`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The bound for every replica: own writes, bounded staleness, `latest`.
    pub everywhere: Option<Instant>,
    /// The bound for a replica other than the one the session read last (monotonic reads).
    pub elsewhere: Option<Instant>,
    /// The replica the session read last, in the life it had then.
    pub home: Option<(NodeId, Incarnation)>,
    /// Window mode: only the primary may serve before this instant.
    pub primary_until: Option<Instant>,
}
