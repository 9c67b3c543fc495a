//! Free TCP ports on loopback.

use std::net::{Ipv4Addr, TcpListener};

use super::error::SandboxError;

/// First port tried. Linux and macOS hand out outgoing ports from 32768 and 49152 up: below them,
/// no outgoing connection takes a stopped server's port before it is started again.
const FIRST: u16 = 15_000;
/// One past the last port tried.
const END: u16 = 32_000;
/// How many ports are tried.
const TRIES: usize = 500;

/// A port that was free on 127.0.0.1 a moment ago. Another process may take it before it is used,
/// so a caller tries again when its server finds it taken.
///
/// # Errors
///
/// [`SandboxError::Io`] if no port is free.
pub fn free_port() -> Result<u16, SandboxError> {
    (0..TRIES)
        .map(|_| rand::random_range(FIRST..END))
        .find(|port| is_free(*port))
        .map_or_else(any_port, Ok)
}

/// Whether `port` can be listened on at 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port chosen by the system.
fn any_port() -> Result<u16, SandboxError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(SandboxError::io("finding a free port on 127.0.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
        assert!(is_free(free_port().unwrap()));
    }
}
