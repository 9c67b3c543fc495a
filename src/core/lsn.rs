//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log (`pg_lsn`).
///
/// Printed as PostgreSQL prints it: two hexadecimal halves with a slash
/// (`src/backend/utils/adt/pg_lsn.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes `self` is ahead of `other`; zero when it is not ahead.
    pub const fn bytes_ahead_of(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not `X/X` with two hexadecimal halves of at most eight digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position (expected two hexadecimal numbers with a slash, as in 16/B374D848)")]
pub struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Self(hex_half(high)? << 32 | hex_half(low)?))
    }
}

fn hex_half(text: &str) -> Result<u64, InvalidLsn> {
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(InvalidLsn);
    }
    u64::from_str_radix(text, 16).map_err(|_| InvalidLsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_postgresql_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "1/123456789",
            "-1/0",
            "+1/0",
            "g/0",
        ] {
            assert_eq!(bad.parse::<Lsn>(), Err(InvalidLsn), "{bad}");
        }
    }

    #[test]
    fn being_behind_is_zero_bytes_ahead() {
        assert_eq!(Lsn(5).bytes_ahead_of(Lsn(9)), 0);
        assert_eq!(Lsn(9).bytes_ahead_of(Lsn(5)), 4);
    }
}
