//! Where a segment may run, judged from what its texts were classified as.

use super::router::{RouteReason, Target};
use super::statement::{
    AccessMode, CatalogEffect, Chain, Classification, Consistency, Isolation, PinReason, Reason,
    SessionEffect, StatementVerdict, TransactionControl, TransactionModes,
};

/// Where statements that are sent together may run: on a replica only if every one of them may.
/// `begun` is the block that they stand in and that no node has seen yet.
pub fn target<'a>(
    texts: impl IntoIterator<Item = &'a Classification>,
    mode: Consistency,
    begun: Begun,
) -> Target {
    let mut block = match begun {
        Begun::No => Block::Outside,
        Begun::Yes(modes) if is_read_only(modes) => Block::ReadOnly,
        Begun::Yes(_) => return Target::Primary(RouteReason::Transaction),
        Begun::UntilWrite => Block::UntilWrite,
    };
    let mut any = Any::Nothing;
    for text in texts {
        any = Any::Text;
        if let Some(reason) = asks_for_primary(text, mode) {
            return Target::Primary(reason);
        }
        if text.statements.is_empty() && text.access == AccessMode::ReadWrite {
            return Target::Primary(reason_of(text.reason));
        }
        for statement in &text.statements {
            match step(block, statement) {
                Ok(next) => block = next,
                Err(reason) => return Target::Primary(reason),
            }
        }
    }
    match (any, mode) {
        (Any::Nothing, _) => Target::Primary(RouteReason::Write),
        (Any::Text, Consistency::Primary) => Target::Primary(RouteReason::Requested),
        (Any::Text, _) => Target::Read,
    }
}

/// A block that no node has seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// There is none.
    No,
    /// It has these modes.
    Yes(TransactionModes),
    /// It may write, and until it does it may run on a replica.
    UntilWrite,
}

/// Whether it is one that can begin again elsewhere, as long as it has only read.
pub const fn is_movable(begun: Begun) -> bool {
    matches!(begun, Begun::Yes(modes) if modes.isolation.is_none())
}

/// Whether a block with these modes may begin on a replica and go on elsewhere: each of its statements
/// has a snapshot of its own, unless the role's default is another one.
pub fn may_move(modes: TransactionModes) -> bool {
    modes.access.is_none() && matches!(modes.isolation, None | Some(Isolation::ReadCommitted))
}

/// Whether a statement of such a block may run on the replica, so that nothing is left there but what
/// ends with it.
pub fn may_precede_write(statement: &StatementVerdict) -> bool {
    let goes_on = statement.transaction == TransactionControl::None
        && statement.access == AccessMode::ReadOnly;
    let ends = matches!(
        statement.transaction,
        TransactionControl::Commit(Chain::NoChain) | TransactionControl::Rollback(Chain::NoChain)
    );
    statement.session == SessionEffect::None && (goes_on || ends)
}

/// Whether a text leaves nothing behind, so that its answer can be thrown away.
pub fn is_plain_read(text: &Classification) -> bool {
    !text.statements.is_empty()
        && text.catalog == CatalogEffect::None
        && text.statements.iter().all(|statement| {
            statement.access == AccessMode::ReadOnly
                && statement.session == SessionEffect::None
                && statement.transaction == TransactionControl::None
        })
}

/// Whether everything in the text may run in a transaction in which something was set before: nothing
/// that must be alone in its transaction (`PreventInTransactionBlock`, `src/backend/access/transam/xact.c`)
/// and nothing that is not understood.
pub fn may_share_transaction(text: &Classification) -> bool {
    !text.statements.is_empty()
        && text.statements.iter().all(|statement| {
            let alone = matches!(
                statement.reason,
                Reason::Ddl
                    | Reason::Maintenance
                    | Reason::Code
                    | Reason::ExplainAnalyzeWrite
                    | Reason::ParseFailed
                    | Reason::NotUtf8
                    | Reason::TooLong
            );
            !alone
                && statement.session != SessionEffect::DiscardAll
                && statement.session != SessionEffect::Pins(PinReason::SqlPrepare)
                && statement.transaction != TransactionControl::TwoPhase
        })
}

