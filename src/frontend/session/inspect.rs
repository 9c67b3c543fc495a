//! Pins: what keeps a session on its connection, and when it may leave again.
//!
//! A statement that may leave something behind pins the session at once. As soon as the session
//! stands outside a transaction, the node is asked what is there ([`crate::core::residue`]); what can
//! be repeated elsewhere is noted, and if nothing else is left the session is free again.

use std::sync::Arc;

use super::link::{Link, Pause};
use super::names::Names;
use super::plan::Plan;
use super::state::Counters;
use super::{Session, SessionEnd};
use crate::backend::state::{AppliedSettings, HIDDEN};
use crate::config::SequenceNumbers;
use crate::core::residue::{
    NAMES_LIMIT, Others, Reads, Residue, SOURCES, SOURCES_LIMIT, SettingNames, Wear, query,
};
use crate::core::snapshot::NodeRole;
use crate::core::statement::{
    AccessMode, CatalogEffect, Classification, PinReason, Reason, SessionEffect, TouchedKind,
    TransactionControl,
};
use crate::protocol::frontend::write_query;
use crate::protocol::message::{Malformed, Reader};
use crate::protocol::outstanding::Expected;
use crate::protocol::replies::{Hold, Outcome};

/// What keeps a connection for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    /// Why, as far as is known.
    pub(super) reason: PinReason,
    release: Release,
    /// Where its reads may run.
    pub(super) reads: Reads,
}

/// When a pinned session may leave its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Release {
    /// When the node says that nothing is left.
    WhenClean,
    /// Never, but what else is left can be asked for.
    AtEnd,
    /// Never: what is left cannot be asked for.
    Never,
}

/// What is to be asked of the node.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt {
    names: SettingNames,
    code: Code,
}

/// Whether code ran that may have set what nobody can list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Code {
    #[default]
    None,
    Ran,
    /// Some that the catalog does not know.
    UnknownRan,
}

/// What became of a query of pgweir's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Answered,
    Refused,
}

impl Session {
    /// Pins generously: a statement that failed may have left something behind too.
    pub(super) fn note_pins(&mut self, plan: &Plan, link: &Link) {
        for statement in plan.executed.iter().flat_map(|text| text.statements.iter()) {
            if self.keeps_numbers() && may_draw(statement.reason) {
                self.pin_for_good(PinReason::Sequence);
            }
            match &statement.session {
                // A list of statements that is read where the block stands leaves nothing behind.
                SessionEffect::Pins(PinReason::SqlPrepare)
                    if link.route.role == NodeRole::Replica => {}
                // Where there never is a catalog, every write would be asked about.
                SessionEffect::Pins(PinReason::CodeBehindWrite) if self.has_no_catalog() => {}
                SessionEffect::Pins(reason) => {
                    self.note_pin(*reason, &SettingNames::default(), statement.reason);
                }
                SessionEffect::MayConfigure(reason, names) => {
                    self.note_pin(*reason, names, statement.reason);
                }
                SessionEffect::WatchesCounters => {
                    if link.route.role != NodeRole::Replica {
                        self.state.counters = Counters::Watched;
                    }
                }
                SessionEffect::None
                | SessionEffect::Setting(_)
                | SessionEffect::LocalSetting(_)
                | SessionEffect::DiscardAll
                | SessionEffect::DeallocateAll
                | SessionEffect::Proxy(_) => {
                    // The numbers of sequences are there to stay.
                    let releasable = |pin: Pin| pin.reason != PinReason::Sequence;
                    if self.pin.is_some_and(releasable) && may_release(statement.reason) {
                        self.doubt.get_or_insert_default();
                    }
                }
            }
        }
        let blind = |text: &Classification| {
            text.statements.is_empty() && text.access == AccessMode::ReadWrite
        };
        if plan.executed.iter().any(|text| blind(text)) {
            self.pin_for_good(PinReason::NotUnderstood);
        }
        if link.scanner.outcome.has(Outcome::REPORTED)
            && link.route.role == NodeRole::Primary
            && reports_nothing(plan)
        {
            self.suspect(PinReason::CodeBehindWrite, &SettingNames::default());
        }
        if plan.needs == super::plan::Needs::Primary && link.route.role == NodeRole::Primary {
            self.suspect(PinReason::ServerResource, &SettingNames::default());
        }
    }

