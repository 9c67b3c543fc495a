//! The words in which people are told what a statement was classified as: those of `pgweir explain` and
//! of `EXPLAIN ROUTE`.

use super::statement::{
    AccessMode, CatalogEffect, Classification, Hint, SessionEffect, SettingChange,
    StatementVerdict, TransactionControl, TwoPhaseStep,
};

/// The class of a statement.
pub fn class(access: AccessMode) -> &'static str {
    match access {
        AccessMode::ReadOnly => "read",
        AccessMode::ReadWrite => "write",
    }
}

/// Where a text with this verdict may run.
pub fn destination(found: &Classification) -> &'static str {
    let answered = |verdict: &StatementVerdict| matches!(verdict.session, SessionEffect::Proxy(_));
    if !found.statements.is_empty() && found.statements.iter().all(answered) {
        return "nowhere: pgweir answers it";
    }
    match found.access {
        AccessMode::ReadOnly => {
            "a replica that is fresh enough for the session, or the primary if none is"
        }
        AccessMode::ReadWrite => "the primary",
    }
}

/// What a statement does beside its result; empty if that is nothing.
pub fn effects(verdict: &StatementVerdict) -> Vec<String> {
    let mut facts = Vec::new();
    match verdict.transaction {
        TransactionControl::None => {}
        TransactionControl::Begin(_) => facts.push("begins a transaction block".into()),
        TransactionControl::Commit(_) => facts.push("commits the transaction block".into()),
        TransactionControl::Rollback(_) => facts.push("rolls the transaction block back".into()),
        TransactionControl::Savepoint => facts.push("works on a savepoint".into()),
        TransactionControl::SetModes(_) => facts.push("sets transaction modes".into()),
        TransactionControl::TwoPhase => facts.push("works on a prepared transaction".into()),
    }
    match &verdict.session {
        SessionEffect::None | SessionEffect::LocalSetting(_) => {}
        SessionEffect::Setting(SettingChange::Set { name, .. }) => {
            facts.push(format!(
                "sets {name}, repeated on every connection of the session"
            ));
        }
        SessionEffect::Setting(SettingChange::Reset { name }) => {
            facts.push(format!("resets {name} on every connection of the session"));
        }
        SessionEffect::Setting(SettingChange::ResetAll) => {
            facts.push("resets every setting of the session".into());
        }
        SessionEffect::DeallocateAll => {
            facts.push("drops every prepared statement of the session".into());
        }
        SessionEffect::WatchesCounters => {
            facts.push("keeps the session's later reads on the primary, which counts them".into());
        }
        SessionEffect::DiscardAll => facts.push("makes the session as new".into()),
        SessionEffect::Pins(reason) | SessionEffect::MayConfigure(reason, _) => {
            facts.push(format!(
                "keeps the session on its connection ({})",
                reason.as_str()
            ));
        }
        SessionEffect::Proxy(_) => facts.push("is a statement for pgweir itself".into()),
    }
    match &verdict.catalog {
        CatalogEffect::None
        | CatalogEffect::Removes
        | CatalogEffect::Calls(_)
        | CatalogEffect::TwoPhase(TwoPhaseStep::Prepare | TwoPhaseStep::Rollback, _) => {}
        CatalogEffect::TwoPhase(TwoPhaseStep::Commit, name) => facts.push(format!(
            "makes pgweir load the catalog again unless the transaction {name} is known to have changed nothing in it"
        )),
        CatalogEffect::MayChange => facts.push("makes pgweir load the catalog again".into()),
        CatalogEffect::Touches(names) => facts.extend(
            names
                .iter()
                .map(|touched| format!("makes pgweir load the catalog again for {}", touched.name)),
        ),
    }
    facts
}

/// What a comment asks for; empty if that is nothing.
pub fn hint(hint: &Hint) -> Vec<String> {
    let consistency = hint
        .consistency
        .map(|mode| format!("consistency {}", mode.as_str()));
    let staleness = hint.max_staleness.map(|bound| match bound {
        Some(bound) => format!("max_staleness {bound:?}"),
        None => "max_staleness none".to_owned(),
    });
    let route = hint.route_primary.map(|_| "route primary".to_owned());
    let key = hint.key.as_ref().map(|key| format!("key {key}"));
    consistency
        .into_iter()
        .chain(staleness)
        .chain(route)
        .chain(key)
        .collect()
}
