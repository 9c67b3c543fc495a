//! Bounds on what a configuration file may hold.

/// Longest configuration file, in bytes; a thousand times the largest example.
pub(in crate::config) const CONFIG_FILE_BYTES: u64 = 1024 * 1024;

/// The most faults of one file that are listed; finding the line of each costs one parse.
pub(in crate::config) const CONFIG_FAULTS_LISTED: usize = 100;

/// The most faults of one file that are told apart: each is compared with all others, and aliases can
/// multiply one a hundred thousand times.
pub(in crate::config) const CONFIG_FAULTS_KEPT: usize = 1_000;

/// The most nodes of one cluster: a `NodeSet` has this many bits.
pub(in crate::config) const NODES_PER_CLUSTER: usize = 64;

/// Longest name of a role, database or node, in bytes (`NAMEDATALEN - 1`,
/// `src/include/pg_config_manual.h`).
pub(in crate::config) const NAME_BYTES: usize = 63;

/// The most clusters of one process; each costs a monitor connection for every node.
pub(in crate::config) const CLUSTERS: usize = 256;

/// The most worker threads; more than any machine of today has cores for.
pub(in crate::config) const WORKERS: usize = 1024;

/// Longest `auth.query`, in bytes.
pub(in crate::config) const QUERY_BYTES: usize = 8 * 1024;
