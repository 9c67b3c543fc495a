//! Throw-away clusters from the PostgreSQL binaries on this machine.
