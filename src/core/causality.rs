//! What binds the reads of more than one connection: causal keys and tokens.
//!
//! Inside one process a key is what its members have written and seen together, as instants on the
//! process's own clock. What leaves the process is a position of the primary, and becomes an instant
//! again where it comes in.

pub mod keys;
pub mod positions;
pub mod token;
