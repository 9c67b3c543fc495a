//! The transaction block that a session is in: what has happened in it.

use std::sync::Arc;

use super::put_off::PutOff;
use super::reading::BlockReading;
use crate::core::catalog::Catalog;
use crate::core::snapshot::NodeRole;
use crate::core::statement::{
    AccessMode, CatalogEffect, Classification, Logins, Reason, SessionEffect, SettingChange,
    StatementVerdict, TransactionControl, TransactionModes,
};

/// What has happened in the transaction block that is open.
#[derive(Debug, Default)]
pub(super) struct OpenBlock {
    /// Whether anything in it may have written.
    pub(super) wrote: Wrote,
    /// Settings that hold if it commits.
    pub(super) settings: Vec<SettingChange>,
    /// Whether a savepoint may have taken settings back.
    pub(super) savepoints: Savepoints,
    /// Whether a query has run in it.
    queries: Queries,
    /// Whether a DISCARD ALL has succeeded that its transaction may still take back in part.
    pub(super) discarded: Discarded,
    /// What it has changed of how texts are read.
    pub(super) reading: BlockReading,
    /// What it may have changed in the catalog.
    pub(super) catalog: CatalogEffect,
    /// Whether it has changed as what roles log in, if it commits.
    pub(super) logins: Logins,
    /// The catalog when it was begun on a replica. Its statements are judged by it: DDL on the primary
    /// must not end a block that reads.
    pub(super) begun_under: Option<Arc<Catalog>>,
    /// The modes it was begun with, as long as it can be begun again elsewhere.
    pub(super) begun: Option<TransactionModes>,
    /// Its BEGIN, while it is on a replica and is to go on elsewhere at the first statement that may
    /// write.
    pub(super) until_write: Option<PutOff>,
    /// Its BEGIN, while no node has seen it.
    pub(super) put_off: Option<PutOff>,
}

/// Whether anything may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wrote {
    #[default]
    No,
    Maybe,
}

/// Whether there are savepoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Savepoints {
    #[default]
    None,
    Some,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Queries {
    #[default]
    None,
    Some,
}

/// Whether a DISCARD ALL has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Discarded {
    #[default]
    No,
    Yes,
}

impl OpenBlock {
    /// A block whose BEGIN no node has seen yet.
    pub(super) fn put_off(begin: PutOff) -> Self {
        Self {
            put_off: Some(begin),
            ..Self::default()
        }
    }

    /// A text has been carried out, or has failed.
    pub(super) fn note_text(&mut self, text: &Classification, role: NodeRole) {
        for statement in &text.statements {
            self.note(statement, role);
        }
        self.logins = self.logins.max(text.logins);
    }

    /// A statement has been carried out, or has failed.
    pub(super) fn note(&mut self, statement: &StatementVerdict, role: NodeRole) {
        if statement.access == AccessMode::ReadWrite && role != NodeRole::Replica {
            let harmless = matches!(
                statement.transaction,
                TransactionControl::Begin(_)
                    | TransactionControl::Rollback(_)
                    | TransactionControl::Commit(_)
                    | TransactionControl::SetModes(_)
                    | TransactionControl::Savepoint
            ) || matches!(statement.session, SessionEffect::Setting(_));
            if !harmless {
                self.wrote = Wrote::Maybe;
            }
        }
        if statement.transaction == TransactionControl::Savepoint {
            self.savepoints = Savepoints::Some;
        }
        if statement.reason == Reason::Read {
            self.queries = Queries::Some;
        }
        self.reading.note(statement);
        // What is prepared is not done in this block.
        if !matches!(
            statement.catalog,
            CatalogEffect::None | CatalogEffect::TwoPhase(..)
        ) {
            self.catalog = self.catalog.and(&statement.catalog);
        }
        if let SessionEffect::Setting(change) = &statement.session {
            self.settings.push(change.clone());
        }
        // A block with connection-bound or transaction-bound state cannot be begun elsewhere.
        if statement.transaction != TransactionControl::None
            || statement.session != SessionEffect::None
        {
            self.begun = None;
        }
    }

    /// Whether its modes can no longer be changed: a query has run.
    pub(super) fn has_fixed_modes(&self) -> bool {
        self.queries == Queries::Some
    }

    /// Whether it can be begun again on another node: nothing but reads so far, each with a snapshot
    /// of its own.
    pub(super) fn begun_anew(&self) -> Option<&'static str> {
        let modes = self.begun?;
        (modes.isolation.is_none()).then_some("BEGIN READ ONLY")
    }
}
