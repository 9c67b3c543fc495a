//! Looks through a segment before anything of it is sent: what was prepared, what runs, and where
//! it may run.

use std::sync::Arc;

use crate::core::router::{RouteReason, Target};
use crate::core::segment::{Begun, is_movable, target};
use crate::core::statement::{
    AccessMode, Asks, CatalogEffect, Classification, Consistency, Hint, Logins, OptionUse,
    PinReason, Reason, SessionEffect, SettingChange, StatementVerdict, TransactionControl,
};
use crate::frontend::classification::CachedText;
use crate::frontend::error::ProxyError;
use crate::frontend::session::state::{Reading, SessionState};
use crate::protocol::frame::{FrameHeader, HEADER_BYTES};
use crate::protocol::frontend::{Bind, Named, Parse, query_text, tag};
use crate::protocol::message::Reader;

/// What a segment amounts to.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The texts of its Parse messages, in order.
    pub(super) parses: Vec<Arc<CachedText>>,
    /// Every text it prepares, describes or runs.
    pub(super) texts: Vec<Arc<Classification>>,
    /// The texts it runs, in order.
    pub(super) executed: Vec<Arc<Classification>>,
    /// The text, if there is one only.
    pub(super) only_text: Option<Arc<CachedText>>,
    /// Whether a node is needed to answer it.
    pub(super) needs: Needs,
    /// Where its segments end but for the last, if it is several.
    pub(super) ends: Vec<usize>,
    /// Whether it has statements about pgweir's settings.
    pub(super) settings: Settings,
    /// Whether a comment in it names a causal key.
    pub(super) has_keys: bool,
    /// How it ends.
    pub(super) form: Form,
    /// Whether it closes a statement, or runs the unnamed one of an earlier segment.
    reach: Reach,
    /// Names it prepares.
    names: Vec<(Vec<u8>, Read)>,
    /// Portals it opens.
    portals: Vec<Vec<u8>>,
}

/// A text, and how it was read.
#[derive(Debug, Clone)]
struct Read {
    text: Arc<CachedText>,
    reading: Reading,
}

impl Read {
    const fn new(text: Arc<CachedText>, reading: Reading) -> Self {
        Self { text, reading }
    }
}

/// Whether a node is needed to answer a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Needs {
    /// pgweir answers all of it.
    #[default]
    Nothing,
    /// A node that the texts decide.
    Node,
    /// The connection that the session holds, else the primary: it names a portal that an earlier
    /// segment opened, or a statement that does not exist.
    Held,
    /// The primary.
    Primary,
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Form {
    /// With Sync or Flush, or a function call.
    #[default]
    Batch,
    /// With Query, perhaps behind a batch without a Sync.
    Query,
}

/// Whether a segment has statements about pgweir's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Settings {
    #[default]
    None,
    Some,
}

/// Whether a segment concerns what other segments have prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Reach {
    /// It does not, but for named statements that it runs.
    #[default]
    Itself,
    Others,
}

/// Finds and judges texts.
pub(super) trait Texts {
    /// The text, analysed.
    fn find(&mut self, sql: &[u8]) -> Arc<CachedText>;
    /// Its verdict now.
    fn judge(&mut self, text: &CachedText) -> Arc<Classification>;
}

/// Texts for which an idle session keeps memory.
const SPARE_TEXTS: usize = 16;

impl Plan {
    /// Looks through the whole messages in `bytes`; `self` is empty.
    ///
    /// # Errors
    /// When a message is malformed, or mixes pgweir's settings with other statements in one text.
    pub(super) fn of(
        mut self,
        bytes: &[u8],
        state: &SessionState,
        texts: &mut impl Texts,
    ) -> Result<Self, ProxyError> {
        self.extend(bytes, state, texts)?;
        Ok(self)
    }

