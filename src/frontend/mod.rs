//! Connections from clients.

pub mod auth;
pub mod cancel_keys;
pub mod error;
pub mod handshake;
pub mod listener;
