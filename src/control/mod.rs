//! Measures the nodes and publishes what was found.

pub mod catalog;
