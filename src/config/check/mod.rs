//! From what is written to a proved [`Config`]: every key, its default and its range.
//!
//! A key whose feature this version does not have is refused, unless it says that the feature is
//! off.

mod causality;
mod clusters;
mod listen;
mod policies;
mod tls;
mod users;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::raw::{Faults, Field, Section};
use super::{ClientLimits, Config, LogConfig, LogFormat, LogLevel};
use crate::config::limits::WORKERS;
use policies::Layer;
use users::Named;

/// What is accepted where nothing speaks for other bounds.
const ANY_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// The longest message PostgreSQL reads (`PQ_LARGE_MESSAGE_LIMIT`, `src/include/libpq/libpq.h`) is
/// a byte short of 1 GiB.
const MESSAGE_BYTES: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;

/// Reads the whole file; the value is usable only if no fault was noted.
pub(super) fn config(root: &Field<'_>, faults: &Faults<'_>) -> Option<Config> {
    let top = root.section()?;
    let listen = listen::listen(top.field("listen"));
    let http = listen::http(&top.field("http"), &listen);
    let workers = workers(&top.field("workers"));
    let (auth, client_tls) = (top.field("auth"), top.field("client_tls"));
    let client_tls = tls::client(&client_tls);
    let users = top.field("users");
    let named = if users.is_present() {
        Named::Some
    } else {
        Named::None
    };
    let auth = users::auth(&auth, client_tls.certificates, named);
    let users = users::users(users, &auth);
    let layer = Layer::read(&top);
    let cluster_fields = top
        .field("clusters")
        .required("write clusters: { main: { nodes: [{ host: ..., port: 5432 }] } }");
    let clusters = clusters::clusters(&cluster_fields, &layer, (&users, &auth), faults);
    not_built(&top);
    let causality = causality::causality(&top.field("causality"));
    let limits = limits(&top.field("limits"));
    let log = log(&top.field("log"));
    top.finish();
    Some(Config {
        listen,
        http,
        workers,
        clusters,
        users: users::by_name(users),
        auth_method: auth.method,
        auth_mode: auth.mode,
        auth_cache: auth.cache,
        client_tls: client_tls.tls,
        causality,
        limits,
        log,
    })
}

/// Half the cores unless stated: the kernel's part of a relayed statement is twice pgweir's, and runs
/// on the others. Measured on two cores, a second worker costs a fifth more CPU a statement, because
/// both sleep more often.
fn workers(field: &Field<'_>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let most = u64::try_from(WORKERS).unwrap_or(u64::MAX);
    count(field, 1..=most).unwrap_or_else(|| cores().div_ceil(2).min(WORKERS))
}

/// A number that counts things.
fn count(field: &Field<'_>, range: RangeInclusive<u64>) -> Option<usize> {
    usize::try_from(field.number(range)?).ok()
}

/// Whole features that this version does not have.
fn not_built(top: &Section<'_>) {
    if let Some(failover) = top.field("failover").section() {
        failover.field("promote").only("never");
        failover.field("patroni").only_empty_list();
        for key in ["hold", "hold_max_clients"] {
            failover
                .field(key)
                .not_built("leave it out: nothing is held yet");
        }
        failover.finish();
    }
    for key in ["admin_users", "stats_users"] {
        top.field(key).only_empty_list();
    }
}

fn limits(field: &Field<'_>) -> ClientLimits {
    let mut limits = ClientLimits {
        max_clients: 10_000,
        startup_timeout: Duration::from_secs(15),
        max_message_bytes: *MESSAGE_BYTES.end(),
    };
    let Some(section) = field.section() else {
        return limits;
    };
    if let Some(most) = count(&section.field("max_clients"), 1..=1_000_000) {
        limits.max_clients = most;
    }
    let startup = Duration::from_millis(100)..=Duration::from_secs(600);
    if let Some(timeout) = section.field("startup_timeout").duration(startup) {
        limits.startup_timeout = timeout;
    }
    if let Some(bytes) = section.field("max_message").size(MESSAGE_BYTES) {
        limits.max_message_bytes = bytes;
    }
    section.field("idle_in_transaction").only("none");
    section.finish();
    limits
}

fn log(field: &Field<'_>) -> LogConfig {
    let mut log = LogConfig {
        format: LogFormat::Text,
        level: LogLevel::Info,
    };
    let Some(section) = field.section() else {
        return log;
    };
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    if let Some(format) = section.field("format").word(&formats) {
        log.format = format;
    }
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    if let Some(level) = section.field("level").word(&levels) {
        log.level = level;
    }
    section.finish();
    log
}
