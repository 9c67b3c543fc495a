//! Turns a client's messages into messages for a node, and notes the replies that will come.
//!
//! Messages are copied unchanged, but for the names of prepared statements. What the connection
//! lacks (a statement prepared elsewhere) is sent before the message that needs it, in the same
//! write, and its reply is discarded. If it may have got other columns since the client prepared it,
//! the translation stops there until that is known.

mod destination;
mod provide;

use std::sync::Arc;

use crate::core::statement::Classification;
use crate::frontend::classification::CachedText;
use crate::frontend::error::{Limit, ProxyError};
use crate::frontend::session::block::OpenBlock;
use crate::frontend::session::named::Change;
use crate::frontend::session::own;
use crate::frontend::session::reading::SegmentReading;
use crate::frontend::session::state::SessionState;
use crate::frontend::statements::{Prepared, StatementRegistry};
use crate::protocol::backend::tag as reply;
use crate::protocol::description::Described;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::{
    Bind, Named, Parse, tag, write_bind, write_named_statement, write_parse,
};
use crate::protocol::message::{Reader, write_message};
use crate::protocol::outstanding::{Called, Disposition, Expected};

pub(super) use destination::{Destination, NodeStatements};
pub(super) use provide::Comparing;
use provide::Provided;

/// What a translation needs of the session.
#[derive(Debug)]
pub(super) struct Translation<'a> {
    /// The session's record.
    pub(super) state: &'a mut SessionState,
    /// What has been sent and not been confirmed.
    pub(super) pending: &'a mut Vec<Change>,
    /// Names for new statements.
    pub(super) registry: &'a StatementRegistry,
    /// The answer to SHOW of pgweir's own settings, and the status of `ReadyForQuery`.
    pub(super) own: own::Context,
    /// The texts of the Parse messages, in order.
    pub(super) parses: std::slice::Iter<'a, Arc<CachedText>>,
    /// The texts that the segment runs.
    pub(super) executed: &'a [Arc<Classification>],
    /// What the segment does to the settings that decide what texts mean.
    pub(super) reading: SegmentReading,
    /// The block that the session is in.
    pub(super) block: Option<&'a OpenBlock>,
    /// The statement that was found with other columns on this connection.
    pub(super) outdated: Option<u64>,
    /// When a statement is compared that the connection lacks.
    pub(super) comparing: Comparing,
    /// The client's Describe of the statement whose Parse stands before it.
    pub(super) learned: Option<Described>,
    /// Statements that the node may have skipped.
    pub(super) unsure: Unsure,
}

/// Statements of pgweir's own that stand behind others in their segment, whose errors they would be
/// skipped with.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    /// Each with the segment it was sent in.
    sent: Vec<(u64, usize)>,
    /// Segments that have been translated.
    segments: usize,
}

impl Unsure {
    /// Whether a segment in front of this one may have failed before it came to the statement.
    fn may_be_missing(&self, id: u64) -> bool {
        let mut sent = self.sent.iter();
        sent.any(|(other, segment)| *other == id && *segment < self.segments)
    }
}

/// How far a translation came.
#[derive(Debug)]
pub(super) enum Translated {
    /// To the end.
    Whole,
    /// Up to this offset: this statement has been sent to be compared, and what stands behind depends on
    /// the outcome.
    UpTo(usize, Arc<Prepared>),
}

/// What became of one message.
enum Step {
    Done,
    /// This statement must be compared first.
    Compare(Arc<Prepared>),
}

/// A statement, and the client's name for it unless it is the unnamed one.
type Known = (Option<Arc<[u8]>>, Arc<Prepared>);

