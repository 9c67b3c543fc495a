//! Turns a client's messages into messages for a node, and notes the replies that will come.
//!
//! Messages are copied unchanged, but for the names of prepared statements. What the connection
//! lacks (a statement prepared elsewhere) is sent before the message that needs it, in the same
//! write, and its reply is discarded.

use std::sync::Arc;

use crate::backend::state::PreparedNames;
use crate::frontend::classification::CachedText;
use crate::frontend::error::{Limit, ProxyError};
use crate::frontend::session::named::Change;
use crate::frontend::session::names::Names;
use crate::frontend::session::own;
use crate::frontend::session::state::SessionState;
use crate::frontend::statements::{Prepared, SERVER_NAME_PREFIX, StatementRegistry, server_name};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::{
    Bind, Named, Parse, tag, write_bind, write_named_statement, write_parse,
};
use crate::protocol::message::Reader;
use crate::protocol::outstanding::{Disposition, Expected, OutstandingReplies};

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
}

/// Where translated messages go.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    /// Bytes for the node.
    pub(super) out: &'a mut Vec<u8>,
    /// The replies that will come.
    pub(super) replies: &'a mut OutstandingReplies,
    /// The connection's statements; `None` where no node is involved.
    pub(super) node: Option<NodeStatements<'a>>,
}

