//! The configuration: `raw` is what the file says, [`Config`] is what has been proved usable.
//!
//! Invariants:
//! * Nothing outside this module sees a value that has not been checked.
//! * A fault names file, path, value, rule and a hint; all faults of a file are reported at once.
//! * Secrets are [`Secret`]s and print as `***`.

mod check;
mod environment;
mod errors;
mod limits;
mod listen;
mod raw;
#[cfg(test)]
mod tests;
mod tls;
mod units;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::core::policy::{ConsistencyPolicy, RoutingPolicy};
use crate::credential::scram::Verifier;
use limits::CONFIG_FILE_BYTES;

pub use environment::{Environment, ProcessEnvironment};
pub use errors::{ConfigErrors, Fault};
pub use listen::{ListenAddress, socket_path};
pub use tls::{ClientTls, NodeTls, ServerTls};

/// Reads and proves the file at `path`; `${NAME}` in a value comes from `environment`.
///
/// # Errors
/// Every fault of the file at once, or that it cannot be read.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    match read_bounded(path) {
        Ok(text) => parse(&text, &name, environment),
        Err(error) => Err(ConfigErrors::unreadable(
            &name,
            format!("cannot be read: {error}"),
        )),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(CONFIG_FILE_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Proves `text`; `file_name` is what faults name.
///
/// # Errors
/// Every fault of the text at once.
pub fn parse(
    text: &str,
    file_name: &str,
    environment: &dyn Environment,
) -> Result<Config, ConfigErrors> {
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > CONFIG_FILE_BYTES) {
        let rule = format!("is longer than {}", units::show_size(CONFIG_FILE_BYTES));
        return Err(ConfigErrors::unreadable(file_name, rule));
    }
    let faults = raw::Faults::new(environment);
    let tree = match raw::parse(text, &faults) {
        Ok(tree) => tree,
        Err(not_yaml) => return Err(ConfigErrors::not_yaml(file_name, not_yaml)),
    };
    let config = check::config(&raw::Field::root(&tree, &faults), &faults);
    match (config, faults.report(file_name, text)) {
        (Some(config), None) => Ok(config),
        (_, Some(errors)) => Err(errors),
        // Nothing is read in vain without a fault; if it were, the file would still be refused.
        (None, None) => Err(ConfigErrors::unreadable(
            file_name,
            "is not a configuration".to_owned(),
        )),
    }
}

/// A configuration that has been proved usable.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<ListenAddress>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http: Option<SocketAddr>,
    /// How many worker threads relay: half the cores by default.
    pub workers: usize,
    /// The clusters, in the order of the file.
    pub clusters: Vec<Arc<ClusterConfig>>,
    /// Who may connect, by name.
    pub users: HashMap<String, Arc<UserConfig>>,
    /// How clients prove who they are.
    pub auth_method: AuthMethod,
    /// What becomes of the keys with which clients prove who they are.
    pub auth_mode: AuthMode,
    /// How long a looked-up role is remembered after somebody has logged in.
    pub auth_cache: Duration,
    /// Encryption of client connections.
    pub client_tls: ClientTls,
    /// What sessions with the same key share.
    pub causality: CausalityConfig,
    /// Bounds on clients.
    pub limits: ClientLimits,
    /// How logs are written.
    pub log: LogConfig,
}

/// One primary with its replicas.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The key under `clusters:`.
    pub name: Arc<str>,
    /// Which database names it serves.
    pub databases: Vec<DatabasePattern>,
    /// Its nodes; a node's index is its `NodeId`. Never empty, at most 64.
    pub nodes: Vec<NodeConfig>,
    /// How the nodes are measured.
    pub monitor: MonitorConfig,
    /// How users that the file does not name are found; `None` if they are not.
    pub role_lookup: Option<RoleLookup>,
    /// How server connections are pooled.
    pub pool: PoolConfig,
    /// Encryption of connections to the nodes.
    pub server_tls: ServerTls,
    /// The policies of users without overrides.
    pub policies: Arc<Policies>,
    /// The policies of users with overrides, by user name.
    pub user_policies: HashMap<String, Arc<Policies>>,
}

impl ClusterConfig {
    /// The policies in force for `user`.
    pub fn policies_for(&self, user: &str) -> &Arc<Policies> {
        self.user_policies.get(user).unwrap_or(&self.policies)
    }
}

/// `routing` and `consistency` after all overrides.
#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    /// `routing:`.
    pub routing: RoutingPolicy,
    /// `consistency:`.
    pub consistency: ConsistencyPolicy,
}

/// An entry of `databases:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabasePattern {
    /// `"*"`: every name no other cluster lists.
    AllOthers,
    /// Exactly this name.
    Name(String),
}

