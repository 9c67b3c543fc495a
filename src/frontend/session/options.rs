//! Customized options (`SET app.tenant`): a server connection keeps the name of one for good, and a
//! session finds those that it has used on every connection, and no others where it could tell.

use super::link::Link;
use super::plan::{Needs, Plan};
use super::prologue::Unprepared;
use super::{Session, SessionEnd, inspect};
use crate::backend::custom::{CustomNames, NamesScope, Novelty, WantedNames};
use crate::backend::state::reset;
use crate::config::OptionNames;
use crate::core::residue::{Others, SettingNames, existing};
use crate::core::snapshot::NodeRole;
use crate::core::statement::{
    Asks, Made, NamedOption, PinReason, SessionEffect, TransactionControl,
};
use crate::frontend::error::ProxyError;
use crate::frontend::statements::Prepared;
use crate::protocol::backend::SqlState;
use crate::protocol::message::Reader;
use crate::protocol::replies::Outcome;
use crate::protocol::segment::SegmentEnd;

/// `ERRCODE_IN_FAILED_SQL_TRANSACTION` (`src/backend/utils/errcodes.txt`): nothing has run.
const IN_FAILED_TRANSACTION: SqlState = SqlState(*b"25P02");

impl Session {
    /// Notes which options the segment is to find on its connection.
    pub(super) fn look_at_options(&mut self, plan: &Plan, end: SegmentEnd) {
        self.wanted_options = self.wanted_names_of(plan, end);
    }

    fn wanted_names_of(&mut self, plan: &Plan, end: SegmentEnd) -> WantedNames {
        let mut wanted = WantedNames {
            own: self.state.custom.clone(),
            ..WantedNames::default()
        };
        let (mut asks, mut database) = match plan.needs {
            // Of a function call nobody knows what it calls.
            Needs::Primary => (Asks::Code, self.code_asks()),
            Needs::Nothing | Needs::Node | Needs::Held => (Asks::Nothing, Asks::Nothing),
        };
        let mut named = false;
        for text in &plan.texts {
            let options = &text.options;
            if asks == Asks::Nothing {
                let before = options.names.iter().take(options.before);
                named |= options.before > 0;
                before.for_each(|used| wanted.own.add(&used.name));
            }
            asks = asks.max(options.asks);
            database = database.max(options.database);
        }
        let known = &self.learned.options;
        if asks == Asks::Itself {
            known.note_asked();
        }
        let somebody_asks = database != Asks::Nothing || known.is_asked();
        let may_tell = match asks {
            Asks::Itself => true,
            Asks::Code => somebody_asks,
            Asks::Nothing => somebody_asks && self.stays(plan, end),
        };
        if may_tell && self.cluster.config.pool.option_names == OptionNames::Own {
            wanted.scope = match asks {
                Asks::Nothing if named => NamesScope::OwnOrAlike,
                Asks::Nothing | Asks::Code | Asks::Itself => NamesScope::Own,
            };
        }
        wanted
    }

    /// The same for a segment that is not read before it is sent.
    pub(super) fn look_at_unread_options(&mut self) {
        let mut unread = Plan::default();
        unread.needs = Needs::Primary;
        self.look_at_options(&unread, SegmentEnd::Sync);
    }

    /// Whether any code in the database asks for options; what is not known may.
    fn code_asks(&self) -> Asks {
        let catalog = self.catalog.as_ref().and_then(|kept| kept.latest());
        catalog.map_or(Asks::Code, |catalog| catalog.asks_for_options())
    }

    /// Whether what comes later may run on the same connection.
    fn stays(&self, plan: &Plan, end: SegmentEnd) -> bool {
        let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
        let open = end == SegmentEnd::Flush && !plan.executed.is_empty();
        open || self.block.is_some()
            || statements.any(|one| {
                matches!(one.transaction, TransactionControl::Begin(_))
                    || match one.session {
                        // It is free again when the node has been asked.
                        SessionEffect::Pins(reason) => reason != PinReason::CodeBehindWrite,
                        SessionEffect::MayConfigure(..) => true,
                        SessionEffect::None
                        | SessionEffect::Setting(_)
                        | SessionEffect::LocalSetting(_)
                        | SessionEffect::WatchesCounters
                        | SessionEffect::DiscardAll
                        | SessionEffect::DeallocateAll
                        | SessionEffect::Proxy(_) => false,
                    }
            })
    }

    /// Lets the session find what it has used on a connection that stands outside a transaction, if it could
    /// tell. A name that is refused is left as it is: it is an extension's here.
    pub(super) async fn provide_options(&mut self, link: &mut Link) -> Result<(), Unprepared> {
        let custom = &link.lease.custom;
        let is_new = custom.novelty == Novelty::Unseen && self.learned.options.are_used();
        let wants = &self.state.custom;
        let lacks = wants.missing_in(&custom.certain).next().is_some();
        let may_tell = self.wanted_options.scope != NamesScope::Any;
        if !may_tell || !(is_new || lacks) {
            return Ok(());
        }
        // Boxed: hardly any segment comes here.
        Box::pin(self.create_options(link)).await;
        if link.is_quiet() {
            Ok(())
        } else {
            Err(Unprepared)
        }
    }