/// What is prepared on a connection.
#[derive(Debug)]
pub(super) struct NodeStatements<'a> {
    /// Named statements.
    pub(super) prepared: &'a mut PreparedNames,
    /// Under which names the session's statements are known.
    pub(super) names: Names,
    /// Whose the unnamed statement is: the number of the statement that was parsed last.
    pub(super) unnamed: &'a mut Option<u64>,
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
    ) -> Result<(), ProxyError> {
        let mut rest = bytes;
        while let Ok(Some(header)) = FrameHeader::parse(rest, u32::MAX) {
            let Some((message, after)) = rest.split_at_checked(header.total()) else {
                break;
            };
            rest = after;
            self.message(header.tag, message, to)?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        kind: u8,
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
        if to.replies.is_skipping() && kind != tag::SYNC {
            return Ok(());
        }
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match kind {
            tag::QUERY => {
                self.state.unnamed = None;
                to.forget_unnamed();
                to.copy(message, Expected::Query(Disposition::Forward));
            }
            tag::FUNCTION_CALL => to.copy(message, Expected::Query(Disposition::Forward)),
            tag::PARSE => self.parse(Parse::read(body)?, message, to)?,
            tag::BIND => self.bind(Bind::read(body)?, message, to),
            tag::DESCRIBE => self.describe(Named::read(body)?, message, to)?,
            tag::EXECUTE => self.execute(Reader::new(body).string()?, message, to)?,
            tag::CLOSE => self.close(Named::read(body)?, message, to),
            tag::SYNC if to.node.is_none() => to.answer(own::ready(self.own.status)),
            tag::SYNC => to.copy(message, Expected::Synced),
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL if to.node.is_some() => {
                to.out.extend_from_slice(message);
            }
            _ => {}
        }
        Ok(())
    }

    fn parse(
        &mut self,
        parse: Parse<'_>,
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
        let text = self.parses.next().ok_or(ProxyError::Internal)?;
        if parse.name.is_empty() {
            let settings = &self.state.settings;
            let statement = self
                .registry
                .unshared(parse.sql, parse.types, settings, text);
            let number = statement.id;
            let is_own = is_own(&statement);
            let before = self.state.unnamed.replace(Arc::new(statement));
            if self.state.unnamed_before.is_none() {
                self.state.unnamed_before = before;
            }
            match &mut to.node {
                Some(node) if !is_own => {
                    *node.unnamed = Some(number);
                    to.copy(message, Expected::Parsed(Disposition::Forward, None));
                }
                Some(_) | None => to.answer(own::PARSE_COMPLETE.into()),
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
            if !to.has_client_names() {
                // The node refuses the second Parse of a name (42P05), as it would without pgweir.
                to.prepare(
                    &existing,
                    Expected::Parsed(Disposition::Discard, Some(existing.id)),
                );
                write_parse(to.out, existing.server_name(), parse.sql, parse.types);
                to.replies.push(Expected::Refused(name));
                return Ok(());
            }
        }
        let settings = &self.state.settings;
        let statement = if self.own.status == TransactionStatus::Failed {
            // Whether the node takes it depends on the text: it must not be answered for another one.
            let unshared = self
                .registry
                .unshared(parse.sql, parse.types, settings, text);
            Arc::new(unshared)
        } else {
            self.registry.intern(parse.sql, parse.types, settings, text)
        };
        let change = Change::Parsed(parse.name.into(), Arc::clone(&statement));
        self.pending.push(change);
        let is_own = is_own(&statement);
        let parsed = Expected::Parsed(Disposition::Forward, Some(statement.id));
        if to.has_client_names() && !is_own {
            to.copy(message, parsed);
        } else if is_own || !to.prepare(&statement, parsed) {
            to.replies.push(Expected::AlreadyParsed);
        }
        Ok(())
    }

    fn bind(&mut self, bind: Bind<'_>, message: &[u8], to: &mut Destination<'_>) {
        if self.is_theirs(bind.statement, to) {
            self.state.forget_proxy_portal(bind.portal);
            to.copy(message, Expected::Bound(None));
            return;
        }
        let Some((name, statement)) = self.statement(bind.statement) else {
            self.state.forget_proxy_portal(bind.portal);
            to.unknown_statement(bind, message);
            return;
        };
        if is_own(&statement) {
            self.state
                .proxy_portals
                .insert(bind.portal.into(), statement);
            to.answer(own::BIND_COMPLETE.into());
            return;
        }
        self.state.forget_proxy_portal(bind.portal);
        if bind.statement.is_empty() {
            to.prepare_unnamed(&statement);
            to.copy(message, Expected::Bound(None));
        } else {
            to.prepare(
                &statement,
                Expected::Parsed(Disposition::Discard, Some(statement.id)),
            );
            write_bind(to.out, bind, statement.server_name());
            to.replies.push(Expected::Bound(name));
        }
    }

    fn describe(
        &mut self,
        named: Named<'_>,
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
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
                to.copy(message, Expected::Described);
            }
            Named::Statement(name) => {
                let Some((_, statement)) = self.statement(name) else {
                    to.unknown_name(tag::DESCRIBE, name, Expected::Described);
                    return Ok(());
                };
                if is_own(&statement) {
                    to.answer(own::Context::describe_statement(&statement.text)?);
                } else if name.is_empty() {
                    to.prepare_unnamed(&statement);
                    to.copy(message, Expected::Described);
                } else {
                    let parsed = Expected::Parsed(Disposition::Discard, Some(statement.id));
                    to.prepare(&statement, parsed);
                    write_named_statement(to.out, tag::DESCRIBE, statement.server_name());
                    to.replies.push(Expected::Described);
                }
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        portal: &[u8],
        message: &[u8],
        to: &mut Destination<'_>,
    ) -> Result<(), ProxyError> {
        match self.state.proxy_portals.get(portal).map(Arc::clone) {
            Some(statement) => {
                let answer = self.own.execute(&statement.text, self.state)?;
                to.answer(answer);
            }
            None => to.copy(message, Expected::Executed),
        }
        Ok(())
    }

    /// Statements are shared between clients, so closing one only forgets the client's name for it.
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
                    self.state.unnamed = None;
                    to.answer(own::CLOSE_COMPLETE.into());
                } else {
                    let is_theirs = self.is_theirs(name, to);
                    self.pending.push(Change::Closed(name.into()));
                    if is_theirs {
                        to.copy(message, Expected::ClosedNamed);
                    } else {
                        to.replies.push(Expected::AlreadyClosed);
                    }
                }
            }
        }
    }

    /// Whether the node knows the name as the client does.
    fn is_theirs(&self, name: &[u8], to: &Destination<'_>) -> bool {
        let is_own = |(_, statement): (_, Arc<Prepared>)| is_own(&statement);
        to.has_client_names() && !name.is_empty() && !self.named(name).is_some_and(is_own)
    }

    /// The statement, and the client's name for it unless it is the unnamed one.
    fn statement(&self, name: &[u8]) -> Option<Known> {
        if name.is_empty() {
            Some((None, self.state.unnamed.clone()?))
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

impl Destination<'_> {
    fn copy(&mut self, message: &[u8], expected: Expected) {
        self.out.extend_from_slice(message);
        self.replies.push(expected);
    }

    fn answer(&mut self, bytes: Box<[u8]>) {
        self.replies.push(Expected::Synthesize(bytes));
    }

    fn has_client_names(&self) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| node.names == Names::Client)
    }

    fn forget_unnamed(&mut self) {
        if let Some(node) = &mut self.node {
            *node.unnamed = None;
        }
    }

    /// Sends a Parse if the connection lacks the statement; `false` if it has it.
    fn prepare(&mut self, statement: &Prepared, expected: Expected) -> bool {
        let Some(node) = &mut self.node else {
            return false;
        };
        if node.prepared.touch(statement.id) {
            return false;
        }
        if let Some(evicted) = node.prepared.insert(statement.id) {
            write_named_statement(self.out, tag::CLOSE, server_name(evicted).as_bytes());
            self.replies.push(Expected::Closed(Disposition::Discard));
        }
        let name = statement.server_name();
        write_parse(self.out, name, &statement.sql, &statement.types);
        self.replies.push(expected);
        true
    }

    /// Sends the unnamed statement again if another one has taken its place on the connection.
    fn prepare_unnamed(&mut self, statement: &Prepared) {
        let Some(node) = &mut self.node else { return };
        if *node.unnamed != Some(statement.id) {
            *node.unnamed = Some(statement.id);
            write_parse(self.out, b"", &statement.sql, &statement.types);
            self.replies
                .push(Expected::Parsed(Disposition::Discard, None));
        }
    }

    /// Lets the node say that there is no such statement.
    fn unknown_statement(&mut self, bind: Bind<'_>, message: &[u8]) {
        if bind.statement.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
            write_bind(self.out, bind, &hidden(bind.statement));
            let name = Some(bind.statement.into());
            self.replies.push(Expected::Bound(name));
        } else {
            if bind.statement.is_empty() {
                self.drop_unnamed();
            }
            self.copy(message, Expected::Bound(None));
        }
    }

    fn unknown_name(&mut self, message: u8, name: &[u8], expected: Expected) {
        if name.is_empty() {
            self.drop_unnamed();
        }
        write_named_statement(self.out, message, &hidden(name));
        self.replies
            .push(if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
                Expected::Refused(name.into())
            } else {
                expected
            });
    }

    /// The client has no unnamed statement, so it must not meet another client's.
    fn drop_unnamed(&mut self) {
        self.forget_unnamed();
        write_named_statement(self.out, tag::CLOSE, b"");
        self.replies.push(Expected::Closed(Disposition::Discard));
    }
}

/// A name that no statement of pgweir's has: a client cannot reach another's statement by guessing.
fn hidden(name: &[u8]) -> Vec<u8> {
    if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
        [b"_", name].concat()
    } else {
        name.to_vec()
    }
}
