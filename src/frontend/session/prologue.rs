//! What stands before the session's own statement on a connection: the session's settings, if the
//! connection has others, and a BEGIN that was put off.
//!
//! Both are sent in the same write as the statement, in the extended protocol without a Sync: if one
//! of them fails, the node skips everything behind it (manual, "Extended Query"), so that no
//! statement ever runs with others' settings or outside its block. In front of a statement alone, settings
//! share its transaction: what is rolled back takes them with it. Where the session stays on the connection
//! behind an error (a block that is begun, a batch without a Sync), and for settings that come too late in a
//! transaction that has begun, they have one of their own, in the same write.
//!
//! From PostgreSQL 18 on a Query behind them does not end that transaction (`start_xact_command`,
//! `src/backend/tcop/postgres.c`): there they go first, in a Query of their own.

use std::sync::Arc;

use super::inspect::asks_sequence;
use super::link::{Link, Pause, Undone};
use super::plan::{Form, Needs, Plan};
use super::{Session, SessionEnd, now};
use crate::backend::state::AppliedSettings;
use crate::core::segment::may_share_transaction;
use crate::frontend::error::ProxyError;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::frontend::{tag, write_parse, write_query};
use crate::protocol::message::write_message;
use crate::protocol::outstanding::{Disposition, Expected};
use crate::protocol::replies::{Compare, Hold, Outcome};
use crate::protocol::segment::SegmentEnd;

/// The node refused the settings, or was lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unprepared;

/// Where that stands which comes before the session's own statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the same write and transaction.
    Joined,
    /// In a query of its own.
    Apart,
}

impl Session {
    /// Gives the connection the session's settings and the block that it is in: with the next
    /// [`Session::send`] where the segment allows that, else now.
    pub(super) async fn prepare(
        &mut self,
        link: &mut Link,
        plan: &Plan,
        end: SegmentEnd,
    ) -> Result<(), Unprepared> {
        self.provide_options(link).await?;
        // What the first of several segments undoes, the second must still find.
        let joined = plan.ends.is_empty()
            && plan.needs != Needs::Primary
            && plan.texts.iter().all(|text| may_share_transaction(text));
        let place = if joined && !(plan.form == Form::Query && link.lease.keeps_batches_open()) {
            Place::Joined
        } else {
            Place::Apart
        };
        self.keep_numbers(link, plan, place).await?;
        if !joined {
            self.adjust(link).await?;
            if link.must_adopt_names(plan) {
                // Boxed: hardly any segment comes here.
                Box::pin(self.adopt_names(link)).await?;
            }
            return self.begin_now(link).await;
        }
        if place == Place::Apart {
            self.adjust(link).await?;
        }
        self.join(link, end);
        Ok(())
    }

    /// Has the settings and the BEGIN that was put off sent with the segment.
    fn join(&self, link: &mut Link, end: SegmentEnd) {
        let put_off = self.block.as_ref().and_then(|block| block.put_off.as_ref());
        let (has, wants) = (&link.lease.settings, &self.state.settings);
        if !Arc::ptr_eq(has, wants) {
            let changes = AppliedSettings::plan(has, wants);
            let outlives_errors = put_off.is_some()
                || end == SegmentEnd::Flush
                || AppliedSettings::needs_own_transaction(has, wants);
            if !changes.is_empty() {
                self.note_given_options(link);
            }
            if changes.is_empty() || outlives_errors {
                link.lease.settings = Arc::clone(wants);
            } else {
                link.replayed = Some(Arc::clone(wants));
            }
            link.prologue.extend(changes);
            if outlives_errors {
                link.fence_prologue();
            }
        } else if put_off.is_some() {
            // DISCARD takes a snapshot, behind which no level of isolation can be chosen.
            link.fence_prologue();
        }
        link.prologue
            .extend(put_off.map(|begin| begin.sql.to_string()));
    }

    /// Another session's numbers must not be taken for this one's: it gets an error. They are discarded
    /// where what stands before the statement has its `place`.
    async fn keep_numbers(
        &mut self,
        link: &mut Link,
        plan: &Plan,
        place: Place,
    ) -> Result<(), Unprepared> {
        let last = std::mem::replace(&mut link.lease.last_session, self.id);
        if last == self.id || !asks_sequence(plan) {
            return Ok(());
        }
        let discard = "DISCARD SEQUENCES";
        match place {
            Place::Joined => link.prologue.push(discard.to_owned()),
            Place::Apart if self.run_own(link, discard).await => {}
            Place::Apart => return Err(Unprepared),
        }
        Ok(())
    }