impl Translation<'_> {
    /// Translates the whole messages in `bytes`.
    ///
    /// # Errors
    /// When a message is malformed or a bound is reached; part of it may have been translated.
    pub(super) fn messages(
        &mut self,
        bytes: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<Translated, ProxyError> {
        let mut rest = bytes;
        while let Ok(Some(header)) = FrameHeader::parse(rest, u32::MAX) {
            let Some((message, after)) = rest.split_at_checked(header.total()) else {
                break;
            };
            if let Step::Compare(statement) = self.message(header.tag, message, after, to)? {
                return Ok(Translated::UpTo(bytes.len() - rest.len(), statement));
            }
            rest = after;
        }
        Ok(Translated::Whole)
    }

    fn message(
        &mut self,
        kind: u8,
        message: &[u8],
        behind: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<Step, ProxyError> {
        if to.replies.is_skipping() && kind != tag::SYNC {
            return Ok(Step::Done);
        }
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match kind {
            tag::QUERY => {
                self.state.unnamed.set(None);
                to.forget_unnamed();
                self.reading = self.reading.going_on();
                to.copy(message, Expected::Query(Disposition::Forward));
            }
            tag::FUNCTION_CALL => {
                self.reading = self.reading.going_on();
                to.copy(message, Expected::Query(Disposition::Forward));
            }
            tag::PARSE => self.parse((Parse::read(body)?, message), behind, to)?,
            tag::BIND => return Ok(self.bind((Bind::read(body)?, message), behind, to)),
            tag::DESCRIBE => return self.describe(Named::read(body)?, message, to),
            tag::EXECUTE => self.execute(Reader::new(body).string()?, message, to)?,
            tag::CLOSE => self.close(Named::read(body)?, message, to),
            tag::SYNC if to.node.is_none() => to.answer(own::ready(self.own.status)),
            tag::SYNC => {
                self.unsure.segments += 1;
                to.copy(message, Expected::Synced);
            }
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL if to.node.is_some() => {
                to.out.extend_from_slice(message);
            }
            _ => {}
        }
        Ok(Step::Done)
    }

    fn parse(
        &mut self,
        (parse, message): (Parse<'_>, &[u8]),
        behind: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
        let text = self.parses.next().ok_or(ProxyError::Internal)?;
        if parse.name.is_empty() {
            let ground = self.ground();
            let settings = ground.settings().unwrap_or(&self.state.settings);
            let statement = self
                .registry
                .unshared(parse.sql, parse.types, settings, text);
            let number = statement.id;
            let is_own = is_own(&statement);
            self.state.unnamed.change(Some(Arc::new(statement)));
            match &mut to.node {
                Some(node) if !is_own => {
                    *node.unnamed = Some(number);
                    to.copy(message, Expected::Parsed(Disposition::Forward, None));
                }
                Some(_) | None => to.replies.push(Expected::AlreadyParsed(Called::Unnamed)),
            }
            return Ok(());
        }
        if !self.state.statements.has_room_for(parse.sql.len()) {
            return Err(ProxyError::LimitExceeded {
                limit: Limit::PreparedStatements,
            });
        }
        if let Some((name, existing)) = self.named(parse.name) {
            if is_own(&existing) || to.node.is_none() {
                let name = String::from_utf8_lossy(parse.name).into_owned();
                return Err(ProxyError::DuplicateStatement { name });
            }
            if !to.has_client_names() || existing.stays_unlike(&name) {
                // The node refuses the second Parse of a name (42P05), as it would without pgweir.
                let parsed = Expected::Parsed(Disposition::Discard, Some(existing.id));
                if to.lacks(&existing) {
                    self.parse_as_then(&existing, to, |to| {
                        to.prepare(&existing, &existing.types, parsed);
                    });
                }
                write_parse(to.out, existing.server_name(), parse.sql, parse.types);
                to.replies.push(Expected::Refused(name));
                return Ok(());
            }
            self.provide_absent(&name, to);
        }
        let ground = self.ground();
        let settings = ground.settings().unwrap_or(&self.state.settings);
        let changes = self.may_change() || self.registry.is_changing();
        let statement = if changes || ground.settings().is_none() {
            // Whether the node takes it depends on the text, or on tables or settings that others do not
            // see: it must not be answered for another one.
            let apart = self.registry.apart(parse.sql, parse.types, settings, text);
            Arc::new(apart)
        } else {
            self.registry.intern(parse.sql, parse.types, settings, text)
        };
        let change = Change::Parsed(parse.name.into(), Arc::clone(&statement));
        self.pending.push(change);
        let is_own = is_own(&statement);
        let parsed = Expected::Parsed(Disposition::Forward, Some(statement.id));
        if to.has_client_names() && !is_own {
            to.copy(message, parsed);
        } else if is_own || !to.prepare(&statement, &statement.types, parsed) {
            to.replies.push(Expected::AlreadyParsed(Called::Named));
        } else {
            self.learn(&statement, (parse.name, behind), to);
        }
        Ok(())
    }

    /// Has the statement described that is parsed, if nobody has: by the client's own message where one
    /// comes next.
    fn learn(
        &mut self,
        statement: &Prepared,
        (name, behind): (&[u8], &[u8]),
        to: &mut Destination<'_>,
    ) {
        let unknown = |known: &&Described| known.get().is_none();
        let Some(described) = statement.described().filter(unknown) else {
            return;
        };
        if describes(behind, name) {
            self.learned = Some(Arc::clone(described));
        } else if to.node.is_some() {
            write_named_statement(to.out, tag::DESCRIBE, statement.server_name());
            let described = Arc::clone(described);
            to.replies
                .push(Expected::Learned(Disposition::Discard, described));
        }
    }

    fn bind(
        &mut self,
        (bind, message): (Bind<'_>, &[u8]),
        behind: &[u8],
        to: &mut Destination<'_>,
    ) -> Step {
        if self.is_theirs(bind.statement, to) {
            self.provide_absent(bind.statement, to);
            self.state.forget_proxy_portal(bind.portal);
            to.copy(message, Expected::Bound(None));
            return Step::Done;
        }
        let Some((name, statement)) = self.statement(bind.statement) else {
            self.state.forget_proxy_portal(bind.portal);
            to.unknown_statement(bind, message);
            return Step::Done;
        };
        if is_own(&statement) {
            self.state
                .proxy_portals
                .insert(bind.portal.into(), statement);
            to.answer(own::BIND_COMPLETE.into());
            return Step::Done;
        }
        self.state.forget_proxy_portal(bind.portal);
        if bind.statement.is_empty() {
            self.provide_unnamed(&statement, to);
            to.copy(message, Expected::Bound(None));
            return Step::Done;
        }
        match self.provide(&statement, behind, to) {
            Provided::Yes => {
                write_bind(to.out, bind, statement.server_name());
                to.replies.push(Expected::Bound(name));
            }
            Provided::Compare(statement) => return Step::Compare(statement),
            Provided::Outdated => {
                write_bind(to.out, bind, MISSING_NAME);
                to.replies.push(Expected::Outdated);
            }
        }
        Step::Done
    }

    fn describe(
        &mut self,
        named: Named<'_>,
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<Step, ProxyError> {
        match named {
            Named::Portal(name) => {
                if let Some(statement) = self.state.proxy_portals.get(name) {
                    let description = own::Context::describe_portal(&statement.text)?;
                    to.answer(description);
                } else {
                    to.copy(message, Expected::Described);
                }
            }
            // The node says that there is no such thing.
            Named::Unknown => to.copy(message, Expected::Described),
            Named::Statement(name) if self.is_theirs(name, to) => {
                self.provide_absent(name, to);
                to.copy(message, Expected::Described);
            }
            Named::Statement(name) => {
                let Some((_, statement)) = self.statement(name) else {
                    to.unknown_name(tag::DESCRIBE, name, Expected::Described);
                    return Ok(Step::Done);
                };
                if is_own(&statement) {
                    to.answer(own::Context::describe_statement(&statement)?);
                } else if name.is_empty() {
                    self.provide_unnamed(&statement, to);
                    to.copy(message, Expected::Described);
                } else {
                    return Ok(self.describe_named(&statement, to));
                }
            }
        }
        Ok(Step::Done)
    }

    fn describe_named(&mut self, statement: &Arc<Prepared>, to: &mut Destination<'_>) -> Step {
        // What an error has in front of it here is the client's, so that it waits for the comparison.
        match self.provide(statement, &[], to) {
            Provided::Yes => {
                write_named_statement(to.out, tag::DESCRIBE, statement.server_name());
                to.replies.push(match self.learned.take() {
                    Some(described) => Expected::Learned(Disposition::Forward, described),
                    None => Expected::Described,
                });
            }
            Provided::Compare(statement) => return Step::Compare(statement),
            Provided::Outdated => {
                // The parameters are described before the result (`exec_describe_statement_message`).
                let mut parameters = Vec::new();
                write_message(&mut parameters, reply::PARAMETER_DESCRIPTION, |body| {
                    body.extend_from_slice(statement.found_types());
                });
                to.answer(parameters.into());
                write_named_statement(to.out, tag::DESCRIBE, MISSING_NAME);
                to.replies.push(Expected::Outdated);
            }
        }
        Step::Done
    }

    fn execute(
        &mut self,
        portal: &[u8],
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
        if let Some(statement) = self.state.proxy_portals.get(portal).map(Arc::clone) {
            let answer = self.own.execute(&statement.text, self.state)?;
            to.answer(answer);
        } else {
            self.reading = self.reading.going_on();
            to.copy(message, Expected::Executed);
        }
        Ok(())
    }

    /// Statements are shared between clients, so closing one only forgets the client's name for it, unless
    /// no other client can have it.
    fn close(&mut self, named: Named<'_>, message: &[u8], to: &mut Destination<'_>) {
        match named {
            Named::Portal(name) => {
                if self.state.proxy_portals.remove(name).is_some() {
                    to.answer(own::CLOSE_COMPLETE.into());
                } else {
                    to.copy(message, Expected::Closed(Disposition::Forward));
                }
            }
            Named::Unknown => to.copy(message, Expected::Closed(Disposition::Forward)),
            Named::Statement(name) => {
                if name.is_empty() {
                    self.state.unnamed.change(None);
                    to.replies.push(Expected::AlreadyClosed(Called::Unnamed));
                } else {
                    let is_theirs = self.is_theirs(name, to);
                    let known = self.named(name).map(|(_, statement)| statement);
                    self.pending.push(Change::Closed(name.into()));
                    if is_theirs {
                        to.copy(message, Expected::ClosedNamed);
                    } else if let Some(statement) = known.filter(|one| one.stays()) {
                        write_named_statement(to.out, tag::CLOSE, statement.server_name());
                        to.replies.push(Expected::ClosedNamed);
                    } else {
                        to.replies.push(Expected::AlreadyClosed(Called::Named));
                    }
                }
            }
        }
    }

    /// Whether the node knows the name as the client does.
    fn is_theirs(&self, name: &[u8], to: &Destination<'_>) -> bool {
        let is_other = |(_, one): (_, Arc<Prepared>)| is_own(&one) || one.stays_unlike(name);
        to.has_client_names() && !name.is_empty() && !self.named(name).is_some_and(is_other)
    }

    /// The statement, and the client's name for it unless it is the unnamed one.
    fn statement(&self, name: &[u8]) -> Option<Known> {
        if name.is_empty() {
            Some((None, self.state.unnamed.latest().cloned()?))
        } else {
            let (name, statement) = self.named(name)?;
            Some((Some(name), statement))
        }
    }

    fn named(&self, name: &[u8]) -> Option<(Arc<[u8]>, Arc<Prepared>)> {
        self.state.statements.find_after(self.pending, name)
    }
}

fn is_own(statement: &Prepared) -> bool {
    own::statement_of(&statement.text).is_some()
}

/// Whether the first message in `behind` describes the statement with this name.
fn describes(behind: &[u8], name: &[u8]) -> bool {
    let Ok(Some(header)) = FrameHeader::parse(behind, u32::MAX) else {
        return false;
    };
    let body = behind.get(HEADER_BYTES..header.total()).unwrap_or_default();
    header.tag == tag::DESCRIBE && Named::read(body) == Ok(Named::Statement(name))
}

/// A name that no statement has, of a client's or of pgweir's.
const MISSING_NAME: &[u8] = b"_pgweir_";
