//! `causality`: what sessions with the same key share.

use std::time::Duration;

use super::count;
use crate::config::raw::{Field, Misfit};
use crate::config::{CausalityConfig, Secret};

const KEY_TTL: Duration = Duration::from_secs(15 * 60);
const MAX_KEYS: usize = 1_000_000;

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
        key_ttl: KEY_TTL,
        max_keys: MAX_KEYS,
        secret: None,
    };
    let Some(section) = field.section() else {
        return causality;
    };
    section.field("store").only("none");
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
