//! What a comment in sqlcommenter form asks for.
//!
//! A comment that names `pgweir_` but is not understood, or does not stand at the start or the end
//! of the text, asks for the primary.

use std::time::Duration;

use memchr::memmem;

use crate::core::causality::keys::usable_key;
use crate::core::statement::{Consistency, Hint, RoutePrimary};

/// What every key of pgweir begins with.
pub(super) const PREFIX: &str = "pgweir_";

/// Whether a comment is addressed to pgweir.
pub(super) fn is_addressed(comment: &[u8]) -> bool {
    memmem::find(comment, PREFIX.as_bytes()).is_some()
}

/// Where a comment stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the first token or after the last one.
    Edge,
    Inside,
}

/// Adds what `comment`, delimiters included, asks for.
pub(super) fn apply(hint: &mut Hint, comment: &[u8], place: Place) {
    if !is_addressed(comment) {
        return;
    }
    let understood = place == Place::Edge && read(hint, comment).is_some();
    if !understood {
        hint.route_primary = Some(RoutePrimary);
    }
}

fn read(hint: &mut Hint, comment: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(comment).ok()?;
    let body = text.strip_prefix("/*")?.strip_suffix("*/")?;
    for part in body.split(',') {
        let (key, value) = part.split_once('=')?;
        let key = decode(key.trim())?;
        let quoted = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        let value = decode(quoted)?;
        if let Some(own) = key.strip_prefix(PREFIX) {
            set(hint, own, &value)?;
        }
    }
    Some(())
}

fn set(hint: &mut Hint, key: &str, value: &str) -> Option<()> {
    match key {
        "consistency" => hint.consistency = Some(Consistency::from_word(value)?),
        "max_staleness" if value == "none" => hint.max_staleness = Some(None),
        "max_staleness" => hint.max_staleness = Some(Some(duration(value)?)),
        "route" if value == "primary" => hint.route_primary = Some(RoutePrimary),
        // Of two keys neither is followed, and what is not followed goes to the primary.
        "key" if hint.key.is_none() => hint.key = Some(usable_key(value)?),
        _ => return None,
    }
    Some(())
}

/// A whole number with a unit from microseconds to days.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit.trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// Undoes URL encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
