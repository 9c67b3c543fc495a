//! Statements under the client's own names, on one connection.
//!
//! Elsewhere a node knows a statement by a name of pgweir's, since connections are shared. SQL that
//! speaks of statements (EXECUTE, PREPARE, DEALLOCATE, `pg_prepared_statements`) means the client's
//! names, so before such a text the session's statements are prepared under them on the connection
//! that runs it, and pgweir's are closed there: those of other clients are not to be seen. From then on names
//! pass unchanged, until nothing prepared by SQL is left and the session leaves the connection.
//!
//! A statement that the node does not take at that moment stays the client's, and is sent again when the
//! client uses it.
//!
//! A statement whose result type has changed since the client prepared it is compared as anywhere
//! ([`super::comparison`]); a statement that fails with the server's error for that takes its place.

use std::collections::HashSet;
use std::sync::Arc;

use super::inspect::Asked;
use super::link::{Link, Pause};
use super::plan::Plan;
use super::prologue::Unprepared;
use super::reading::{Detour, Ground, SegmentReading};
use super::translate::Destination;
use super::{Session, SessionEnd, now, own};
use crate::core::residue::SettingNames;
use crate::core::snapshot::NodeRole;
use crate::core::statement::{CatalogEffect, PinReason, SessionEffect};
use crate::frontend::error::ProxyError;
use crate::frontend::statements::{Prepared, server_name};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::description::Described;
use crate::protocol::frontend::{SYNC, tag, write_named_statement, write_parse, write_query};
use crate::protocol::message::{Malformed, Reader};
use crate::protocol::outstanding::{Disposition, Expected};
use crate::protocol::replies::{Hold, OUTDATED_STAND_IN};

/// Under which names a connection knows the session's statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Those that pgweir gives for all sessions.
    Shared,
    /// The client's.
    Client,
}

/// How a statement is prepared under the client's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopting {
    /// It is what the client was told.
    AsItWas,
    /// It is compared with that.
    Compared,
}

impl Session {
    /// Adopts the names on the connection that the session holds, if the segment needs that.
    pub(super) async fn use_names(
        &mut self,
        link: &mut Link,
        plan: &Plan,
    ) -> Result<(), SessionEnd> {
        if !link.must_adopt_names(plan) {
            return Ok(());
        }
        if link.batch.is_open() {
            self.adopt_in_batch(link);
            return Ok(());
        }
        let adopted = Box::pin(self.adopt_names(link)).await;
        adopted.map_err(|Unprepared| ProxyError::ConnectionLost.into())
    }

    /// Prepares the session's statements under the client's names, and closes pgweir's.
    pub(super) async fn adopt_names(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        link.scanner.begin(Hold::Released);
        let out = link.to_server.writer();
        for id in link.lease.prepared.take() {
            write_named_statement(out, tag::CLOSE, server_name(id).as_bytes());
        }
        out.extend_from_slice(&SYNC);
        link.replies.push(Expected::Query(Disposition::Discard));
        let in_block = link.scanner.status == TransactionStatus::InTransaction;
        let block = self.block.as_deref().map(|block| &block.reading);
        let ground = Ground::of(
            &self.state.settings,
            block,
            link.scanner.status,
            SegmentReading::Keeps,
        );
        let registry = &self.cluster.shared.statements;
        let at = now();
        for (name, statement) in self.state.statements.iter() {
            if own::statement_of(&statement.text).is_some() || statement.stays() {
                continue;
            }
            let is_current = registry.is_current(statement, &self.state.settings, at);
            let detour = Detour::of(statement, &ground);
            let (before, behind) = match detour {
                // A statement that cannot be parsed any more must not end the block.
                detour if in_block && (detour.is_some() || !is_current) => {
                    let there = detour.map(|detour| detour.there).unwrap_or_default();
                    Detour::within_savepoint(there)
                }
                Some(detour) => detour.queries(),
                None => Default::default(),
            };
            link.run_unseen_query(&before);
            let adopting = if !is_current && statement.may_change_columns() {
                Adopting::Compared
            } else {
                Adopting::AsItWas
            };
            link.adopt(name, statement, adopting);
            link.run_unseen_query(&behind);
        }
        self.note_adopted(link);
        self.run_unseen(link).await?;
        let refused = std::mem::take(&mut link.scanner.refused);
        let is_one = |known: &Described| refused.iter().any(|one| Arc::ptr_eq(one, known));
        let statements = &mut self.state.statements;
        statements.miss(|statement| statement.described().is_some_and(is_one));
        self.replace_outdated(link).await
    }

    /// The connection knows the client's names from now on.
    fn note_adopted(&mut self, link: &mut Link) {
        link.names = Names::Client;
        self.state.statements.found_all();
        match link.route.role {
            // It is closed when the block ends that is all the session has there.
            NodeRole::Replica => link.taint(),
            NodeRole::Primary | NodeRole::Unknown => {
                self.suspect(PinReason::SqlPrepare, &SettingNames::default());
            }
        }
    }

