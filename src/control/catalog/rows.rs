//! The queries, for PostgreSQL 14 to 18 and any role.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::CatalogError;
use crate::core::catalog::{
    CastContext, Catalog, CatalogBuilder, FunctionRow, OperatorRow, Persistence, ROWS_LIMIT,
    RelationKind, RelationRow, Source, Target, TypeRow, Volatility,
};
use crate::core::snapshot::NodeRole;

/// `FirstNormalObjectId` of `src/include/access/transam.h`: what lies below came with the server.
const FIRST_USER_OID: u32 = 16_384;

/// One snapshot for all queries would hold back VACUUM: DDL that is seen meanwhile is doubtful
/// afterwards whatever they show of it, and what refers to a row that they do not show is refused.
const PREPARE: &str = "SET search_path = pg_catalog; SET jit = off; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = on";

/// A function may be called as `row.function` when its first argument takes a row.
const FUNCTIONS: &str = "SELECT p.oid, n.nspname::text, p.proname::text, p.provolatile::text, \
        e.extname::text, p.proargtypes::oid[] || p.prorettype, \
        coalesce(t.typtype = 'c' OR (t.typtype = 'p' AND p.oid >= 16384), false) \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    LEFT JOIN pg_type t ON t.oid = p.proargtypes[0] \
    LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid \
        AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass \
    LEFT JOIN pg_extension e ON e.oid = d.refobjid";

/// The source of functions that may set settings: placeholders among them are listed nowhere. 2078
/// is `set_config` in the body of a function in the SQL standard's form.
const SOURCES: &str = "SELECT CASE WHEN p.prosqlbody IS NULL THEN p.prosrc \
        ELSE pg_get_function_sqlbody(p.oid) END \
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
    WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') \
        AND (p.prosrc ~* '(set_config|\\mset\\M)' OR p.prosqlbody::text LIKE '%:funcid 2078 %')";

const AGGREGATES: &str = "SELECT aggfnoid::oid, ARRAY[aggtransfn, aggfinalfn, aggcombinefn, \
        aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[] \
    FROM pg_aggregate";

const OPERATORS: &str = "SELECT oid, oprname::text, oprcode::oid FROM pg_operator";

const EVENT_TRIGGERS: &str = "SELECT oid FROM pg_event_trigger WHERE evtenabled <> 'D'";

const COMPARISON_FUNCTIONS: &str =
    "SELECT DISTINCT amproc::oid FROM pg_amproc WHERE amproc::oid >= 16384";

const TYPES: &str = "SELECT t.oid, t.typname::text, t.typinput::oid, \
        ARRAY[t.typbasetype, t.typelem, coalesce(r.rngsubtype, 0::oid)] || ARRAY( \
            SELECT DISTINCT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid \
            AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384) \
    FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid";

const CASTS: &str =
    "SELECT casttarget, castfunc, castcontext::text FROM pg_cast WHERE castfunc <> 0";

const RELATIONS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
        c.relpersistence::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'pg_toast'";

const CHILDREN: &str = "SELECT i.inhparent, i.inhrelid FROM pg_inherits i \
    JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f')";

/// What views, policies in force and domains refer to. `pg_depend` has no rows for functions that
/// came with the server, so the node trees themselves are searched (`src/include/nodes/primnodes.h`
/// and `parsenodes.h` name the fields).
const REFERENCES: &str = "SELECT DISTINCT tree.kind, tree.source, found[1], found[2]::oid FROM ( \
        SELECT 'view' AS kind, r.ev_class AS source, r.ev_action::text AS nodes \
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
        WHERE c.relkind = 'v' AND r.ev_type = '1' AND c.oid >= 16384 \
        UNION ALL \
        SELECT 'policy', p.polrelid, concat(p.polqual::text, ' ', p.polwithcheck::text) \
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relrowsecurity \
        UNION ALL \
        SELECT 'type', contypid, conbin::text FROM pg_constraint WHERE contypid <> 0 \
    ) tree, regexp_matches(tree.nodes, ':(funcid|opfuncid|opno|eqop|sortop|aggfnoid|winfnoid\
        |relid|resulttype) ([1-9][0-9]*)', 'g') AS found";

pub(super) async fn load(client: &Client, role: NodeRole) -> Result<Catalog, CatalogError> {
    let what = "settings";
    client
        .batch_execute(PREPARE)
        .await
        .map_err(|source| CatalogError::Query { what, source })?;
    let mut builder = CatalogBuilder::default();
    check_role(client, role).await?;
    load_functions(client, &mut builder).await?;
    load_operators(client, &mut builder).await?;
    load_types(client, &mut builder).await?;
    load_relations(client, &mut builder).await?;
    load_references(client, &mut builder).await?;
    if !rows(client, "event triggers", EVENT_TRIGGERS)
        .await?
        .is_empty()
    {
        builder.event_trigger();
    }
    Ok(builder.build())
}