    fn note_pin(&mut self, pin: PinReason, names: &SettingNames, reason: Reason) {
        self.suspect(pin, names);
        if may_draw(reason) && self.has_loud_code() {
            // It writes, or runs a text that may.
            self.suspect(PinReason::CodeBehindWrite, &SettingNames::default());
        }
        self.doubt_code(reason);
    }

    /// Whether the database has too much for a catalog.
    fn has_no_catalog(&self) -> bool {
        let kept = self.catalog.as_ref();
        kept.is_none_or(|kept| kept.is_out_of_reach())
    }

    /// Whether writes may run code that leaves something behind; without a catalog they may.
    fn has_loud_code(&self) -> bool {
        let catalog = self.catalog.as_ref().and_then(|kept| kept.latest());
        let loud = catalog.is_none_or(|catalog| catalog.has_loud_code());
        loud && !self.has_no_catalog()
    }

    /// A transaction has ended that has `defined` something: its own writes were judged without that. Tables
    /// alone bring no code that leaves something behind.
    pub(super) fn suspect_defined(&mut self, defined: &CatalogEffect, plan: &Plan) {
        let matters = match defined {
            CatalogEffect::Touches(names) => {
                let code = |kind: TouchedKind| kind >= TouchedKind::Operator;
                names.iter().any(|touched| code(touched.kind))
                    || (!names.is_empty() && self.has_loud_code())
            }
            CatalogEffect::MayChange => true,
            CatalogEffect::None
            | CatalogEffect::Removes
            | CatalogEffect::TwoPhase(..)
            | CatalogEffect::Calls(_) => false,
        };
        if matters && !plan.is_one_definition() && !self.has_no_catalog() {
            self.suspect(PinReason::CodeBehindWrite, &SettingNames::default());
        }
    }

    /// Whether a connection is kept on which a number of a sequence may have been drawn.
    fn keeps_numbers(&self) -> bool {
        self.cluster.config.pool.sequence_numbers == SequenceNumbers::Always
            || self.learned.asks_sequences()
    }

    /// Pins the session until the node says that nothing was left behind.
    pub(super) fn suspect(&mut self, reason: PinReason, names: &SettingNames) {
        if reason == PinReason::Sequence {
            self.learned.note_sequences_asked();
        }
        match reason {
            PinReason::Load | PinReason::Seed | PinReason::Sequence => {
                return self.pin_for_good(reason);
            }
            PinReason::TemporaryObject
            | PinReason::Listen
            | PinReason::AdvisoryLock
            | PinReason::HeldCursor
            | PinReason::SqlPrepare
            | PinReason::Setting
            | PinReason::ServerResource
            | PinReason::UnknownCode
            | PinReason::CodeBehindWrite
            | PinReason::PoolMode
            | PinReason::Replication
            | PinReason::NotUnderstood => {}
        }
        self.pin(reason, Release::WhenClean, Reads::Here);
        let doubt = self.doubt.get_or_insert_default();
        doubt.names = doubt.names.and(names);
        let code = matches!(
            reason,
            PinReason::UnknownCode | PinReason::CodeBehindWrite | PinReason::NotUnderstood
        );
        if code {
            doubt.code = doubt.code.max(Code::Ran);
        }
    }

    /// Notes whether the code that ran is known, by the reason of its statement's verdict.
    fn doubt_code(&mut self, reason: Reason) {
        if matches!(reason, Reason::CatalogUnknown | Reason::UnknownFunction)
            && let Some(doubt) = &mut self.doubt
            && doubt.code == Code::Ran
        {
            doubt.code = Code::UnknownRan;
        }
    }

    /// Pins the session until it ends.
    pub(super) fn pin_for_good(&mut self, reason: PinReason) {
        let reads = Reads::beside(reason);
        let release = match reads {
            Reads::Anywhere | Reads::Uncoded | Reads::Apart => Release::AtEnd,
            Reads::Here => Release::Never,
        };
        self.pin(reason, release, reads);
    }

    fn pin(&mut self, reason: PinReason, release: Release, reads: Reads) {
        if let Some(pin) = &mut self.pin {
            pin.release = pin.release.max(release);
            pin.reads = pin.reads.max(reads);
            return;
        }
        self.cluster.metrics.count_pin(reason);
        tracing::debug!(
            user = self.user.name,
            reason = reason.as_str(),
            "session pinned"
        );
        self.pin = Some(Pin {
            reason,
            release,
            reads,
        });
    }

