//! The decisions of pgweir, driven through random schedules of a simulated cluster.
//!
//! `core` and `limits` are links to the product's own files, of which only what decides is compiled.
//! The main crate's unit tests compile [`simulation`] the same way and run a few thousand schedules of
//! it; this crate is optimised and runs ten million.

pub mod limits;

/// What decides, out of the product's core.
pub mod core {
    pub mod causality;
    pub mod freshness;
    pub mod guarantee;
    pub mod health;
    pub mod lsn;
    pub mod policy;
    pub mod residue;
    pub mod retry;
    pub mod router;
    pub mod snapshot;
    pub mod statement;
}

pub mod simulation;
