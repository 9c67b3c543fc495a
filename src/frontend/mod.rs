//! Connections from clients.

pub mod auth;
pub mod buffers;
pub mod cancel_keys;
pub mod causal_keys;
pub mod classification;
pub mod cluster;
pub mod ends;
pub mod error;
pub mod handshake;
pub mod listener;
pub mod logins;
pub mod options;
pub mod replication;
pub mod session;
pub mod spill;
pub mod statements;
pub mod tokens;