async fn check_role(client: &Client, role: NodeRole) -> Result<(), CatalogError> {
    let rows = rows(client, "the role of the node", "SELECT pg_is_in_recovery()").await?;
    let in_recovery = rows.first().and_then(|row| row.try_get::<_, bool>(0).ok());
    match (role, in_recovery) {
        (NodeRole::Primary, Some(false)) | (NodeRole::Replica, Some(true)) => Ok(()),
        (NodeRole::Replica, _) => Err(CatalogError::NotReplica),
        (NodeRole::Primary | NodeRole::Unknown, _) => Err(CatalogError::NotPrimary),
    }
}

/// All rows of a query, if they are not more than a catalog may have.
async fn rows(client: &Client, what: &'static str, sql: &str) -> Result<Vec<Row>, CatalogError> {
    let none: [&(dyn ToSql + Sync); 0] = [];
    let bounded = format!("{sql} LIMIT {}", ROWS_LIMIT + 1);
    let rows = client
        .query(&bounded, &none)
        .await
        .map_err(|source| CatalogError::Query { what, source })?;
    if rows.len() > ROWS_LIMIT {
        Err(CatalogError::TooLarge { what })
    } else {
        Ok(rows)
    }
}

async fn load_functions(client: &Client, builder: &mut CatalogBuilder) -> Result<(), CatalogError> {
    let what = "functions";
    let broken = |source| CatalogError::Query { what, source };
    for row in rows(client, what, FUNCTIONS).await? {
        let types: Vec<u32> = row.try_get(5).map_err(broken)?;
        builder.function(&FunctionRow {
            oid: row.try_get(0).map_err(broken)?,
            schema: row.try_get(1).map_err(broken)?,
            name: row.try_get(2).map_err(broken)?,
            volatility: match row.try_get(3).map_err(broken)? {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            extension: row.try_get(4).map_err(broken)?,
            types: &types,
            attribute_of_row: row.try_get(6).map_err(broken)?,
        });
    }
    for row in rows(client, "sources of functions", SOURCES).await? {
        if let Some(source) = row.try_get::<_, Option<&str>>(0).map_err(broken)? {
            builder.source(source);
        }
    }
    for row in rows(client, "aggregates", AGGREGATES).await? {
        let support: Vec<u32> = row.try_get(1).map_err(broken)?;
        builder.aggregate(row.try_get(0).map_err(broken)?, &support);
    }
    Ok(())
}

async fn load_operators(client: &Client, builder: &mut CatalogBuilder) -> Result<(), CatalogError> {
    let what = "operators";
    let broken = |source| CatalogError::Query { what, source };
    for row in rows(client, what, OPERATORS).await? {
        builder.operator(&OperatorRow {
            oid: row.try_get(0).map_err(broken)?,
            name: row.try_get(1).map_err(broken)?,
            function: row.try_get(2).map_err(broken)?,
        });
    }
    for row in rows(client, what, COMPARISON_FUNCTIONS).await? {
        builder.comparison_function(row.try_get(0).map_err(broken)?);
    }
    Ok(())
}

async fn load_types(client: &Client, builder: &mut CatalogBuilder) -> Result<(), CatalogError> {
    let what = "types";
    let broken = |source| CatalogError::Query { what, source };
    for row in rows(client, what, TYPES).await? {
        let parts: Vec<u32> = row.try_get(3).map_err(broken)?;
        let input: u32 = row.try_get(2).map_err(broken)?;
        builder.type_row(&TypeRow {
            oid: row.try_get(0).map_err(broken)?,
            name: row.try_get(1).map_err(broken)?,
            parts: &parts,
            function: if input < FIRST_USER_OID { 0 } else { input },
        });
    }
    for row in rows(client, "casts", CASTS).await? {
        let context = match row.try_get(2).map_err(broken)? {
            "i" => CastContext::Implicit,
            _ => CastContext::Written,
        };
        let target = row.try_get(0).map_err(broken)?;
        builder.cast(target, row.try_get(1).map_err(broken)?, context);
    }
    Ok(())
}

async fn load_relations(client: &Client, builder: &mut CatalogBuilder) -> Result<(), CatalogError> {
    let what = "relations";
    let broken = |source| CatalogError::Query { what, source };
    for row in rows(client, what, RELATIONS).await? {
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
    for row in rows(client, "children of relations", CHILDREN).await? {
        let parent = row.try_get(0).map_err(broken)?;
        let child = row.try_get(1).map_err(broken)?;
        builder.reference(Source::Parent(parent), Target::Relation(child));
    }
    Ok(())
}

async fn load_references(
    client: &Client,
    builder: &mut CatalogBuilder,
) -> Result<(), CatalogError> {
    let what = "views, policies and domains";
    let broken = |source| CatalogError::Query { what, source };
    for row in rows(client, what, REFERENCES).await? {
        let source: u32 = row.try_get(1).map_err(broken)?;
        let source = match row.try_get(0).map_err(broken)? {
            "view" => Source::View(source),
            "policy" => Source::Policy(source),
            _ => Source::Type(source),
        };
        let target: u32 = row.try_get(3).map_err(broken)?;
        let target = match row.try_get(2).map_err(broken)? {
            "relid" => Target::Relation(target),
            "resulttype" => Target::Type(target),
            "opno" | "eqop" | "sortop" => Target::Operator(target),
            _ => Target::Function(target),
        };
        builder.reference(source, target);
    }
    Ok(())
}
