//! Connections to the nodes.
