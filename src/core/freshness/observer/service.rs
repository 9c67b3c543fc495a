//! The nodes of a service that hides its WAL positions.
//!
//! Invariants:
//! * What the writer tells counts only while its answer is that of the elected primary, and until the
//!   next one; nothing of it is kept with a reader.
//! * Such a node is never held against positions, nor a node with positions against what is told.

use super::super::service::{ReaderLife, ReaderSample, WriterSample};
use super::{ClusterObserver, Face, Observed};
use crate::core::snapshot::{NodeId, NodeRole, ReplayLag};

impl ClusterObserver {
    /// `node` answered that it is not in recovery, and what it knows of the others.
    pub fn on_writer(&mut self, node: NodeId, sample: WriterSample) {
        let Some(observed) = self.nodes.get_mut(node.index()) else {
            return;
        };
        observed.reachability = observed.reachability.answered();
        observed.face = Face::Writer;
        self.elect();
        if self.primary == Some(node) {
            self.statement = Some(sample);
        }
    }

    /// `node` answered that it is in recovery, and which instance it is.
    pub fn on_reader(&mut self, node: NodeId, sample: ReaderSample) {
        let Some(observed) = self.nodes.get_mut(node.index()) else {
            return;
        };
        observed.reachability = observed.reachability.answered();
        let face = std::mem::replace(&mut observed.face, Face::Unknown);
        let before = match face {
            Face::Reader(life) => life,
            Face::Unknown | Face::Primary(_) | Face::Replica(_) | Face::Writer => None,
        };
        observed.face = Face::Reader(Some(ReaderLife::go_on(before, sample)));
        self.elect();
    }
}

impl Observed {
    /// Whether the node says that it takes writes, and nothing speaks against it. The storage of such a
    /// service lets one instance write; there are no timelines to tell an old one by.
    pub(super) fn claims_as_writer(&self) -> bool {
        matches!(self.face, Face::Writer) && self.role() == NodeRole::Primary
    }
}

/// How far behind a node is by the writer's word.
pub(super) fn stated_lag(life: Option<&ReaderLife>, statement: Option<&WriterSample>) -> ReplayLag {
    match (life, statement) {
        (Some(life), Some(statement)) => statement.lag_of(life),
        (None, _) | (_, None) => ReplayLag::Unknown,
    }
}
