//! What to do with a statement that a replica refused before any of its result went out.

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterError {
    /// The client gets it.
    Surface,
    /// The statement cannot run on a hot standby: the primary runs it.
    Misrouted,
    /// Perhaps it cannot, perhaps it fails everywhere: that it was misrouted is known when the primary
    /// has run it.
    PerhapsMisrouted,
    /// The replica may not have the object yet: the primary decides.
    AskPrimary,
    /// Replay had to proceed, or the replica is going away: another node runs it.
    Elsewhere,
}

/// Judges the SQLSTATE with which a replica answered a read.
///
/// Refusals of a hot standby come as 25006 and 55000, and as 0A000 and XX000 where the message says
/// "during recovery" (manual, "Hot Standby"), which it may say in another language. 40001 and 40P01 there are recovery conflicts
/// (`src/backend/storage/ipc/standby.c`), class 57P0x is a server that stops or starts.
pub fn after_replica_error(sqlstate: &[u8; 5], recovery: NamesRecovery) -> AfterError {
    match (sqlstate, recovery) {
        (b"25006" | b"55000", _) | (b"0A000" | b"XX000", NamesRecovery::Yes) => {
            AfterError::Misrouted
        }
        (b"0A000", NamesRecovery::No) => AfterError::PerhapsMisrouted,
        (b"42P01" | b"42703" | b"42883" | b"42704" | b"3F000", _) => AfterError::AskPrimary,
        (b"40001" | b"40P01" | b"57P01" | b"57P02" | b"57P03", _) => AfterError::Elsewhere,
        _ => AfterError::Surface,
    }
}

/// Whether the message speaks of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamesRecovery {
    /// It does.
    Yes,
    /// It does not, or in another language.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_belong_to_the_replica_are_taken_back() {
        let cases: [(&[u8; 5], NamesRecovery, AfterError); 11] = [
            (b"25006", NamesRecovery::No, AfterError::Misrouted),
            (b"0A000", NamesRecovery::Yes, AfterError::Misrouted),
            (b"0A000", NamesRecovery::No, AfterError::PerhapsMisrouted),
            (b"55000", NamesRecovery::No, AfterError::Misrouted),
            (b"XX000", NamesRecovery::Yes, AfterError::Misrouted),
            (b"XX000", NamesRecovery::No, AfterError::Surface),
            (b"42P01", NamesRecovery::No, AfterError::AskPrimary),
            (b"40001", NamesRecovery::No, AfterError::Elsewhere),
            (b"57P01", NamesRecovery::No, AfterError::Elsewhere),
            (b"57014", NamesRecovery::No, AfterError::Surface),
            (b"22012", NamesRecovery::No, AfterError::Surface),
        ];
        for (sqlstate, recovery, expected) in cases {
            assert_eq!(after_replica_error(sqlstate, recovery), expected);
        }
    }
}
