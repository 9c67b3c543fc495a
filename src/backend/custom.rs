//! Names of customized options (manual, "Customized Options") that exist on a connection or belong to
//! a session.
//!
//! A server connection keeps such a name from the moment it is first set, reset or rolled back until
//! it ends (`add_placeholder_variable`, `src/backend/utils/misc/guc.c`). Without a value it is empty:
//! `current_setting(name, true)` is `''` there, and NULL where the name does not exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::residue::Others;
use crate::limits::CUSTOM_NAMES;

/// Lower-case names; at most [`CUSTOM_NAMES`], and whether there may be others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CustomNames {
    names: Option<Arc<BTreeSet<Box<str>>>>,
    others: Others,
}

impl CustomNames {
    /// Whether there is certainly none.
    pub fn is_empty(&self) -> bool {
        self.names.is_none() && self.others == Others::None
    }

    /// Whether there may be others than those that are known.
    pub fn has_others(&self) -> bool {
        self.others == Others::Some
    }

    /// Whether this one is among them.
    pub fn contains(&self, name: &str) -> bool {
        let names = self.names.as_ref();
        names.is_some_and(|names| names.contains(name))
    }

    /// Whether all of these names are among `others`.
    pub fn is_subset(&self, others: &Self) -> bool {
        match (&self.names, &others.names) {
            _ if self.has_others() => false,
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => Arc::ptr_eq(own, others) || own.is_subset(others),
        }
    }

    /// Those that are known.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().flat_map(|names| names.iter());
        names.map(|name| &**name)
    }

    /// Those that are not among `others`.
    pub fn missing_in<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = &'a str> {
        self.iter().filter(|name| !others.contains(name))
    }

    /// Adds one; without room for it there are others.
    pub fn add(&mut self, name: &str) {
        if self.contains(name) {
            return;
        }
        let names = self.names.get_or_insert_default();
        if names.len() < CUSTOM_NAMES {
            Arc::make_mut(names).insert(name.into());
        } else {
            self.others = Others::Some;
        }
    }

    /// Notes that there may be others.
    pub fn add_others(&mut self) {
        self.others = Others::Some;
    }
}

/// The names on one connection beside those that every new connection has.
#[derive(Debug, Default)]
pub struct NamesOfConnection {
    /// Those that may exist.
    pub possible: CustomNames,
    /// Those of them that exist for sure, or cannot be made to.
    pub certain: CustomNames,
    /// Whether it has been looked at for what exists on a new connection.
    pub novelty: Novelty,
}

/// Whether a connection has been looked at while it was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Novelty {
    /// It has not.
    #[default]
    Unseen,
    /// It has, or is no longer new.
    Seen,
}

impl NamesOfConnection {
    /// The name exists here.
    pub fn add(&mut self, name: &str) {
        self.possible.add(name);
        self.certain.add(name);
    }
}

/// The names that a session is to find on the connection that it asks for.
#[derive(Debug, Clone, Default)]
pub struct WantedNames {
    /// The session's own.
    pub own: CustomNames,
    /// Those that exist on new connections too.
    pub of_all: CustomNames,
    /// Whether the session could tell.
    pub scope: NamesScope,
}

/// Which names may exist on a connection for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NamesScope {
    /// Any: nothing that it runs there can tell.
    #[default]
    Any,
    /// No others than its own and those of new connections.
    Own,
    /// The same, or all of its own: of a session that begins a transaction by setting them, and cannot tell yet
    /// what else it is going to set there.
    OwnOrAlike,
}

/// How well a connection suits a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suit {
    /// Others have used options there that the session has not.
    Others,
    /// Nobody has used any there, and the session has.
    New,
    /// All that has been used there the session has used too, and more.
    Part,
    /// What has been used there is what the session has used.
    Same,
}

impl WantedNames {
    /// Whether a connection on which these names may exist will do.
    pub fn accept(&self, possible: &CustomNames) -> bool {
        self.scope == NamesScope::Any
            || self.own.has_others()
            || possible.is_subset(&self.own)
            || (!possible.has_others()
                && possible
                    .missing_in(&self.own)
                    .all(|name| self.of_all.contains(name)))
            || (self.scope == NamesScope::OwnOrAlike && self.own.is_subset(possible))
    }

    /// How well a connection with these names suits the session, which leaves those that have none to sessions
    /// without, and those with other names to their sessions.
    pub fn suit(&self, possible: &CustomNames) -> Suit {
        match (self.own.is_empty(), possible.is_empty()) {
            (true, true) => Suit::Same,
            (false, true) => Suit::New,
            (true, false) => Suit::Others,
            (false, false) if !possible.is_subset(&self.own) => Suit::Others,
            (false, false) if self.own.is_subset(possible) => Suit::Same,
            (false, false) => Suit::Part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> CustomNames {
        let mut custom = CustomNames::default();
        for name in names {
            custom.add(name);
        }
        custom
    }

    #[test]
    fn a_session_that_could_tell_accepts_its_own_names_and_those_of_new_connections() {
        let wanted = |scope| WantedNames {
            own: of(&["a.x", "a.y"]),
            of_all: of(&["all.z"]),
            scope,
        };
        let own = wanted(NamesScope::Own);
        for fitting in [&[][..], &["a.y"], &["a.x", "a.y"], &["a.x", "all.z"]] {
            assert!(own.accept(&of(fitting)), "{fitting:?}");
        }
        for others in [&["b.z"][..], &["a.x", "b.z"], &["all.z", "b.z"]] {
            assert!(!own.accept(&of(others)), "{others:?}");
            assert!(wanted(NamesScope::Any).accept(&of(others)), "{others:?}");
        }
        let mut unknown = of(&["a.x"]);
        unknown.add_others();
        assert!(!own.accept(&unknown) && wanted(NamesScope::Any).accept(&unknown));
    }

    #[test]
    fn a_session_that_sets_options_accepts_a_connection_where_they_were_set_beside_others() {
        let wanted = WantedNames {
            own: of(&["a.x"]),
            scope: NamesScope::OwnOrAlike,
            ..WantedNames::default()
        };
        assert!(wanted.accept(&of(&["a.x", "a.y"])) && wanted.accept(&of(&[])));
        assert!(!wanted.accept(&of(&["a.y"])));
    }

    #[test]
    fn a_session_whose_names_nobody_knows_accepts_every_connection() {
        let mut own = CustomNames::default();
        own.add_others();
        let wanted = WantedNames {
            own,
            of_all: CustomNames::default(),
            scope: NamesScope::Own,
        };
        assert!(wanted.accept(&of(&["b.z"])));
    }

    #[test]
    fn names_beyond_the_limit_are_others() {
        let mut all = CustomNames::default();
        for number in 0..CUSTOM_NAMES {
            all.add(&format!("c.n{number}"));
        }
        all.add("c.n0");
        assert!(!all.has_others() && all.is_subset(&all.clone()));
        all.add("c.more");
        assert!(all.has_others() && !all.contains("c.more"));
    }
}
