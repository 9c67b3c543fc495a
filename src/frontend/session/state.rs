//! What one session has told pgweir, apart from any server connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::custom::CustomNames;
use crate::backend::state::{AppliedSettings, ROLE, SESSION_AUTHORIZATION};
use crate::core::causality::keys::usable_key;
use crate::core::guarantee::SessionGuarantee;
use crate::core::residue::literal;
use crate::core::router::Route;
use crate::core::statement::{Consistency, ProxyStatement, SettingChange};
use crate::frontend::error::ProxyError;
use crate::frontend::session::named::NamedStatements;
use crate::frontend::session::token::Prepared as PreparedTokens;
use crate::frontend::session::unnamed::UnnamedStatement;
use crate::frontend::statements::Prepared;
use crate::protocol::backend::TransactionStatus;
use crate::world::Occupant;

/// What one session has told pgweir.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    /// Its place in its database.
    pub(super) occupant: Option<Occupant>,
    /// What its reads must see.
    pub(super) guarantee: SessionGuarantee,
    /// Settings that every connection it uses must have.
    pub(super) settings: Arc<AppliedSettings>,
    /// Names of customized options that it has used.
    pub(super) custom: CustomNames,
    /// Its named prepared statements.
    pub(super) statements: NamedStatements,
    /// Its unnamed prepared statement.
    pub(super) unnamed: UnnamedStatement,
    /// Portals that stand for statements pgweir answers itself.
    pub(super) proxy_portals: HashMap<Box<[u8]>, Arc<Prepared>>,
    /// `pgweir.` settings.
    own: OwnSettings,
    /// The same with what SET LOCAL has changed in the transaction block that is open.
    local: Option<Box<OwnSettings>>,
    /// Whether its reads are to be counted on the primary.
    pub(super) counters: Counters,
    /// Whether the server's defaults give backslashes a meaning in ordinary literals.
    pub(super) old_strings: OldStrings,
    /// What backslashes may be at present.
    pub(super) backslashes: Backslashes,
    /// Where the previous statement went.
    pub(super) last_route: Option<LastRoute>,
    /// When the segment arrived that wrote last.
    pub(super) wrote_last: Option<Instant>,
    /// What statements about tokens need that are under way.
    pub(super) tokens: PreparedTokens,
}

/// Whether a session has looked at what the primary counts of scans and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Counters {
    /// It has not.
    #[default]
    Ignored,
    /// It has, and finds its own reads there from then on, as with one server.
    Watched,
}

/// What a backslash in a text may be, as the client has been told of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Backslashes {
    /// What the classifier takes it for.
    #[default]
    Standard,
    /// An escape in an ordinary literal, or half a character.
    Other,
}

/// Whether the server reads a text as the classifier does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reading {
    /// It does.
    Sure,
    /// It may see other statements in it.
    Doubtful,
}

impl Reading {
    /// Where backslashes are not what the classifier takes them for.
    pub(super) fn with_other_backslashes(sql: &[u8]) -> Self {
        match memchr::memchr(b'\\', sql) {
            Some(_) => Self::Doubtful,
            None => Self::Sure,
        }
    }
}

/// Encodings of clients in which the second byte of a character may be that of a backslash
/// (`src/common/wchar.c`); no server has them.
const HALVES: [&str; 6] = ["BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS"];

impl Backslashes {
    /// By the parameters that a node has reported.
    pub(super) fn under(parameters: &[(String, String)]) -> Self {
        let other = parameters.iter().any(|(name, value)| match name.as_str() {
            "client_encoding" => HALVES.contains(&value.as_str()),
            "standard_conforming_strings" => value != "on",
            _ => false,
        });
        if other { Self::Other } else { Self::Standard }
    }
}

/// Whether the server's defaults give backslashes a meaning in ordinary literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OldStrings {
    /// `standard_conforming_strings` is on, as it is since PostgreSQL 9.1.
    #[default]
    No,
    /// It is off by default for this role, database or server.
    ByDefault,
}

