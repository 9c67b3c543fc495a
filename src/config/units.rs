//! Durations, sizes and percentages as they are written in the file.

use std::time::Duration;

/// Why a text is not a value of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadUnit {
    pub(super) rule: &'static str,
    pub(super) hint: &'static str,
}

const BAD_DURATION: BadUnit = BadUnit {
    rule: "is not a duration",
    hint: "write a whole number with one of us, ms, s, m, h, d, as in 250ms or 10s",
};

const BAD_SIZE: BadUnit = BadUnit {
    rule: "is not a size",
    hint: "write a whole number with one of B, kB, MB, GB (or KiB, MiB, GiB: the same, as in PostgreSQL)",
};

const BAD_PERCENTAGE: BadUnit = BadUnit {
    rule: "is not a percentage",
    hint: "write a whole number from 0 to 100 with a percent sign, as in 50%",
};

/// A whole number with a unit from `us` to `d`; `min` is `m`, as in PostgreSQL.
pub(super) fn duration(text: &str) -> Result<Duration, BadUnit> {
    let (number, unit) = split(text).ok_or(BAD_DURATION)?;
    let micros_of_one: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(BAD_DURATION),
    };
    let micros = number.checked_mul(micros_of_one).ok_or(BAD_DURATION)?;
    Ok(Duration::from_micros(micros))
}

/// A whole number with a unit, in bytes. `kB` is 1024 bytes, as in PostgreSQL
/// (<https://www.postgresql.org/docs/current/config-setting.html>).
pub(super) fn size(text: &str) -> Result<u64, BadUnit> {
    let (number, unit) = split(text).ok_or(BAD_SIZE)?;
    let bytes_of_one: u64 = match unit {
        "B" => 1,
        "kB" | "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        "TB" | "TiB" => 1 << 40,
        _ => return Err(BAD_SIZE),
    };
    number.checked_mul(bytes_of_one).ok_or(BAD_SIZE)
}

/// From 0 to 100.
pub(super) fn percentage(text: &str) -> Result<u8, BadUnit> {
    match split(text) {
        Some((number @ 0..=100, "%")) => u8::try_from(number).map_err(|_| BAD_PERCENTAGE),
        Some(_) | None => Err(BAD_PERCENTAGE),
    }
}

/// `duration` as it would be written, in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, one) in [
        ("h", 3_600_000_000),
        ("m", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1_000),
    ] {
        if micros >= one && micros.is_multiple_of(one) {
            return format!("{}{unit}", micros / one);
        }
    }
    format!("{micros}us")
}

/// `bytes` as they would be written, in the largest unit that divides them.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = 1_u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, micros) in [
            ("250us", 250),
            ("250ms", 250_000),
            ("10s", 10_000_000),
            ("10 s", 10_000_000),
            ("15m", 900_000_000),
            ("15min", 900_000_000),
            ("1h", 3_600_000_000),
            ("2d", 172_800_000_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "10S",
            "1e3s",
            "1s1s",
            "10s ",
            "ms10",
            "99999999999999999999s",
            "18446744073709551615h",
            "1\u{e9}",
        ] {
            assert_eq!(duration(text), Err(BAD_DURATION), "{text}");
        }
    }

    #[test]
    fn sizes_have_a_unit_and_a_kilobyte_is_postgresqls() {
        for (text, bytes) in [
            ("1B", 1),
            ("512kB", 524_288),
            ("512KiB", 524_288),
            ("64MiB", 67_108_864),
            ("64MB", 67_108_864),
            ("1GiB", 1_073_741_824),
            ("2 TB", 2_199_023_255_552),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "1",
            "1.5MB",
            "-1MB",
            "1mb",
            "MB",
            "1 M B",
            "99999999999TiB",
        ] {
            assert_eq!(size(text), Err(BAD_SIZE), "{text}");
        }
    }

    #[test]
    fn percentages_are_whole_and_at_most_a_hundred() {
        assert_eq!(percentage("0%"), Ok(0));
        assert_eq!(percentage("100%"), Ok(100));
        for text in ["", "100", "101%", "-1%", "0.5%", "%"] {
            assert_eq!(percentage(text), Err(BAD_PERCENTAGE), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["1h", "15m", "10s", "90s", "250ms", "1us"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for text in ["1GiB", "64MiB", "512KiB", "1000B"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
    }
}
