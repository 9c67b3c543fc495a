//! What proves who somebody is, other than a password: SCRAM verifiers and keys, MD5 hashes.
//!
//! Invariants:
//! * Nothing here is printed: `Debug` leaves keys, hashes and salts out.
//! * What takes milliseconds says so and is meant for [`hashing`]'s threads.
//! * Secrets are compared in a time that does not depend on where they differ.
//!
//! Must not know where a secret comes from, or whom it lets in.

pub mod hashing;
pub mod scram;

use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};

use scram::Verifier;

/// What PostgreSQL stores instead of a password (`pg_authid.rolpassword`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPassword {
    /// A SCRAM verifier.
    Scram(Arc<Verifier>),
    /// An MD5 hash.
    Md5(Md5Hash),
}

impl StoredPassword {
    /// Reads what `pg_authid.rolpassword` holds; `None` for anything else, such as a plain password
    /// (`get_password_type`, `src/backend/libpq/crypt.c`).
    pub fn parse(text: &str) -> Option<Self> {
        let verifier = Verifier::parse(text).map(|verifier| Self::Scram(Arc::new(verifier)));
        verifier.or_else(|| Md5Hash::parse(text).map(Self::Md5))
    }
}

/// `md5` and the MD5 hash of password and role name, in lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Hash(String);

impl Md5Hash {
    /// Reads `md5` followed by 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        const DIGITS: usize = 32;
        let digits = text.strip_prefix("md5")?;
        let is_hash = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| Self(digits.to_ascii_lowercase()))
    }

    /// The hash of `password` for the role `user`.
    pub fn of(user: &str, password: &[u8]) -> Self {
        Self(hex(&[password, user.as_bytes()]))
    }

    /// The answer to a challenge with `salt` (`pg_md5_encrypt`, `src/common/md5_common.c`). Takes
    /// less than a microsecond.
    pub fn answer(&self, salt: [u8; 4]) -> String {
        format!("md5{}", hex(&[self.0.as_bytes(), &salt]))
    }

    /// Whether `other` is the same hash.
    pub fn is(&self, other: &Self) -> bool {
        same_bytes(other.0.as_bytes(), self.0.as_bytes())
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn hex(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    format!("{:032x}", u128::from_be_bytes(md5.finalize().into()))
}

/// Compares in a time that depends on the length of `given` only.
pub fn same_bytes(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (at, byte) in given.iter().enumerate() {
        let other = expected.get(at).copied().unwrap_or(0);
        difference = std::hint::black_box(difference | (byte ^ other));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::md5_hash;

    use super::*;

    #[test]
    fn equal_bytes_are_equal_and_nothing_else_is() {
        for (given, expected, same) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abd", "abc", false),
            ("ab", "abc", false),
            ("abc", "ab", false),
            ("ab\0", "ab", false),
            ("", "a", false),
        ] {
            let got = same_bytes(given.as_bytes(), expected.as_bytes());
            assert_eq!(got, same, "{given:?}");
        }
    }

    #[test]
    fn an_md5_hash_answers_as_the_password_does() {
        let hash = Md5Hash::of("app", b"secret");
        let stored = Md5Hash::parse(&format!("md5{}", hash.0.to_uppercase())).unwrap();
        assert!(stored.is(&hash));
        assert!(!stored.is(&Md5Hash::of("web", b"secret")));
        let salt = [1, 2, 3, 0xff];
        assert_eq!(stored.answer(salt), md5_hash(b"app", b"secret", salt));
        assert_ne!(stored.answer([1, 2, 3, 4]), stored.answer(salt));
    }

    #[test]
    fn what_is_neither_verifier_nor_hash_is_no_stored_password() {
        let verifier = scram::tests::VERIFIER;
        assert!(matches!(
            StoredPassword::parse(verifier),
            Some(StoredPassword::Scram(_))
        ));
        for text in [
            "",
            "secret",
            "md5",
            "md50123456789abcdef0123456789abcde",
            "md50123456789abcdef0123456789abcdeg",
            "md50123456789abcdef0123456789abcdef0",
        ] {
            assert_eq!(StoredPassword::parse(text), None, "{text}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let hash = Md5Hash::of("app", b"secret");
        let stored = StoredPassword::parse(scram::tests::VERIFIER);
        for shown in [format!("{hash:?}"), format!("{stored:?}")] {
            assert!(!shown.contains(&hash.0), "{shown}");
            assert!(!shown.contains("WG5d"), "{shown}");
        }
    }
}
