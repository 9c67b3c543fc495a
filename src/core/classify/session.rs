//! SET, RESET, SHOW and DISCARD: what can be repeated on another connection, and what pins.

use super::lexer::{Kind, Piece};
use super::limits::SETTING_VALUE_BYTES;
use super::transaction;
use crate::core::reading::bearing;
use crate::core::statement::{
    AccessMode, Isolation, PinReason, ProxyStatement, Reason, SessionEffect, SettingChange,
    TransactionControl, TransactionModes,
};

/// The prefix of pgweir's own settings.
pub(super) const PROXY_PREFIX: &str = "pgweir.";

/// What a statement of this family does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) reason: Reason,
    pub(super) transaction: TransactionControl,
    pub(super) session: SessionEffect,
}

impl Outcome {
    fn effect(session: SessionEffect) -> Self {
        Self {
            reason: Reason::SessionState,
            transaction: TransactionControl::None,
            session,
        }
    }

    fn pins(reason: PinReason) -> Self {
        Self::effect(SessionEffect::Pins(reason))
    }

    fn modes(modes: TransactionModes) -> Self {
        Self {
            reason: Reason::TransactionControl,
            transaction: TransactionControl::SetModes(modes),
            session: SessionEffect::None,
        }
    }
}

/// How far a SET reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Session,
    Local,
}

