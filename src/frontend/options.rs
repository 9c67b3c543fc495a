//! What is known of customized options in one database, for all sessions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::backend::custom::CustomNames;
use crate::backend::pool::PoolKey;
use crate::limits::ROLES_WITH_OPTIONS;

/// Customized options in one database.
#[derive(Debug, Default)]
pub struct DatabaseOptions {
    /// Whether any text has asked for one.
    asked: AtomicBool,
    /// Whether any session has used one.
    used: AtomicBool,
    /// What sessions have used, by what their connections are opened with.
    used_by: Mutex<HashMap<PoolKey, CustomNames>>,
    /// Those of them that exist on new connections, as the node or the role gives them a value.
    of_all: ArcSwap<HashMap<PoolKey, CustomNames>>,
}

impl DatabaseOptions {
    /// The same flag, and nothing of roles: the nodes may be others.
    #[must_use]
    pub fn following(old: &Self) -> Self {
        Self {
            asked: AtomicBool::new(old.is_asked()),
            ..Self::default()
        }
    }

    /// Whether any text has asked for an option by its name in this database, so that others may.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Remembers that one has.
    pub fn note_asked(&self) {
        // Read first: many sessions come here, and a write takes the line from all others.
        if !self.is_asked() {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Remembers that a session has used the option on a connection that was opened with `key`. When there
    /// are too many keys, everything is forgotten first.
    pub fn note_used(&self, key: &PoolKey, name: &str) {
        let mut used_by = self.used_by.lock().unwrap_or_else(PoisonError::into_inner);
        if used_by.len() >= ROLES_WITH_OPTIONS && !used_by.contains_key(key) {
            used_by.clear();
            self.of_all.store(Arc::default());
        }
        used_by.entry(key.clone()).or_default().add(name);
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether any session has used one.
    pub fn are_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The options that sessions have used on connections that are opened with `key`.
    pub fn used_by(&self, key: &PoolKey) -> CustomNames {
        let used_by = self.used_by.lock().unwrap_or_else(PoisonError::into_inner);
        used_by.get(key).cloned().unwrap_or_default()
    }

    /// Remembers which of them exist on a new connection.
    pub fn note_new_connection(&self, key: &PoolKey, of_all: CustomNames) {
        // Held while the map is replaced: nobody else replaces it meanwhile.
        let used_by = self.used_by.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.of_all.load();
        let is_new = known.get(key).cloned().unwrap_or_default() != of_all;
        if is_new && used_by.contains_key(key) {
            let mut next = HashMap::clone(&known);
            next.insert(key.clone(), of_all);
            self.of_all.store(Arc::new(next));
        }
    }

    /// Those that exist on every connection that is opened with `key`.
    pub fn of_all(&self, key: &PoolKey) -> CustomNames {
        self.of_all.load().get(key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::startup::StartupParameters;
    use crate::core::snapshot::NodeId;

    fn key(user: &str, application: &str, node: u16) -> PoolKey {
        let startup = [("application_name".to_owned(), application.to_owned())];
        PoolKey {
            node: NodeId(node),
            database: "app".into(),
            user: user.into(),
            startup: Arc::new(StartupParameters::new(startup)),
        }
    }

    #[test]
    fn what_exists_on_new_connections_is_known_of_those_that_are_opened_alike() {
        let options = DatabaseOptions::default();
        let app = key("app", "x", 0);
        options.note_used(&app, "app.x");
        options.note_used(&app, "app.y");
        assert!(options.of_all(&app).is_empty());
        let mut found = CustomNames::default();
        found.add("app.y");
        assert!(found.is_subset(&options.used_by(&app)));
        options.note_new_connection(&app, found.clone());
        assert_eq!(options.of_all(&app), found);
        for other in [key("other", "x", 0), key("app", "y", 0), key("app", "x", 1)] {
            assert!(options.of_all(&other).is_empty() && options.used_by(&other).is_empty());
        }
        options.note_new_connection(&app, CustomNames::default());
        assert!(options.of_all(&app).is_empty());
    }

    #[test]
    fn more_kinds_of_connections_than_are_remembered_push_out_all_before() {
        let options = DatabaseOptions::default();
        let names: Vec<_> = (0..=ROLES_WITH_OPTIONS).map(|at| at.to_string()).collect();
        for name in &names {
            options.note_used(&key("app", name, 0), "app.x");
        }
        assert!(options.used_by(&key("app", &names[0], 0)).is_empty());
        assert!(
            !options
                .used_by(&key("app", &names[ROLES_WITH_OPTIONS], 0))
                .is_empty()
        );
    }
}
