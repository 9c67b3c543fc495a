//! Signs and checks tokens: a client must not be able to make one up.
//!
//! URL-safe base64 of the token's bytes and their HMAC-SHA-256 (RFC 2104, RFC 4231).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::config::Secret;
use crate::core::causality::token::{TOKEN_BYTES, Token};

/// Length of the signature, in bytes.
const SIGNATURE_BYTES: usize = 32;

/// The longest text that can be a token, in bytes.
const TEXT_BYTES: usize = (TOKEN_BYTES + SIGNATURE_BYTES).div_ceil(3) * 4;

/// The key that tokens are signed with.
pub struct TokenKey(hmac::Key);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl TokenKey {
    /// The key made of `causality.secret`; without one, a key of this process alone.
    pub fn new(secret: Option<&Secret>) -> Self {
        let random: [u8; SIGNATURE_BYTES] = rand::random();
        let bytes = secret.map_or(random.as_slice(), |secret| secret.expose().as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// `token` as a client gets it.
    pub fn sign(&self, token: Token) -> String {
        let mut bytes = token.to_bytes().to_vec();
        let signature = hmac::sign(&self.0, &bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What [`Self::sign`] was given for `text`; `None` if it has not made it.
    pub fn verify(&self, text: &str) -> Option<Token> {
        if text.len() > TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, signature) = bytes.split_at_checked(TOKEN_BYTES)?;
        hmac::verify(&self.0, said, signature).ok()?;
        Token::from_bytes(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::causality::positions::SystemPosition;
    use crate::core::lsn::Lsn;

    const TOKEN: Token = Token {
        hi: SystemPosition {
            system: 7,
            timeline: 1,
            lsn: Lsn(4096),
        },
        lo: Lsn(1024),
    };

    #[test]
    fn only_what_the_same_secret_has_signed_is_accepted() {
        let secret = Secret::new("a secret of 16 bytes or more");
        let key = TokenKey::new(Some(&secret));
        let text = key.sign(TOKEN);
        assert_eq!(TokenKey::new(Some(&secret)).verify(&text), Some(TOKEN));
        assert_eq!(TokenKey::new(None).verify(&text), None);
        assert_eq!(
            TokenKey::new(None).verify(&TokenKey::new(None).sign(TOKEN)),
            None,
            "each process has its own key"
        );
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(key.verify(&forged), None, "{forged}");
        }
        let shorter = text.get(1..).unwrap();
        for bad in [
            "",
            "x",
            "====",
            shorter,
            &format!("{text}A"),
            &"A".repeat(1 << 20),
        ] {
            assert_eq!(key.verify(bad), None);
        }
    }
}
