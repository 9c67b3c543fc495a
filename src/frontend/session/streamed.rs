//! Statements whose text is longer than what is held: only the connection that parses one has it, so the
//! session stays there.
//!
//! Before one is sent that has a name, the connection is told the client's names ([`super::names`]), so that
//! SQL finds it. Where it is too late for that, as in the middle of a segment, the node gets a name of pgweir's.

use std::sync::Arc;

use super::link::Link;
use super::named::Change;
use super::names::Names;
use super::plan::Plan;
use super::{Session, SessionEnd, SessionTexts, own};
use crate::core::statement::PinReason;
use crate::frontend::classification::CachedText;
use crate::frontend::error::{Limit, ProxyError};
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::tag;
use crate::protocol::message::{Reader, write_message, write_string};
use crate::protocol::outstanding::{Disposition, Expected};

impl Session {
    /// Sends the name of a Parse, and passes its text unread.
    ///
    /// # Errors
    /// When the name is malformed, or the client may not prepare any more under it.
    pub(super) fn pass_parse(
        &mut self,
        link: &mut Link,
        plan: &mut Plan,
        header: FrameHeader,
    ) -> Result<(), SessionEnd> {
        if link.replies.is_skipping() {
            // The node skips it too.
            link.passing = header.total();
            return Ok(());
        }
        let filled = self.inbound.filled();
        let body = filled.get(HEADER_BYTES..).unwrap_or_default();
        let Ok(name) = Reader::new(body).string() else {
            return Err(ProxyError::ProtocolViolation("invalid message format").into());
        };
        let name = Arc::<[u8]>::from(name);
        let head = name.len() + 1;
        let text = Arc::new(CachedText::unread());
        plan.add_unread(&name, &text, &mut SessionTexts { session: self })?;
        self.pin_for_good(PinReason::NotUnderstood);
        let at = link.to_server.writer().len();
        let server_name = if name.is_empty() {
            self.stream_unnamed(link, &text);
            Box::default()
        } else {
            self.stream_named(link, name, &text)?
        };
        write_message(link.to_server.writer(), tag::PARSE, |body| {
            write_string(body, &server_name);
        });
        let rest = header.body().saturating_sub(head);
        link.to_server.lengthen_last_message(at, rest);
        link.passing = rest;
        self.inbound.consume(HEADER_BYTES + head);
        Ok(())
    }

    fn stream_unnamed(&mut self, link: &mut Link, text: &Arc<CachedText>) {
        let registry = &self.cluster.shared.statements;
        let statement = registry.streamed(None, &self.state.settings, text);
        link.lease.unnamed_owner = Some(statement.id);
        self.state.unnamed.change(Some(Arc::new(statement)));
        let parsed = Expected::Parsed(Disposition::Forward, None);
        link.replies.push(parsed);
    }

    /// Notes the statement, and gives the name that it has on the node.
    fn stream_named(
        &mut self,
        link: &mut Link,
        name: Arc<[u8]>,
        text: &Arc<CachedText>,
    ) -> Result<Box<[u8]>, ProxyError> {
        if !self.state.statements.has_room_for(name.len()) {
            return Err(ProxyError::LimitExceeded {
                limit: Limit::PreparedStatements,
            });
        }
        let has_client_names = link.names == Names::Client;
        if let Some((name, existing)) = self.state.statements.find_after(&self.pending, &name) {
            if own::statement_of(&existing.text).is_some() {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(ProxyError::DuplicateStatement { name });
            }
            if !has_client_names || existing.stays_unlike(&name) {
                // The node refuses the second Parse of a name, if it takes the text.
                let parsed = Expected::Parsed(Disposition::Discard, Some(existing.id));
                let mut to = link.destination();
                to.prepare(&existing, &existing.types, parsed);
                to.replies.push(Expected::Refused(name));
                return Ok(existing.server_name().into());
            }
        }
        let registry = &self.cluster.shared.statements;
        let known_as = has_client_names.then_some(&*name);
        let statement = Arc::new(registry.streamed(known_as, &self.state.settings, text));
        let server_name = statement.server_name().into();
        let parsed = Expected::Parsed(Disposition::Forward, Some(statement.id));
        link.replies.push(parsed);
        self.pending.push(Change::Parsed(name, statement));
        Ok(server_name)
    }
}
