//! The queries, for PostgreSQL 14 to 18 and any role.
//!
//! What came with the server hardly ever changes and is most of what there is: a keeper reads it again
//! only when it may have changed.

mod code;
mod queries;

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use self::queries::{
    ASKING_CODE, CALLS, CASTS, CHILDREN, COMPARISON_FUNCTIONS, EVENT_TRIGGERS, FUNCTIONS,
    LOUD_OBJECTS, ODD_COLUMNS, OPERATORS, PREPARE, QUIET_PROCEDURES, READABLE, REFERENCES,
    RELATIONS, SOURCES, SOURCES_OF_REFERENCES, TYPES, VERSIONS,
};
use super::CatalogError;
use crate::core::catalog::{
    CastContext, CastRow, Catalog, CatalogBuilder, FunctionRow, OperatorRow, Persistence,
    ROWS_LIMIT, RelationKind, RelationRow, Source, Target, TypeRow, Volatility,
};
use crate::core::snapshot::NodeRole;

/// `FirstNormalObjectId` of `src/include/access/transam.h`: what lies below came with the server.
const FIRST_USER_OID: u32 = 16_384;

/// Which rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Those that came with the server.
    Server,
    /// Those that somebody has made since.
    Users,
}

/// A connection to read from, with what was prepared on it.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    client: &'a Client,
    prepared: Prepared,
    /// Rows that were asked for ahead.
    ahead: HashMap<String, Vec<Row>>,
}

/// What is remembered of one load for the next.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// What came with the server, with the versions of its rows.
    server: Option<(String, CatalogBuilder)>,
    /// What each version of a row refers to: the field that says so, and an oid.
    references: HashMap<String, Vec<(String, u32)>>,
}

/// What is kept of a connection between two loads: what was prepared on it.
#[derive(Debug, Default)]
pub(super) struct Prepared(HashMap<String, Statement>);

/// What is asked for each part by itself, with the condition that its object number ends.
const PARTED: [(&str, &str); 6] = [
    (FUNCTIONS, "p.oid"),
    (CALLS, "caller"),
    (OPERATORS, "oid"),
    (TYPES, "t.oid"),
    (CASTS, "castfunc <> 0 AND oid"),
    (RELATIONS, READABLE),
];

/// What every load asks beside that.
const WHOLE: [&str; 9] = [
    SOURCES,
    LOUD_OBJECTS,
    QUIET_PROCEDURES,
    ASKING_CODE,
    ODD_COLUMNS,
    COMPARISON_FUNCTIONS,
    CHILDREN,
    SOURCES_OF_REFERENCES,
    EVENT_TRIGGERS,
];

