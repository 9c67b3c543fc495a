//! A segment whose rest waits until it is known whether a statement still returns what its client was
//! told.
//!
//! A server refuses a statement whose result type has changed since it was prepared. Where pgweir has
//! to prepare it again, on another connection, the server cannot know that. So the statement is
//! described there first, and compared with what the server said of it when the client prepared it;
//! only then the messages that use it are sent, or one that fails in their place
//! ([`Expected::Outdated`]).
//!
//! Reads outside a block do not wait: they are sent together with the Describe, and if that shows other
//! columns, the client gets the error in place of what they return ([`Expected::Guarded`]).

use std::sync::Arc;

use super::link::{Link, LinkError, Pause};
use super::plan::Plan;
use super::reading::SegmentReading;
use super::settle::Batch;
use super::translate::{Comparing, Destination, NodeStatements, Translated, Translation, Unsure};
use super::{Session, now, own};
use crate::core::snapshot::NodeRole;
use crate::core::statement::Classification;
use crate::frontend::classification::CachedText;
use crate::frontend::error::ProxyError;
use crate::frontend::statements::{Prepared, Sighting, server_name};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::description::Comparison;
use crate::protocol::frontend::{FLUSH, SYNC, tag, write_named_statement};
use crate::protocol::outstanding::{Disposition, Expected};
use crate::protocol::replies::{ErrorKind, Hold, OLDER_CATALOG};
use crate::protocol::segment::SegmentEnd;

/// The rest of a segment, and what it waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What has not been translated; nothing while the client's own bytes are translated as they come.
    rest: Box<[u8]>,
    /// What ends the segment, unless it is translated as it comes.
    end: Option<SegmentEnd>,
    /// The texts of the Parse messages in it.
    parses: Vec<Arc<CachedText>>,
    /// The texts that the segment runs.
    executed: Vec<Arc<Classification>>,
    reading: SegmentReading,
    /// The statement that is compared.
    statement: Arc<Prepared>,
    /// When it was sent.
    seen: Sighting,
    outcome: Option<Comparison>,
    unsure: Unsure,
}

/// Messages to be translated.
struct Part<'a> {
    bytes: &'a [u8],
    parses: &'a [Arc<CachedText>],
    executed: &'a [Arc<Classification>],
    reading: SegmentReading,
    /// What was found with other columns on this connection.
    outdated: Option<u64>,
    unsure: Unsure,
    comparing: Comparing,
}

impl Session {
    /// Translates whole messages. When one of them has to wait for a comparison, the rest is kept in
    /// [`Link::waiting`], and [`Session::relay`] sends it; if the segment is not held whole, the message is
    /// to be translated again.
    pub(super) fn translate_bytes(
        &mut self,
        link: &mut Link,
        plan: &Plan,
        bytes: &[u8],
        reading: SegmentReading,
    ) -> Result<(), ProxyError> {
        let part = Part {
            bytes,
            parses: &plan.parses,
            executed: &plan.executed,
            reading,
            outdated: link.outdated.take(),
            unsure: Unsure::default(),
            comparing: self.comparing(link, plan),
        };
        self.translate_part(link, part)
    }

    /// When the statements of the segment may be compared. What the node has done in it must not differ from
    /// what the client is told of it: no block has failed, no setting has been taken back.
    fn comparing(&self, link: &Link, plan: &Plan) -> Comparing {
        let is_alone = self.block.is_none()
            && link.scanner.status == TransactionStatus::Idle
            && link.replayed.is_none()
            && plan.ends.is_empty();
        if is_alone {
            Comparing::Beside
        } else {
            Comparing::First
        }
    }

    fn translate_part(&mut self, link: &mut Link, part: Part<'_>) -> Result<(), ProxyError> {
        let own = own::Context {
            status: link.scanner.status,
            default: self.policies.consistency.default,
            block: own::Block::of(Some(link)),
        };
        let registry = &self.cluster.shared.statements;
        let mut translation = Translation {
            state: &mut self.state,
            pending: &mut self.pending,
            registry,
            own,
            parses: part.parses.iter(),
            executed: part.executed,
            reading: part.reading,
            block: self.block.as_deref(),
            outdated: part.outdated,
            comparing: part.comparing,
            learned: None,
            unsure: part.unsure,
        };
        let mut to = link.destination();
        if let Translated::UpTo(at, statement) = translation.messages(part.bytes, &mut to)? {
            let rest = part.bytes.get(at..).unwrap_or_default();
            link.waiting = Some(Box::new(Waiting {
                rest: rest.into(),
                end: None,
                parses: translation.parses.cloned().collect(),
                executed: part.executed.to_vec(),
                reading: translation.reading,
                statement,
                seen: registry.sighting(now()),
                outcome: None,
                unsure: translation.unsure,
            }));
        }
        Ok(())
    }

