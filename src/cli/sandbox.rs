//! `pgweir sandbox`.

use std::io;

use super::{ExitStatus, Streams};
use crate::sandbox::{self, SandboxArgs};

/// Runs a sandbox until it is interrupted.
///
/// # Errors
/// Only of writing to the streams.
pub(super) fn run(args: &SandboxArgs, streams: &mut Streams<'_>) -> io::Result<ExitStatus> {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(sandbox::run(args)));
    match outcome {
        Ok(Ok(())) => Ok(ExitStatus::Success),
        Ok(Err(error)) => failed(streams, &error),
        Err(error) => failed(streams, &error),
    }
}

fn failed(streams: &mut Streams<'_>, error: &dyn std::error::Error) -> io::Result<ExitStatus> {
    write!(streams.err, "pgweir: {error}")?;
    let mut cause = error.source();
    while let Some(source) = cause {
        write!(streams.err, ": {source}")?;
        cause = source.source();
    }
    writeln!(streams.err)?;
    Ok(ExitStatus::Failure)
}
