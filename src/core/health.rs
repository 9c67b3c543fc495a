//! When a node counts as reachable.
