//! SQL text to [`Classification`](super::statement::Classification), in two steps.
//!
//! [`analyse`] collects what the text alone says: statements, transaction control, what stays
//! behind in the session, and every function, operator, relation and type that is named.
//! [`judge`] weighs that against the catalog and the configured lists; it is cheap enough to run
//! for every message. [`normalise`] gives texts that differ only in literals one cache key.
//!
//! How a read is proved. The text is cut into tokens exactly as PostgreSQL's
//! `src/backend/parser/scan.l` does (`standard_conforming_strings = on`). sqlparser must accept
//! those tokens as one query without a data-modifying statement, lock or INTO at any depth, and it
//! names the relations. Functions, operators and types are collected from the tokens, because
//! `name (` cannot be hidden from a token list whatever the shape of the tree. What sqlparser does not
//! understand gets a stricter look by its tokens alone.
//!
//! Invariants:
//! * Whatever is not proved to be a read is `ReadWrite`, with the reason.
//! * Transaction control is recognised in every spelling, also next to text that is not understood,
//!   up to `CLASSIFY_SCAN_BYTES` and `CLASSIFY_STATEMENTS`; beyond them the session
//!   is pinned.
//! * No input panics, overflows a 2 MiB stack or takes unbounded time or memory.
//! * Equal outputs of [`normalise`] give equal classifications.
//!
//! Code that is not named: triggers, defaults, checks, rules, policies, domains and views may run functions
//! that change the session. [`leaves_nothing`] reads the sources of functions for that; the catalog knows by
//! name what reaches the others, and whoever names one of those in a write is asked about afterwards. What
//! DDL has made doubtful is asked about too, and so is every write as long as there is no catalog.
//!
//! Known and left out: a function that is declared stable or immutable is believed, but for functions of
//! the server that it calls by name; if it writes, the replica answers 25006 and the statement is learned.
//! So is what extensions bring in C. Event triggers are not followed.
//!
//! sqlparser's types do not leave this module.

mod analysis;
mod apart;
mod bridge;
mod copy;
mod counters;
mod database;
mod ddl;
mod deallocate;
mod dispatch;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hint;
mod judge;
mod lexer;
mod limits;
#[cfg(any(test, fuzzing))]
mod looks;
mod normalise;
mod options;
mod query;
mod references;
mod route;
mod session;
mod source;
mod tokens;
mod transaction;

pub use analysis::{Analysis, analyse};
pub use apart::{Held, is_apart_from};
pub use database::database_to_leave;
pub use deallocate::deallocated_name;
pub use judge::judge;
pub use normalise::{Normalised, normalise};
pub use source::{Language, leaves_nothing};

#[cfg(test)]
mod tests;
