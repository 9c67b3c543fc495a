//! Measures the nodes and publishes what was found.
//!
//! [`monitor`] keeps one probe loop per node; each answer goes into the pure observer
//! (`core::freshness::observer`), and [`publisher`] stores the snapshot that comes out of it.

mod backoff;
pub mod catalog;
pub mod causal_store;
pub mod connect;
mod crossing;
pub mod limits;
pub mod monitor;
pub mod probe;
pub mod publisher;
pub mod roles;
mod topology;