/// `pgweir.` settings of a session; `None` is the configuration's value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OwnSettings {
    /// `pgweir.consistency`.
    pub(super) consistency: Option<Consistency>,
    /// `pgweir.max_staleness`.
    pub(super) max_staleness: StalenessSetting,
    /// `pgweir.key`.
    pub(super) key: Option<Arc<str>>,
    /// `pgweir.after`, as it was given; what it means is part of the guarantee.
    pub(super) after: Option<Arc<str>>,
}

/// What a session has said about `pgweir.max_staleness`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum StalenessSetting {
    /// Nothing, or `none`: only the configuration's bound holds.
    #[default]
    Unset,
    /// No read of the session may be staler than this.
    Within(Duration),
}

impl StalenessSetting {
    /// The bound, if there is one.
    pub(super) const fn bound(self) -> Option<Duration> {
        match self {
            Self::Unset => None,
            Self::Within(bound) => Some(bound),
        }
    }
}

/// What `SHOW pgweir.last_route` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastRoute {
    /// The node's name.
    pub(super) node: Arc<str>,
    /// Where and why.
    pub(super) route: Route,
}

impl SessionState {
    /// Repeats on the session's own record what a node has confirmed.
    /// `told` are the parameters as the node reports them now.
    pub(super) fn apply_setting(&mut self, change: &SettingChange, told: &[(String, String)]) {
        let mut settings = (*self.settings).clone();
        match change {
            SettingChange::Set { name, value_sql } => {
                if name == SESSION_AUTHORIZATION {
                    settings.0.remove(ROLE);
                }
                settings
                    .0
                    .insert(name.clone(), whole_value(name, value_sql, told));
            }
            SettingChange::Reset { name } => {
                if name == SESSION_AUTHORIZATION {
                    settings.0.remove(ROLE);
                }
                settings.0.remove(name);
            }
            SettingChange::ResetAll => {
                // `GUC_NO_RESET_ALL` of both (`src/backend/utils/misc/guc_tables.c`).
                settings
                    .0
                    .retain(|name, _| [ROLE, SESSION_AUTHORIZATION].contains(&name.as_str()));
                self.reset_own();
            }
        }
        self.settings = Arc::new(settings);
    }

    /// Another portal takes the name.
    pub(super) fn forget_proxy_portal(&mut self, name: &[u8]) {
        // Every Bind comes here, and hardly any session has such a portal.
        if !self.proxy_portals.is_empty() {
            self.proxy_portals.remove(name);
        }
    }

    /// Where its reads may run; `default` is the database's.
    pub(super) fn consistency(&self, default: Consistency) -> Consistency {
        match (self.own().consistency, self.counters) {
            (Some(asked), _) => asked,
            (None, Counters::Ignored) => default,
            (None, Counters::Watched) => Consistency::Primary,
        }
    }

    /// DISCARD ALL has succeeded. The unnamed statement is no named one (`DropAllPreparedStatements`,
    /// `src/backend/commands/prepare.c`).
    pub(super) fn discard_all(&mut self) {
        self.settings = Arc::default();
        self.statements = NamedStatements::default();
        self.proxy_portals.clear();
        self.counters = Counters::Ignored;
        self.reset_own();
    }

    /// The `pgweir.` settings in force.
    pub(super) fn own(&self) -> &OwnSettings {
        self.local.as_deref().unwrap_or(&self.own)
    }

    fn reset_own(&mut self) {
        self.own = OwnSettings::default();
        self.local = None;
    }

    /// The transaction has ended: what SET LOCAL has changed in it is gone.
    pub(super) fn end_local(&mut self) {
        if self.local.is_some() {
            self.local = None;
        }
    }

    /// Whether backslashes in ordinary literals are escapes, so that texts mean something else than
    /// the parser thinks.
    pub(super) fn has_nonstandard_strings(&self) -> bool {
        match self.settings.0.get("standard_conforming_strings") {
            Some(value) => !matches!(value.to_ascii_lowercase().as_str(), "on" | "'on'"),
            None => self.old_strings == OldStrings::ByDefault,
        }
    }

