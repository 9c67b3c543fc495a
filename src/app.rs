//! Composition: builds every ring from a configuration and runs it.
