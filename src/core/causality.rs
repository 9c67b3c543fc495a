//! What binds the reads of more than one connection: causal keys.
//!
//! Inside one process a key is what its members have written and seen together, as instants on the
//! process's own clock.

pub mod keys;
