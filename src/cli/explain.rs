//! `pgweir explain`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ExitStatus, Streams};
use crate::config::{self, ClusterConfig, ConfigErrors, ProcessEnvironment};
use crate::control::catalog::{CatalogError, load_from_primary};
use crate::core::catalog::{Catalog, Persistence, RelationKind, RelationRow};
use crate::core::classify::{Analysis, analyse, judge};
use crate::core::policy::{Balance, RoutingPolicy, Transactions};
use crate::core::statement::{Classification, Hint};
use crate::core::words::{class, destination, effects, hint};

/// Prints how statements would be classified and routed, and why.
///
/// Without a configuration only what PostgreSQL itself contains is known: every other relation is
/// taken for an ordinary table, and every other function for unknown.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The configuration whose cluster's catalog and lists are used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster of the configuration; the first one if not given.
    #[arg(long, value_name = "NAME", requires = "config")]
    cluster: Option<String>,
    /// The database whose catalog is read; the monitor's if not given.
    #[arg(long, value_name = "NAME", requires = "config")]
    database: Option<String>,
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The SQL texts; each may hold several statements.
    #[arg(required = true)]
    sql: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Lines for people.
    Text,
    /// One JSON array.
    Json,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("{0}")]
    Config(#[source] ConfigErrors),
    #[error("the configuration has no such cluster")]
    NoCluster,
    #[error("cannot read the catalog of the primary: {0}")]
    Catalog(#[source] CatalogError),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// What statements are judged against.
#[derive(Debug)]
enum Knowledge {
    Offline,
    Live {
        catalog: Box<Catalog>,
        cluster: Arc<ClusterConfig>,
        database: String,
    },
}

pub(super) fn run(args: &ExplainArgs, streams: &mut Streams<'_>) -> io::Result<ExitStatus> {
    let knowledge = match knowledge(args) {
        Ok(knowledge) => knowledge,
        Err(error) => {
            writeln!(streams.err, "pgweir: {error}")?;
            return Ok(match error {
                ExplainError::Config(_) => ExitStatus::BadConfiguration,
                ExplainError::NoCluster | ExplainError::Catalog(_) | ExplainError::Runtime(_) => {
                    ExitStatus::Failure
                }
            });
        }
    };
    let answers: Vec<(&str, Classification)> = args
        .sql
        .iter()
        .map(|sql| (sql.as_str(), knowledge.classify(sql)))
        .collect();
    match args.format {
        Format::Text => {
            writeln!(streams.err, "{}", knowledge.describe())?;
            for (sql, found) in &answers {
                write_text(streams, sql, found)?;
            }
        }
        Format::Json => {
            let all: Vec<Value> = answers
                .iter()
                .map(|(sql, found)| as_json(sql, found, &knowledge))
                .collect();
            writeln!(streams.out, "{:#}", Value::Array(all))?;
        }
    }
    Ok(ExitStatus::Success)
}

fn knowledge(args: &ExplainArgs) -> Result<Knowledge, ExplainError> {
    let Some(path) = &args.config else {
        return Ok(Knowledge::Offline);
    };
    let config = config::load(path, &ProcessEnvironment).map_err(ExplainError::Config)?;
    let mut clusters = config.clusters.into_iter();
    let cluster = clusters
        .find(|cluster| {
            args.cluster
                .as_ref()
                .is_none_or(|name| **name == *cluster.name)
        })
        .ok_or(ExplainError::NoCluster)?;
    let database = args
        .database
        .clone()
        .unwrap_or_else(|| cluster.monitor.database.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExplainError::Runtime)?;
    let catalog = runtime
        .block_on(load_from_primary(&cluster, &database))
        .map_err(ExplainError::Catalog)?;
    Ok(Knowledge::Live {
        catalog: Box::new(catalog),
        cluster,
        database,
    })
}

impl Knowledge {
    fn classify(&self, sql: &str) -> Classification {
        let analysis = analyse(sql.as_bytes());
        match self {
            Self::Offline => judge(&analysis, Some(&assumed(&analysis)), &no_lists()),
            Self::Live {
                catalog, cluster, ..
            } => judge(&analysis, Some(catalog), &cluster.policies.routing),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Offline => "offline: relations that PostgreSQL does not come with are taken for \
                ordinary tables, other functions are unknown"
                .to_owned(),
            Self::Live {
                cluster, database, ..
            } => {
                format!("catalog of database {database} in cluster {}", cluster.name)
            }
        }
    }
}

/// An empty database with an ordinary table for every relation that is read.
fn assumed(analysis: &Analysis) -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    let known = Catalog::of_empty_database();
    let unknown = analysis
        .relations()
        .filter(|(schema, name)| known.relation(*schema, name).is_none());
    for (oid, (schema, name)) in (1_000_000..).zip(unknown) {
        builder.relation(&RelationRow {
            oid,
            schema: schema.unwrap_or("public"),
            name,
            kind: RelationKind::Table,
            persistence: Persistence::Permanent,
        });
    }
    builder.build()
}

/// A policy without lists of functions and tables; nothing else of it matters here.
fn no_lists() -> RoutingPolicy {
    RoutingPolicy {
        max_staleness: std::time::Duration::ZERO,
        max_lag_bytes: 0,
        balance: Balance::LeastLoaded,
        transactions: Transactions::Primary,
        zone: None,
        read_functions: Vec::new(),
        write_functions: Vec::new(),
        primary_tables: Vec::new(),
    }
}

fn write_text(streams: &mut Streams<'_>, sql: &str, found: &Classification) -> io::Result<()> {
    let out = &mut *streams.out;
    writeln!(out, "{}", sql.trim())?;
    writeln!(out, "  class:   {}", class(found.access))?;
    writeln!(out, "  reason:  {}", found.reason.as_str())?;
    writeln!(out, "  goes to: {}", destination(found))?;
    for (number, verdict) in (1..).zip(&found.statements) {
        let facts = effects(verdict).join(", ");
        match found.statements.len() {
            1 if facts.is_empty() => {}
            1 => writeln!(out, "  effect:  {facts}")?,
            _ => {
                let (class, reason) = (class(verdict.access), verdict.reason.as_str());
                let effect = if facts.is_empty() {
                    facts
                } else {
                    format!(": {facts}")
                };
                writeln!(out, "  {number}: {class} ({reason}){effect}")?;
            }
        }
    }
    if found.hint != Hint::default() {
        writeln!(out, "  hint:    {}", hint(&found.hint).join(", "))?;
    }
    Ok(())
}

fn as_json(sql: &str, found: &Classification, knowledge: &Knowledge) -> Value {
    let statements: Vec<Value> = found
        .statements
        .iter()
        .map(|verdict| {
            json!({
                "class": class(verdict.access),
                "reason": verdict.reason.as_str(),
                "effects": effects(verdict),
            })
        })
        .collect();
    json!({
        "sql": sql,
        "class": class(found.access),
        "reason": found.reason.as_str(),
        "goes_to": destination(found),
        "hint": hint(&found.hint),
        "statements": statements,
        "catalog": match knowledge {
            Knowledge::Offline => "offline",
            Knowledge::Live { .. } => "live",
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ExplainArgs,
    }

    fn explained(arguments: &[&str]) -> (ExitStatus, String, String) {
        let line = Line::try_parse_from([&["explain"], arguments].concat()).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        let status = run(&line.args, &mut streams).unwrap();
        (
            status,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[test]
    fn offline_an_unknown_relation_is_an_ordinary_table_and_the_output_says_so() {
        let (status, out, err) = explained(&["SELECT * FROM app.users", "SELECT mine(1)"]);
        assert_eq!(status, ExitStatus::Success);
        assert!(out.contains("class:   read\n  reason:  read\n"), "{out}");
        assert!(
            out.contains("class:   write\n  reason:  unknown_function\n"),
            "{out}"
        );
        assert!(err.starts_with("offline: "), "{err}");
    }

    #[test]
    fn a_batch_is_explained_statement_by_statement() {
        let (_, out, _) = explained(&["SELECT 1; SET work_mem = '1MB'; COMMIT"]);
        for line in [
            "1: read (read)",
            "2: write (session_state): sets work_mem",
            "3: write",
        ] {
            assert!(out.contains(line), "{line} is not in {out}");
        }
    }

    #[test]
    fn json_has_one_object_a_text() {
        let (_, out, _) = explained(&["--format", "json", "SELECT 1", "SHOW pgweir.last_route"]);
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found[0]["class"], "read");
        assert_eq!(found[0]["catalog"], "offline");
        assert_eq!(found[1]["goes_to"], "nowhere: pgweir answers it");
    }

    #[test]
    fn a_configuration_that_cannot_be_read_ends_with_its_own_status() {
        let (status, _, err) = explained(&["--config", "/nonexistent/pgweir.yaml", "SELECT 1"]);
        assert_eq!(status, ExitStatus::BadConfiguration);
        assert!(err.contains("/nonexistent/pgweir.yaml"), "{err}");
    }
}
