//! Throw-away PostgreSQL clusters: a primary with streaming replicas, from the server programs on
//! this machine, for `pgweir sandbox` and for the tests.
//!
//! Invariants:
//! * Nothing remains: whatever way the owner of a [`LocalCluster`] ends, its servers end too and
//!   its directory is removed.
//! * Servers listen on loopback only, and the superuser's password is random.
//! * Every wait has a deadline.
//!
//! Must not be used by the proxy itself.

mod account;
mod binaries;
mod cluster;
mod command;
mod containers;
mod error;
pub mod limits;
mod node;
mod ports;
mod provision;
mod template;
mod toolchain;
mod verbs;
mod wait;
mod workspace;

pub use self::binaries::SearchPath;
pub use self::cluster::{ClusterOptions, Identity, LocalCluster};
pub use self::command::{SandboxArgs, run};
pub use self::error::SandboxError;
pub use self::ports::{free_port, is_free};
pub use self::verbs::TextRows;
pub use self::wait::eventually;
