//! The file as written: YAML as a tree, and a reader of it that remembers every fault.
//!
//! Invariants:
//! * `serde_yaml` is used in this module's `yaml` only.
//! * Reading never stops at a fault: what is absent or faulty reads as `None`.
//! * A key that nobody has asked for is a fault.

mod faults;
mod reader;
mod yaml;

pub(super) use faults::{Faults, Misfit};
pub(super) use reader::{Bound, Field, Section};
pub(super) use yaml::{KeyPath, NotYaml, parse};
