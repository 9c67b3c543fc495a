//! Composition: builds every ring from a configuration and runs it.

use std::path::PathBuf;

use crate::config::Config;

/// Why the process ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing that relays.
    #[error("this build has no relay")]
    NoRelay,
}

/// Runs the proxy that `config`, read from `path`, describes.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(config: Config, path: PathBuf) -> Result<(), Error> {
    tracing::info!(path = %path.display(), clusters = config.clusters.len(), "configuration loaded");
    Err(Error::NoRelay)
}