    /// How the text is read.
    pub(super) fn reading(&self, sql: &[u8]) -> Reading {
        if self.backslashes == Backslashes::Other || self.has_nonstandard_strings() {
            Reading::with_other_backslashes(sql)
        } else {
            Reading::Sure
        }
    }

    /// How the text of a statement is read that was parsed earlier, perhaps with other settings.
    pub(super) fn reading_of(&self, statement: &Prepared) -> Reading {
        let now = self.reading(&statement.sql);
        if Arc::ptr_eq(&statement.settings, &self.settings) {
            return now;
        }
        let of = |name: &str| statement.settings.0.get(name);
        let plain = |value: &String| value.trim_matches('\'').to_ascii_uppercase();
        let strings = of("standard_conforming_strings").is_some_and(|value| plain(value) != "ON");
        let encoding =
            of("client_encoding").is_some_and(|value| HALVES.contains(&plain(value).as_str()));
        if strings || encoding {
            now.max(Reading::with_other_backslashes(&statement.sql))
        } else {
            now
        }
    }

    /// Whether the session has made its transactions SERIALIZABLE.
    pub(super) fn is_serializable_by_default(&self) -> bool {
        let isolation = self.settings.0.get("default_transaction_isolation");
        isolation.is_some_and(|value| value.to_ascii_lowercase().contains("serializable"))
    }

    /// Whether the session has a timeout that begins with BEGIN, which a node must therefore see.
    pub(super) fn has_block_timeout(&self) -> bool {
        let timeouts = ["idle_in_transaction_session_timeout", "transaction_timeout"];
        let settings = &self.settings.0;
        timeouts.iter().any(|name| settings.contains_key(*name))
    }

    /// Takes over a setting of the startup packet.
    ///
    /// # Errors
    /// As [`OwnSettings::set`].
    pub(super) fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), ProxyError> {
        self.own.set(name, value)
    }

    /// Carries out a SET, SET LOCAL or RESET of one of pgweir's settings, in a session with this
    /// status.
    ///
    /// # Errors
    /// When there is no such setting, it cannot be set, or the value is not one of its values.
    pub(super) fn set_own(
        &mut self,
        statement: &ProxyStatement,
        status: TransactionStatus,
    ) -> Result<(), ProxyError> {
        self.take_token(statement)?;
        match statement {
            ProxyStatement::Set { name, value } => {
                if let Some(local) = &mut self.local {
                    local.set(name, value)?;
                }
                self.own.set(name, value)
            }
            // Outside a block it has no effect, as in PostgreSQL.
            ProxyStatement::SetLocal { name, value } if status == TransactionStatus::Idle => {
                OwnSettings::default().set(name, value)
            }
            ProxyStatement::SetLocal { name, value } => {
                let mut local = self.own().clone();
                local.set(name, value)?;
                self.local = Some(Box::new(local));
                Ok(())
            }
            ProxyStatement::Reset { name } => {
                if let Some(local) = &mut self.local {
                    local.reset(name)?;
                }
                self.own.reset(name)
            }
            ProxyStatement::Show { .. } | ProxyStatement::ExplainRoute { .. } => Ok(()),
        }
    }

    /// A token binds the session's reads from now on, whatever becomes of the setting.
    fn take_token(&mut self, statement: &ProxyStatement) -> Result<(), ProxyError> {
        match statement {
            ProxyStatement::Set { name, value } | ProxyStatement::SetLocal { name, value }
                if name == "after" && !value.is_empty() =>
            {
                let instant = self.tokens.after(value)?;
                self.guarantee.on_seen(instant);
                Ok(())
            }
            ProxyStatement::Set { .. }
            | ProxyStatement::SetLocal { .. }
            | ProxyStatement::Reset { .. }
            | ProxyStatement::Show { .. }
            | ProxyStatement::ExplainRoute { .. } => Ok(()),
        }
    }

    /// The value that SHOW of one of pgweir's settings answers.
    ///
    /// # Errors
    /// When there is no such setting.
    pub(super) fn show_own(&self, name: &str, default: Consistency) -> Result<String, ProxyError> {
        let own = self.own();
        match name {
            "consistency" => Ok(own.consistency.unwrap_or(default).as_str().to_owned()),
            "key" => Ok(own.key.as_deref().unwrap_or_default().to_owned()),
            "after" => Ok(own.after.as_deref().unwrap_or_default().to_owned()),
            "token" => self.tokens.token(),
            "max_staleness" => Ok(match own.max_staleness {
                StalenessSetting::Within(bound) => format!("{}ms", bound.as_millis()),
                StalenessSetting::Unset => "none".to_owned(),
            }),
            "last_route" => Ok(self.last_route.as_ref().map_or_else(String::new, |last| {
                format!(
                    "node={} role={} reason={}",
                    last.node,
                    last.route.role.as_str(),
                    last.route.reason.as_str()
                )
            })),
            _ => Err(unknown_setting(name)),
        }
    }
}

