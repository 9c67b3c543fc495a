//! The command line.
//!
//! Data goes to standard output, everything said about it to standard error. Exit status: 0 ok,
//! 1 runtime failure, 2 usage, 78 bad configuration.

mod check;
mod explain;
mod run;
mod sandbox;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::sandbox::SandboxArgs;

/// A PostgreSQL proxy that splits reads from writes and proves that every read is fresh.
#[derive(Debug, Parser)]
#[command(name = "pgweir", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Sandbox(SandboxArgs),
}

/// What a command ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It did what was asked.
    Success,
    /// Something failed while it ran.
    Failure,
    /// The configuration is refused (`EX_CONFIG` of `sysexits.h`).
    BadConfiguration,
}

impl ExitStatus {
    /// The number a shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::BadConfiguration => 78,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    let status = match cli.command {
        Command::Run(args) => run::run(&args, &mut streams),
        Command::Check(args) => check::run(&args, &mut streams),
        Command::Explain(args) => explain::run(&args, &mut streams),
        Command::Sandbox(args) => sandbox::run(&args, &mut streams),
    };
    match status {
        Ok(status) => ExitCode::from(status.code()),
        // Nobody reads the output any more, so there is nobody to tell.
        Err(_) => ExitCode::from(ExitStatus::Failure.code()),
    }
}

/// Prints help and version to standard output (status 0), wrong usage to standard error (2).
fn usage(error: &clap::Error) -> ExitCode {
    // As above: a closed stream has no reader to tell.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Where a command writes.
struct Streams<'a> {
    /// Data.
    out: &'a mut dyn Write,
    /// Talk.
    err: &'a mut dyn Write,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_has_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}", argument.get_id());
            }
        }
    }

    #[test]
    fn wrong_usage_ends_with_two_and_help_with_zero() {
        for (arguments, code) in [
            (&["pgweir"][..], 2),
            (&["pgweir", "run"], 2),
            (&["pgweir", "nothing"], 2),
            (&["pgweir", "check", "--config"], 2),
            (&["pgweir", "--help"], 0),
            (&["pgweir", "check", "--help"], 0),
            (&["pgweir", "--version"], 0),
        ] {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(error.exit_code(), code, "{arguments:?}");
        }
        assert!(Cli::try_parse_from(["pgweir", "run", "--config", "x.yaml"]).is_ok());
    }
}