/// Whether a statement may run inside a read-only block that stands on a replica.
pub fn may_join_replica_block(statement: &StatementVerdict) -> bool {
    let harmless = statement.session == SessionEffect::None;
    match statement.transaction {
        TransactionControl::None => harmless && statement.access == AccessMode::ReadOnly,
        TransactionControl::Commit(Chain::NoChain)
        | TransactionControl::Rollback(Chain::NoChain)
        | TransactionControl::Savepoint => true,
        TransactionControl::Begin(_)
        | TransactionControl::Commit(Chain::Chain)
        | TransactionControl::Rollback(Chain::Chain)
        | TransactionControl::SetModes(_)
        | TransactionControl::TwoPhase => false,
    }
}

/// Whether a statement may run in a read-only block on a replica that cannot be moved any more, though
/// it is not known to be a read: all it can do there, besides reading, is to change settings of the
/// block or the session, or to be refused by the replica.
pub fn may_stay_on_replica(statement: &StatementVerdict) -> bool {
    let lists_statements = statement.session == SessionEffect::Pins(PinReason::SqlPrepare)
        && matches!(
            statement.reason,
            Reason::NodeLocalRelation | Reason::NodeLocalFunction
        );
    let harmless = matches!(
        statement.session,
        SessionEffect::None
            | SessionEffect::WatchesCounters
            | SessionEffect::DeallocateAll
            | SessionEffect::Setting(_)
            | SessionEffect::LocalSetting(_)
    ) || lists_statements;
    // Another node's locks would exclude nobody.
    harmless
        && statement.reason != Reason::AdvisoryLock
        && statement.transaction != TransactionControl::TwoPhase
}

