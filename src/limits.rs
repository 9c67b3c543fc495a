//! Every compile-time bound, with its unit and where the number comes from.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The most databases of one cluster whose catalogs are loaded.
pub const CATALOGS_PER_CLUSTER: usize = 256;
/// The most pools of one cluster whose shares for displaced reads are counted apart.
pub const SPILL_SHARES: usize = 1_000;

/// Names that DDL has touched and that are kept apart until the catalog is loaded again; with more of
/// them everything counts as touched.
pub const TOUCHED_NAMES: usize = 1000;

/// Prepared transactions of one database of which is remembered whether they ran DDL; what an older one
/// did is not known when it commits. A server's `max_prepared_transactions` is rarely above its
/// `max_connections`.
pub const PREPARED_TRANSACTIONS: usize = 1000;

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

/// A client's buffer at first, in bytes: most statements fit, and it is given back while idle.
pub const CLIENT_BUFFER_BYTES: usize = 8 * 1024;

/// A server connection's read buffer, in bytes: one read takes what a socket buffer usually holds.
pub const SERVER_BUFFER_BYTES: usize = 64 * 1024;

/// Spare buffers of each size that one worker keeps.
pub const BUFFERS_KEPT_PER_WORKER: usize = 64;

/// Bytes of one segment that are held so that it can be routed as a whole and sent again; a longer
/// one is sent to the primary as it arrives.
pub const SEGMENT_BYTES: usize = 256 * 1024;

/// Longest Query or Parse message that is held whole, in bytes (its text is needed to route it, and again
/// when the statement moves to another connection). A longer one is sent to the primary as it arrives,
/// and the session stays there.
pub const STATEMENT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes written towards a node or a client that may wait for the socket before reading stops.
pub const PENDING_BYTES: usize = 256 * 1024;

/// Texts of prepared statements that one session may hold, in bytes.
pub const SESSION_STATEMENTS_BYTES: usize = 64 * 1024 * 1024;

/// How long a prepared statement counts as unchanged after the primary has said what it returns: a
/// client that prepares and then pipelines waits for no second answer, and DDL that does not pass through
/// pgweir is met soon enough.
pub const STATEMENT_TRUST: Duration = Duration::from_secs(1);

/// Classified texts that one worker remembers, in bytes of text; half of it is always the newest.
pub const CLASSIFICATION_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Statements that a replica refused and that are remembered as writes, for one database.
pub const LEARNED_WRITES: usize = 10_000;

/// How long a statement may wait until every node was asked once, after a start or a reload: what a
/// node that does not answer takes to be given up, and some.
pub const FIRST_MEASUREMENT: Duration = Duration::from_secs(5);

/// How often one read is sent to another node before its error goes to the client.
pub const READ_ATTEMPTS: usize = 3;

/// How long a client that is told why its session ends may take to read it.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the cancel request may take for what a vanished client has left running.
pub const ABANDONED_CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Most threads that derive keys from passwords, of one kind (for clients, and for nodes).
pub const HASHING_THREADS: usize = 4;

/// How much those threads stand back behind others: from 0 (not at all) to 19 (`setpriority(2)`).
/// At 10 a thread that relays gets about nine times their share of a core that both want.
pub const HASHING_NICENESS: i32 = 10;

/// Passwords that may wait to be hashed: with 3 ms each, what one thread does in the default
/// `limits.startup_timeout`.
pub const HASHES_WAITING: usize = 4096;

/// Most iterations of SCRAM that are computed here, about a second of one core. Others are refused;
/// they come from a node or a verifier, and nobody recommends a tenth of it.
pub const SCRAM_ITERATIONS_DERIVED: u32 = 5_000_000;

/// Roles found by `auth.query` that are remembered, and names that it did not find.
pub const ROLES_REMEMBERED: usize = 10_000;

/// How long a role is remembered with which nobody has logged in since it was looked up, or of which
/// nothing was found: so that guessing names costs few queries, and a new role is found soon.
pub const UNPROVED_ROLE_LIFE: Duration = Duration::from_secs(2);

/// How often remembered roles are looked through for old ones.
pub const ROLES_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Names of one cluster that may wait to be looked up.
pub const ROLE_LOOKUPS_WAITING: usize = 1024;

/// Names of one cluster that are being looked up at once, over one connection.
pub const ROLE_LOOKUPS: usize = 16;

/// How long looking up a role may take, connecting included.
pub const ROLE_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one connection for looking up roles may take to be opened, or one query to be answered.
pub const ROLE_LOOKUP_STEP: Duration = Duration::from_secs(3);

/// After a failed connection, how long lookups fail without another attempt.
pub const ROLE_LOOKUP_PAUSE: Duration = Duration::from_millis(250);

/// After how long an unused connection for looking up roles is closed.
pub const ROLE_LOOKUP_IDLE: Duration = Duration::from_secs(60);

/// How long a refused client is given to read why, before its socket is closed.
pub const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// How much of what a refused client still sends is read and dropped, in bytes: closing a socket
/// with unread input would reset it and could lose the error message on its way.
pub const REFUSAL_DRAIN_BYTES: usize = 64 * 1024;

/// Connections that wait to be accepted on one listening socket (PgBouncer's default is 128;
/// `net.core.somaxconn` caps it). Large enough for an application that opens its whole pool at once.
pub const LISTEN_BACKLOG: i32 = 1024;