/// SET, with `pieces` right of the word.
pub(super) fn set(sql: &[u8], pieces: &[Piece<'_>]) -> Outcome {
    let words: Vec<&str> = pieces
        .iter()
        .take(2)
        .map(|p| p.word().unwrap_or_default())
        .collect();
    match words.as_slice() {
        ["session", "characteristics"] => Outcome::pins(PinReason::Setting),
        ["session", "authorization"] => {
            let value = pieces.get(2..).unwrap_or_default();
            assign(sql, "session_authorization", value, Scope::Session)
        }
        ["session", ..] => set_scoped(sql, pieces.get(1..).unwrap_or_default(), Scope::Session),
        ["local", ..] => set_scoped(sql, pieces.get(1..).unwrap_or_default(), Scope::Local),
        ["constraints", ..] => Outcome::effect(SessionEffect::None),
        _ => set_scoped(sql, pieces, Scope::Session),
    }
}

fn set_scoped(sql: &[u8], pieces: &[Piece<'_>], scope: Scope) -> Outcome {
    let words: Vec<&str> = pieces
        .iter()
        .take(3)
        .map(|p| p.word().unwrap_or_default())
        .collect();
    let rest = |from: usize| pieces.get(from..).unwrap_or_default();
    match words.as_slice() {
        ["time", "zone", ..] => assign(sql, "timezone", rest(2), scope),
        ["names", ..] if pieces.len() <= 2 => assign(sql, "client_encoding", rest(1), scope),
        ["schema", _] if pieces.len() == 2 => assign(sql, "search_path", rest(1), scope),
        ["transaction", "snapshot", ..] => Outcome::modes(TransactionModes::default()),
        ["transaction", _, ..] => transaction_modes(rest(1)),
        ["session", "characteristics", ..] => Outcome::pins(PinReason::Setting),
        ["seed", ..] => Outcome::pins(PinReason::Seed),
        ["session", "authorization", ..] => by_scope(scope, SessionEffect::None),
        ["xml", "option", ..] => by_scope(scope, SessionEffect::LocalSetting(None)),
        ["role", next] if *next != "to" && pieces.len() == 2 => assign(sql, "role", rest(1), scope),
        _ => {
            let (name, used) = setting_name(pieces);
            let value = match rest(used).split_first() {
                Some((sign, value)) if is_assignment(sign) => value,
                _ => return Outcome::pins(PinReason::Setting),
            };
            assign(sql, &name, value, scope)
        }
    }
}

fn transaction_modes(pieces: &[Piece<'_>]) -> Outcome {
    match transaction::modes(pieces) {
        (modes, transaction::Clarity::Clear) => Outcome::modes(modes),
        (modes, transaction::Clarity::Doubtful) => Outcome {
            session: SessionEffect::Pins(PinReason::Setting),
            ..Outcome::modes(modes)
        },
    }
}

/// Whether UPDATE, with `pieces` right of the word, is of the view whose rule sets parameters.
pub(super) fn updates_settings(pieces: &[Piece<'_>]) -> bool {
    pieces
        .iter()
        .any(|piece| piece.is_name() && piece.text == "pg_settings")
}

/// What is set for a transaction only ends with it; the rest cannot be repeated elsewhere.
fn by_scope(scope: Scope, local: SessionEffect) -> Outcome {
    match scope {
        Scope::Session => Outcome::pins(PinReason::Setting),
        Scope::Local => Outcome::effect(local),
    }
}

fn is_assignment(piece: &Piece<'_>) -> bool {
    piece.is("to") || (piece.kind == Kind::Operator && piece.text == "=")
}

/// The lower-case name at the start of `pieces`, and how many of them it takes.
pub(super) fn setting_name(pieces: &[Piece<'_>]) -> (String, usize) {
    let mut name = String::new();
    let mut used = 0;
    for piece in pieces {
        let wanted = if used % 2 == 0 {
            piece.is_name()
        } else {
            piece.is_symbol(b'.')
        };
        if !wanted {
            break;
        }
        name.push_str(if used % 2 == 0 { &piece.text } else { "." });
        used += 1;
    }
    name.make_ascii_lowercase();
    (name, used)
}

fn assign(sql: &[u8], name: &str, value: &[Piece<'_>], scope: Scope) -> Outcome {
    let resets = match value {
        [] => name == "client_encoding",
        [only] => only.is("default") || (name == "timezone" && only.is("local")),
        _ => false,
    };
    if let Some(own) = name.strip_prefix(PROXY_PREFIX) {
        return proxy_set(sql, own, value, scope);
    }
    match name {
        "transaction_read_only" => {
            return Outcome::modes(TransactionModes {
                access: Some(boolean_access(sql, value)),
                isolation: None,
            });
        }
        "transaction_isolation" => {
            return Outcome::modes(TransactionModes {
                access: None,
                isolation: Some(isolation_value(sql, value)),
            });
        }
        "transaction_deferrable" => return Outcome::modes(TransactionModes::default()),
        "seed" => return Outcome::pins(PinReason::Seed),
        _ => {}
    }
    let change = if resets {
        Some(SettingChange::Reset { name: name.into() })
    } else {
        constant_list(sql, value).map(|text| SettingChange::Set {
            name: name.into(),
            value_sql: text.into(),
        })
    };
    if scope == Scope::Local {
        return local(name, change);
    }
    let plain_name = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.$".contains(&b));
    match change {
        Some(change) if plain_name && !name.is_empty() && !may_hide_tables(&change) => {
            Outcome::effect(SessionEffect::Setting(change))
        }
        Some(_) | None => Outcome::pins(PinReason::Setting),
    }
}

/// Whether what is created then may be temporary though its text does not say so.
fn may_hide_tables(change: &SettingChange) -> bool {
    match change {
        SettingChange::Set { name, value_sql } => {
            name == "search_path" && value_sql.to_ascii_lowercase().contains("pg_temp")
        }
        SettingChange::Reset { .. } | SettingChange::ResetAll => false,
    }
}

/// What is set for a transaction is gone with it; meanwhile it matters if it decides what texts mean.
fn local(name: &str, change: Option<SettingChange>) -> Outcome {
    Outcome::effect(match bearing(name) {
        Some(_) => SessionEffect::LocalSetting(change),
        None => SessionEffect::None,
    })
}

/// The text of `value` if it is a list of words, strings and signed numbers.
fn constant_list<'s>(sql: &'s [u8], value: &[Piece<'_>]) -> Option<&'s str> {
    let constant = |piece: &Piece<'_>| {
        matches!(
            piece.kind,
            Kind::Word | Kind::QuotedWord | Kind::String | Kind::Number
        ) || piece.is_symbol(b',')
            || (piece.kind == Kind::Operator && matches!(&*piece.text, "+" | "-"))
    };
    let well_formed = value.iter().all(constant)
        && value.windows(2).all(|pair| match pair {
            [left, right] => {
                let separator = |p: &Piece<'_>| p.kind == Kind::Operator || p.is_symbol(b',');
                separator(left) || separator(right)
            }
            _ => true,
        });
    let (first, last) = (value.first()?, value.last()?);
    let text = sql.get(first.start..last.end)?;
    if !well_formed || text.len() > SETTING_VALUE_BYTES {
        return None;
    }
    std::str::from_utf8(text).ok()
}

/// A value without its quotes; `None` unless it is one constant.
fn plain_value(sql: &[u8], value: &[Piece<'_>]) -> Option<String> {
    let text = constant_list(sql, value)?;
    match value {
        [only] if only.kind == Kind::String => string_value(text),
        [only] if only.is_name() => Some(only.text.to_string()),
        _ => Some(text.to_owned()),
    }
}

/// The content of a plain `'...'` literal.
pub(super) fn string_value(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}

fn boolean_access(sql: &[u8], value: &[Piece<'_>]) -> AccessMode {
    let word = plain_value(sql, value)
        .unwrap_or_default()
        .to_ascii_lowercase();
    match word.as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => AccessMode::ReadOnly,
        _ => AccessMode::ReadWrite,
    }
}

fn isolation_value(sql: &[u8], value: &[Piece<'_>]) -> Isolation {
    let word = plain_value(sql, value)
        .unwrap_or_default()
        .to_ascii_lowercase();
    match word.as_str() {
        "read committed" | "read uncommitted" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        _ => Isolation::Serializable,
    }
}

fn proxy_set(sql: &[u8], own: &str, value: &[Piece<'_>], scope: Scope) -> Outcome {
    let name = own.to_owned();
    let resets = matches!(value, [only] if only.is("default"));
    let statement = match (scope, plain_value(sql, value)) {
        (Scope::Session, _) if resets => ProxyStatement::Reset { name },
        (Scope::Session, value) => ProxyStatement::Set {
            name,
            value: value.unwrap_or_default(),
        },
        (Scope::Local, value) => ProxyStatement::SetLocal {
            name,
            value: value.unwrap_or_default(),
        },
    };
    Outcome::effect(SessionEffect::Proxy(statement))
}

/// RESET, with `pieces` right of the word.
pub(super) fn reset(pieces: &[Piece<'_>]) -> Outcome {
    let words: Vec<&str> = pieces
        .iter()
        .take(3)
        .map(|p| p.word().unwrap_or_default())
        .collect();
    let reset = |name: &str| {
        Outcome::effect(SessionEffect::Setting(SettingChange::Reset {
            name: name.into(),
        }))
    };
    match words.as_slice() {
        ["all"] => Outcome::effect(SessionEffect::Setting(SettingChange::ResetAll)),
        ["time", "zone"] => reset("timezone"),
        ["seed"] => Outcome::pins(PinReason::Seed),
        ["session", "authorization"] => reset("session_authorization"),
        ["transaction", "isolation", "level"] => Outcome::modes(TransactionModes {
            access: None,
            isolation: Some(Isolation::Serializable),
        }),
        _ => {
            let (name, used) = setting_name(pieces);
            match name.strip_prefix(PROXY_PREFIX) {
                _ if used == 0 || used != pieces.len() => Outcome::pins(PinReason::Setting),
                Some(own) => Outcome::effect(SessionEffect::Proxy(ProxyStatement::Reset {
                    name: own.to_owned(),
                })),
                None => reset(&name),
            }
        }
    }
}

/// SHOW, with `pieces` right of the word; `Reason::Show` means that any node gives the same answer.
pub(super) fn show(pieces: &[Piece<'_>]) -> Outcome {
    let words: Vec<&str> = pieces
        .iter()
        .take(3)
        .map(|p| p.word().unwrap_or_default())
        .collect();
    let (name, _) = match words.as_slice() {
        ["time", "zone"] => ("timezone".to_owned(), 2),
        ["transaction", "isolation", "level"] => ("transaction_isolation".to_owned(), 3),
        ["session", "authorization"] => ("session_authorization".to_owned(), 2),
        _ => setting_name(pieces),
    };
    if let Some(own) = name.strip_prefix(PROXY_PREFIX) {
        let show = ProxyStatement::Show {
            name: own.to_owned(),
        };
        return Outcome {
            reason: Reason::Show,
            ..Outcome::effect(SessionEffect::Proxy(show))
        };
    }
    let reason = if same_on_every_node(&name) {
        Reason::Show
    } else {
        Reason::NodeLocalFunction
    };
    Outcome {
        reason,
        ..Outcome::effect(SessionEffect::None)
    }
}

/// Whether a parameter belongs to the session, whose settings every connection repeats, or to the
/// whole cluster. The answer for any other (`port`, `transaction_read_only`, `in_hot_standby`)
/// differs between a primary and a replica.
pub(super) fn same_on_every_node(name: &str) -> bool {
    const NAMES: [&str; 48] = [
        "application_name",
        "array_nulls",
        "backslash_quote",
        "block_size",
        "bytea_output",
        "check_function_bodies",
        "client_encoding",
        "client_min_messages",
        "constraint_exclusion",
        "cpu_tuple_cost",
        "cursor_tuple_fraction",
        "datestyle",
        "default_table_access_method",
        "default_tablespace",
        "default_text_search_config",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "effective_cache_size",
        "escape_string_warning",
        "extra_float_digits",
        "from_collapse_limit",
        "geqo",
        "idle_in_transaction_session_timeout",
        "integer_datetimes",
        "intervalstyle",
        "join_collapse_limit",
        "lc_collate",
        "lc_ctype",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "lock_timeout",
        "max_identifier_length",
        "max_index_keys",
        "plan_cache_mode",
        "random_page_cost",
        "row_security",
        "search_path",
        "seq_page_cost",
        "server_encoding",
        "server_version",
        "server_version_num",
        "standard_conforming_strings",
        "statement_timeout",
        "timezone",
        "transaction_isolation",
    ];
    let prefixes = [
        "enable_",
        "jit",
        "work_mem",
        "maintenance_work_mem",
        "temp_buffers",
        "xml",
    ];
    NAMES.binary_search(&name).is_ok() || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// DISCARD, with `pieces` right of the word.
pub(super) fn discard(pieces: &[Piece<'_>]) -> Outcome {
    match pieces {
        [only] if only.is("all") => Outcome::effect(SessionEffect::DiscardAll),
        [only]
            if ["temp", "temporary", "plans", "sequences"]
                .iter()
                .any(|w| only.is(w)) =>
        {
            Outcome::effect(SessionEffect::None)
        }
        _ => Outcome::pins(PinReason::NotUnderstood),
    }
}
