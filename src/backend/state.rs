//! What a server connection has been told since it was opened.

use std::collections::{BTreeMap, HashMap};

use crate::core::reading::{Bearing, READING, bearing};
use crate::limits::PREPARED_PER_CONNECTION;

/// Session settings that were set on top of the start-up values: name to value, the value being the
/// SQL text that stands after `TO`.
///
/// Names are lower-case; a setting at its start-up value is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AppliedSettings(pub BTreeMap<String, String>);

/// Setting it forgets [`ROLE`] (`SetSessionUserId`, `src/backend/utils/init/miscinit.c`).
pub const SESSION_AUTHORIZATION: &str = "session_authorization";
/// What SET ROLE sets.
pub const ROLE: &str = "role";
/// In what encoding all that follows is.
const ENCODING: &str = "client_encoding";
/// Stands for settings that nobody can list: only `RESET ALL` takes them back.
pub const HIDDEN: &str = "";

impl AppliedSettings {
    /// What a connection has of which nothing is known: everything is set anew, the role too.
    pub fn unknown() -> Self {
        let all = [HIDDEN, ROLE, SESSION_AUTHORIZATION];
        Self(all.map(|name| (name.to_owned(), String::new())).into())
    }

    /// The statements that turn a connection with the settings `from` into one with `to`.
    ///
    /// The identity goes back to the login role first and to the wanted role last, so that
    /// everything between runs with the rights that the session began with.
    pub fn plan(from: &Self, to: &Self) -> Vec<String> {
        let identities = [ROLE, SESSION_AUTHORIZATION];
        let changed = |name: &str| from.0.get(name) != to.0.get(name);
        let new_identity = identities.iter().any(|name| changed(name));
        let mut plan = Vec::new();
        if new_identity {
            let held = identities.iter().filter(|name| from.0.contains_key(**name));
            plan.extend(held.map(|name| reset(name)));
        }
        let ordinary = |name: &&String| !identities.contains(&name.as_str());
        if from.0.contains_key(HIDDEN) && !to.0.contains_key(HIDDEN) {
            plan.push("RESET ALL".to_owned());
            plan.extend(encoding_first(to.0.iter().filter(|(n, _)| ordinary(n))));
            plan.extend(
                new_identity
                    .then_some(())
                    .into_iter()
                    .flat_map(|()| identity(to)),
            );
            return plan;
        }
        let dropped = from.0.keys().filter(|name| !to.0.contains_key(*name));
        plan.extend(dropped.filter(ordinary).map(|name| reset(name)));
        let wanted = to.0.iter().filter(|(name, _)| changed(name));
        plan.extend(encoding_first(wanted.filter(|(n, _)| ordinary(n))));
        if new_identity {
            plan.extend(identity(to));
        }
        plan
    }
}

impl AppliedSettings {
    /// The statements that turn a connection with these settings into one that reads a text as one with
    /// `other` does, and those that turn it back; `None` if it does so already. Where the schemas are others, the
    /// server analyses a statement anew whatever it was parsed with.
    pub fn read_as(&self, other: &Self) -> Option<(Vec<String>, Vec<String>)> {
        let schemas = "search_path";
        let is_analysed_anew = self.0.get(schemas) != other.0.get(schemas);
        let decides = |name: &str| match bearing(name) {
            Some(Bearing::Tokens) => true,
            Some(Bearing::Meaning) => !is_analysed_anew,
            None => false,
        };
        let (from, to) = (self.only(decides), other.only(decides));
        (from != to).then(|| (Self::plan(&from, &to), Self::plan(&to, &from)))
    }

    /// The statements that make a connection of which nothing is known read a text as one with these
    /// settings does.
    pub fn read_as_from_unknown(&self) -> Vec<String> {
        let all = READING.map(|(name, _)| (name.to_owned(), String::new()));
        let to = self.only(|name| bearing(name).is_some());
        Self::plan(&Self(all.into()), &to)
    }

    /// Whether the rest is the same: what does not decide how a text is read.
    pub fn agrees_beside_reading(&self, other: &Self) -> bool {
        self.beside_reading().eq(other.beside_reading())
    }

    fn beside_reading(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().filter(|(name, _)| bearing(name).is_none())
    }

    fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let all = self.0.iter().filter(|(name, _)| wanted(name));
        Self(all.map(|(n, v)| (n.clone(), v.clone())).collect())
    }
}