/// Clients above `limits.max_clients` that are being told so at once, or that hand in a cancel
/// request; more are closed without a word.
pub const OVERFLOW_CLIENTS: usize = 64;

/// How long accepting rests after the system had no file or buffer left for a connection.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A client that is silent this long is probed (keepalive).
pub const CLIENT_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// The time between two keepalive probes of a client.
pub const CLIENT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A client that leaves this many probes unanswered is gone.
pub const CLIENT_KEEPALIVE_PROBES: u32 = 6;
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

/// Longest that a login waits for a connection whose process id its client is told; else the id is
/// shared or invented.
pub const HOME_TIMEOUT: Duration = Duration::from_secs(1);

/// Clients that are told the same process id: a cancel request compares its secret with all of theirs.
pub const CLIENTS_PER_PROCESS_ID: usize = 1024;

/// Most messages a node may send before its first `ReadyForQuery`; PostgreSQL sends about 20.
pub const BACKEND_STARTUP_MESSAGES: usize = 512;

/// Shortest and longest cancel key, in bytes (`BackendKeyData`, manual, "Message Formats").
pub const CANCEL_KEY_BYTES: RangeInclusive<usize> = 4..=256;

/// Names of customized options that are remembered of one session, of one connection, and of all that
/// sessions of one role have used in one database.
pub const CUSTOM_NAMES: usize = 256;

/// Roles in one database whose customized options are remembered.
pub const ROLES_WITH_OPTIONS: usize = 1024;

/// Prepared statements kept on one server connection; PgBouncer's `max_prepared_statements` is 200,
/// and an idle plan takes tens of KiB on the node.
pub const PREPARED_PER_CONNECTION: usize = 500;

/// Most bytes an idle server connection may have sent unasked and still be used.
pub const UNSOLICITED_BYTES: usize = 2048;

/// Longest message of a node between authentication and its first `ReadyForQuery`, as a length field;
/// a notice of a login trigger is the longest that is plausible.
pub const STARTUP_REPLY_BYTES: u32 = 256 * 1024;

/// How long transactions under way may take to end after SIGTERM.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How often pooled connections are looked through for old ones.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// Accepted sockets that may wait for one worker.
pub const WORKER_QUEUE: usize = 1024;

/// A worker's stack, in bytes: parsing recurses. Only what is touched takes memory.
pub const WORKER_STACK_BYTES: usize = 16 * 1024 * 1024;

/// Memory for outgoing bytes that an idle session keeps, in bytes.
pub const SPARE_BYTES: usize = 1024;

/// TLS handshakes with clients that have begun, at once, over all workers: each takes about a
/// millisecond of one core (RSA 2048) and waits a round trip.
pub const TLS_HANDSHAKES: usize = 256;

/// From a client's first TLS message to the end of the handshake: two round trips at most.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest certificate or key file, in bytes; a bundle of all public authorities has about 250 kB.
pub const TLS_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Longest causal key, in bytes: a kind and an identifier, hashed by whoever has longer ones.
pub const CAUSAL_KEY_BYTES: usize = 256;

/// What a causal key costs besides its text, in bytes; an estimate of its record and its place in the
/// table.
pub const CAUSAL_KEY_OVERHEAD_BYTES: usize = 256;

/// Most bytes of causal keys of one cluster with their records.
pub const CAUSAL_KEYS_BYTES: usize = 512 * 1024 * 1024;

/// Tables that the causal keys of one cluster are spread over, each with a lock of its own.
pub const CAUSAL_KEY_TABLES: usize = 64;

/// Causal keys that one transaction may have.
pub const CAUSAL_KEYS_PER_TRANSACTION: usize = 16;

/// How long a statement about a token may wait for a position of the primary: ten idle probe periods, so
/// that a busy host does not refuse it.
pub const POSITION_TIMEOUT: Duration = Duration::from_secs(1);

/// Transactions that may have begun on a primary between a listing of those that run and a replica's
/// answer about it; if there are more, the end of everything that runs is waited for.
pub const CROSSING_IDS: i64 = 10_000;

/// How long a session waits between two listings of what runs on the primary, which all waiting
/// sessions share.
pub const CROSSING_PAUSE: Duration = Duration::from_millis(2);

/// How long a session waits for a replica's answer before it waits for the end of everything that runs.
pub const CROSSING_PATIENCE: Duration = Duration::from_millis(100);

/// Tokens that one segment may take.
pub const TOKENS_PER_SEGMENT: usize = 8;

/// How long the store of causal keys may take to answer, and a statement may wait for it.
pub const STORE_TIMEOUT: Duration = Duration::from_millis(250);

/// How long it is left alone after a failure.
pub const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Messages to the store that may wait to be sent.
pub const STORE_MESSAGES: usize = 16_384;

/// Messages that go to the store in one write.
pub const STORE_BATCH: usize = 256;

/// Ended statements whose position is not known yet, at most: without a primary none becomes known.
pub const STORE_LEAVES_WAITING: usize = 65_536;

/// Longest URL of the store, in bytes.
pub const STORE_URL_BYTES: usize = 2048;

/// How long proxies may take to find a store that has come back: some pauses and attempts.
pub const STORE_GRACE: Duration = Duration::from_secs(2);
