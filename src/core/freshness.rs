//! Which node is how fresh.