impl<'a> Reading<'a> {
    pub(super) fn new(client: &'a Client, prepared: Prepared) -> Self {
        Self {
            client,
            prepared,
            ahead: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> Prepared {
        self.prepared
    }

    /// Reads everything that is not remembered.
    pub(super) async fn load(
        &mut self,
        role: NodeRole,
        remembered: &mut Remembered,
    ) -> Result<Catalog, CatalogError> {
        let parts: &[Part] = match remembered.server {
            Some(_) => &[Part::Users],
            None => &[Part::Server, Part::Users],
        };
        self.ask_ahead(parts).await?;
        let versions = self.versions(role).await?;
        let mut builder = match &remembered.server {
            Some((known, server)) if *known == versions => server.clone(),
            Some(_) | None => {
                let mut builder = CatalogBuilder::default();
                self.load_part(&mut builder, Part::Server).await?;
                remembered.server.insert((versions, builder)).1.clone()
            }
        };
        self.load_part(&mut builder, Part::Users).await?;
        self.load_others(&mut builder).await?;
        self.load_references(&mut builder, &mut remembered.references)
            .await?;
        self.load_loud(&mut builder).await?;
        if !self
            .rows("event triggers", EVENT_TRIGGERS)
            .await?
            .is_empty()
        {
            builder.event_trigger();
        }
        Ok(builder.build())
    }

    async fn load_part(
        &mut self,
        builder: &mut CatalogBuilder,
        part: Part,
    ) -> Result<(), CatalogError> {
        self.load_functions(builder, part).await?;
        self.load_operators(builder, part).await?;
        self.load_types(builder, part).await?;
        self.load_relations(builder, part).await
    }

    /// What changes with every change to a row that came with the server. Asked before the rows are.
    async fn versions(&mut self, role: NodeRole) -> Result<String, CatalogError> {
        let what = "the role of the node";
        let rows = self.rows(what, VERSIONS).await?;
        let row = rows.first();
        let in_recovery = row.and_then(|row| row.try_get::<_, bool>(0).ok());
        match (role, in_recovery) {
            (NodeRole::Primary, Some(false)) | (NodeRole::Replica, Some(true)) => {}
            (NodeRole::Replica, _) => return Err(CatalogError::NotReplica),
            (NodeRole::Primary | NodeRole::Unknown, _) => return Err(CatalogError::NotPrimary),
        }
        let versions = row.map(|row| row.try_get(1)).transpose();
        let versions: Option<String> =
            versions.map_err(|source| CatalogError::Query { what, source })?;
        Ok(versions.unwrap_or_default())
    }

    /// The rows of a part of what a query of [`PARTED`] shows.
    async fn part(
        &mut self,
        what: &'static str,
        sql: &'static str,
        part: Part,
    ) -> Result<Vec<Row>, CatalogError> {
        let oid = PARTED.iter().find(|(parted, _)| *parted == sql);
        let (_, oid) = oid.copied().unwrap_or_default();
        self.rows(what, &part_of(sql, oid, part)).await
    }

    /// All rows of a query, if they are not more than a catalog may have.
    async fn rows(&mut self, what: &'static str, sql: &str) -> Result<Vec<Row>, CatalogError> {
        match self.ahead.remove(sql) {
            Some(rows) => within_limit(what, rows),
            None => self.rows_with(what, sql, &[]).await,
        }
    }

    /// Asks for these parts at once, in order: two round trips on a new connection, then one.
    async fn ask_ahead(&mut self, parts: &[Part]) -> Result<(), CatalogError> {
        let what = "rows";
        let broken = |source| CatalogError::Query { what, source };
        let client = self.client;
        if self.prepared.0.is_empty() {
            client.batch_execute(PREPARE).await.map_err(broken)?;
        }
        let queries = queries_of(parts);
        let bounded: Vec<String> = queries.iter().map(|sql| bounded(sql)).collect();
        let mut new = bounded.clone();
        new.retain(|sql| !self.prepared.0.contains_key(sql));
        let prepared = all(new.iter().map(|sql| client.prepare(sql))).await;
        let prepared = prepared.map_err(broken)?;
        self.prepared.0.extend(new.into_iter().zip(prepared));
        let statements: Vec<Statement> = bounded
            .iter()
            .filter_map(|sql| self.prepared.0.get(sql).cloned())
            .collect();
        let answers = all(statements.iter().map(|one| client.query(one, &[]))).await;
        self.ahead = queries.into_iter().zip(answers.map_err(broken)?).collect();
        Ok(())
    }

    async fn rows_with(
        &mut self,
        what: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, CatalogError> {
        let broken = |source| CatalogError::Query { what, source };
        let bounded = bounded(sql);
        let statement = if let Some(known) = self.prepared.0.get(&bounded) {
            known.clone()
        } else {
            let statement = self.client.prepare(&bounded).await.map_err(broken)?;
            self.prepared.0.insert(bounded, statement.clone());
            statement
        };
        let rows = self.client.query(&statement, parameters).await;
        within_limit(what, rows.map_err(broken)?)
    }

    async fn load_functions(
        &mut self,
        builder: &mut CatalogBuilder,
        part: Part,
    ) -> Result<(), CatalogError> {
        let what = "functions";
        let broken = |source| CatalogError::Query { what, source };
        for row in self.part(what, FUNCTIONS, part).await? {
            let types: Vec<u32> = row.try_get(5).map_err(broken)?;
            builder.function(&FunctionRow {
                oid: row.try_get(0).map_err(broken)?,
                schema: row.try_get(1).map_err(broken)?,
                name: row.try_get(2).map_err(broken)?,
                volatility: volatility(row.try_get(3).map_err(broken)?),
                extension: row.try_get(4).map_err(broken)?,
                types: &types,
                attribute_of_row: row.try_get(6).map_err(broken)?,
            });
        }
        for row in self.part("calls of functions", CALLS, part).await? {
            let called: Vec<u32> = row.try_get(1).map_err(broken)?;
            builder.calls(row.try_get(0).map_err(broken)?, &called);
        }
        Ok(())
    }

    async fn load_operators(
        &mut self,
        builder: &mut CatalogBuilder,
        part: Part,
    ) -> Result<(), CatalogError> {
        let what = "operators";
        let broken = |source| CatalogError::Query { what, source };
        for row in self.part(what, OPERATORS, part).await? {
            builder.operator(&OperatorRow {
                oid: row.try_get(0).map_err(broken)?,
                name: row.try_get(1).map_err(broken)?,
                function: row.try_get(2).map_err(broken)?,
            });
        }
        Ok(())
    }

    async fn load_types(
        &mut self,
        builder: &mut CatalogBuilder,
        part: Part,
    ) -> Result<(), CatalogError> {
        let what = "types";
        let broken = |source| CatalogError::Query { what, source };
        for row in self.part(what, TYPES, part).await? {
            let parts: Vec<u32> = row.try_get(3).map_err(broken)?;
            let input: u32 = row.try_get(2).map_err(broken)?;
            builder.type_row(&TypeRow {
                oid: row.try_get(0).map_err(broken)?,
                name: row.try_get(1).map_err(broken)?,
                parts: &parts,
                function: if input < FIRST_USER_OID { 0 } else { input },
            });
        }
        for row in self.part("casts", CASTS, part).await? {
            let context = match row.try_get(2).map_err(broken)? {
                "i" => CastContext::Implicit,
                _ => CastContext::Written,
            };
            builder.cast(&CastRow {
                source: row.try_get(3).map_err(broken)?,
                target: row.try_get(0).map_err(broken)?,
                function: row.try_get(1).map_err(broken)?,
                context,
            });
        }
        Ok(())
    }

    async fn load_relations(
        &mut self,
        builder: &mut CatalogBuilder,
        part: Part,
    ) -> Result<(), CatalogError> {
        let what = "relations";
        let broken = |source| CatalogError::Query { what, source };
        for row in self.part(what, RELATIONS, part).await? {
            builder.relation(&RelationRow {
                oid: row.try_get(0).map_err(broken)?,
                schema: row.try_get(1).map_err(broken)?,
                name: row.try_get(2).map_err(broken)?,
                kind: match row.try_get(3).map_err(broken)? {
                    "r" | "p" | "m" => RelationKind::Table,
                    "v" => RelationKind::View,
                    "S" => RelationKind::Sequence,
                    _ => RelationKind::Foreign,
                },
                persistence: match row.try_get(4).map_err(broken)? {
                    "p" => Persistence::Permanent,
                    "t" => Persistence::Temporary,
                    _ => Persistence::Unlogged,
                },
            });
        }
        Ok(())
    }

    async fn load_references(
        &mut self,
        builder: &mut CatalogBuilder,
        known: &mut HashMap<String, Vec<(String, u32)>>,
    ) -> Result<(), CatalogError> {
        let what = "views, policies and domains";
        let broken = |source| CatalogError::Query { what, source };
        let mut sources = HashMap::new();
        for row in self.rows(what, SOURCES_OF_REFERENCES).await? {
            let source: u32 = row.try_get(1).map_err(broken)?;
            let source = match row.try_get(0).map_err(broken)? {
                "view" => Source::View(source),
                "policy" => Source::Policy(source),
                _ => Source::Type(source),
            };
            sources.insert(row.try_get::<_, String>(2).map_err(broken)?, source);
        }
        known.retain(|key, _| sources.contains_key(key));
        let new: Vec<&str> = sources
            .keys()
            .filter(|key| !known.contains_key(*key))
            .map(String::as_str)
            .collect();
        if !new.is_empty() {
            let rows = self.rows_with(what, REFERENCES, &[&new]).await?;
            for row in rows {
                let found = known.entry(row.try_get(0).map_err(broken)?).or_default();
                if let Some(field) = row.try_get::<_, Option<String>>(1).map_err(broken)? {
                    found.push((field, row.try_get(2).map_err(broken)?));
                }
            }
        }
        for (key, source) in &sources {
            match known.get(key) {
                Some(found) => found
                    .iter()
                    .for_each(|(field, oid)| builder.reference(*source, target_of(field, *oid))),
                // It has been replaced meanwhile.
                None => builder.reference(*source, Target::Function(u32::MAX)),
            }
        }
        Ok(())
    }
}

/// What a load asks, in order: the versions before the rows.
fn queries_of(parts: &[Part]) -> Vec<String> {
    let parted = parts.iter().flat_map(|part| {
        let of = PARTED.iter();
        of.map(|(sql, oid)| part_of(sql, oid, *part))
    });
    let whole = WHOLE.iter().map(|sql| (*sql).to_owned());
    let versions = VERSIONS.to_owned();
    std::iter::once(versions)
        .chain(parted)
        .chain(whole)
        .collect()
}

/// The query for one part; `oid` is the column that tells them apart.
fn part_of(sql: &str, oid: &str, part: Part) -> String {
    // No object has the number between them (`src/include/access/transam.h`).
    match part {
        Part::Server => format!("{sql} WHERE {oid} < {FIRST_USER_OID}"),
        Part::Users => format!("{sql} WHERE {oid} > {}", FIRST_USER_OID - 1),
    }
}

/// The outcomes of futures that are polled in this order, together.
async fn all<T, E>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Result<Vec<T>, E> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outcomes: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut done = Poll::Ready(Ok(()));
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes) {
            if outcome.is_some() {
                continue;
            }
            match future.as_mut().poll(context) {
                Poll::Ready(Ok(value)) => *outcome = Some(value),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => done = Poll::Pending,
            }
        }
        done
    })
    .await?;
    Ok(outcomes.into_iter().flatten().collect())
}

fn bounded(sql: &str) -> String {
    format!("{sql} LIMIT {}", ROWS_LIMIT + 1)
}

fn within_limit(what: &'static str, rows: Vec<Row>) -> Result<Vec<Row>, CatalogError> {
    if rows.len() > ROWS_LIMIT {
        Err(CatalogError::TooLarge { what })
    } else {
        Ok(rows)
    }
}

fn volatility(word: &str) -> Volatility {
    match word {
        "i" => Volatility::Immutable,
        "s" => Volatility::Stable,
        _ => Volatility::Volatile,
    }
}

/// What a field of a node tree refers to.
fn target_of(field: &str, oid: u32) -> Target {
    match field {
        "relid" => Target::Relation(oid),
        "resulttype" => Target::Type(oid),
        "opno" | "eqop" | "sortop" => Target::Operator(oid),
        _ => Target::Function(oid),
    }
}
