//! `pgweir run`.

use std::io;
use std::path::PathBuf;

use super::{ExitStatus, Streams};
use crate::config::{self, ProcessEnvironment};
use crate::{app, logging};

/// Runs the proxy in the foreground. SIGTERM and SIGINT drain and stop; SIGHUP reloads.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &RunArgs, streams: &mut Streams<'_>) -> io::Result<ExitStatus> {
    let config = match config::load(&args.config, &ProcessEnvironment) {
        Ok(config) => config,
        Err(errors) => {
            writeln!(streams.err, "{errors}")?;
            return Ok(ExitStatus::BadConfiguration);
        }
    };
    if let Err(error) = logging::set_up(&config.log) {
        writeln!(streams.err, "{error}")?;
        return Ok(ExitStatus::Failure);
    }
    match app::run(config, args.config.clone()) {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) => {
            tracing::error!(
                error = &error as &(dyn std::error::Error + 'static),
                "stopped"
            );
            Ok(ExitStatus::Failure)
        }
    }
}
