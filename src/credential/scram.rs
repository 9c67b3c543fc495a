//! SCRAM-SHA-256: what is stored of a password, and the keys that prove it.
//!
//! RFC 5802 and RFC 7677; `src/common/scram-common.c` and `src/backend/libpq/auth-scram.c`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::gen_salted_password;
use ring::{digest, hmac};

use super::same_bytes;
use crate::limits::SCRAM_ITERATIONS_DERIVED;

/// An SHA-256 hash.
pub type Key = [u8; 32];

/// PostgreSQL's own number of iterations (`SCRAM_SHA_256_DEFAULT_ITERATIONS`,
/// `src/include/common/scram-common.h`).
pub const USUAL_ITERATIONS: u32 = 4096;

/// How keys are derived from a password: the same password and derivation give the same keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The salt; never empty.
    pub salt: Box<[u8]>,
    /// How often the hash is taken; at least 1.
    pub iterations: u32,
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} iterations", self.iterations)
    }
}

/// What a server stores: it recognises who knows the password, and proves that it is the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    derivation: Derivation,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({:?})", self.derivation)
    }
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (`parse_scram_secret`,
    /// `auth-scram.c`); `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (derivation, keys) = rest.split_once('$')?;
        let (iterations, salt) = derivation.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = STANDARD.decode(salt).ok()?;
        let iterations = iterations.parse().ok()?;
        let usable = !salt.is_empty() && iterations > 0;
        usable.then_some(Self {
            derivation: Derivation {
                salt: salt.into(),
                iterations,
            },
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A verifier that no password fits.
    pub fn mock(derivation: Derivation) -> Self {
        Self {
            derivation,
            stored_key: rand::random(),
            server_key: rand::random(),
        }
    }

    /// How it was derived.
    pub const fn derivation(&self) -> &Derivation {
        &self.derivation
    }

    /// `StoredKey`.
    pub const fn stored_key(&self) -> &Key {
        &self.stored_key
    }

    /// `ServerKey`.
    pub const fn server_key(&self) -> &Key {
        &self.server_key
    }

    /// Whether `keys` were derived from the password that the verifier stands for.
    pub fn accepts(&self, keys: &Keys) -> bool {
        same_bytes(&hash(&keys.client_key), &self.stored_key)
    }
}

/// What proves to every server with the same verifier that one knows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    derivation: Derivation,
    client_key: Key,
    server_key: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:?})", self.derivation)
    }
}

impl Keys {
    /// Derives them; takes a few milliseconds at the usual number of iterations. `None` if there are
    /// so many that it would take seconds.
    pub fn derive(password: &str, derivation: Derivation) -> Option<Self> {
        if derivation.iterations > SCRAM_ITERATIONS_DERIVED {
            return None;
        }
        let iterations = usize::try_from(derivation.iterations).ok()?;
        let salted = gen_salted_password(password, &derivation.salt, iterations);
        Some(Self {
            derivation,
            client_key: hmac(&salted, b"Client Key"),
            server_key: hmac(&salted, b"Server Key"),
        })
    }

    /// What a client's `proof` for `auth_message` reveals to a server that knows the verifier; `None`
    /// if the proof is wrong.
    pub fn recover(verifier: &Verifier, auth_message: &[u8], proof: &[u8]) -> Option<Self> {
        let signature = hmac(&verifier.stored_key, auth_message);
        let proof: &Key = proof.try_into().ok()?;
        let keys = Self {
            derivation: verifier.derivation.clone(),
            client_key: xor(proof, &signature),
            server_key: verifier.server_key,
        };
        verifier.accepts(&keys).then_some(keys)
    }

    /// How they were derived.
    pub const fn derivation(&self) -> &Derivation {
        &self.derivation
    }

    /// What a server stores to recognise them.
    pub fn verifier(&self) -> Verifier {
        Verifier {
            derivation: self.derivation.clone(),
            stored_key: hash(&self.client_key),
            server_key: self.server_key,
        }
    }

