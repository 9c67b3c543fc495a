//! The named prepared statements of one session.
//!
//! What a segment changes is noted in [`Change`]s and takes effect when the node has confirmed it,
//! since a node skips what stands behind an error.

use std::collections::HashMap;
use std::sync::Arc;

use crate::frontend::statements::Prepared;
use crate::limits::SESSION_STATEMENTS_BYTES;

/// Named prepared statements of one session, bounded in bytes.
#[derive(Debug, Default)]
pub(super) struct NamedStatements {
    by_name: HashMap<Arc<[u8]>, Arc<Prepared>>,
    bytes: usize,
}

/// What a message that has been sent does to a named statement.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Parse.
    Parsed(Arc<[u8]>, Arc<Prepared>),
    /// Close.
    Closed(Arc<[u8]>),
}

impl Change {
    /// The statement's name.
    fn name(&self) -> &Arc<[u8]> {
        match self {
            Self::Parsed(name, _) | Self::Closed(name) => name,
        }
    }
}

impl NamedStatements {
    /// The statement with this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.by_name.get(name)
    }

    /// The statement with this name, and the name, as if `changes` had been carried out.
    pub(super) fn find_after(
        &self,
        changes: &[Change],
        name: &[u8],
    ) -> Option<(Arc<[u8]>, Arc<Prepared>)> {
        let last = changes.iter().rev().find(|change| **change.name() == *name);
        match last {
            Some(Change::Parsed(name, statement)) => {
                Some((Arc::clone(name), Arc::clone(statement)))
            }
            Some(Change::Closed(_)) => None,
            None => {
                let (name, statement) = self.by_name.get_key_value(name)?;
                Some((Arc::clone(name), Arc::clone(statement)))
            }
        }
    }

    /// Whether one more statement of this size is within the bound.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= SESSION_STATEMENTS_BYTES
    }

    /// A node has confirmed the change.
    pub(super) fn apply(&mut self, change: Change) {
        self.remove(change.name());
        if let Change::Parsed(name, statement) = change {
            self.bytes += statement.bytes() + name.len();
            self.by_name.insert(name, statement);
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Arc<Prepared>)> {
        self.by_name.iter()
    }

    /// Forgets what a node has not, but for statements about pgweir itself.
    pub(super) fn keep(&mut self, names: &[&[u8]]) {
        let lost: Vec<_> = self
            .iter()
            .filter(|(name, statement)| {
                statement.text.own().is_none() && !names.contains(&&***name)
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in lost {
            self.remove(&name);
        }
    }

    /// The client has closed it.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(old) = self.by_name.remove(name) {
            self.bytes = self.bytes.saturating_sub(old.bytes() + name.len());
        }
    }
}
