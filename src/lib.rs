//! pgweir: a PostgreSQL proxy that splits reads from writes and proves that every read is fresh.

pub mod admin;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod frontend;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod protocol;
pub mod published;
pub mod sandbox;
pub mod wire;
pub mod world;
