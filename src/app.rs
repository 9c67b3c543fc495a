//! Composition: builds every ring from a configuration and runs it.

use std::path::PathBuf;

use crate::config::Config;

/// Why the process ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing that relays.
    #[error("this build has no relay for the {clusters} clusters of {}", path.display())]
    NoRelay {
        /// The configuration.
        path: PathBuf,
        /// How many clusters it has.
        clusters: usize,
    },
}

/// Runs the proxy that `config`, read from `path`, describes.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(config: Config, path: PathBuf) -> Result<(), Error> {
    let Config { clusters, .. } = config;
    let clusters = clusters.len();
    Err(Error::NoRelay { path, clusters })
}