    /// The same on a connection that the session holds, outside a block.
    pub(super) async fn provide_options_here(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        // A Query of pgweir's own would end an unnamed statement that cannot be sent again.
        let unnamed = self.state.unnamed.latest().map(AsRef::as_ref);
        let has_to_stay = unnamed.is_some_and(Prepared::stays);
        if self.wanted_options.scope == NamesScope::Any || has_to_stay {
            return Ok(());
        }
        // A cancel request that comes late must not hit pgweir's own query.
        self.leave_target(link);
        let provided = self.provide_options(link).await;
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        provided.map_err(|_| ProxyError::ConnectionLost.into())
    }

    async fn create_options(&mut self, link: &mut Link) {
        if link.lease.custom.novelty == Novelty::Unseen {
            let _ = self.see_new_connection(link).await;
        }
        for name in self.options_to_create(link) {
            // One by one, as a name that is refused must not take others with it.
            let created = self.run_own(link, &reset(&name)).await;
            link.lease.custom.add(&name);
            if !created && !link.is_quiet() {
                return;
            }
        }
    }

    /// What the session has used, has no value, and does not exist for sure. On a connection that it has kept,
    /// what it may have made itself may have a value that nobody has asked for.
    fn options_to_create(&self, link: &Link) -> Vec<Box<str>> {
        let (settings, custom) = (&self.state.settings.0, &link.lease.custom);
        let kept = link.was_parked() || self.pin.is_some();
        if kept && custom.possible.has_others() {
            return Vec::new();
        }
        let missing = self.state.custom.missing_in(&custom.certain);
        let missing = missing
            .filter(|name| !settings.contains_key(*name))
            .filter(|name| !(kept && custom.possible.contains(name)));
        missing.map(Box::from).collect()
    }

    /// What exists on a connection that no session has used is nobody's.
    async fn see_new_connection(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        let used = self.learned.options.used_by(&self.key);
        if used.is_empty() {
            return Ok(());
        }
        link.lease.custom.novelty = Novelty::Seen;
        if !link.lease.custom.possible.is_empty() {
            return Ok(());
        }
        let sql = existing(used.iter());
        if self.ask(link, sql.as_bytes()).await? == inspect::Asked::Refused {
            return Ok(());
        }
        let mut of_all = CustomNames::default();
        for row in &link.scanner.captured {
            let mut reader = Reader::new(row);
            let name = reader
                .int16()
                .ok()
                .and_then(|_| inspect::text(&mut reader).ok()?);
            if let Some(name) = name {
                of_all.add(&name);
            }
        }
        self.learned.options.note_new_connection(&self.key, of_all);
        Ok(())
    }

    /// Notes the names that the segment has made exist. What failed may have made them: the node is asked,
    /// but where another session has made them before, which it cannot tell.
    pub(super) fn note_options(&mut self, plan: &Plan, link: &mut Link) {
        link.lease.custom.novelty = Novelty::Seen;
        let failed = link.scanner.outcome.has(Outcome::ERROR);
        if link.scanner.last_error == Some(IN_FAILED_TRANSACTION) && plan.ends.is_empty() {
            return;
        }
        let mut doubtful = SettingNames::default();
        for text in &plan.executed {
            for NamedOption { name, made } in &text.options.names {
                self.note_used(name, link);
                if !failed {
                    match made {
                        Made::Surely => link.lease.custom.add(name),
                        Made::Perhaps => link.lease.custom.possible.add(name),
                    }
                    self.state.custom.add(name);
                } else if link.lease.custom.possible.contains(name) {
                    self.state.custom.add(name);
                } else if link.route.role == NodeRole::Replica {
                    link.lease.custom.possible.add(name);
                } else {
                    doubtful = doubtful.and(&SettingNames {
                        names: Box::new([name.to_string()]),
                        others: Others::None,
                    });
                }
            }
            if text.options.others == Others::Some {
                self.note_other_options(link);
            }
        }
        if doubtful != SettingNames::default() {
            self.suspect(PinReason::Setting, &doubtful);
        }
    }

    /// Notes that the session has made options exist whose names nobody knows.
    pub(super) fn note_other_options(&mut self, link: &mut Link) {
        link.lease.custom.possible.add_others();
        self.state.custom.add_others();
    }

    /// Notes the names of the settings that the connection is given.
    pub(super) fn note_given_options(&self, link: &mut Link) {
        let names = self.state.settings.0.keys();
        for name in names.filter(|name| name.contains('.')) {
            self.note_used(name, link);
            link.lease.custom.add(name);
        }
    }

    fn note_used(&self, name: &str, link: &Link) {
        if !link.lease.custom.possible.contains(name) {
            self.learned.options.note_used(&self.key, name);
        }
    }

    /// Notes the names that the node was asked for and that exist there. Those that another session may have
    /// made before are not this one's.
    pub(super) fn note_found(&mut self, names: &[String], link: &mut Link) {
        for name in names {
            self.note_used(name, link);
            if !link.lease.custom.possible.contains(name) {
                self.state.custom.add(name);
            }
            link.lease.custom.add(name);
        }
    }
}
