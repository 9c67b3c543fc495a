//! The named prepared statements of one session.
//!
//! What a segment changes is noted in [`Change`]s and takes effect when the node has confirmed it,
//! since a node skips what stands behind an error.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::frontend::statements::Prepared;
use crate::limits::SESSION_STATEMENTS_BYTES;

/// Named prepared statements of one session, bounded in bytes.
#[derive(Debug, Default)]
pub(super) struct NamedStatements {
    by_name: HashMap<Arc<[u8]>, Arc<Prepared>>,
    bytes: usize,
    /// Those among them that could not be parsed on the connection that knows the client's names.
    absent: HashSet<Arc<[u8]>>,
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

    /// Whether it prepares the statement with this number.
    pub(super) fn parses(&self, id: u64) -> bool {
        matches!(self, Self::Parsed(_, statement) if statement.id == id)
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

    /// The connection that knows the client's names has all of them.
    pub(super) fn found_all(&mut self) {
        self.absent.clear();
    }

    /// That connection has got the statement with this name.
    pub(super) fn found(&mut self, name: &[u8]) {
        self.absent.remove(name);
    }

    /// That connection lacks those of which this is so.
    pub(super) fn miss(&mut self, is_missed: impl Fn(&Prepared) -> bool) {
        let all = self.by_name.iter();
        let missed = all.filter(|(_, statement)| is_missed(statement));
        self.absent.extend(missed.map(|(name, _)| Arc::clone(name)));
    }

    /// The statement with this name, if that connection lacks it, as if `changes` had been carried out.
    pub(super) fn find_absent(&self, changes: &[Change], name: &[u8]) -> Option<Arc<Prepared>> {
        let (name, statement) = self.by_name.get_key_value(name)?;
        let is_other = changes.iter().any(|change| change.name() == name);
        (self.absent.contains(name) && !is_other).then(|| Arc::clone(statement))
    }

    /// Forgets what a node has not, but for what it could not be given, and statements about pgweir itself.
    pub(super) fn keep(&mut self, names: &[&[u8]]) {
        let lost: Vec<_> = self
            .iter()
            .filter(|(name, statement)| {
                statement.text.own().is_none()
                    && !names.contains(&&***name)
                    && !self.absent.contains(*name)
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in lost {
            self.remove(&name);
        }
    }

    /// The client has closed it.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.absent.remove(name);
        if let Some(old) = self.by_name.remove(name) {
            self.bytes = self.bytes.saturating_sub(old.bytes() + name.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::classification::ClassificationCache;
    use crate::frontend::statements::{StatementNumbers, StatementRegistry};

    #[test]
    fn what_a_connection_could_not_be_given_is_not_forgotten_with_what_sql_has_dropped() {
        let registry = StatementRegistry::new(StatementNumbers::default());
        let text = ClassificationCache::default().find(b"SELECT 1").0;
        let parsed = |name: &[u8]| {
            let statement = registry.apart(b"SELECT 1", &[0, 0], &Arc::default(), &text);
            Change::Parsed(name.into(), Arc::new(statement))
        };
        let mut statements = NamedStatements::default();
        let (kept, absent) = (parsed(b"kept"), parsed(b"absent"));
        let is_absent = |statement: &Prepared| absent.parses(statement.id);
        for change in [kept, absent.clone(), parsed(b"dropped")] {
            statements.apply(change);
        }
        statements.miss(is_absent);
        assert!(statements.find_absent(&[], b"kept").is_none());
        assert!(statements.find_absent(&[], b"absent").is_some());
        let closed = [Change::Closed(b"absent".as_slice().into())];
        assert!(statements.find_absent(&closed, b"absent").is_none());
        statements.keep(&[b"kept"]);
        assert!(statements.find(b"absent").is_some() && statements.find(b"kept").is_some());
        assert!(statements.find(b"dropped").is_none());
        statements.found(b"absent");
        statements.keep(&[b"kept"]);
        assert!(statements.find(b"absent").is_none());
        statements.apply(parsed(b"again"));
        statements.miss(|_| true);
        statements.apply(parsed(b"again"));
        assert!(statements.find_absent(&[], b"again").is_none());
        statements.miss(|_| true);
        statements.found_all();
        assert!(statements.find_absent(&[], b"again").is_none());
    }
}