    /// Sends what has waited, unless there is something to decide first.
    pub(super) fn go_on(
        &mut self,
        link: &mut Link,
        paused: Pause,
    ) -> Result<Option<Pause>, LinkError> {
        let Some(mut waiting) = link.waiting.take() else {
            return Ok(Some(paused));
        };
        if let Pause::Compared(outcome) = paused {
            if outcome == Comparison::Same && link.route.role == NodeRole::Primary {
                // A replica may be behind.
                waiting.statement.confirm(waiting.seen);
            }
            waiting.outcome = Some(outcome);
            if outcome == Comparison::Other && link.scanner.hold == Hold::UntilResult {
                link.waiting = Some(waiting);
                return Ok(Some(Pause::HeldError(OLDER_CATALOG, ErrorKind::Ordinary)));
            }
        } else if matches!(paused, Pause::Input | Pause::HeldError(..)) {
            link.waiting = Some(waiting);
            return Ok(Some(paused));
        }
        let is_outdated = waiting.outcome == Some(Comparison::Other);
        if is_outdated {
            link.close_statement(&waiting.statement);
        }
        if link.scanner.hold == Hold::Discarding {
            // Nobody wants the rest; the node waits for its Sync.
            link.to_server.writer().extend_from_slice(&SYNC);
            link.replies.push(Expected::Synced);
            return Ok(None);
        }
        let outdated = is_outdated.then_some(waiting.statement.id);
        let Some(end) = waiting.end else {
            link.outdated = outdated;
            return Ok(Some(Pause::Answered));
        };
        self.translate_part(
            link,
            Part {
                bytes: &waiting.rest,
                parses: &waiting.parses,
                executed: &waiting.executed,
                reading: waiting.reading,
                outdated,
                unsure: waiting.unsure,
                comparing: Comparing::First,
            },
        )?;
        // The session's key may have been set among the messages; those of comments are marked already.
        self.mark_keys(link, &Plan::default())?;
        link.end_segment(end);
        Ok(None)
    }
}

impl Link {
    /// Where translated messages for the node go.
    pub(super) fn destination(&mut self) -> Destination<'_> {
        let connection = &mut *self.lease;
        Destination {
            out: self.to_server.writer(),
            replies: &mut self.replies,
            node: Some(NodeStatements {
                prepared: &mut connection.prepared,
                unnamed: &mut connection.unnamed_owner,
                names: self.names,
            }),
        }
    }

    /// Lets the node forget a statement.
    fn close_statement(&mut self, statement: &Prepared) {
        self.lease.prepared.remove(statement.id);
        let out = self.to_server.writer();
        write_named_statement(out, tag::CLOSE, statement.server_name());
        self.replies.push(Expected::Closed(Disposition::Discard));
    }

    /// Has the node forget statements that were found with other columns while they were under way.
    pub(super) fn close_unlike(&mut self) {
        let out = self.to_server.writer();
        for id in self.scanner.unlike.drain(..) {
            self.lease.prepared.remove(id);
            write_named_statement(out, tag::CLOSE, server_name(id).as_bytes());
        }
        out.extend_from_slice(&SYNC);
        self.replies.push(Expected::Query(Disposition::Discard));
    }

    /// Everything of a segment has been translated, or it waits for a comparison.
    pub(super) fn end_segment(&mut self, end: SegmentEnd) {
        if let Some(waiting) = self.waiting.as_deref_mut() {
            waiting.end = Some(end);
            return;
        }
        match (end, self.batch) {
            (SegmentEnd::Flush, Batch::ClosedEarly) => {
                self.to_server.writer().extend_from_slice(&SYNC);
                self.replies.push(Expected::Query(Disposition::Discard));
            }
            (SegmentEnd::Flush, Batch::Open(_) | Batch::Closed) => {
                // A batch that ends without Flush (a Query follows) still has to be answered.
                self.to_server.writer().extend_from_slice(&FLUSH);
            }
            _ => {}
        }
    }
}