/// SET of `DateStyle` may change one of its two parts and leave the other.
fn whole_value(name: &str, value_sql: &str, told: &[(String, String)]) -> String {
    let whole = told
        .iter()
        .find(|(told, _)| name == "datestyle" && told == "DateStyle");
    whole.map_or_else(|| value_sql.to_owned(), |(_, value)| literal(value))
}

impl OwnSettings {
    /// Sets one by its name without the prefix.
    ///
    /// # Errors
    /// When there is no such setting, it is read-only, or the value is not one of its values.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), ProxyError> {
        let invalid = |allowed: &'static str| ProxyError::InvalidSetting {
            name: format!("pgweir.{name}"),
            value: value.to_owned(),
            allowed: allowed.into(),
        };
        match name {
            "consistency" => {
                let mode = Consistency::from_word(value);
                self.consistency =
                    Some(mode.ok_or_else(|| invalid("eventual, session, latest, primary"))?);
                Ok(())
            }
            "max_staleness" => {
                self.max_staleness = if value.eq_ignore_ascii_case("none") {
                    StalenessSetting::Unset
                } else {
                    let parsed = crate::config::parse_duration(value);
                    let hint = "a duration such as 250ms, or none";
                    StalenessSetting::Within(parsed.ok_or_else(|| invalid(hint))?)
                };
                Ok(())
            }
            "key" if value.is_empty() => {
                self.key = None;
                Ok(())
            }
            "key" => {
                self.key = Some(usable_key(value).ok_or_else(|| {
                    invalid(
                        "a text of at most 256 bytes, such as user:42, or the empty text for none",
                    )
                })?);
                Ok(())
            }
            "after" => {
                self.after = (!value.is_empty()).then(|| Arc::from(value));
                Ok(())
            }
            "last_route" | "token" => Err(ProxyError::ReadOnlySetting {
                name: format!("pgweir.{name}"),
            }),
            _ => Err(unknown_setting(name)),
        }
    }

    /// Gives one its default.
    ///
    /// # Errors
    /// When there is no such setting or it is read-only.
    fn reset(&mut self, name: &str) -> Result<(), ProxyError> {
        match name {
            "consistency" => self.consistency = None,
            "max_staleness" => self.max_staleness = StalenessSetting::Unset,
            "key" => self.key = None,
            "after" => self.after = None,
            "last_route" | "token" => {
                return Err(ProxyError::ReadOnlySetting {
                    name: format!("pgweir.{name}"),
                });
            }
            _ => return Err(unknown_setting(name)),
        }
        Ok(())
    }
}

fn unknown_setting(name: &str) -> ProxyError {
    ProxyError::UnknownSetting {
        name: format!("pgweir.{name}"),
    }
}
