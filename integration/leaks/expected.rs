//! What a client's session must look like, and what it looks like.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::wire::Wire;

/// Settings that clients change.
pub(crate) const SETTINGS: [&str; 6] = [
    "work_mem",
    "application_name",
    "search_path",
    "TimeZone",
    "statement_timeout",
    "leak.mark",
];

/// What a session holds that only its server process knows.
const HELD: [(&str, &str); 5] = [
    (
        "prepared",
        "SELECT name FROM pg_prepared_statements WHERE from_sql",
    ),
    (
        "locks",
        "SELECT objid::text FROM pg_locks \
         WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    ("channels", "SELECT pg_listening_channels()"),
    ("cursors", "SELECT name FROM pg_cursors"),
    (
        "temporary",
        "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    ),
];

/// A session, as its client knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Settings and users by name. A setting that does not exist reads empty: a server process
    /// never forgets the name of a setting with a dot.
    pub(crate) settings: BTreeMap<String, String>,
    /// Names of what it holds, by kind.
    pub(crate) held: BTreeMap<String, BTreeSet<String>>,
}

impl Expected {
    /// A new session.
    pub(crate) fn fresh(user: &str) -> Self {
        let settings = [
            ("work_mem", "4MB"),
            ("application_name", ""),
            ("search_path", "\"$user\", public"),
            ("TimeZone", "Etc/UTC"),
            ("statement_timeout", "0"),
            ("leak.mark", ""),
            ("current_user", user),
            ("session_user", user),
        ];
        let mut expected = Self::default();
        for (name, value) in settings {
            expected.set(name, value);
        }
        expected
    }

    /// A setting or a user changes.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Something is held from now on.
    pub(crate) fn hold(&mut self, kind: &str, name: &str) {
        self.held
            .entry(kind.to_owned())
            .or_default()
            .insert(name.to_owned());
    }

    /// Whether anything is held.
    pub(crate) fn holds_anything(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is different in the session that `wire` sees.
    pub(crate) fn differences(&self, wire: &mut Wire) -> Vec<String> {
        let seen = Self::seen(wire);
        let mut found = Vec::new();
        for (name, value) in &seen.settings {
            let own = self.settings.get(name);
            if own != Some(value) {
                found.push(format!("{name} is {value:?} instead of {own:?}"));
            }
        }
        for (kind, _) in HELD {
            let (own, seen) = (self.held.get(kind), seen.held.get(kind));
            if own != seen {
                found.push(format!("{kind}: {seen:?} instead of {own:?}"));
            }
        }
        found
    }

    fn seen(wire: &mut Wire) -> Self {
        let mut seen = Self::default();
        let settings =
            SETTINGS.map(|name| format!("coalesce(current_setting('{name}', true), '')"));
        let query = format!("SELECT {}, current_user, session_user", settings.join(", "));
        let names = SETTINGS.into_iter().chain(["current_user", "session_user"]);
        let answer = wire.query(&query);
        let row = answer.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{answer:?}"));
        for (name, value) in names.zip(row.values()) {
            seen.set(name, &value.unwrap());
        }
        // All in one statement, so that all is of one moment and one connection.
        let kinds =
            HELD.map(|(kind, query)| format!("SELECT '{kind}', x::text FROM ({query}) q (x)"));
        let answer = wire.query(&kinds.join(" UNION ALL "));
        assert!(
            answer.iter().all(|message| message.tag != b'E'),
            "{answer:?}"
        );
        for row in answer.iter().filter(|message| message.tag == b'D') {
            let values = row.values();
            seen.hold(values[0].as_ref().unwrap(), values[1].as_ref().unwrap());
        }
        seen
    }
}
