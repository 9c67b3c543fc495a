//! The client's side of one SCRAM-SHA-256 exchange, with keys instead of a password.
//!
//! RFC 5802, section 5; libpq's side is `src/interfaces/libpq/fe-auth-scram.c`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::credential::same_bytes;
use crate::credential::scram::{Derivation, Key, Keys};

/// Random bytes of a nonce (`SCRAM_RAW_NONCE_LEN`, `src/include/common/scram-common.h`).
const NONCE_BYTES: usize = 18;

/// What the exchange is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    /// The connection is not encrypted, or has nothing to be bound to.
    Impossible,
    /// The node does not offer it.
    NotOffered,
    /// `tls-server-end-point`.
    EndPoint(Vec<u8>),
}

/// How the node has failed its part of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramFault {
    /// A message is not what it has to be.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The node's nonce is not an extension of ours.
    #[error("the node's nonce is not ours continued")]
    Nonce,
    /// The node does not know the verifier.
    #[error("the node's signature is wrong")]
    Signature,
    /// The node ends the exchange with an error in it; PostgreSQL sends an `ErrorResponse` instead.
    #[error("the node ended the exchange")]
    Ended,
}

/// An exchange that has begun.
pub(super) struct Begun {
    binding: Binding,
    nonce: String,
}

/// An exchange that waits for the keys.
pub(super) struct Challenged {
    /// Which keys the node asks for.
    pub(super) derivation: Derivation,
    /// The client's last message up to the proof.
    without_proof: String,
    auth_message: String,
}

/// An exchange that waits for the node's signature.
pub(super) struct Answered {
    expected: Key,
}

impl Begun {
    pub(super) fn new(binding: Binding) -> Self {
        Self::with_nonce(
            binding,
            STANDARD.encode(rand::random::<[u8; NONCE_BYTES]>()),
        )
    }

    fn with_nonce(binding: Binding, nonce: String) -> Self {
        Self { binding, nonce }
    }

    /// The first message. PostgreSQL takes the user from the startup packet.
    pub(super) fn message(&self) -> String {
        format!("{}{}", self.header(), self.bare())
    }

    fn header(&self) -> &'static str {
        match self.binding {
            Binding::Impossible => "n,,",
            Binding::NotOffered => "y,,",
            Binding::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the node's first message: `r=<nonce>,s=<salt>,i=<iterations>`.
    pub(super) fn challenged(self, message: &[u8]) -> Result<Challenged, ScramFault> {
        let message = str::from_utf8(message).map_err(|_| ScramFault::Malformed)?;
        let mut attributes = message.split(',');
        let mut attribute = |name| attributes.next()?.strip_prefix(name);
        let mut read = || {
            let (nonce, salt, iterations) = (attribute("r=")?, attribute("s=")?, attribute("i=")?);
            Some((nonce, STANDARD.decode(salt).ok()?, iterations.parse().ok()?))
        };
        let (nonce, salt, iterations) = read().ok_or(ScramFault::Malformed)?;
        if salt.is_empty() || iterations == 0 {
            return Err(ScramFault::Malformed);
        }
        let added = nonce.strip_prefix(&self.nonce);
        if added.is_none_or(str::is_empty) {
            return Err(ScramFault::Nonce);
        }
        let mut bound = self.header().as_bytes().to_vec();
        if let Binding::EndPoint(end_point) = &self.binding {
            bound.extend_from_slice(end_point);
        }
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(bound));
        Ok(Challenged {
            derivation: Derivation {
                salt: salt.into(),
                iterations,
            },
            auth_message: format!("{},{message},{without_proof}", self.bare()),
            without_proof,
        })
    }
}

impl Challenged {
    /// The last message, with the proof that `keys` give.
    pub(super) fn answer(&self, keys: &Keys) -> (String, Answered) {
        let auth_message = self.auth_message.as_bytes();
        let proof = STANDARD.encode(keys.proof(auth_message));
        let expected = keys.server_signature(auth_message);
        let message = format!("{},p={proof}", self.without_proof);
        (message, Answered { expected })
    }
}

impl Answered {
    /// Judges the node's last message: `v=<signature>`.
    pub(super) fn finish(&self, message: &[u8]) -> Result<(), ScramFault> {
        let message = str::from_utf8(message).map_err(|_| ScramFault::Malformed)?;
        if message.starts_with("e=") {
            return Err(ScramFault::Ended);
        }
        let signature = message.strip_prefix("v=").ok_or(ScramFault::Malformed)?;
        let signature = signature.split(',').next().unwrap_or(signature);
        let signature = STANDARD
            .decode(signature)
            .map_err(|_| ScramFault::Malformed)?;
        if same_bytes(&signature, &self.expected) {
            Ok(())
        } else {
            Err(ScramFault::Signature)
        }
    }
}