/// Settings that a transaction takes over when it starts, and timers that run from its first message:
/// in a transaction that has begun, a new value comes too late (`StartTransaction`,
/// `src/backend/access/transam/xact.c`; `enable_statement_timeout`, `src/backend/tcop/postgres.c`).
const TAKEN_AT_START: [&str; 6] = [
    HIDDEN,
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "statement_timeout",
    "transaction_timeout",
];

impl AppliedSettings {
    /// Whether the change from one to the other must be over before a transaction begins.
    pub fn needs_own_transaction(from: &Self, to: &Self) -> bool {
        TAKEN_AT_START
            .iter()
            .any(|name| from.0.get(*name) != to.0.get(*name))
    }
}

/// The statements that give these settings their values, which are in the encoding of the session's.
fn encoding_first<'a>(
    wanted: impl Iterator<Item = (&'a String, &'a String)>,
) -> impl Iterator<Item = String> {
    let (encoding, others): (Vec<_>, Vec<_>) = wanted.partition(|(name, _)| *name == ENCODING);
    encoding
        .into_iter()
        .chain(others)
        .map(|(name, value)| set(name, value))
}

/// The statements that give a connection of the login role the identity of `to`.
fn identity(to: &AppliedSettings) -> Vec<String> {
    let names = [SESSION_AUTHORIZATION, ROLE];
    let wanted = names
        .iter()
        .filter_map(|name| Some((*name, to.0.get(*name)?)));
    wanted.map(|(name, value)| set(name, value)).collect()
}

fn set(name: &str, value: &str) -> String {
    format!("SET {} TO {value}", quoted(name))
}

/// The statement that gives the setting its start-up value; a customized option that does not exist, it makes
/// exist without one (`find_option`, `src/backend/utils/misc/guc.c`). Takes no snapshot, and needs no right.
pub fn reset(name: &str) -> String {
    format!("RESET {}", quoted(name))
}

/// The name with every dotted part as a quoted identifier.
fn quoted(name: &str) -> String {
    let parts = name.split('.');
    let parts: Vec<_> = parts
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    parts.join(".")
}

/// Which of the server-side statement names exist on one connection; at most
/// [`PREPARED_PER_CONNECTION`].
#[derive(Debug, Default)]
pub struct PreparedNames {
    /// Id to the tick of its last use.
    used: HashMap<u64, u64>,
    tick: u64,
}

impl PreparedNames {
    /// Whether the statement exists here; if so, it counts as just used.
    pub fn touch(&mut self, id: u64) -> bool {
        self.tick += 1;
        let tick = self.tick;
        self.used.get_mut(&id).is_some_and(|used| {
            *used = tick;
            true
        })
    }

    /// Whether the statement exists here.
    pub fn contains(&self, id: u64) -> bool {
        self.used.contains_key(&id)
    }

    /// Notes that the statement exists here now. Returns the least recently used one when there are
    /// too many: it is forgotten here, and the caller sends a Close for it.
    #[must_use = "the evicted statement still exists on the server"]
    pub fn insert(&mut self, id: u64) -> Option<u64> {
        self.tick += 1;
        let known = self.used.insert(id, self.tick).is_some();
        if known || self.used.len() <= PREPARED_PER_CONNECTION {
            return None;
        }
        let (&oldest, _) = self.used.iter().min_by_key(|(_, used)| **used)?;
        self.used.remove(&oldest);
        Some(oldest)
    }

    /// Notes that the statement does not exist here any more.
    pub fn remove(&mut self, id: u64) {
        self.used.remove(&id);
    }

    /// Notes that no statement exists here any more (`DEALLOCATE ALL`, `DISCARD ALL`).
    pub fn clear(&mut self) {
        self.used.clear();
    }

    /// Those that exist here, which are forgotten: the caller closes them.
    pub fn take(&mut self) -> Vec<u64> {
        self.used.drain().map(|(id, _)| id).collect()
    }

