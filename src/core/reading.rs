//! Settings that decide what a text means when it is parsed: how it is split into tokens, and what its
//! literals are.
//!
//! A server parses a prepared statement once, with the settings of that moment, and keeps what it found.
//! Only the schemas are looked through again: under another `search_path` it analyses the statement anew, with
//! the settings of that moment (`RevalidateCachedQuery`, `src/backend/utils/cache/plancache.c`).

use super::statement::{PinReason, SessionEffect, SettingChange, StatementVerdict};

/// What a setting has a say in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// How a text is split into tokens, which is never done again.
    Tokens,
    /// What becomes of its literals and comparisons.
    Meaning,
}

/// The settings that every user may set, and that decide what a text means when it is parsed. Input
/// functions are called for literals then (`coerce_type`, `src/backend/parser/parse_coerce.c`).
pub const READING: [(&str, Bearing); 12] = [
    ("array_nulls", Bearing::Meaning),
    ("backslash_quote", Bearing::Tokens),
    ("client_encoding", Bearing::Tokens),
    ("datestyle", Bearing::Meaning),
    ("escape_string_warning", Bearing::Tokens),
    ("intervalstyle", Bearing::Meaning),
    ("lc_monetary", Bearing::Meaning),
    ("standard_conforming_strings", Bearing::Tokens),
    ("timezone", Bearing::Meaning),
    ("timezone_abbreviations", Bearing::Meaning),
    ("transform_null_equals", Bearing::Meaning),
    ("xmloption", Bearing::Meaning),
];

/// What the setting with this lower-case name has a say in, if that is anything.
pub fn bearing(name: &str) -> Option<Bearing> {
    let found = READING.iter().find(|(known, _)| *known == name);
    found.map(|(_, bearing)| *bearing)
}

/// What a statement does to the settings that decide what texts mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadingChange<'a> {
    /// It sets them so.
    Known(&'a SettingChange),
    /// Nobody knows what.
    Unknown,
}

/// What the statement may do to the settings that decide what texts mean.
pub fn change(statement: &StatementVerdict) -> Option<ReadingChange<'_>> {
    match &statement.session {
        SessionEffect::Setting(change) | SessionEffect::LocalSetting(Some(change)) => {
            let bears = match change {
                SettingChange::Set { name, .. } | SettingChange::Reset { name } => {
                    bearing(name).is_some()
                }
                SettingChange::ResetAll => true,
            };
            bears.then_some(ReadingChange::Known(change))
        }
        SessionEffect::DiscardAll
        | SessionEffect::LocalSetting(None)
        | SessionEffect::Pins(PinReason::Setting | PinReason::UnknownCode)
        | SessionEffect::MayConfigure(..) => Some(ReadingChange::Unknown),
        SessionEffect::None
        | SessionEffect::WatchesCounters
        | SessionEffect::DeallocateAll
        | SessionEffect::Pins(_)
        | SessionEffect::Proxy(_) => None,
    }
}
