//! SCRAM-SHA-256 verifiers and the server's side of one exchange, on top of pgwire.
//!
//! pgwire's parser takes any UTF-8 without panicking (it splits at commas and strips prefixes) but
//! accepts nonces that PostgreSQL refuses; those are refused here before it sees them.

use pgwire::api::auth::sasl::scram::{
    SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, ScramServerAuthWaitingForClientFinal,
    gen_salted_password,
};
use pgwire::error::PgWireError;

use crate::config::Secret;
use crate::frontend::error::ProxyError;

/// Bytes of an SHA-256 hash.
const KEY_BYTES: usize = 32;

/// What proves that a client knows a password, without the password.
pub(super) struct Verifier {
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    /// Random text; stands in for a password in the mock only.
    text: String,
}

impl Verifier {
    /// Derives it; takes milliseconds of CPU. `None` cannot happen with the pgwire in use.
    pub(super) fn derive(password: &Secret, salt: &[u8]) -> Option<Self> {
        let salted = gen_salted_password(password.expose(), salt, SCRAM_ITERATIONS);
        match ScramSecret::verifier_from_salted_password(salt.to_vec(), salted, SCRAM_ITERATIONS) {
            ScramSecret::Verifier {
                stored_key,
                server_key,
                ..
            } => Some(Self {
                stored_key,
                server_key,
                text: String::new(),
            }),
            ScramSecret::SaltedPassword { .. } => None,
        }
    }

    /// A verifier to which no password belongs.
    pub(super) fn mock() -> Self {
        Self {
            stored_key: rand::random::<[u8; KEY_BYTES]>().to_vec(),
            server_key: rand::random::<[u8; KEY_BYTES]>().to_vec(),
            text: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// The random text of a mock.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As pgwire takes it; `salt` is the one that the verifier was derived with.
    pub(super) fn secret(&self, salt: Vec<u8>) -> ScramSecret {
        ScramSecret::Verifier {
            salt,
            iterations: SCRAM_ITERATIONS,
            stored_key: self.stored_key.clone(),
            server_key: self.server_key.clone(),
        }
    }
}

/// An exchange that waits for the client-final message.
pub(super) struct ScramChallenge(ScramServerAuthWaitingForClientFinal);

impl ScramChallenge {
    /// Reads the client-first message with `server`, which knows what may be bound to; returns the server-first message with what judges the
    /// answer to it.
    pub(super) fn new(
        server: &ScramServerAuth,
        client_first: &[u8],
        secret: ScramSecret,
    ) -> Result<(String, Self), ProxyError> {
        check_client_first(client_first)?;
        let (server_first, waiting) = server
            .on_client_first_message_with_secret(client_first, secret)
            .map_err(|_| MALFORMED)?;
        Ok((server_first, Self(waiting)))
    }

    /// The server-final message if the proof is right, `None` if it is wrong.
    pub(super) fn verify(&self, client_final: &[u8]) -> Result<Option<String>, ProxyError> {
        match self.0.on_client_final_message(client_final) {
            Ok(server_final) => Ok(Some(server_final)),
            Err(PgWireError::InvalidPassword(_)) => Ok(None),
            Err(_) => Err(MALFORMED),
        }
    }
}

/// A message of the exchange that cannot be.
pub(super) const MALFORMED: ProxyError = ProxyError::ProtocolViolation("malformed SCRAM message");

/// Refuses what PostgreSQL refuses and pgwire does not: NUL bytes, and nonces that are empty or not
/// printable (`read_client_first_message` and `is_scram_printable`, `auth-scram.c`).
fn check_client_first(message: &[u8]) -> Result<(), ProxyError> {
    if message.contains(&0) {
        return Err(MALFORMED);
    }
    let nonce = message
        .split(|byte| *byte == b',')
        .nth(3)
        .and_then(|attribute| attribute.strip_prefix(b"r="))
        .ok_or(MALFORMED)?;
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
        return Err(MALFORMED);
    }
    Ok(())
}
