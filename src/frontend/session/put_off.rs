//! A BEGIN that no node has seen yet: it is sent with the first statement that needs one, so that a
//! read-only block goes where its reads may run, and an empty block costs nothing.

use std::sync::Arc;

use super::block::OpenBlock;
use super::link::Link;
use super::names::Names;
use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::{Session, SessionEnd, own};
use crate::core::classify::deallocated_name;
use crate::core::statement::{Chain, SessionEffect, TransactionControl, TransactionModes};
use crate::frontend::error::ProxyError;
use crate::protocol::backend::{TransactionStatus, tag as reply};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::frontend::{Named, Parse, query_text, tag};
use crate::protocol::message::{Reader, write_message, write_string};
use crate::protocol::segment::{SegmentEnd, messages};

/// A BEGIN that no node has seen yet.
#[derive(Debug)]
pub(super) struct PutOff {
    /// As the client wrote it.
    pub(super) sql: Box<str>,
    /// Its modes.
    pub(super) modes: TransactionModes,
    /// Whether a statement in it could not be run.
    pub(super) fate: Fate,
    /// Which nodes it may begin on.
    pub(super) on: On,
}

/// Which nodes a block may begin on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// Those that its modes and the configuration allow.
    Any,
    /// It was on a replica, and comes to something that needs the primary.
    Primary,
}

/// Whether a statement of the block could not be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    /// No node was found for one: only the end of the block is accepted now.
    Failed,
}

/// What pgweir does with a segment that only controls a block.
pub(super) enum Control {
    /// It begins a block, which no node sees yet.
    Begin(Box<str>, TransactionModes),
    /// It ends a block that no node has seen.
    End,
    /// Of a statement that was prepared by a Parse message.
    Deallocate(String),
    /// It stands in a block that no node has seen and that has failed.
    Refuse,
}

impl Session {
    /// Answers the segment if it begins a block, ends or misuses one that no node has seen, or is about
    /// a name that only pgweir knows; `false` when a node is needed.
    pub(super) async fn control_block(
        &mut self,
        plan: &Plan,
        extent: Extent,
    ) -> Result<bool, SessionEnd> {
        let text = self.only_text(extent);
        let words = match self.control_of(plan, text) {
            None => return Ok(false),
            Some(Control::Deallocate(name)) => {
                self.state.statements.remove(name.as_bytes());
                "DEALLOCATE"
            }
            Some(Control::Begin(sql, modes)) => {
                let words = if sql
                    .as_bytes()
                    .first()
                    .is_some_and(|b| b.eq_ignore_ascii_case(&b's'))
                {
                    "START TRANSACTION"
                } else {
                    "BEGIN"
                };
                self.block = Some(Box::new(OpenBlock::put_off(PutOff {
                    sql,
                    modes,
                    fate: Fate::Fine,
                    on: On::Any,
                })));
                words
            }
            Some(Control::End) => {
                let fate = self.put_off_fate();
                self.block = None;
                self.drop_stray_marks();
                if fate == Some(Fate::Failed) || ends_with_rollback(plan) {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                }
            }
            Some(Control::Refuse) => {
                self.refuse(&ProxyError::InFailedTransaction, extent)
                    .await?;
                return Ok(true);
            }
        };
        self.note_unnamed(plan, extent);
        let answer = self.answer_to(words, extent);
        self.cluster.metrics.count_answered();
        self.inbound.consume(extent.length);
        self.write_client(&answer).await?;
        Ok(true)
    }

    /// What pgweir does itself with a segment that runs `text` and nothing else, or another one;
    /// `None` if a node is needed.
    pub(super) fn control_of(&self, plan: &Plan, text: Option<&[u8]>) -> Option<Control> {
        let node_waits = |link: &Link| !link.is_quiet() || link.batch.is_open();
        if self.link.as_deref().is_some_and(node_waits) {
            return None;
        }
        let fate = self.put_off_fate();
        let text = text.filter(|_| plan.needs == Needs::Node);
        let control = text.and_then(|sql| self.control(plan, sql));
        match (control, fate) {
            (Some(control @ Control::Deallocate(_)), None | Some(Fate::Fine)) => Some(control),
            _ if self.link.is_some() => None,
            (Some(control @ Control::Begin(..)), None) if !self.state.has_block_timeout() => {
                Some(control)
            }
            (Some(control @ Control::End), Some(_)) => Some(control),
            (_, Some(Fate::Failed)) => Some(Control::Refuse),
            _ => None,
        }
    }

    fn put_off_fate(&self) -> Option<Fate> {
        let block = self.block.as_deref();
        block
            .and_then(|block| block.put_off.as_ref())
            .map(|begin| begin.fate)
    }

    fn control(&self, plan: &Plan, sql: &[u8]) -> Option<Control> {
        if let Some(control) = control(plan, sql) {
            return Some(control);
        }
        let name = deallocated_name(sql)?;
        let theirs = self
            .link
            .as_deref()
            .is_some_and(|link| link.names == Names::Client);
        let known = !theirs && self.state.statements.find(name.as_bytes()).is_some();
        (known && self.status() != TransactionStatus::Failed).then_some(Control::Deallocate(name))
    }