    /// Whether the node is to be asked what was left behind, now that no transaction is open.
    pub(super) fn must_inspect(&self, link: &Link) -> bool {
        let can_be_asked = self.pin.is_some_and(|pin| pin.release != Release::Never);
        let asks = self.doubt.is_some() && can_be_asked;
        asks && self.block.is_none() && link.is_quiet() && link.route.role != NodeRole::Replica
    }

    /// Asks the node what was left behind, and unpins the session if that can be repeated elsewhere.
    pub(super) async fn inspect(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        let doubt = self.doubt.take().unwrap_or_default();
        // A cancel request that comes late must not hit pgweir's own query.
        self.leave_target(link);
        let names = self.names_to_ask(&doubt, link).await?;
        if names.others == Others::Some || names.names.len() > NAMES_LIMIT {
            self.pin_for_good(PinReason::Setting);
            self.note_other_options(link);
        } else {
            self.ask_residue(&names, &doubt, link).await?;
        }
        if self.pin.is_none() && link.names == Names::Client {
            self.release_names(link).await?;
        }
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        Ok(())
    }

    async fn ask_residue(
        &mut self,
        names: &SettingNames,
        doubt: &Doubt,
        link: &mut Link,
    ) -> Result<(), SessionEnd> {
        let asked = self.ask(link, query(&names.names).as_bytes()).await?;
        if asked == Asked::Answered
            && let Ok(residue) = residue(&link.scanner.captured, &self.user.name)
        {
            self.take_in(residue, link, doubt);
        } else if let Some(pin) = &mut self.pin {
            // What is there is not known.
            pin.reads = Reads::Here;
        }
        Ok(())
    }

    /// Runs a query of pgweir's own, whose rows the scanner then has.
    pub(super) async fn ask(&mut self, link: &mut Link, sql: &[u8]) -> Result<Asked, SessionEnd> {
        link.scanner.begin(Hold::Released);
        write_query(link.to_server.writer(), sql);
        link.replies.push(Expected::Inspection);
        link.lease.unnamed_owner = None;
        match self.relay(link).await {
            Ok(Pause::Answered) => {}
            Ok(Pause::Input | Pause::HeldError(..) | Pause::Compared(_)) => {
                return Ok(Asked::Refused);
            }
            Err(error) => return Err(self.lost(link, &error)),
        }
        if link.scanner.outcome.has(Outcome::FATAL) {
            return Err(SessionEnd::Told);
        }
        if link.scanner.outcome.has(Outcome::OWN_QUERY_FAILED) {
            return Ok(Asked::Refused);
        }
        Ok(Asked::Answered)
    }

    /// What may have been set and is listed nowhere.
    async fn names_to_ask(
        &mut self,
        doubt: &Doubt,
        link: &mut Link,
    ) -> Result<SettingNames, SessionEnd> {
        let mut names = doubt.names.clone();
        let catalog = self.catalog.as_ref().and_then(|kept| kept.latest());
        match (doubt.code, catalog) {
            // Without any catalog, as in a database that has too much for one, nobody looks for them.
            (Code::None, _) | (Code::Ran | Code::UnknownRan, None) => {}
            (Code::Ran, Some(catalog)) if !catalog.doubts_some_routine() => {
                names = names.and(catalog.settings_of_functions());
            }
            (Code::Ran | Code::UnknownRan, Some(_)) => {
                names = names.and(&self.settings_of_functions(link).await?);
            }
        }
        let placeholders = self.state.settings.0.keys();
        let placeholders = placeholders.filter(|name| name.contains('.'));
        Ok(names.and(&SettingNames {
            names: placeholders.cloned().collect(),
            others: Others::None,
        }))
    }

    /// Asks the node what functions may set.
    async fn settings_of_functions(&mut self, link: &mut Link) -> Result<SettingNames, SessionEnd> {
        let unknown = SettingNames {
            names: Box::default(),
            others: Others::Some,
        };
        Ok(match self.ask(link, SOURCES.as_bytes()).await? {
            Asked::Answered if link.scanner.captured.len() < SOURCES_LIMIT => {
                sources(&link.scanner.captured).unwrap_or(unknown)
            }
            Asked::Answered | Asked::Refused => unknown,
        })
    }