    /// The client's proof for `auth_message`.
    pub fn proof(&self, auth_message: &[u8]) -> Key {
        let signature = hmac(&hash(&self.client_key), auth_message);
        xor(&self.client_key, &signature)
    }

    /// What the server proves itself with for `auth_message`.
    pub fn server_signature(&self, auth_message: &[u8]) -> Key {
        hmac(&self.server_key, auth_message)
    }
}

/// A key of 32 bytes in base64.
fn key(text: &str) -> Option<Key> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn hash(data: &[u8]) -> Key {
    copied(digest::digest(&digest::SHA256, data).as_ref())
}

fn hmac(key: &[u8], data: &[u8]) -> Key {
    copied(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
}

/// `hash`, which has 32 bytes.
fn copied(hash: &[u8]) -> Key {
    let mut copy = Key::default();
    for (to, from) in copy.iter_mut().zip(hash) {
        *to = *from;
    }
    copy
}

fn xor(a: &Key, b: &Key) -> Key {
    let mut xor = *a;
    for (to, from) in xor.iter_mut().zip(b) {
        *to ^= from;
    }
    xor
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What PostgreSQL 15 stores for the password `pencil` with this salt; keys computed apart.
    pub(in crate::credential) const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn derivation() -> Derivation {
        Verifier::parse(VERIFIER).unwrap().derivation
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard_comes_out() {
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,\
                       r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap();
        let keys = Keys::derive("pencil", derivation()).unwrap();
        assert_eq!(keys.proof(message.as_bytes())[..], proof);
        assert_eq!(
            STANDARD.encode(keys.server_signature(message.as_bytes())),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        let verifier = Verifier::parse(VERIFIER).unwrap();
        assert_eq!(keys.verifier(), verifier);
        let recovered = Keys::recover(&verifier, message.as_bytes(), &proof);
        assert_eq!(recovered, Some(keys));
        assert_eq!(Keys::recover(&verifier, b"another", &proof), None);
        assert_eq!(Keys::recover(&verifier, message.as_bytes(), b"short"), None);
    }

    #[test]
    fn keys_of_another_password_or_derivation_are_not_accepted() {
        let verifier = Verifier::parse(VERIFIER).unwrap();
        let accepts = |password, derivation| {
            let keys = Keys::derive(password, derivation).unwrap();
            verifier.accepts(&keys)
        };
        assert!(accepts("pencil", derivation()));
        assert!(!accepts("Pencil", derivation()));
        let fewer = Derivation {
            iterations: 4095,
            ..derivation()
        };
        assert!(!accepts("pencil", fewer));
        assert!(!Verifier::mock(derivation()).accepts(&Keys::derive("", derivation()).unwrap()));
    }

    #[test]
    fn what_is_not_a_verifier_is_not_read_as_one() {
        let [prefix, derivation, keys] = VERIFIER.split('$').collect::<Vec<_>>()[..] else {
            panic!("the example has three parts");
        };
        let salt = derivation.strip_prefix("4096:").unwrap();
        let stored = keys.split(':').next().unwrap();
        for text in [
            String::new(),
            prefix.to_owned(),
            format!("{prefix}${derivation}"),
            format!("SCRAM-SHA-1${derivation}${keys}"),
            format!("{prefix}$0:{salt}${keys}"),
            format!("{prefix}$-1:{salt}${keys}"),
            format!("{prefix}$5000000000:{salt}${keys}"),
            format!("{prefix}$4096:${keys}"),
            format!("{prefix}$4096:!${keys}"),
            format!("{prefix}${derivation}${stored}"),
            format!("{prefix}${derivation}${stored}:"),
            format!("{prefix}${derivation}${stored}:AAAA"),
            format!("{VERIFIER}:x"),
        ] {
            assert_eq!(Verifier::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_derivation_that_takes_seconds_is_not_begun() {
        let costly = Derivation {
            iterations: SCRAM_ITERATIONS_DERIVED + 1,
            ..derivation()
        };
        assert_eq!(Keys::derive("pencil", costly), None);
    }
}