    /// Gives the connection the session's settings before anything else is sent.
    pub(super) async fn adjust(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        if Arc::ptr_eq(&link.lease.settings, &self.state.settings) {
            return Ok(());
        }
        let changes = AppliedSettings::plan(&link.lease.settings, &self.state.settings);
        link.scanner.compare = Compare::Yes;
        self.note_given_options(link);
        if !changes.is_empty() && !self.run_own(link, &changes.join(";")).await {
            return Err(Unprepared);
        }
        link.lease.settings = Arc::clone(&self.state.settings);
        Ok(())
    }

    /// Gives the connection the session's settings again, where the session stays on it although a
    /// rollback has taken them back.
    pub(super) async fn adjust_undone(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        link.undone = Undone::No;
        self.leave_target(link);
        if !link.is_quiet() || self.adjust(link).await.is_err() {
            return Err(ProxyError::ConnectionLost.into());
        }
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        Ok(())
    }

    /// A transaction has ended in which the settings were given to the connection, and another one has
    /// begun in the same segment.
    pub(super) async fn replay_anew(&mut self, link: &mut Link) {
        let outcome = link.scanner.outcome;
        let replayed = link.replayed.take();
        if outcome.has(Outcome::COMMITTED) && !outcome.has(Outcome::ROLLED_BACK) {
            link.lease.settings = replayed.unwrap_or_default();
            return;
        }
        link.forget_settings();
        let forgotten = Arc::clone(&link.lease.settings);
        if link.scanner.status == TransactionStatus::InTransaction
            && self.adjust(link).await.is_ok()
        {
            link.replayed = Some(std::mem::replace(&mut link.lease.settings, forgotten));
            link.undone = Undone::No;
        }
    }

    /// Begins the block that was put off.
    pub(super) async fn begin_now(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        let put_off = self.block.as_ref().and_then(|block| block.put_off.as_ref());
        let Some(sql) = put_off.map(|begin| begin.sql.clone()) else {
            return Ok(());
        };
        if self.run_own(link, &sql).await {
            Ok(())
        } else {
            Err(Unprepared)
        }
    }

    /// Runs a statement of pgweir's own; `false` when it failed.
    pub(super) async fn run_own(&mut self, link: &mut Link, sql: &str) -> bool {
        link.scanner.begin(Hold::Released);
        write_query(link.to_server.writer(), sql.as_bytes());
        link.replies.push(Expected::Query(Disposition::Discard));
        link.lease.unnamed_owner = None;
        let relayed = self.relay(link).await;
        link.note_own_reports();
        matches!(relayed, Ok(Pause::Answered))
            && !link.scanner.outcome.has(Outcome::OWN_QUERY_FAILED)
    }

    /// Ends a block on a replica and gives the connection back.
    pub(super) async fn end_replica_block(&mut self, mut link: Box<Link>) {
        self.note_left(&link);
        let ended = self.run_own(&mut link, "ROLLBACK").await;
        self.leave_target(&mut link);
        if ended && link.is_quiet() {
            self.spare = link.give_back(now());
        }
    }
}

impl Link {
    /// Nobody knows what settings the connection has: whoever uses it next sets all of them.
    pub(super) fn forget_settings(&mut self) {
        self.lease.settings = Arc::new(AppliedSettings::unknown());
        self.undone = Undone::Yes;
    }

    /// Puts the prologue so far into a transaction of its own.
    fn fence_prologue(&mut self) {
        if !self.prologue.is_empty() {
            self.prologue.insert(0, "BEGIN".to_owned());
            self.prologue.push("COMMIT".to_owned());
        }
    }

    /// Writes the prologue of a segment of this form; the client learns nothing of it.
    pub(super) fn write_prologue(&mut self, form: Form) {
        if self.prologue.is_empty() {
            return;
        }
        self.scanner.compare = Compare::Yes;
        for sql in std::mem::take(&mut self.prologue) {
            let out = self.to_server.writer();
            write_parse(out, b"", sql.as_bytes(), &[0, 0]);
            // The unnamed portal of the unnamed statement, without parameters, results as text.
            write_message(out, tag::BIND, |body| body.extend_from_slice(&[0; 8]));
            write_message(out, tag::EXECUTE, |body| body.extend_from_slice(&[0; 5]));
            self.replies.push(Expected::Aside);
            self.lease.unnamed_owner = None;
        }
        if form == Form::Batch {
            // A Query replaces the portal by its own; the messages of a batch would find it.
            write_message(self.to_server.writer(), tag::CLOSE, |body| {
                body.extend_from_slice(b"P\0");
            });
            self.replies.push(Expected::Closed(Disposition::Discard));
        }
    }
}
