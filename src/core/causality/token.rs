//! What a token says, as bytes; signing is others' business.

use crate::core::causality::positions::SystemPosition;
use crate::core::lsn::Lsn;

/// The version of the layout.
const VERSION: u8 = 1;

/// How long a token is without its signature, in bytes.
pub const TOKEN_BYTES: usize = 29;

/// What one session wrote or has seen, as positions of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Everything it covers ends here or before.
    pub hi: SystemPosition,
    /// The session's last write ends behind this position of the same timeline; 0 if that is not known.
    pub lo: Lsn,
}

impl Token {
    /// Version, system, timeline, `lo`, `hi`; in network byte order.
    pub fn to_bytes(self) -> [u8; TOKEN_BYTES] {
        let mut bytes = [0; TOKEN_BYTES];
        let parts = [VERSION]
            .into_iter()
            .chain(self.hi.system.to_be_bytes())
            .chain(self.hi.timeline.to_be_bytes())
            .chain(self.lo.0.to_be_bytes())
            .chain(self.hi.lsn.0.to_be_bytes());
        for (byte, part) in bytes.iter_mut().zip(parts) {
            *byte = part;
        }
        bytes
    }

    /// The inverse; `None` for another length or version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (system, rest) = rest.split_first_chunk()?;
        let (timeline, rest) = rest.split_first_chunk()?;
        let (lo, rest) = rest.split_first_chunk()?;
        let (hi, rest) = rest.split_first_chunk()?;
        if *version != VERSION || !rest.is_empty() {
            return None;
        }
        Some(Self {
            hi: SystemPosition {
                system: i64::from_be_bytes(*system),
                timeline: u32::from_be_bytes(*timeline),
                lsn: Lsn(u64::from_be_bytes(*hi)),
            },
            lo: Lsn(u64::from_be_bytes(*lo)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_no_other_length_or_version_is() {
        let token = Token {
            hi: SystemPosition {
                system: -7_012_345_678_901_234_567,
                timeline: 3,
                lsn: Lsn(0x16_B374_D848),
            },
            lo: Lsn(0x16_B374_0000),
        };
        let bytes = token.to_bytes();
        assert_eq!(Token::from_bytes(&bytes), Some(token));
        for length in 0..TOKEN_BYTES {
            assert_eq!(Token::from_bytes(&bytes[..length]), None, "{length}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Token::from_bytes(&longer), None);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Token::from_bytes(&other), None);
    }
}