    /// Does the same before a part of a batch whose first part has run: a Sync would end it, and an error too.
    /// So what may be refused is left out until the client asks for it, and nothing is compared.
    fn adopt_in_batch(&mut self, link: &mut Link) {
        let status = link.scanner.status;
        let block = self.block.as_deref();
        let reading = block.map(|block| &block.reading);
        let ground = Ground::of(&self.state.settings, reading, status, SegmentReading::Keeps);
        let registry = &self.cluster.shared.statements;
        let has_ddl = block.is_some_and(|block| block.catalog != CatalogEffect::None);
        let may_fail = |statement: &Prepared| has_ddl || !registry.is_untouched(statement);
        let mut to = Destination {
            out: link.to_server.writer(),
            replies: &mut link.replies,
            node: None,
        };
        for id in link.lease.prepared.take() {
            write_named_statement(to.out, tag::CLOSE, server_name(id).as_bytes());
            to.replies.push(Expected::Closed(Disposition::Discard));
        }
        let mut left_out = HashSet::new();
        for (name, statement) in self.state.statements.iter() {
            if own::statement_of(&statement.text).is_some() || statement.stays() {
                continue;
            }
            if may_fail(statement) {
                left_out.insert(statement.id);
                continue;
            }
            let detour = Detour::of(statement, &ground);
            let detour = detour.iter();
            detour
                .clone()
                .flat_map(Detour::before)
                .for_each(|sql| to.run_around(sql));
            to.adopt(name, statement);
            detour
                .flat_map(Detour::behind)
                .for_each(|sql| to.run_around(sql));
        }
        self.note_adopted(link);
        let statements = &mut self.state.statements;
        statements.miss(|statement| left_out.contains(&statement.id));
    }

    /// Puts a statement that fails in the place of each whose result type has changed.
    async fn replace_outdated(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        let outdated = std::mem::take(&mut link.scanner.outdated);
        if outdated.is_empty() {
            return Ok(());
        }
        let out = link.to_server.writer();
        for (name, statement) in self.state.statements.iter() {
            let Some(described) = statement.described() else {
                continue;
            };
            if outdated.iter().any(|one| Arc::ptr_eq(one, described)) {
                write_named_statement(out, tag::CLOSE, name);
                write_parse(out, name, OUTDATED_STAND_IN, statement.found_types());
                out.extend_from_slice(&SYNC);
                link.replies.push(Expected::Query(Disposition::Discard));
            }
        }
        self.run_unseen(link).await
    }

    async fn run_unseen(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        match self.relay(link).await {
            Ok(Pause::Answered) => Ok(()),
            Ok(Pause::Input | Pause::HeldError(..) | Pause::Compared(_)) | Err(_) => {
                Err(Unprepared)
            }
        }
    }

    /// Nothing holds the session on the connection any more: what it has prepared there is closed, so
    /// that the connection can serve others.
    pub(super) async fn release_names(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        let sql = b"SELECT name FROM pg_catalog.pg_prepared_statements";
        if self.ask(link, sql).await? == Asked::Refused {
            return Ok(());
        }
        let names: Result<Vec<_>, Malformed> =
            link.scanner.captured.iter().map(|row| name(row)).collect();
        let Ok(names) = names else { return Ok(()) };
        // What SQL has deallocated is gone.
        self.state.statements.keep(&names);
        if self.run_own(link, "DEALLOCATE ALL").await {
            link.names = Names::Shared;
        }
        Ok(())
    }
}

impl Link {
    /// Prepares a statement under the client's name.
    fn adopt(&mut self, name: &[u8], statement: &Prepared, adopting: Adopting) {
        let out = self.to_server.writer();
        match adopting {
            Adopting::Compared => {
                write_parse(out, name, &statement.sql, statement.found_types());
                write_named_statement(out, tag::DESCRIBE, name);
            }
            Adopting::AsItWas => write_parse(out, name, &statement.sql, &statement.types),
        }
        out.extend_from_slice(&SYNC);
        self.replies.push(match statement.described() {
            Some(described) => Expected::Checked(Arc::clone(described)),
            None => Expected::Query(Disposition::Discard),
        });
    }

    /// Sends statements of pgweir's own, if there are any.
    fn run_unseen_query(&mut self, sql: &str) {
        if !sql.is_empty() {
            write_query(self.to_server.writer(), sql.as_bytes());
            self.replies.push(Expected::Query(Disposition::Discard));
            self.lease.unnamed_owner = None;
        }
    }

    /// Whether the segment speaks of statements by their names and the connection does not know them.
    pub(super) fn must_adopt_names(&self, plan: &Plan) -> bool {
        let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
        statements.any(|one| one.session == SessionEffect::Pins(PinReason::SqlPrepare))
            && self.may_adopt_names()
            && self.route.role != NodeRole::Unknown
    }

    /// Whether the connection does not know the names and can be told them between two batches.
    pub(super) fn can_adopt_names(&self) -> bool {
        self.may_adopt_names() && self.route.role == NodeRole::Primary && !self.batch.is_open()
    }

    fn may_adopt_names(&self) -> bool {
        self.names == Names::Shared
            && self.is_quiet()
            && self.scanner.status != TransactionStatus::Failed
    }
}

/// The only field of a `DataRow`.
fn name(row: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(row);
    if reader.int16()? != 1 {
        return Err(Malformed);
    }
    let length = usize::try_from(reader.int32()?).map_err(|_| Malformed)?;
    reader.bytes(length)
}
