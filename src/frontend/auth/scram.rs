//! The server's side of one SCRAM-SHA-256 exchange, on top of pgwire.
//!
//! pgwire's parser takes any UTF-8 without panicking (it splits at commas and strips prefixes) but
//! accepts nonces that PostgreSQL refuses; those are refused here before it sees them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{
    ScramSecret, ScramServerAuth, ScramServerAuthWaitingForClientFinal,
};
use pgwire::error::PgWireError;

use crate::credential::scram::{Keys, Verifier};
use crate::frontend::error::ProxyError;

/// An exchange that waits for the client-final message.
pub(super) struct ScramChallenge {
    waiting: ScramServerAuthWaitingForClientFinal,
    verifier: Arc<Verifier>,
    /// `client-first-message-bare` and `server-first-message`, each with a comma behind.
    transcript: Vec<u8>,
}

impl ScramChallenge {
    /// Reads the client-first message with `server`, which knows what may be bound to; returns the
    /// server-first message with what judges the answer to it.
    pub(super) fn new(
        server: &ScramServerAuth,
        client_first: &[u8],
        verifier: Arc<Verifier>,
    ) -> Result<(String, Self), ProxyError> {
        let bare = check_client_first(client_first)?;
        let (server_first, waiting) = server
            .on_client_first_message_with_secret(client_first, secret(&verifier))
            .map_err(|_| MALFORMED)?;
        let transcript = [bare, b",", server_first.as_bytes(), b","].concat();
        let challenge = Self {
            waiting,
            verifier,
            transcript,
        };
        Ok((server_first, challenge))
    }

    /// The server-final message and the client's keys if the proof is right, `None` if it is wrong.
    pub(super) fn verify(&self, client_final: &[u8]) -> Result<Option<(String, Keys)>, ProxyError> {
        let server_final = match self.waiting.on_client_final_message(client_final) {
            Ok(server_final) => server_final,
            Err(PgWireError::InvalidPassword(_)) => return Ok(None),
            Err(_) => return Err(MALFORMED),
        };
        let text = str::from_utf8(client_final).map_err(|_| MALFORMED)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(MALFORMED)?;
        let proof = STANDARD.decode(proof).map_err(|_| MALFORMED)?;
        let auth_message = [&self.transcript, without_proof.as_bytes()].concat();
        let keys = Keys::recover(&self.verifier, &auth_message, &proof).ok_or(MALFORMED)?;
        Ok(Some((server_final, keys)))
    }
}

/// `verifier` as pgwire takes it.
fn secret(verifier: &Verifier) -> ScramSecret {
    let derivation = verifier.derivation();
    ScramSecret::Verifier {
        salt: derivation.salt.to_vec(),
        iterations: usize::try_from(derivation.iterations).unwrap_or(usize::MAX),
        stored_key: verifier.stored_key().to_vec(),
        server_key: verifier.server_key().to_vec(),
    }
}

/// A message of the exchange that cannot be.
pub(super) const MALFORMED: ProxyError = ProxyError::ProtocolViolation("malformed SCRAM message");

/// The message without its header (`client-first-message-bare`). Refuses what PostgreSQL refuses and
/// pgwire does not: NUL bytes, and nonces that are empty or not printable
/// (`read_client_first_message` and `is_scram_printable`, `auth-scram.c`).
pub(super) fn check_client_first(message: &[u8]) -> Result<&[u8], ProxyError> {
    if message.contains(&0) {
        return Err(MALFORMED);
    }
    let bare = message.splitn(3, |byte| *byte == b',').nth(2);
    let bare = bare.ok_or(MALFORMED)?;
    let nonce = bare
        .split(|byte| *byte == b',')
        .nth(1)
        .and_then(|attribute| attribute.strip_prefix(b"r="))
        .ok_or(MALFORMED)?;
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
        return Err(MALFORMED);
    }
    Ok(bare)
}