#[cfg(test)]
mod tests {
    use pgwire::api::auth::sasl::scram::{ScramSecret, ScramServerAuth};
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        let derivation = Derivation {
            salt: [7; 16].into(),
            iterations: 100,
        };
        Keys::derive("secret", derivation).unwrap()
    }

    /// The server's secret for the verifier of `keys`.
    fn secret(keys: &Keys) -> ScramSecret {
        let verifier = keys.verifier();
        ScramSecret::Verifier {
            salt: verifier.derivation().salt.to_vec(),
            iterations: usize::try_from(verifier.derivation().iterations).unwrap(),
            stored_key: verifier.stored_key().to_vec(),
            server_key: verifier.server_key().to_vec(),
        }
    }

    #[test]
    fn a_server_accepts_the_keys_and_is_recognised() {
        let begun = Begun::new(Binding::Impossible);
        let (first, waiting) = ScramServerAuth::new()
            .on_client_first_message_with_secret(begun.message().as_bytes(), secret(&keys()))
            .unwrap();
        let challenged = begun.challenged(first.as_bytes()).unwrap();
        assert_eq!(challenged.derivation, *keys().derivation());
        let (last, answered) = challenged.answer(&keys());
        let accepted = waiting.on_client_final_message(last.as_bytes()).unwrap();
        assert_eq!(answered.finish(accepted.as_bytes()), Ok(()));
        let other = format!("v={}", STANDARD.encode([1; 32]));
        for (message, fault) in [
            (other.as_str(), ScramFault::Signature),
            ("v=", ScramFault::Signature),
            ("v=!", ScramFault::Malformed),
            ("x", ScramFault::Malformed),
            ("e=other-error", ScramFault::Ended),
        ] {
            assert_eq!(answered.finish(message.as_bytes()), Err(fault), "{message}");
        }
    }

    #[test]
    fn what_it_is_bound_to_stands_in_the_messages() {
        for (binding, header, bound) in [
            (Binding::Impossible, "n,,", "biws"),
            (Binding::NotOffered, "y,,", "eSws"),
            (
                Binding::EndPoint(vec![1, 2, 3]),
                "p=tls-server-end-point,,",
                "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQID",
            ),
        ] {
            let begun = Begun::with_nonce(binding, "abc".to_owned());
            assert_eq!(begun.message(), format!("{header}n=,r=abc"));
            let challenged = begun.challenged(b"r=abcd,s=eA==,i=1").unwrap();
            assert_eq!(challenged.without_proof, format!("c={bound},r=abcd"));
        }
    }

    #[test]
    fn a_first_message_of_a_node_that_cannot_be_is_refused() {
        for (message, fault) in [
            ("", ScramFault::Malformed),
            ("r=abcd", ScramFault::Malformed),
            ("r=abcd,s=eA==", ScramFault::Malformed),
            ("r=abcd,s=,i=1", ScramFault::Malformed),
            ("r=abcd,s=!,i=1", ScramFault::Malformed),
            ("r=abcd,s=eA==,i=0", ScramFault::Malformed),
            ("r=abcd,s=eA==,i=-1", ScramFault::Malformed),
            ("r=abcd,s=eA==,i=99999999999", ScramFault::Malformed),
            ("s=eA==,r=abcd,i=1", ScramFault::Malformed),
            ("r=abc,s=eA==,i=1", ScramFault::Nonce),
            ("r=xabc,s=eA==,i=1", ScramFault::Nonce),
        ] {
            let begun = Begun::with_nonce(Binding::Impossible, "abc".to_owned());
            let refused = begun.challenged(message.as_bytes()).map(|_| ());
            assert_eq!(refused, Err(fault), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_message_of_a_node_makes_it_panic_or_be_believed(
            first in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                "(r=abc[ -~]{0,6}|[rsim]=[ -~]{0,9})(,s=[A-Za-z0-9=]{0,8})?(,i=[0-9-]{0,12})?"
                    .prop_map(String::into_bytes),
            ],
            last in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                "[ve]=[A-Za-z0-9+/]{0,43}=?".prop_map(String::into_bytes),
            ],
        ) {
            let begun = Begun::with_nonce(Binding::NotOffered, "abc".to_owned());
            if let Ok(challenged) = begun.challenged(&first) {
                let (_, answered) = challenged.answer(&keys());
                prop_assert!(answered.finish(&last).is_err());
            }
        }
    }
}
