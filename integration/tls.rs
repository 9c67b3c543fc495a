//! TLS from clients and to nodes, and Unix sockets, with real clients and real servers.

#![cfg(test)]

mod harness;

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/client.rs"]
mod client;
#[path = "tls/server.rs"]
mod server;

#[path = "tls/both.rs"]
mod both;
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/nodes.rs"]
mod nodes;
#[path = "tls/sockets.rs"]
mod sockets;

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const STARTUP: &[u8] = b"\0\0\0\x1f\0\x03\0\0user\0app\0database\0app\0\0";
