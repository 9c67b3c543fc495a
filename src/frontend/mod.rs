//! Connections from clients.
