//! `pgweir check`.

mod connect;

use std::io::{self, Write};
use std::path::PathBuf;

use super::{ExitStatus, Streams};
use crate::config::{
    self, ClusterConfig, Config, DatabasePattern, Environment, ProcessEnvironment,
};

/// Validates a configuration and reports every fault at once.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Also reach each node and print its role, timeline, lag and missing privileges.
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &CheckArgs, streams: &mut Streams<'_>) -> io::Result<ExitStatus> {
    check(args, &ProcessEnvironment, streams)
}

fn check(
    args: &CheckArgs,
    environment: &dyn Environment,
    streams: &mut Streams<'_>,
) -> io::Result<ExitStatus> {
    match config::load(&args.config, environment) {
        Ok(config) => {
            writeln!(streams.out, "{}: ok", args.config.display())?;
            summary(&config, streams.out)?;
            if args.connect {
                connect::run(&config, streams)
            } else {
                Ok(ExitStatus::Success)
            }
        }
        Err(errors) => {
            writeln!(streams.out, "{errors}")?;
            Ok(ExitStatus::BadConfiguration)
        }
    }
}

fn summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let http = config
        .http
        .map_or("none".to_owned(), |http| http.to_string());
    writeln!(
        out,
        "  listen {}, http {http}, workers {}, users {}",
        listen.join(" "),
        config.workers,
        config.users.len()
    )?;
    for cluster in &config.clusters {
        cluster_summary(cluster, out)?;
    }
    Ok(())
}

fn cluster_summary(cluster: &ClusterConfig, out: &mut dyn Write) -> io::Result<()> {
    let nodes: Vec<&str> = cluster.nodes.iter().map(|node| &*node.name).collect();
    let databases = cluster.databases.iter().map(|pattern| match pattern {
        DatabasePattern::AllOthers => "*",
        DatabasePattern::Name(name) => name,
    });
    let databases: Vec<&str> = databases.collect();
    writeln!(
        out,
        "  cluster {}: nodes {}, databases {}, consistency {}, pool {}",
        cluster.name,
        nodes.join(" "),
        databases.join(" "),
        cluster.policies.consistency.default.as_str(),
        cluster.pool.size
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(file: &str) -> (ExitStatus, String) {
        let args = CheckArgs {
            config: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file),
            connect: false,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        let status = check(&args, &ProcessEnvironment, &mut streams).unwrap();
        assert_eq!(err, b"", "the report is data");
        (status, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_good_file_is_ok_with_a_summary() {
        let (status, report) = checked("config/minimal.yaml");
        assert_eq!(status.code(), 0);
        let mut lines = report.lines();
        assert!(
            lines.next().unwrap().ends_with("config/minimal.yaml: ok"),
            "{report}"
        );
        assert!(report.contains("cluster main: nodes "), "{report}");
    }

    #[test]
    fn a_file_that_is_not_there_or_no_configuration_ends_with_78() {
        for file in ["config/absent.yaml", "Cargo.toml"] {
            let (status, report) = checked(file);
            assert_eq!(status.code(), 78);
            assert!(report.contains(file), "{report}");
        }
    }
}