    /// Nothing again, with the memory of a plan that was not long.
    pub(super) fn emptied(mut self) -> Self {
        if self.texts.capacity() > SPARE_TEXTS || self.portals.capacity() > SPARE_TEXTS {
            return Self::default();
        }
        self.parses.clear();
        self.texts.clear();
        self.executed.clear();
        self.names.clear();
        self.portals.clear();
        self.ends.clear();
        Self {
            reach: Reach::Itself,
            only_text: None,
            needs: Needs::Nothing,
            has_keys: false,
            settings: Settings::None,
            form: Form::Batch,
            ..self
        }
    }

    /// Whether it prepares and closes nothing that outlives it.
    pub(super) fn is_plain(&self) -> bool {
        let unnamed = self.names.iter().all(|(name, _)| name.is_empty());
        self.needs == Needs::Node && self.reach == Reach::Itself && unnamed
    }

    /// Whether all it runs is one definition: nothing of it is left when it fails outside a block.
    pub(super) fn is_one_definition(&self) -> bool {
        let [text] = self.executed.as_slice() else {
            return false;
        };
        matches!(&*text.statements, [one] if one.reason == Reason::Ddl)
    }

    /// Whether it opens a portal that a later segment may fetch from.
    pub(super) fn opens_portal(&self) -> bool {
        !self.portals.is_empty()
    }

    pub(super) fn opens_named_portal(&self) -> bool {
        self.portals.iter().any(|name| !name.is_empty())
    }

    /// Adds a segment behind the first `end` bytes.
    pub(super) fn append(&mut self, next: Self, end: usize) {
        self.ends.push(end);
        self.has_keys |= next.has_keys;
        self.parses.extend(next.parses);
        self.texts.extend(next.texts);
        self.executed.extend(next.executed);
        self.only_text = None;
        self.has_keys |= next.has_keys;
    }

