//! Every compile-time bound, with its unit and where the number comes from.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The most databases of one cluster whose catalogs are loaded.
pub const CATALOGS_PER_CLUSTER: usize = 256;

/// Longest SQL text that is parsed, in bytes; longer texts go to the primary unread.
pub const CLASSIFY_TEXT_BYTES: usize = 128 * 1024;

/// A startup packet's largest length, in bytes (`MAX_STARTUP_PACKET_LENGTH`,
/// `src/include/libpq/pqcomm.h`).
pub const STARTUP_PACKET_BYTES: usize = 10_000;

/// Longest message a client may send before it is authenticated, in bytes
/// (`PG_MAX_AUTH_TOKEN_LENGTH`, `src/include/libpq/auth.h`).
pub const AUTH_MESSAGE_BYTES: usize = 65_535;

/// Age beyond which a measurement of a node counts as none: ten idle probe periods, so that a busy
/// host does not take its replicas out of rotation, and less than a server needs to restart.
pub const SAMPLE_EXPIRY: Duration = Duration::from_secs(1);

/// Most connections of one pool that are being opened at once: enough to fill a pool quickly, few
/// enough not to flood a node that comes back.
pub const OPENS_PER_POOL: usize = 8;

/// Most clients waiting in one pool; `limits.max_clients` defaults to the same number.
pub const WAITERS_PER_POOL: usize = 10_000;

/// Most (database, user) pools of one node; empty ones are removed within a second.
pub const POOLS_PER_NODE: usize = 4096;

/// Most start-up parameter sets of one pool whose reported values are remembered for greetings.
pub const GREETINGS_PER_POOL: usize = 32;

/// Time for one server connection to be opened, from name resolution to `ReadyForQuery`.
pub const BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most messages a node may send before its first `ReadyForQuery`; PostgreSQL sends about 20.
pub const BACKEND_STARTUP_MESSAGES: usize = 512;

/// Shortest and longest cancel key, in bytes (`BackendKeyData`, manual, "Message Formats").
pub const CANCEL_KEY_BYTES: RangeInclusive<usize> = 4..=256;

/// SCRAM key derivations towards nodes at once, each 2 to 5 ms of one core at 4096 iterations.
pub const KEY_DERIVATIONS: usize = 2;

/// Prepared statements kept on one server connection; PgBouncer's `max_prepared_statements` is 200,
/// and an idle plan takes tens of KiB on the node.
pub const PREPARED_PER_CONNECTION: usize = 500;

/// Most bytes an idle server connection may have sent unasked and still be used.
pub const UNSOLICITED_BYTES: usize = 2048;

/// Longest message of a node between authentication and its first `ReadyForQuery`, as a length field;
/// a notice of a login trigger is the longest that is plausible.
pub const STARTUP_REPLY_BYTES: u32 = 256 * 1024;
