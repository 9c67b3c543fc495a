//! With which settings a statement is parsed: with those of its Parse, wherever and whenever pgweir sends
//! that again.
//!
//! What a text means depends on settings ([`crate::core::reading`]), and a server looks at them only
//! when it parses. So where the connection has others than the client had then, it is given those, and
//! after the Parse its own again, in the same write. In a block that has changed some itself, a savepoint brings
//! them back: whether they hold for the session or the transaction is known to the server only.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::state::AppliedSettings;
use crate::core::reading::{READING, ReadingChange, change};
use crate::core::statement::{Classification, SettingChange, StatementVerdict, TransactionControl};
use crate::frontend::classification::Company;
use crate::frontend::statements::Prepared;
use crate::protocol::backend::TransactionStatus;

/// What the block that is open has changed of the settings that decide what texts mean.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) enum BlockReading {
    /// Nothing.
    #[default]
    Unchanged,
    /// These have other values; without one, that of the connection's start.
    Changed(BTreeMap<String, Option<String>>),
    /// Something, and nobody knows what.
    Unclear,
}

impl BlockReading {
    /// The statement has run in the block, or failed.
    pub(super) fn note(&mut self, statement: &StatementVerdict) {
        // A savepoint may take them back, and so may the end of one transaction when another begins.
        if statement.transaction != TransactionControl::None && *self != Self::Unchanged {
            *self = Self::Unclear;
        }
        match change(statement) {
            None => {}
            Some(ReadingChange::Known(change)) => self.take(change),
            Some(ReadingChange::Unknown) => *self = Self::Unclear,
        }
    }

    fn take(&mut self, change: &SettingChange) {
        if *self == Self::Unchanged {
            *self = Self::Changed(BTreeMap::new());
        }
        let Self::Changed(values) = self else { return };
        match change {
            // It may change one of its two parts and leave the other.
            SettingChange::Set { name, .. } if name == "datestyle" => *self = Self::Unclear,
            SettingChange::Set { name, value_sql } => {
                values.insert(name.clone(), Some(value_sql.clone()));
            }
            SettingChange::Reset { name } => {
                values.insert(name.clone(), None);
            }
            SettingChange::ResetAll => {
                values.extend(READING.map(|(name, _)| (name.to_owned(), None)));
            }
        }
    }
}

/// What the segment under way does to the settings that decide what texts mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentReading {
    /// Nothing.
    Keeps,
    /// It may change some, behind what is sent next.
    Later,
    /// It may have changed some in front of that.
    Perhaps,
}

impl SegmentReading {
    /// What a segment does that runs these texts, of which none has been sent.
    pub(super) fn of(executed: &[Arc<Classification>]) -> Self {
        let mut statements = executed.iter().flat_map(|text| text.statements.iter());
        if statements.any(|one| change(one).is_some()) {
            Self::Later
        } else {
            Self::Keeps
        }
    }

    /// The same when some of them have been sent.
    #[must_use]
    pub(super) fn going_on(self) -> Self {
        match self {
            Self::Keeps => Self::Keeps,
            Self::Later | Self::Perhaps => Self::Perhaps,
        }
    }
}

/// With which settings a connection parses what is sent next.
#[derive(Debug)]
pub(super) enum Ground<'a> {
    /// The session's.
    Session(&'a Arc<AppliedSettings>),
    /// Those, but for what the block has changed.
    Block(Arc<AppliedSettings>),
    /// Others, which are not known, in a block.
    UnclearBlock,
    /// Others that could not be brought back; or none, as the node refuses everything.
    Unclear,
}

impl<'a> Ground<'a> {
    /// The ground in a session with these settings, which stands in a block that has done this, in a segment
    /// that does that.
    pub(super) fn of(
        settings: &'a Arc<AppliedSettings>,
        block: Option<&BlockReading>,
        status: TransactionStatus,
        segment: SegmentReading,
    ) -> Self {
        let block = block.unwrap_or(&BlockReading::Unchanged);
        let changes = segment == SegmentReading::Perhaps;
        match (status, block) {
            (TransactionStatus::Failed, _) => Self::Unclear,
            (_, BlockReading::Unchanged) if !changes => Self::Session(settings),
            (TransactionStatus::Idle, _) => Self::Unclear,
            (TransactionStatus::InTransaction, BlockReading::Changed(values)) if !changes => {
                let mut all = AppliedSettings::clone(settings);
                for (name, value) in values {
                    match value {
                        Some(value) => all.0.insert(name.clone(), value.clone()),
                        None => all.0.remove(name),
                    };
                }
                Self::Block(Arc::new(all))
            }
            (TransactionStatus::InTransaction, _) => Self::UnclearBlock,
        }
    }

