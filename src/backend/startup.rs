//! What a server connection is opened with.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::backend::error::ConnectError;
use crate::limits::STARTUP_PACKET_BYTES;
use crate::protocol::message::{write_counted, write_string};
use crate::protocol::startup::Replication;

/// Protocol version 3.0 (`PG_PROTOCOL(3, 0)`, `src/include/libpq/pqcomm.h`).
const PROTOCOL_3_0: i32 = 3 << 16;

/// Run-time parameters of a startup packet besides `user` and `database`: `application_name`,
/// `client_encoding`, `options`, and so on.
///
/// Two sets with the same names and values are equal whatever their order was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StartupParameters {
    /// Of `pairs`; compared first, so that different sets differ at once.
    fingerprint: u64,
    /// Sorted by name, each name once.
    pairs: Vec<(String, String)>,
    replication: Replication,
    era: LoginEra,
}

/// How often the logins of roles had changed when a client came: a connection that was opened for one that
/// came earlier may be another role's by now, or one that may not log in any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LoginEra(pub u64);

impl StartupParameters {
    /// Takes the parameters as a client sent them; of a repeated name the last value counts, as in
    /// PostgreSQL. `user`, `database`, `replication` and `_pq_.` names are left out: they are not
    /// run-time parameters.
    pub fn new(parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut sorted = std::collections::BTreeMap::new();
        for (name, value) in parameters {
            let special = matches!(name.as_str(), "user" | "database" | "replication");
            if !special && !name.starts_with("_pq_.") {
                sorted.insert(name, value);
            }
        }
        let pairs: Vec<_> = sorted.into_iter().collect();
        let mut hasher = DefaultHasher::new();
        pairs.hash(&mut hasher);
        Self {
            fingerprint: hasher.finish(),
            pairs,
            replication: Replication::None,
            era: LoginEra::default(),
        }
    }

    /// The same, for a client that has come in `era`.
    #[must_use]
    pub fn in_era(self: &Arc<Self>, era: LoginEra) -> Arc<Self> {
        if self.era == era {
            return Arc::clone(self);
        }
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, era).hash(&mut hasher);
        Arc::new(Self {
            fingerprint: hasher.finish(),
            era,
            ..Self::clone(self)
        })
    }

    /// The same, for a connection that is to speak another protocol.
    #[must_use]
    pub fn speaking(self, replication: Replication) -> Self {
        Self {
            replication,
            ..self
        }
    }

    /// Names and values, sorted by name.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

impl Default for StartupParameters {
    fn default() -> Self {
        Self::new([])
    }
}

/// The startup packet for `user` and `database` (manual, "Message Formats", `StartupMessage`).
///
/// # Errors
/// When a name or value holds a NUL, or the packet is longer than PostgreSQL accepts.
pub(crate) fn startup_packet(
    user: &str,
    database: &str,
    parameters: &StartupParameters,
) -> Result<Vec<u8>, ConnectError> {
    let named = [("user", user), ("database", database)];
    let extra = parameters.pairs.iter().map(|(n, v)| (&**n, &**v));
    let replication = parameters.replication.parameter();
    let replication = replication.map(|value| ("replication", value));
    let all = || {
        named
            .iter()
            .copied()
            .chain(replication)
            .chain(extra.clone())
    };
    if all().any(|(name, value)| name.contains('\0') || value.contains('\0') || name.is_empty()) {
        return Err(ConnectError::StartupParameters);
    }
    let mut packet = Vec::with_capacity(128);
    write_counted(&mut packet, |body| {
        body.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        for (name, value) in all() {
            write_string(body, name.as_bytes());
            write_string(body, value.as_bytes());
        }
        body.push(0);
    });
    if packet.len() > STARTUP_PACKET_BYTES {
        return Err(ConnectError::StartupParameters);
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> StartupParameters {
        StartupParameters::new(pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())))
    }

    #[test]
    fn equality_is_about_names_and_values_only() {
        let a = of(&[("b", "2"), ("a", "1"), ("user", "x"), ("_pq_.z", "1")]);
        assert_eq!(a, of(&[("a", "0"), ("a", "1"), ("b", "2")]));
        assert_ne!(a, of(&[("a", "1"), ("b", "3")]));
        assert_ne!(a, StartupParameters::default());
    }

    #[test]
    fn packet_is_framed_and_its_contents_are_checked() {
        let packet = startup_packet("me", "db", &of(&[("options", "-c a=b")])).unwrap();
        assert_eq!(packet[..8], *b"\0\0\0\x2c\0\x03\0\0");
        assert_eq!(packet[8..], *b"user\0me\0database\0db\0options\0-c a=b\0\0");
        let walsender = of(&[]).speaking(Replication::Database);
        assert_ne!(walsender, of(&[]));
        let packet = startup_packet("me", "db", &walsender).unwrap();
        assert!(packet.ends_with(b"database\0db\0replication\0database\0\0"));
        assert!(startup_packet("m\0e", "db", &of(&[])).is_err());
        assert!(startup_packet("me", "db", &of(&[("a", "x\0y")])).is_err());
        assert!(startup_packet("me", "db", &of(&[("", "x")])).is_err());
        let long = "x".repeat(STARTUP_PACKET_BYTES);
        assert!(startup_packet("me", "db", &of(&[("a", &long)])).is_err());
    }
}
