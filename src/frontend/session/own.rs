//! Answers statements about pgweir's own settings, in both protocols.

use crate::core::snapshot::NodeRole;
use crate::core::statement::{Consistency, ProxyStatement};
use crate::frontend::classification::CachedText;
use crate::frontend::error::{ProxyError, Severity};
use crate::frontend::session::link::Link;
use crate::frontend::session::state::SessionState;
use crate::frontend::statements::Prepared;
use crate::protocol::backend::{TransactionStatus, tag};
use crate::protocol::message::{Reader, write_message, write_string};

/// A whole `ParseComplete`.
pub(super) const PARSE_COMPLETE: [u8; 5] = [tag::PARSE_COMPLETE, 0, 0, 0, 4];
/// A whole `BindComplete`.
pub(super) const BIND_COMPLETE: [u8; 5] = [tag::BIND_COMPLETE, 0, 0, 0, 4];
/// A whole `CloseComplete`.
pub(super) const CLOSE_COMPLETE: [u8; 5] = [tag::CLOSE_COMPLETE, 0, 0, 0, 4];
/// A whole `NoData`.
pub(super) const NO_DATA: [u8; 5] = [tag::NO_DATA, 0, 0, 0, 4];

/// The object id of type `text` (`src/include/catalog/pg_type.dat`).
const TEXT_OID: i32 = 25;

/// What the answers depend on besides the session's record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    /// For `ReadyForQuery`.
    pub(super) status: TransactionStatus,
    /// The configuration's consistency mode.
    pub(super) default: Consistency,
    /// Whether the session is in a block on a replica.
    pub(super) block: Block,
}

/// Whether the session is in a block whose replica was chosen by what it had to see then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// It is in none, or no node has seen it yet, or it is on the primary.
    Free,
    /// It is.
    OnReplica,
}

impl Block {
    /// Of a session that holds `link`.
    pub(super) fn of(link: Option<&Link>) -> Self {
        let on_replica = |link: &Link| {
            link.route.role == NodeRole::Replica && link.scanner.status != TransactionStatus::Idle
        };
        if link.is_some_and(on_replica) {
            Self::OnReplica
        } else {
            Self::Free
        }
    }
}

/// The statement for pgweir itself that the text is, if it is one.
pub(super) fn statement_of(text: &CachedText) -> Option<&ProxyStatement> {
    text.own()
}

/// A whole `ReadyForQuery`.
pub(super) fn ready(status: TransactionStatus) -> Box<[u8]> {
    [tag::READY_FOR_QUERY, 0, 0, 0, 5, status.as_byte()].into()
}

impl Context {
    /// The whole answer to a Query message with this statement.
    pub(super) fn answer_query(
        self,
        statement: &ProxyStatement,
        state: &mut SessionState,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(columns) = columns(statement) {
            write_row_description(&mut out, &columns);
        }
        match self.run(statement, state) {
            Ok(answer) => out.extend_from_slice(&answer),
            Err(error) => {
                out.clear();
                error.write(&mut out, Severity::Error);
            }
        }
        out.extend_from_slice(&ready(self.status));
        out
    }

    /// The answer to Describe of a portal.
    ///
    /// # Errors
    /// When the text is no statement for pgweir.
    pub(super) fn describe_portal(text: &CachedText) -> Result<Box<[u8]>, ProxyError> {
        let mut out = Vec::new();
        match columns(statement_of(text).ok_or(ProxyError::Internal)?) {
            Some(columns) => write_row_description(&mut out, &columns),
            None => out.extend_from_slice(&NO_DATA),
        }
        Ok(out.into())
    }

