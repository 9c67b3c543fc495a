//! Verifiers as a server stores them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgweir::credential::scram::{Derivation, Keys};

/// What a server stores for `password`, with a new salt.
pub fn verifier(password: &str, iterations: u32) -> String {
    let derivation = Derivation {
        salt: rand::random::<[u8; 16]>().into(),
        iterations,
    };
    let verifier = Keys::derive(password, derivation).unwrap().verifier();
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(&verifier.derivation().salt),
        STANDARD.encode(verifier.stored_key()),
        STANDARD.encode(verifier.server_key())
    )
}