    fn take_in(&mut self, residue: Residue, link: &mut Link, doubt: &Doubt) {
        if residue.wear != Wear::None {
            self.keep(link);
        }
        let release = self.pin.map_or(Release::WhenClean, |pin| pin.release);
        let reason = match release {
            Release::WhenClean | Release::Never => residue.bound,
            Release::AtEnd => residue.bound.or(Some(PinReason::Sequence)),
        };
        self.pin = reason.map(|reason| Pin {
            reason,
            release,
            reads: residue.reads,
        });
        self.held = residue.names;
        self.note_found(&residue.options, link);
        let mut settings = AppliedSettings(residue.settings.into_iter().collect());
        let wanted = Arc::new(settings.clone());
        if doubt.code != Code::None && self.pin.is_some() {
            // What nobody can list stays with the session, and the connection with it.
            link.taint();
            link.lease.settings = Arc::clone(&wanted);
        } else if doubt.code != Code::None {
            settings.0.insert(HIDDEN.to_owned(), String::new());
            link.lease.settings = Arc::new(settings);
        } else {
            link.lease.settings = Arc::clone(&wanted);
        }
        self.state.settings = wanted;
    }

    /// Lets nobody else use the connection any more: it is not like a new one. The session comes back to
    /// it if it is its home; else it is closed.
    pub(super) fn keep(&self, link: &mut Link) {
        match &self.home {
            Some(home) if home.connection() == link.lease.id => link.lease.anchor.keep_for(home),
            Some(_) | None => link.taint(),
        }
    }
}

/// What the rows of the answer say of a connection that was opened for `login`.
pub(super) fn residue(rows: &[Box<[u8]>], login: &str) -> Result<Residue, Malformed> {
    let mut residue = Residue::default();
    for row in rows {
        let mut reader = Reader::new(row);
        if reader.int16()? != 2 {
            return Err(Malformed);
        }
        let kind = text(&mut reader)?.ok_or(Malformed)?;
        match field(&mut reader)?.map(std::str::from_utf8) {
            Some(Err(_)) => residue.add_unreadable(&kind),
            Some(Ok(value)) => residue.add(&kind, Some(value), login),
            None => {}
        }
    }
    Ok(residue)
}

/// The names in the rows that tell what functions may set.
fn sources(rows: &[Box<[u8]>]) -> Result<SettingNames, Malformed> {
    let mut names = SettingNames::default();
    for row in rows {
        let mut reader = Reader::new(row);
        if reader.int16()? != 1 {
            return Err(Malformed);
        }
        let source = text(&mut reader)?.unwrap_or_default();
        names = names.and(&SettingNames::in_source(&source));
    }
    Ok(names)
}

/// One field of a `DataRow`, in the client's encoding.
fn field<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match usize::try_from(reader.int32()?) {
        Ok(length) => reader.bytes(length).map(Some),
        Err(_) => Ok(None),
    }
}

/// The same as far as it is UTF-8.
pub(super) fn text(reader: &mut Reader<'_>) -> Result<Option<String>, Malformed> {
    let field = field(reader)?;
    Ok(field.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// Whether nothing in the segment is known to set a parameter or to take one back.
fn reports_nothing(plan: &Plan) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.all(|one| {
        let silent = matches!(
            one.session,
            SessionEffect::None | SessionEffect::WatchesCounters
        );
        silent && one.transaction == TransactionControl::None
    })
}

/// Whether the statement may draw a number from a sequence.
fn may_draw(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Write | Reason::ModifyingCte | Reason::Sequence | Reason::CopyWrite | Reason::Code
    )
}

/// Whether the segment asks what a sequence gave on its connection.
pub(super) fn asks_sequence(plan: &Plan) -> bool {
    let mut statements = plan.executed.iter().flat_map(|text| text.statements.iter());
    statements.any(|one| one.session == SessionEffect::Pins(PinReason::Sequence))
}

/// Whether what pinned the session may be gone after such a statement.
fn may_release(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Read
            | Reason::Show
            | Reason::Empty
            | Reason::Hint
            | Reason::Write
            | Reason::ModifyingCte
            | Reason::LockingClause
            | Reason::CopyWrite
            | Reason::LockTable
            | Reason::VolatileFunction
            | Reason::ListedFunction
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
            | Reason::LearnedWrite
            | Reason::UnknownRelation
            | Reason::CatalogUnknown
    )
}