    /// How many exist.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether none exists.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> AppliedSettings {
        let pairs = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        AppliedSettings(pairs.collect())
    }

    #[test]
    fn plan_says_only_what_differs() {
        let from = of(&[("a", "1"), ("b", "2"), ("x.y", "'z'")]);
        let to = of(&[("a", "1"), ("b", "3"), ("c", "p, q")]);
        assert_eq!(
            AppliedSettings::plan(&from, &to),
            ["RESET \"x\".\"y\"", "SET \"b\" TO 3", "SET \"c\" TO p, q"]
        );
        assert!(AppliedSettings::plan(&to, &to).is_empty());
    }

    #[test]
    fn the_encoding_is_set_before_values_that_are_in_it() {
        let to = of(&[
            ("app.tenant", "'a'"),
            ("client_encoding", "b"),
            ("work_mem", "1"),
        ]);
        let sets = [
            "SET \"client_encoding\" TO b",
            "SET \"app\".\"tenant\" TO 'a'",
            "SET \"work_mem\" TO 1",
        ];
        assert_eq!(AppliedSettings::plan(&of(&[]), &to), sets);
        let all = AppliedSettings::plan(&AppliedSettings::unknown(), &to);
        assert!(all.ends_with(&sets.map(str::to_owned)), "{all:?}");
    }

    #[test]
    fn plan_changes_other_settings_as_the_login_role() {
        let from = of(&[("role", "a"), ("work_mem", "1")]);
        let to = of(&[("role", "b"), ("session_authorization", "c"), ("zz", "2")]);
        assert_eq!(
            AppliedSettings::plan(&from, &to),
            [
                "RESET \"role\"",
                "RESET \"work_mem\"",
                "SET \"zz\" TO 2",
                "SET \"session_authorization\" TO c",
                "SET \"role\" TO b",
            ]
        );
    }

    #[test]
    fn plan_sets_the_role_again_after_a_change_of_session_authorization() {
        let from = of(&[("role", "a"), ("session_authorization", "c")]);
        assert_eq!(
            AppliedSettings::plan(&from, &of(&[("role", "a")])),
            [
                "RESET \"role\"",
                "RESET \"session_authorization\"",
                "SET \"role\" TO a",
            ]
        );
    }

    #[test]
    fn what_a_transaction_takes_over_at_its_start_is_changed_before() {
        let plain = of(&[("work_mem", "1")]);
        for name in TAKEN_AT_START {
            let late = of(&[("work_mem", "2"), (name, "1")]);
            assert!(AppliedSettings::needs_own_transaction(&late, &plain));
            assert!(AppliedSettings::needs_own_transaction(&plain, &late));
            assert!(!AppliedSettings::needs_own_transaction(&late, &late));
        }
        assert!(!AppliedSettings::needs_own_transaction(&of(&[]), &plain));
    }

    #[test]
    fn a_connection_reads_as_another_one_after_what_decides_that_has_changed() {
        let now = of(&[("timezone", "b"), ("work_mem", "1")]);
        let then = of(&[("timezone", "a"), ("client_encoding", "c"), ("role", "r")]);
        let (there, back) = now.read_as(&then).unwrap();
        let sets = ["SET \"client_encoding\" TO c", "SET \"timezone\" TO a"];
        assert_eq!(there, sets);
        let sets = ["RESET \"client_encoding\"", "SET \"timezone\" TO b"];
        assert_eq!(back, sets);
        let same = of(&[("timezone", "b"), ("role", "r")]);
        assert_eq!(now.read_as(&same), None);
        assert!(!now.agrees_beside_reading(&same));
        assert!(now.agrees_beside_reading(&of(&[("work_mem", "1")])));
    }

    #[test]
    fn with_other_schemas_only_tokens_stay_what_they_were() {
        let now = of(&[("search_path", "x"), ("timezone", "b")]);
        let then = of(&[("backslash_quote", "on"), ("timezone", "a")]);
        let (there, back) = now.read_as(&then).unwrap();
        assert_eq!(there, ["SET \"backslash_quote\" TO on"]);
        assert_eq!(back, ["RESET \"backslash_quote\""]);
        let from_unknown = then.read_as_from_unknown();
        assert_eq!(from_unknown.len(), READING.len());
        assert!(from_unknown.contains(&"SET \"timezone\" TO a".to_owned()));
        assert!(from_unknown.contains(&"RESET \"datestyle\"".to_owned()));
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        let to = of(&[("a\"; DROP TABLE t; --", "1")]);
        assert_eq!(
            AppliedSettings::plan(&of(&[]), &to),
            ["SET \"a\"\"; DROP TABLE t; --\" TO 1"]
        );
    }

    #[test]
    fn the_least_recently_used_statement_is_evicted() {
        let mut names = PreparedNames::default();
        let full = PREPARED_PER_CONNECTION as u64;
        for id in 0..full {
            assert_eq!(names.insert(id), None);
        }
        assert!(names.touch(0) && !names.touch(full));
        assert_eq!(names.insert(5), None);
        assert_eq!(names.insert(full), Some(1));
        assert_eq!(names.insert(full + 1), Some(2));
        assert!(names.contains(0) && !names.contains(1));
        assert_eq!(names.len(), PREPARED_PER_CONNECTION);
        names.clear();
        assert!(names.is_empty());
    }
}
