//! pgweir: a PostgreSQL proxy that splits reads from writes and proves that every read is fresh.
//!
//! # Shape
//!
//! A pure **core** turns facts (SQL text, what a session has done, samples of nodes, an instant) into
//! decisions with reasons. A pure **protocol** layer turns bytes into frames and small views. Rings of
//! ordinary async code stand around them: **backend** (connections to nodes), **frontend** (clients),
//! **control** (measures nodes), **admin** (shows what happened). They meet in **app** only.
//!
//! ```text
//!  client ── frontend ── core::router ── backend ── primary / replicas
//!               │ reads                     ▲
//!               └── world::ClusterWorld ◄── control (samples every node)
//! ```
//!
//! # Invariants
//!
//! * `core` does no I/O, reads no clock and logs nothing; `sqlparser` does not leave `core::classify`.
//! * `frontend` and `control` never call each other: one writes the [`world`], the other reads it.
//! * Consistency is one comparison of two instants on this process's clock: the *floor* of a session
//!   ([`core::guarantee`]) and the instant as of which a replica is fresh ([`core::freshness`]). WAL
//!   positions are compared only where freshness is computed, and where a floor comes from another
//!   process as a position and becomes an instant ([`core::causality`]).
//! * What a managed service only states of its replicas is kept apart from what is proved
//!   ([`core::snapshot::Evidence`]), and serves no read that needs a proof.
//! * What is not understood, not known or not measured goes to the primary, with a reason.
//! * Every queue, cache, buffer, wait and retry has a bound, in [`limits`] or in the configuration.
//! * A module imports only what stands above it here: `limits`, `core`, `protocol`, `wire`, `tls`,
//!   `credential`, `config`, `metrics`, `published`, `world`, `backend`, `control`, `frontend`, `admin`, `app`, `sandbox`,
//!   `cli`.
//!
//! # One query
//!
//! 1. [`frontend::session`] reads into a borrowed buffer and finds the segment
//!    ([`protocol::segment`]): a Query, or extended messages up to Sync or Flush.
//! 2. The plan looks up each text in the worker's [`frontend::classification`] cache, by its bytes,
//!    then without its literals; else [`core::classify`] analyses it. Verdicts are judged against the
//!    catalog that `control` keeps.
//! 3. [`core::segment`] takes the strictest verdict; [`core::guarantee`] gives the floor.
//! 4. [`core::router`] chooses a node, or asks to wait; then [`world::FreshnessDemand`] wakes the
//!    samplers.
//! 5. [`backend::pool`] leases a connection; missing settings and prepared statements are repeated.
//! 6. The messages are written, unchanged but for names of prepared statements, and every expected reply is
//!    noted in [`protocol::outstanding`].
//! 7. The relay hops over the reply's headers ([`protocol::replies`]) and passes whole spans on. While
//!    nothing has reached the client, a replica's refusal sends the statement elsewhere.
//! 8. At `ReadyForQuery` the session notes what it wrote or saw, and gives the connection back.

pub mod admin;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod credential;
pub mod frontend;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod protocol;
pub mod published;
pub mod sandbox;
pub mod tls;
pub mod wire;
pub mod world;