    /// The settings, if they are known.
    pub(super) fn settings(&self) -> Option<&Arc<AppliedSettings>> {
        match self {
            Self::Session(settings) => Some(settings),
            Self::Block(settings) => Some(settings),
            Self::UnclearBlock | Self::Unclear => None,
        }
    }
}

/// What has a connection parse a statement with its own settings.
#[derive(Debug)]
pub(super) struct Detour {
    /// Statements that give it those.
    pub(super) there: Vec<String>,
    /// How it gets back what it had.
    pub(super) back: Back,
}

/// How a connection gets back its settings.
#[derive(Debug)]
pub(super) enum Back {
    /// By these statements.
    Statements(Vec<String>),
    /// By a savepoint in front of all.
    Savepoint,
}

/// Makes a savepoint.
pub(super) const SAVEPOINT: &str = "SAVEPOINT pgweir";
/// Brings back what was before it.
pub(super) const ROLLBACK_TO: &str = "ROLLBACK TO SAVEPOINT pgweir";
/// Forgets it.
pub(super) const RELEASE: &str = "RELEASE SAVEPOINT pgweir";

impl Detour {
    /// What is needed for the statement on this ground, if anything.
    pub(super) fn of(statement: &Prepared, ground: &Ground<'_>) -> Option<Self> {
        let own = &statement.settings;
        let known = ground.settings();
        if known.is_some_and(|settings| Arc::ptr_eq(settings, own)) || !bears_company(statement) {
            return None;
        }
        match ground {
            Ground::Session(settings) => {
                let (there, back) = settings.read_as(own)?;
                let back = Back::Statements(back);
                Some(Self { there, back })
            }
            Ground::Block(settings) => {
                let (there, _) = settings.read_as(own)?;
                let back = Back::Savepoint;
                Some(Self { there, back })
            }
            Ground::UnclearBlock => Some(Self {
                there: own.read_as_from_unknown(),
                back: Back::Savepoint,
            }),
            Ground::Unclear => None,
        }
    }

    /// The texts of two Query messages around a Parse that has a Sync of its own.
    pub(super) fn queries(&self) -> (String, String) {
        let join = |all: Vec<&str>| all.join(";");
        (join(self.before().collect()), join(self.behind().collect()))
    }

    /// The same in a block, which what fails between them does not end.
    pub(super) fn within_savepoint(there: Vec<String>) -> (String, String) {
        let back = Back::Savepoint;
        Self { there, back }.queries()
    }

    /// What is run before the Parse.
    pub(super) fn before(&self) -> impl Iterator<Item = &str> {
        let first = match self.back {
            Back::Statements(_) => None,
            Back::Savepoint => Some(SAVEPOINT),
        };
        first
            .into_iter()
            .chain(self.there.iter().map(String::as_str))
    }

    /// What is run behind it.
    pub(super) fn behind(&self) -> impl Iterator<Item = &str> {
        let (back, last): (&[String], &[&str]) = match &self.back {
            Back::Statements(back) => (back, &[]),
            Back::Savepoint => (&[], &[ROLLBACK_TO, RELEASE]),
        };
        back.iter().map(String::as_str).chain(last.iter().copied())
    }
}