/// Whether a text leaves nothing behind that the judgement of the next one would need.
pub fn may_be_coupled(text: &Classification) -> bool {
    may_share_transaction(text)
        && text.catalog == CatalogEffect::None
        && text.statements.iter().all(|statement| {
            statement.session == SessionEffect::None
                && statement.transaction == TransactionControl::None
                && !matches!(statement.reason, Reason::CopyWrite | Reason::SessionState)
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Any {
    Nothing,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Outside,
    ReadOnly,
    UntilWrite,
}

fn asks_for_primary(text: &Classification, mode: Consistency) -> Option<RouteReason> {
    let mode = text.hint.consistency.unwrap_or(mode);
    (text.hint.route_primary.is_some() || mode == Consistency::Primary)
        .then_some(RouteReason::Requested)
}

/// Follows one statement of a text that may still run on a replica.
fn step(block: Block, statement: &StatementVerdict) -> Result<Block, RouteReason> {
    match (block, statement.transaction) {
        (Block::Outside, TransactionControl::Begin(modes)) if is_read_only(modes) => {
            Ok(Block::ReadOnly)
        }
        (_, TransactionControl::Begin(_)) => Err(RouteReason::Transaction),
        (
            Block::ReadOnly,
            TransactionControl::Commit(Chain::NoChain)
            | TransactionControl::Rollback(Chain::NoChain),
        ) => Ok(Block::Outside),
        (_, TransactionControl::None)
            if statement.access == AccessMode::ReadOnly
                && statement.session == SessionEffect::None =>
        {
            Ok(block)
        }
        (
            _,
            TransactionControl::None
            | TransactionControl::Commit(_)
            | TransactionControl::Rollback(_)
            | TransactionControl::Savepoint
            | TransactionControl::SetModes(_)
            | TransactionControl::TwoPhase,
        ) => Err(reason_of(statement.reason)),
    }
}

/// A hot standby runs READ ONLY blocks, but no SERIALIZABLE ones (manual, "Hot Standby").
fn is_read_only(modes: TransactionModes) -> bool {
    modes.access == Some(AccessMode::ReadOnly) && modes.isolation != Some(Isolation::Serializable)
}

/// Sorts the reasons of classification into those of routing.
fn reason_of(reason: Reason) -> RouteReason {
    match reason {
        Reason::Hint => RouteReason::Requested,
        Reason::CatalogUnknown
        | Reason::ParseFailed
        | Reason::NotUtf8
        | Reason::TooLong
        | Reason::UnknownFunction
        | Reason::UnknownRelation => RouteReason::NotUnderstood,
        Reason::Read
        | Reason::Show
        | Reason::Empty
        | Reason::Write
        | Reason::ModifyingCte
        | Reason::LockingClause
        | Reason::SelectInto
        | Reason::Ddl
        | Reason::Maintenance
        | Reason::ExplainAnalyzeWrite
        | Reason::CopyWrite
        | Reason::LockTable
        | Reason::Code
        | Reason::TransactionControl
        | Reason::SessionState
        | Reason::VolatileFunction
        | Reason::ListedFunction
        | Reason::AdvisoryLock
        | Reason::Sequence
        | Reason::NodeLocalFunction
        | Reason::UnsafeView
        | Reason::UnsafePolicy
        | Reason::UnsafeOperator
        | Reason::UnsafeType
        | Reason::UnloggedRelation
        | Reason::TemporaryRelation
        | Reason::ForeignRelation
        | Reason::NodeLocalRelation
        | Reason::ListedRelation
        | Reason::LearnedWrite => RouteReason::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::statement::{CatalogEffect, Hint, Logins, OptionUse};

    fn verdict(access: AccessMode, transaction: TransactionControl) -> StatementVerdict {
        StatementVerdict {
            access,
            transaction,
            session: SessionEffect::None,
            catalog: CatalogEffect::None,
            reason: if access == AccessMode::ReadOnly {
                Reason::Read
            } else {
                Reason::Write
            },
        }
    }

    fn text(statements: Vec<StatementVerdict>) -> Classification {
        Classification {
            access: statements
                .iter()
                .map(|s| s.access)
                .max()
                .unwrap_or(AccessMode::ReadOnly),
            reason: Reason::Read,
            statements: statements.into(),
            catalog: CatalogEffect::None,
            hint: Hint::default(),
            options: OptionUse::default(),
            logins: Logins::Kept,
        }
    }

    fn begin(access: Option<AccessMode>, isolation: Option<Isolation>) -> StatementVerdict {
        let modes = TransactionModes { access, isolation };
        verdict(AccessMode::ReadWrite, TransactionControl::Begin(modes))
    }

    #[test]
    fn every_statement_must_be_a_read() {
        let read = || verdict(AccessMode::ReadOnly, TransactionControl::None);
        let write = || verdict(AccessMode::ReadWrite, TransactionControl::None);
        let read_only = || begin(Some(AccessMode::ReadOnly), None);
        let serializable = begin(Some(AccessMode::ReadOnly), Some(Isolation::Serializable));
        let commit = || {
            verdict(
                AccessMode::ReadWrite,
                TransactionControl::Commit(Chain::NoChain),
            )
        };
        let cases = [
            (vec![read()], Target::Read),
            (vec![], Target::Read),
            (vec![read(), write()], Target::Primary(RouteReason::Write)),
            (vec![read_only(), read(), commit(), read()], Target::Read),
            (
                vec![read_only(), write()],
                Target::Primary(RouteReason::Write),
            ),
            (vec![commit()], Target::Primary(RouteReason::Write)),
            (
                vec![begin(None, None), read()],
                Target::Primary(RouteReason::Transaction),
            ),
            (
                vec![serializable, read()],
                Target::Primary(RouteReason::Transaction),
            ),
            (
                vec![read_only(), read_only()],
                Target::Primary(RouteReason::Transaction),
            ),
        ];
        for (statements, expected) in cases {
            let text = text(statements);
            assert_eq!(
                target([&text], Consistency::Session, Begun::No),
                expected,
                "{text:?}"
            );
            assert_eq!(
                target([&text], Consistency::Primary, Begun::No),
                Target::Primary(RouteReason::Requested)
            );
        }
        assert_eq!(
            target([], Consistency::Session, Begun::No),
            Target::Primary(RouteReason::Write)
        );
    }

    #[test]
    fn a_block_that_cannot_move_takes_what_leaves_nothing_behind() {
        let mut statement = verdict(AccessMode::ReadWrite, TransactionControl::None);
        assert!(may_stay_on_replica(&statement));
        statement.reason = Reason::AdvisoryLock;
        assert!(!may_stay_on_replica(&statement));
        statement.reason = Reason::SessionState;
        statement.session = SessionEffect::Pins(PinReason::Listen);
        assert!(!may_stay_on_replica(&statement));
    }

    #[test]
    fn a_session_effect_is_never_left_on_a_replica() {
        let mut setting = verdict(AccessMode::ReadOnly, TransactionControl::None);
        setting.session = SessionEffect::DiscardAll;
        assert!(!may_join_replica_block(&setting));
        assert_ne!(
            target([&text(vec![setting])], Consistency::Session, Begun::No),
            Target::Read
        );
    }
}
