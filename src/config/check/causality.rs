//! `causality`: what sessions with the same key share.

use std::time::Duration;

use super::count;
use crate::config::raw::{Field, Misfit};
use crate::config::{CausalityConfig, Secret};
use crate::limits::STORE_URL_BYTES;

const KEY_TTL: Duration = Duration::from_secs(15 * 60);
const MAX_KEYS: usize = 1_000_000;

fn store(field: &Field<'_>) -> Option<Secret> {
    if field.is_word("none") {
        return None;
    }
    let url = field.text(STORE_URL_BYTES)?;
    if names_server(&url) {
        return Some(Secret::new(url));
    }
    let hint = "none, or redis://[user:password@]host[:port][/database]; TLS is not supported";
    field.refuse(Misfit::new("is not the URL of a Redis or Valkey server").hint(hint));
    None
}

/// Whether `url` is `redis://` with a host, and perhaps credentials, a port and a database.
fn names_server(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("redis://") else {
        return false;
    };
    let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
    let address = server
        .rsplit_once('@')
        .map_or(server, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (address, None),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    !host.is_empty()
        && host.bytes().all(is_host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && (database.is_empty() || database.parse::<u16>().is_ok())
}

/// Tokens are signed with what a guess must not find.
const SECRET_BYTES: usize = 16;

/// Longer ones are hashed to this length anyway (RFC 2104).
const LONGEST_SECRET_BYTES: usize = 1024;

fn secret(field: &Field<'_>) -> Option<Secret> {
    let text = field.text(LONGEST_SECRET_BYTES)?;
    if text.len() < SECRET_BYTES {
        let hint = "at least 16 bytes, such as openssl rand -hex 32 prints";
        field.refuse(Misfit::new("is too short").hint(hint));
        return None;
    }
    Some(Secret::new(text))
}

/// Reads the section, with the defaults for what it leaves out.
pub(super) fn causality(field: &Field<'_>) -> CausalityConfig {
    let mut causality = CausalityConfig {
        store: None,
        key_ttl: KEY_TTL,
        max_keys: MAX_KEYS,
        secret: None,
    };
    let Some(section) = field.section() else {
        return causality;
    };
    causality.store = store(&section.field("store"));
    let ttl = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
    if let Some(ttl) = section.field("key_ttl").duration(ttl) {
        causality.key_ttl = ttl;
    }
    if let Some(most) = count(&section.field("max_keys"), 1..=100_000_000) {
        causality.max_keys = most;
    }
    causality.secret = secret(&section.field("secret"));
    section.finish();
    causality
}