/// Whether something may run before the statement in its transaction. Texts that pgweir cannot read are
/// taken for queries if they begin like one.
fn bears_company(statement: &Prepared) -> bool {
    let word = statement.sql.trim_ascii_start();
    let queries: [&[u8]; 5] = [b"select", b"insert", b"update", b"delete", b"with"];
    statement.text.company() == Company::Bears
        || queries.iter().any(|query| {
            let begins = word.get(..query.len());
            begins.is_some_and(|begins| begins.eq_ignore_ascii_case(query))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::classify::{analyse, judge};
    use crate::core::policy::RoutingPolicy;
    use crate::frontend::classification::ClassificationCache;
    use crate::frontend::statements::{StatementNumbers, StatementRegistry};
    use TransactionStatus::{Failed, Idle, InTransaction};

    fn judged(sql: &str) -> Arc<Classification> {
        let policy = RoutingPolicy::default();
        Arc::new(judge(&analyse(sql.as_bytes()), None, &policy))
    }

    fn after(texts: &[&str]) -> BlockReading {
        let mut block = BlockReading::default();
        for text in texts {
            let judged = judged(text);
            judged.statements.iter().for_each(|one| block.note(one));
        }
        block
    }

    fn statement(sql: &str, settings: &Arc<AppliedSettings>) -> Prepared {
        let text = ClassificationCache::default().find(sql.as_bytes()).0;
        let registry = StatementRegistry::new(StatementNumbers::default());
        registry.apart(sql.as_bytes(), &[0, 0], settings, &text)
    }

    fn zone(value: &str) -> Arc<AppliedSettings> {
        Arc::new(AppliedSettings(
            [("timezone".to_owned(), value.to_owned())].into(),
        ))
    }

    #[test]
    fn a_block_knows_what_it_has_changed_unless_that_may_have_been_taken_back() {
        let values = |pairs: &[(&str, Option<&str>)]| {
            let pairs = pairs.iter();
            let owned = pairs.map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned)));
            BlockReading::Changed(owned.collect())
        };
        let others = [
            "BEGIN",
            "SET work_mem = 1",
            "SET LOCAL role a",
            "SAVEPOINT a",
        ];
        assert_eq!(after(&others), BlockReading::Unchanged);
        let both = [
            "BEGIN",
            "SET timezone = a",
            "SET LOCAL array_nulls TO DEFAULT",
        ];
        let known = values(&[("array_nulls", None), ("timezone", Some("a"))]);
        assert_eq!(after(&both), known);
        for unclear in [
            ["SET timezone = a", "SAVEPOINT a"],
            [
                "SET timezone = a",
                "SET LOCAL TIME ZONE INTERVAL '1' HOUR TO MINUTE",
            ],
            ["SET datestyle = DMY", "SELECT 1"],
            ["DO 'x'", "SET timezone = a"],
        ] {
            assert_eq!(after(&unclear), BlockReading::Unclear, "{unclear:?}");
        }
    }

    #[test]
    fn a_statement_is_parsed_with_its_own_settings_wherever_they_can_be_given() {
        let (own, session) = (zone("a"), zone("b"));
        let select = statement("SELECT 1", &own);
        let detour = |block: &BlockReading, status, executed: &[Arc<Classification>]| {
            let segment = SegmentReading::of(executed);
            assert_eq!(segment == SegmentReading::Later, !executed.is_empty());
            let ground = Ground::of(&session, Some(block), status, segment.going_on());
            let detour = Detour::of(&select, &ground)?;
            Some(detour.queries())
        };
        let (to_a, to_b) = ("SET \"timezone\" TO a", "SET \"timezone\" TO b");
        let unchanged = BlockReading::Unchanged;
        let sets = Some((to_a.to_owned(), to_b.to_owned()));
        assert_eq!(detour(&unchanged, Idle, &[]), sets);
        assert_eq!(detour(&unchanged, InTransaction, &[]), sets);
        assert_eq!(detour(&unchanged, Failed, &[]), None);
        let changed = after(&["SET LOCAL timezone = c"]);
        let back = format!("{ROLLBACK_TO};{RELEASE}");
        let saved = Some((format!("{SAVEPOINT};{to_a}"), back.clone()));
        assert_eq!(detour(&changed, InTransaction, &[]), saved);
        assert_eq!(
            detour(&after(&["SET timezone = a"]), InTransaction, &[]),
            None
        );
        assert_eq!(detour(&changed, Idle, &[]), None);
        let sets_it = [judged("SET timezone = d")];
        assert_eq!(detour(&unchanged, Idle, &sets_it), None);
        let (there, behind) = detour(&unchanged, InTransaction, &sets_it).unwrap();
        assert!(
            there.starts_with(SAVEPOINT) && there.contains(to_a),
            "{there}"
        );
        assert!(there.contains("RESET \"datestyle\"") && behind == back);
    }

    #[test]
    fn what_must_be_alone_in_its_transaction_is_parsed_as_it_is() {
        let session = zone("b");
        let ground = Ground::Session(&session);
        for (sql, has) in [
            ("SELECT 'a\\'b'", true),
            ("/* x */ SELECT 1", true),
            ("EXPLAIN SELECT 1", true),
            ("VACUUM t", false),
            ("CREATE TABLE t (a int)", false),
            ("COMMIT", false),
            ("ROLLBACK TO a", false),
        ] {
            let detour = Detour::of(&statement(sql, &zone("a")), &ground);
            assert_eq!(detour.is_some(), has, "{sql}");
            let none = Detour::of(&statement(sql, &session), &ground);
            assert!(none.is_none());
        }
    }
}