/// Part of the name of every endpoint of Amazon Aurora that is not one instance's own.
pub const MOVING_ENDPOINT: &str = ".cluster-";

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name in logs and metrics; unique in the cluster.
    pub name: Arc<str>,
    /// Host name or address; or, if it starts with `/`, the directory of a Unix socket.
    pub host: String,
    /// TCP port, or the one in the socket's name.
    pub port: u16,
    /// Where it runs.
    pub zone: Option<Arc<str>>,
    /// Its share of the reads relative to other replicas; 0 takes no reads.
    pub weight: u32,
}

impl NodeConfig {
    /// The path of the node's Unix socket; `None` for a node that is reached over TCP.
    pub fn socket(&self) -> Option<PathBuf> {
        let directory = self.host.starts_with('/').then(|| Path::new(&self.host))?;
        Some(socket_path(directory, self.port))
    }
}

/// How the nodes are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConfig {
    /// The role; `pg_monitor` is enough.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The database it connects to.
    pub database: String,
}

/// How server connections are pooled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// The most connections for one (node, database, user).
    pub size: usize,
    /// When a connection goes back to the pool.
    pub mode: PoolMode,
    /// An unused connection is closed after this time.
    pub idle_timeout: Duration,
    /// A connection older than this is closed when it comes back.
    pub max_lifetime: Duration,
    /// How long a client waits for a connection.
    pub checkout_timeout: Duration,
    /// Which customized options a session may find on a connection.
    pub option_names: OptionNames,
    /// When a session keeps its connection for the numbers of sequences.
    pub sequence_numbers: SequenceNumbers,
}

/// `pool.sequence_numbers`: when a session keeps its connection to the primary for `currval` and `lastval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceNumbers {
    /// When it may draw a number, once any session has asked for one in its database.
    OnceAsked,
    /// When it may draw a number.
    Always,
}

/// `pool.option_names`: which customized options (`app.tenant`) exist for a session, as a server connection
/// keeps the names of all that were used there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionNames {
    /// Its own, where it could tell: connections on which others have used other names are not for it.
    Own,
    /// Those of every session that has used the connection.
    Shared,
}

/// `pool.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// After every transaction.
    Transaction,
    /// Never: a session keeps its connection to the primary until it ends. Reads still go to
    /// replicas, over connections that go back after every transaction.
    Session,
}

/// How users that the file does not name are found, on the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleLookup {
    /// The role that asks.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The database it connects to.
    pub database: String,
    /// What it asks; `$1` is the name.
    pub query: String,
}

/// One entry of `users:`.
#[derive(Debug, Clone)]
pub struct UserConfig {
    /// The role name, for the client and for the nodes.
    pub name: String,
    /// What the client must know.
    pub password: UserPassword,
    /// What pgweir logs in to the nodes with; `None` if it has nothing, or only the client's keys.
    pub server_password: Option<Secret>,
}

/// `users[].password`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserPassword {
    /// There is none: nobody is asked for it.
    None,
    /// The password itself.
    Plain(Secret),
    /// A SCRAM verifier.
    Verifier(Arc<Verifier>),
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// pgweir logs in to the nodes with the passwords of the file.
    Stored,
    /// With the keys of the client, where the file has no password.
    Passthrough,
}

/// `auth.method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5 challenge.
    Md5,
    /// The password itself.
    Password,
    /// A certificate whose common name is the user's name.
    Certificate,
    /// Nothing is asked.
    Trust,
}

/// `causality:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CausalityConfig {
    /// The URL of the Redis or Valkey server that shares keys with other proxies; it may hold a
    /// password. `None` if keys are not shared.
    pub store: Option<Secret>,
    /// How long a key is remembered at least after it was used, as far as there is room.
    pub key_ttl: Duration,
    /// The most keys of one cluster that are remembered.
    pub max_keys: usize,
    /// What tokens are signed with; `None` for something that no other process knows.
    pub secret: Option<Secret>,
}

/// `limits:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    /// The most clients at once.
    pub max_clients: usize,
    /// From accept to the end of authentication.
    pub startup_timeout: Duration,
    /// The longest message a client may send after authentication, in bytes.
    pub max_message_bytes: u64,
}

/// `log:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Text or JSON lines.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One human-readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// Unexpected, served anyway.
    Warn,
    /// Life-cycle.
    Info,
    /// Per session.
    Debug,
    /// Per frame.
    Trace,
}

/// A value that never reaches a log or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; for authentication only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a duration as the configuration writes it: a whole number with a unit, such as `250ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    units::duration(text).ok()
}