    /// Looks through more messages of the same segment; `parses` then holds the texts of these.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn extend(
        &mut self,
        bytes: &[u8],
        state: &SessionState,
        texts: &mut impl Texts,
    ) -> Result<(), ProxyError> {
        self.parses.clear();
        let mut rest = bytes;
        while let Ok(Some(header)) = FrameHeader::parse(rest, u32::MAX) {
            let Some((message, after)) = rest.split_at_checked(header.total()) else {
                break;
            };
            rest = after;
            let body = message.get(HEADER_BYTES..).unwrap_or_default();
            self.message(header.tag, body, state, texts)?;
        }
        Ok(())
    }

    /// Adds a Parse under this name whose text is too long to be read.
    ///
    /// # Errors
    /// None of such a text.
    pub(super) fn add_unread(
        &mut self,
        name: &[u8],
        text: &Arc<CachedText>,
        texts: &mut impl Texts,
    ) -> Result<(), ProxyError> {
        let read = Read {
            text: Arc::clone(text),
            reading: Reading::Sure,
        };
        let routed = self.route(&read, texts).map(drop);
        self.names.push((name.to_vec(), read));
        routed
    }

    /// How many texts it names and runs.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.texts.len(), self.executed.len())
    }

    /// Forgets what was looked through since it had so many.
    pub(super) fn cut(&mut self, (texts, executed): (usize, usize)) {
        self.texts.truncate(texts);
        self.executed.truncate(executed);
    }

    /// Where the segment may run in `mode`, in a block that no node has seen yet.
    pub(super) fn target(&self, mode: Consistency, begun: Begun) -> Target {
        match self.needs {
            // Else the block could not leave the replica, which has the portal.
            Needs::Node if is_movable(begun) && self.opens_named_portal() => {
                Target::Primary(RouteReason::Transaction)
            }
            Needs::Nothing | Needs::Node => {
                target(self.texts.iter().map(AsRef::as_ref), mode, begun)
            }
            Needs::Held | Needs::Primary => Target::Primary(RouteReason::NotUnderstood),
        }
    }

    fn message(
        &mut self,
        message: u8,
        body: &[u8],
        state: &SessionState,
        texts: &mut impl Texts,
    ) -> Result<(), ProxyError> {
        match message {
            tag::QUERY => {
                let sql = query_text(body)?;
                let read = Read::new(texts.find(sql), state.reading(sql));
                let classification = self.route(&read, texts)?;
                self.executed.push(classification);
                self.form = Form::Query;
            }
            tag::PARSE => {
                let parse = Parse::read(body)?;
                let reading = state.reading(parse.sql).max(self.reading(parse.sql));
                let read = Read::new(texts.find(parse.sql), reading);
                self.route(&read, texts)?;
                self.parses.push(Arc::clone(&read.text));
                self.names.push((parse.name.to_vec(), read));
            }
            tag::BIND => {
                let bind = Bind::read(body)?;
                self.portals.push(bind.portal.to_vec());
                self.note_reach(bind.statement);
                match self.statement(bind.statement, state) {
                    Some(text) => {
                        let classification = self.route(&text, texts)?;
                        self.executed.push(classification);
                    }
                    None => self.need_held(),
                }
            }
            tag::DESCRIBE => match Named::read(body)? {
                Named::Statement(name) => {
                    self.note_reach(name);
                    match self.statement(name, state) {
                        Some(text) => {
                            self.route(&text, texts)?;
                        }
                        None => self.need_held(),
                    }
                }
                Named::Portal(name) => self.portal(name, state),
                Named::Unknown => self.need_held(),
            },
            tag::EXECUTE => {
                let name = Reader::new(body).string()?;
                self.portal(name, state);
                self.own_portal(name, state, texts)?;
            }
            tag::CLOSE => {
                self.reach = Reach::Others;
                match Named::read(body)? {
                    Named::Portal(name) if state.proxy_portals.contains_key(name) => {}
                    Named::Portal(_) | Named::Unknown => self.need_node(),
                    Named::Statement(name) => {
                        let known = state.statements.find(name);
                        if known.is_some_and(|statement| statement.stays()) {
                            self.need_node();
                        }
                    }
                }
            }
            tag::FUNCTION_CALL => {
                self.needs = Needs::Primary;
                self.executed.push(unread(CatalogEffect::None));
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a text to what decides the route.
    fn route(
        &mut self,
        read: &Read,
        texts: &mut impl Texts,
    ) -> Result<Arc<Classification>, ProxyError> {
        let text = &read.text;
        let mut classification = texts.judge(text);
        if is_own(&classification)? {
            self.settings = Settings::Some;
        } else {
            self.need_node();
            if read.reading == Reading::Doubtful {
                classification = misread();
            }
        }
        self.has_keys |= classification.hint.key.is_some();
        self.only_text = match &self.only_text {
            None if self.texts.is_empty() => Some(Arc::clone(text)),
            Some(only) if Arc::ptr_eq(only, text) => Some(Arc::clone(text)),
            Some(_) | None => None,
        };
        self.texts.push(Arc::clone(&classification));
        Ok(classification)
    }

    /// The unnamed statement of an earlier segment may be another's by the time this one is sent again.
    fn note_reach(&mut self, statement: &[u8]) {
        let parsed_here = self.names.iter().any(|(name, _)| name.is_empty());
        if statement.is_empty() && !parsed_here {
            self.reach = Reach::Others;
        }
    }

    fn need_node(&mut self) {
        if self.needs == Needs::Nothing {
            self.needs = Needs::Node;
        }
    }

    fn need_held(&mut self) {
        if self.needs != Needs::Primary {
            self.needs = Needs::Held;
        }
    }

    /// A portal that was not opened by this segment stands on some connection, or nowhere.
    fn portal(&mut self, name: &[u8], state: &SessionState) {
        let opened_here = self.portals.iter().any(|portal| portal == name);
        if !opened_here && !state.proxy_portals.contains_key(name) {
            self.need_held();
        }
    }

    /// A portal of an earlier segment that stands for a statement pgweir answers itself.
    fn own_portal(
        &mut self,
        name: &[u8],
        state: &SessionState,
        texts: &mut impl Texts,
    ) -> Result<(), ProxyError> {
        let opened_here = self.portals.iter().any(|portal| portal == name);
        if !opened_here && let Some(statement) = state.proxy_portals.get(name) {
            let read = Read {
                text: Arc::clone(&statement.text),
                reading: Reading::Sure,
            };
            let classification = self.route(&read, texts)?;
            self.executed.push(classification);
        }
        Ok(())
    }

    /// How a text is read behind what the segment runs before it, which may change what backslashes are.
    fn reading(&self, sql: &[u8]) -> Reading {
        let changes =
            |name: &str| matches!(name, "client_encoding" | "standard_conforming_strings");
        let mut statements = self.executed.iter().flat_map(|text| text.statements.iter());
        let other = statements.any(|one| match &one.session {
            SessionEffect::Setting(
                SettingChange::Set { name, .. } | SettingChange::Reset { name },
            ) => changes(name),
            SessionEffect::Setting(SettingChange::ResetAll)
            | SessionEffect::LocalSetting(_)
            | SessionEffect::DiscardAll => true,
            SessionEffect::None
            | SessionEffect::WatchesCounters
            | SessionEffect::DeallocateAll
            | SessionEffect::Pins(_)
            | SessionEffect::MayConfigure(..)
            | SessionEffect::Proxy(_) => false,
        });
        if other {
            Reading::with_other_backslashes(sql)
        } else {
            Reading::Sure
        }
    }

    fn statement(&self, name: &[u8], state: &SessionState) -> Option<Read> {
        let here = self.names.iter().rev().find(|(known, _)| known == name);
        if let Some((_, text)) = here {
            return Some(text.clone());
        }
        let known = if name.is_empty() {
            state.unnamed.latest()
        } else {
            state.statements.find(name)
        };
        // It may have been parsed when backslashes were something else.
        known.map(|statement| Read {
            text: Arc::clone(&statement.text),
            reading: state.reading_of(statement),
        })
    }
}

/// What may be said of a call or a text that nobody has read: it may have written.
pub(super) fn unread(catalog: CatalogEffect) -> Arc<Classification> {
    let verdict = StatementVerdict {
        access: AccessMode::ReadWrite,
        transaction: TransactionControl::None,
        session: SessionEffect::Pins(PinReason::ServerResource),
        catalog: catalog.clone(),
        reason: Reason::Code,
    };
    Arc::new(Classification {
        access: AccessMode::ReadWrite,
        reason: Reason::Code,
        statements: Box::new([verdict]),
        catalog,
        hint: Hint::default(),
        options: OptionUse {
            asks: Asks::Code,
            ..OptionUse::default()
        },
        logins: Logins::Kept,
    })
}

/// What may be said of a text in which the server may see other statements.
fn misread() -> Arc<Classification> {
    let verdict = StatementVerdict {
        access: AccessMode::ReadWrite,
        transaction: TransactionControl::None,
        session: SessionEffect::Pins(PinReason::NotUnderstood),
        catalog: CatalogEffect::MayChange,
        reason: Reason::ParseFailed,
    };
    Arc::new(Classification {
        reason: Reason::ParseFailed,
        statements: Box::new([verdict]),
        ..Classification::clone(&unread(CatalogEffect::MayChange))
    })
}

/// Whether the text is one statement for pgweir itself.
///
/// # Errors
/// When it is one among others: they could not be answered in order by two servers.
fn is_own(classification: &Classification) -> Result<bool, ProxyError> {
    let own = |session: &SessionEffect| matches!(session, SessionEffect::Proxy(_));
    match &*classification.statements {
        [only] => Ok(own(&only.session)),
        several if several.iter().any(|statement| own(&statement.session)) => {
            Err(ProxyError::Unsupported(
                "a statement about a pgweir setting must be sent alone, not in a batch",
            ))
        }
        _ => Ok(false),
    }
}
