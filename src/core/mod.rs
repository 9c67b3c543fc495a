//! The pure core: facts in, decisions with reasons out.
//!
//! Invariants:
//! * No I/O, no clock, no async, no logging, no global state. The instant, the random pick and the
//!   world arrive as arguments.
//! * Every decision carries a closed-enum reason that metrics can count.
//! * What is not understood, not known or not measured leads to the primary.

pub mod audit;
pub mod catalog;
pub mod causality;
pub mod classify;
pub mod crossing;
pub mod freshness;
pub mod guarantee;
pub mod health;
pub mod lsn;
pub mod policy;
pub mod reading;
pub mod residue;
pub mod retry;
pub mod router;
pub mod segment;
pub mod snapshot;
pub mod statement;
#[cfg(test)]
mod testing;
pub mod words;