    /// The answer to Describe of a statement, with the types of parameters that its Parse gave; the
    /// others are texts, since nobody looks at their values.
    ///
    /// # Errors
    /// When the text is no statement for pgweir, or the types are none.
    pub(super) fn describe_statement(statement: &Prepared) -> Result<Box<[u8]>, ProxyError> {
        let count = match statement_of(&statement.text).ok_or(ProxyError::Internal)? {
            ProxyStatement::ExplainRoute { parameters, .. } => *parameters,
            ProxyStatement::Set { .. }
            | ProxyStatement::SetLocal { .. }
            | ProxyStatement::Reset { .. }
            | ProxyStatement::Show { .. } => 0,
        };
        let mut given = Reader::new(&statement.types);
        let told = u16::from_be_bytes(given.int16()?.to_be_bytes());
        let mut out = Vec::new();
        write_message(&mut out, tag::PARAMETER_DESCRIPTION, |body| {
            let count = count.max(told);
            body.extend_from_slice(&count.to_be_bytes());
            for _ in 0..count {
                let oid = given.int32().ok().filter(|oid| *oid != 0);
                body.extend_from_slice(&oid.unwrap_or(TEXT_OID).to_be_bytes());
            }
        });
        out.extend_from_slice(&Self::describe_portal(&statement.text)?);
        Ok(out.into())
    }

    /// The answer to Execute.
    ///
    /// # Errors
    /// When the setting or its value does not exist.
    pub(super) fn execute(
        self,
        text: &CachedText,
        state: &mut SessionState,
    ) -> Result<Box<[u8]>, ProxyError> {
        self.run(statement_of(text).ok_or(ProxyError::Internal)?, state)
    }

    fn run(
        self,
        statement: &ProxyStatement,
        state: &mut SessionState,
    ) -> Result<Box<[u8]>, ProxyError> {
        if self.status == TransactionStatus::Failed {
            return Err(ProxyError::InFailedTransaction);
        }
        let binds = match statement {
            ProxyStatement::Set { name, .. } | ProxyStatement::SetLocal { name, .. } => {
                name == "key" || name == "after"
            }
            ProxyStatement::Reset { .. }
            | ProxyStatement::Show { .. }
            | ProxyStatement::ExplainRoute { .. } => false,
        };
        if binds && self.block == Block::OnReplica {
            return Err(ProxyError::TooLateInBlock);
        }
        state.set_own(statement, self.status)?;
        let mut out = Vec::new();
        let command = match statement {
            ProxyStatement::Show { name } => {
                write_row(&mut out, &[&state.show_own(name, self.default)?]);
                "SHOW"
            }
            ProxyStatement::ExplainRoute { sql, .. } => {
                for (name, value) in state.tokens.facts(sql)? {
                    write_row(&mut out, &[name, value]);
                }
                "EXPLAIN"
            }
            ProxyStatement::Set { .. } | ProxyStatement::SetLocal { .. } => "SET",
            ProxyStatement::Reset { .. } => "RESET",
        };
        write_message(&mut out, tag::COMMAND_COMPLETE, |body| {
            write_string(body, command.as_bytes());
        });
        Ok(out.into())
    }
}

/// The names of the columns of the answer; `None` if it has no rows.
fn columns(statement: &ProxyStatement) -> Option<Vec<String>> {
    match statement {
        ProxyStatement::Show { name } => Some(vec![format!("pgweir.{name}")]),
        ProxyStatement::ExplainRoute { .. } => Some(vec!["fact".to_owned(), "value".to_owned()]),
        ProxyStatement::Set { .. }
        | ProxyStatement::SetLocal { .. }
        | ProxyStatement::Reset { .. } => None,
    }
}

/// Columns of type `text`.
fn write_row_description(out: &mut Vec<u8>, columns: &[String]) {
    write_message(out, tag::ROW_DESCRIPTION, |body| {
        body.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
        for name in columns {
            write_string(body, name.as_bytes());
            // No table, no attribute number.
            body.extend_from_slice(&0_i32.to_be_bytes());
            body.extend_from_slice(&0_i16.to_be_bytes());
            body.extend_from_slice(&TEXT_OID.to_be_bytes());
            // Variable length, no type modifier, text format (the same bytes as binary for `text`).
            body.extend_from_slice(&(-1_i16).to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes());
            body.extend_from_slice(&0_i16.to_be_bytes());
        }
    });
}

fn write_row(out: &mut Vec<u8>, values: &[&str]) {
    write_message(out, tag::DATA_ROW, |body| {
        body.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
        for value in values {
            body.extend_from_slice(&i32::try_from(value.len()).unwrap_or(0).to_be_bytes());
            body.extend_from_slice(value.as_bytes());
        }
    });
}
