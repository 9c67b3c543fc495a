//! Connections to the nodes: opening them, pooling them, cancelling what runs on them.
//!
//! Invariants:
//! * Every await on a node has a deadline; everything a node sends is bounded and checked.
//! * A pool never holds more than `pool.size` connections, counting those being opened.
//! * A connection goes back to its pool only when its user says that it is clean; in every other
//!   case, a panic included, its socket is closed and its place freed.
//! * A pool that is full is not a node that failed: the two are different errors.
//!
//! Must not know SQL, sessions or routing, and never retries.

pub mod authenticate;
pub mod cancel;
pub mod connect;
pub mod connection;
pub mod custom;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod home;
pub mod login;
pub mod pool;
pub mod scram;
pub mod startup;
pub mod state;