    /// What the segment leaves as the unnamed statement.
    fn note_unnamed(&mut self, plan: &Plan, extent: Extent) {
        let sql = self.only_text(extent).map(<[u8]>::to_vec);
        let left = match (plan.parses.first(), sql) {
            (Some(text), Some(sql)) => {
                let registry = &self.cluster.shared.statements;
                Some(Arc::new(registry.unshared(
                    &sql,
                    &[0, 0],
                    &self.state.settings,
                    text,
                )))
            }
            _ => None,
        };
        self.state.unnamed.set(left);
    }

    /// The text of a segment that runs one text and nothing else: a Query, or the unnamed statement
    /// and portal.
    pub(super) fn only_text(&self, extent: Extent) -> Option<&[u8]> {
        let bytes = self.inbound.filled().get(..extent.length)?;
        match extent.end {
            SegmentEnd::Query => query_text(bytes.get(HEADER_BYTES..)?).ok(),
            SegmentEnd::Sync => unnamed_text(bytes),
            SegmentEnd::FunctionCall
            | SegmentEnd::Flush
            | SegmentEnd::Terminate
            | SegmentEnd::StrayCopy => None,
        }
    }

    /// The whole answer to the segment, whose command has succeeded.
    fn answer_to(&self, words: &str, extent: Extent) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = self.inbound.filled().get(..extent.length);
        for kind in messages(bytes.unwrap_or_default()).map(|(kind, _)| kind) {
            match kind {
                tag::PARSE => out.extend_from_slice(&own::PARSE_COMPLETE),
                tag::BIND => out.extend_from_slice(&own::BIND_COMPLETE),
                tag::DESCRIBE => out.extend_from_slice(&own::NO_DATA),
                tag::EXECUTE | tag::QUERY => {
                    write_message(&mut out, reply::COMMAND_COMPLETE, |body| {
                        write_string(body, words.as_bytes());
                    });
                }
                _ => {}
            }
        }
        out.extend_from_slice(&own::ready(self.status()));
        out
    }

    /// The status of a session that holds no connection.
    pub(super) fn unlinked_status(&self) -> TransactionStatus {
        match self
            .block
            .as_deref()
            .and_then(|block| block.put_off.as_ref())
        {
            Some(begin) if begin.fate == Fate::Failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
            None => TransactionStatus::Idle,
        }
    }

    /// A statement of a block that no node has seen could not be run.
    pub(super) fn fail_put_off(&mut self) {
        let block = self.block.as_deref_mut();
        if let Some(begin) = block.and_then(|block| block.put_off.as_mut()) {
            begin.fate = Fate::Failed;
        }
    }
}

fn control(plan: &Plan, sql: &[u8]) -> Option<Control> {
    let [text] = plan.executed.as_slice() else {
        return None;
    };
    let [statement] = &*text.statements else {
        return None;
    };
    if statement.session != SessionEffect::None || !text.hint.is_key_only() {
        return None;
    }
    match statement.transaction {
        TransactionControl::Begin(modes) => {
            let sql = std::str::from_utf8(sql).ok()?.trim();
            sql.starts_with(['b', 'B', 's', 'S'])
                .then(|| Control::Begin(sql.into(), modes))
        }
        TransactionControl::Commit(Chain::NoChain)
        | TransactionControl::Rollback(Chain::NoChain) => Some(Control::End),
        TransactionControl::None
        | TransactionControl::Commit(Chain::Chain)
        | TransactionControl::Rollback(Chain::Chain)
        | TransactionControl::Savepoint
        | TransactionControl::SetModes(_)
        | TransactionControl::TwoPhase => None,
    }
}

fn ends_with_rollback(plan: &Plan) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.any(|one| matches!(one.transaction, TransactionControl::Rollback(_)))
}

/// The text of Parse, Bind, perhaps Describe, Execute and Sync that use no names.
fn unnamed_text(bytes: &[u8]) -> Option<&[u8]> {
    let mut sql = None;
    let mut order = Vec::with_capacity(8);
    for (kind, body) in messages(bytes).take(6) {
        order.push(kind);
        let unnamed = match kind {
            tag::PARSE => {
                let parse = Parse::read(body).ok()?;
                sql = Some(parse.sql);
                parse.name.is_empty() && parse.types == [0, 0]
            }
            tag::BIND => body == [0; 8],
            tag::DESCRIBE => Named::read(body).ok()? == Named::Portal(b""),
            tag::EXECUTE => Reader::new(body).string().ok()?.is_empty(),
            tag::SYNC => true,
            _ => false,
        };
        if !unnamed {
            return None;
        }
    }
    let plain = [tag::PARSE, tag::BIND, tag::EXECUTE, tag::SYNC];
    let described = [
        tag::PARSE,
        tag::BIND,
        tag::DESCRIBE,
        tag::EXECUTE,
        tag::SYNC,
    ];
    (order == plain || order == described)
        .then_some(sql)
        .flatten()
}
