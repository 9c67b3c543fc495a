//! `causality`: what sessions with the same key share.

use std::time::Duration;

use super::count;
use crate::config::CausalityConfig;
use crate::config::raw::Field;

const KEY_TTL: Duration = Duration::from_secs(15 * 60);
const MAX_KEYS: usize = 1_000_000;

/// Reads the section, with the defaults for what it leaves out.
pub(super) fn causality(field: &Field<'_>) -> CausalityConfig {
    let mut causality = CausalityConfig {
        key_ttl: KEY_TTL,
        max_keys: MAX_KEYS,
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
    section.finish();
    causality
}
