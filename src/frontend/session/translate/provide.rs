//! Makes sure that a connection has a statement, with the columns that its client was told.

use std::sync::Arc;

use super::{Destination, Translation};
use crate::core::segment::is_plain_read;
use crate::core::statement::CatalogEffect;
use crate::frontend::session::now;
use crate::frontend::session::reading::{Detour, Ground};
use crate::frontend::statements::Prepared;
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::{FLUSH, Named, tag, write_named_statement};
use crate::protocol::outstanding::{Disposition, Expected};

/// When a statement is compared that is prepared anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frontend::session) enum Comparing {
    /// Before anything is sent that uses it.
    First,
    /// While the segment that uses it is under way, if that can be thrown away: it is alone, outside a
    /// block, and takes nothing else along.
    Beside,
}

/// Whether a connection has a statement.
pub(super) enum Provided {
    /// It has, or gets it in the same write.
    Yes,
    /// It will be known when this statement has been compared.
    Compare(Arc<Prepared>),
    /// It cannot: the server would refuse it.
    Outdated,
}

impl Translation<'_> {
    /// Whether what is prepared now may depend on DDL whose outcome is open.
    pub(super) fn may_change(&self) -> bool {
        let changes = |effect: &CatalogEffect| *effect != CatalogEffect::None;
        self.block.is_some_and(|block| changes(&block.catalog))
            || self.executed.iter().any(|text| changes(&text.catalog))
    }

    /// Makes sure that the node has the statement, with the columns that the client knows. `behind` is
    /// what the client has sent behind the message that uses it.
    pub(super) fn provide(
        &mut self,
        statement: &Arc<Prepared>,
        behind: &[u8],
        to: &mut Destination<'_>,
    ) -> Provided {
        if !to.lacks(statement) {
            if self.unsure.may_be_missing(statement.id) {
                self.parse_as_then(statement, to, |to| to.prepare_anew(statement));
            }
            return Provided::Yes;
        }
        if self.outdated == Some(statement.id) {
            return Provided::Outdated;
        }
        let is_current = !self.may_change() && {
            let settings = &self.state.settings;
            self.registry.is_current(statement, settings, now())
        };
        let types = if is_current {
            &statement.types
        } else {
            statement.found_types()
        };
        if to.replies.is_mid_segment() {
            self.unsure.sent.push((statement.id, self.unsure.segments));
        }
        let described = statement.described();
        let comparing = match described.filter(|_| statement.may_change_columns()) {
            Some(known) if self.may_compare_beside(behind) => {
                Some(Expected::Guarded(statement.id, Arc::clone(known)))
            }
            Some(known) if !is_current => Some(Expected::Compared(Arc::clone(known))),
            Some(_) | None => None,
        };
        let waits = matches!(comparing, Some(Expected::Compared(_)));
        self.parse_as_then(statement, to, |to| {
            let parsed = Expected::Parsed(Disposition::Discard, Some(statement.id));
            to.prepare(statement, types, parsed);
            // The names of columns come in the encoding of then, too.
            if let Some(expected) = comparing {
                write_named_statement(to.out, tag::DESCRIBE, statement.server_name());
                to.replies.push(expected);
            }
        });
        if waits {
            to.out.extend_from_slice(&FLUSH);
            return Provided::Compare(Arc::clone(statement));
        }
        Provided::Yes
    }

    /// Sends the unnamed statement again if another one has taken its place on the connection.
    pub(super) fn provide_unnamed(&self, statement: &Prepared, to: &mut Destination<'_>) {
        if to.lacks_unnamed(statement.id) {
            self.parse_as_then(statement, to, |to| to.prepare_unnamed(statement));
        }
    }

    /// Prepares a statement under the client's name where the connection knows the others so, but could not
    /// take this one before.
    pub(super) fn provide_absent(&mut self, name: &[u8], to: &mut Destination<'_>) {
        let statements = &self.state.statements;
        let Some(statement) = statements.find_absent(self.pending, name) else {
            return;
        };
        self.state.statements.found(name);
        // It may be there after all.
        write_named_statement(to.out, tag::CLOSE, name);
        to.replies.push(Expected::Closed(Disposition::Discard));
        self.parse_as_then(&statement, to, |to| to.adopt(name, &statement));
    }

    /// Has a statement parsed again as it was when the client sent it.
    pub(super) fn parse_as_then(
        &self,
        statement: &Prepared,
        to: &mut Destination<'_>,
        parse: impl FnOnce(&mut Destination<'_>),
    ) {
        let Some(detour) = Detour::of(statement, &self.ground()) else {
            return parse(to);
        };
        detour.before().for_each(|sql| to.run_around(sql));
        parse(to);
        detour.behind().for_each(|sql| to.run_around(sql));
    }

    /// With which settings the connection parses what is sent next.
    pub(super) fn ground(&self) -> Ground<'_> {
        let block = self.block.map(|block| &block.reading);
        let settings = &self.state.settings;
        Ground::of(settings, block, self.own.status, self.reading)
    }

    /// Whether the segment up to its Sync can be thrown away once it has run: it is nothing but reads, each
    /// of which is what pgweir takes it for.
    fn may_compare_beside(&self, behind: &[u8]) -> bool {
        self.comparing == Comparing::Beside
            && self.executed.iter().all(|text| is_plain_read(text))
            && only_runs(behind)
    }
}

/// Whether the messages run what is prepared, up to one Sync behind all others.
fn only_runs(mut rest: &[u8]) -> bool {
    while let Ok(Some(header)) = FrameHeader::parse(rest, u32::MAX) {
        let Some((message, after)) = rest.split_at_checked(header.total()) else {
            return false;
        };
        rest = after;
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match header.tag {
            tag::SYNC => return rest.is_empty(),
            tag::BIND | tag::EXECUTE => {}
            tag::DESCRIBE | tag::CLOSE if matches!(Named::read(body), Ok(Named::Portal(_))) => {}
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    #[test]
    fn a_segment_that_prepares_closes_or_goes_on_is_not_thrown_away() {
        let (execute, sync) = (message(b'E', &[0; 5]), message(b'S', b""));
        for (between, may) in [
            (vec![], true),
            (message(b'B', &[0; 8]), true),
            (message(b'D', b"P\0"), true),
            (message(b'C', b"P\0"), true),
            (message(b'D', b"S\0"), false),
            (message(b'C', b"S\0"), false),
            (message(b'C', b"x"), false),
            (message(b'P', &[0; 4]), false),
            (message(b'H', b""), false),
            (message(b'Q', b"\0"), false),
            (sync.clone(), false),
        ] {
            let all = [&execute[..], &between, &sync].concat();
            assert_eq!(only_runs(&all), may, "{between:?}");
        }
        for bytes in [&b""[..], &execute, &sync[..4]] {
            assert!(!only_runs(bytes), "{bytes:?}");
        }
    }
}
