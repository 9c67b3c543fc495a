//! What a statement reaches is found in the catalog of a real server.

#![cfg(test)]

#[path = "catalog/databases.rs"]
mod databases;
#[path = "catalog/ddl.rs"]
mod ddl;
mod harness;
#[path = "catalog/loud.rs"]
mod loud;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::config::{
    ClusterConfig, DatabasePattern, MonitorConfig, NodeConfig, OptionNames, Policies, PoolConfig,
    PoolMode, Secret, SequenceNumbers, ServerTls,
};
use pgweir::control::catalog::{CatalogError, keep_current, load};
use pgweir::core::catalog::Catalog;
use pgweir::core::classify::{analyse, judge};
use pgweir::core::policy::{
    Balance, ConsistencyPolicy, MonotonicReads, OnNoReplica, ReadAfterWrite, RoutingPolicy,
    Transactions,
};
use pgweir::core::snapshot::{NodeId, RoutingSnapshot};
use pgweir::core::statement::{CatalogEffect, Consistency, Reason};
use pgweir::sandbox::LocalCluster;
use pgweir::world::ClusterWorld;
use tokio::time::timeout;

/// Objects whose effect on routing cannot be seen in the text of a statement.
const SCHEMA: &str = r"
CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE FUNCTION touch(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION tax(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION total(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION total(text) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE FUNCTION full_name(users) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1.name';
CREATE FUNCTION touch_pair(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION locks(taken bool DEFAULT pg_try_advisory_lock(1)) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION draws(number int DEFAULT touch(1) + 1) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION draws_through(number int DEFAULT draws()) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION since(at timestamptz DEFAULT now() - interval '1 day') RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT $1';
CREATE AGGREGATE traced(int) (SFUNC = touch_pair, STYPE = int, INITCOND = '0');
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = touch_pair);
CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE FUNCTION good(text) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT true';
CREATE DOMAIN checked AS text CHECK (good(VALUE));
CREATE DOMAIN checked_twice AS checked;
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE TYPE contact AS (mail checked, age int);
CREATE TYPE mood AS ENUM ('happy');
CREATE FUNCTION greet(checked) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1::text';
CREATE TYPE tracked AS (v int);
CREATE FUNCTION to_tracked(int) RETURNS tracked LANGUAGE sql VOLATILE AS 'SELECT ROW($1)::tracked';
CREATE CAST (int AS tracked) WITH FUNCTION to_tracked(int);
CREATE VIEW plain_view AS SELECT id, lower(name) FROM users WHERE id IN (1, 2);
CREATE VIEW random_view AS SELECT random(), clock_timestamp();
CREATE VIEW setting_view AS SELECT current_setting('app.tenant', true);
CREATE VIEW noisy_view AS SELECT touch(id) FROM users;
CREATE VIEW outer_view AS SELECT * FROM noisy_view;
CREATE VIEW pid_view AS SELECT pg_backend_pid();
CREATE VIEW lock_view AS SELECT pg_try_advisory_lock(1);
CREATE VIEW activity_view AS SELECT count(*) FROM pg_stat_activity;
CREATE VIEW operator_view AS SELECT id === 1 FROM users;
CREATE VIEW aggregate_view AS SELECT traced(id) FROM users;
CREATE VIEW window_view AS SELECT traced(id) OVER () FROM users;
CREATE VIEW domain_view AS SELECT name::checked FROM users;
CREATE VIEW any_view AS SELECT 1 FROM users WHERE id = ANY (ARRAY[touch(1)]);
CREATE SEQUENCE numbers;
CREATE VIEW sequence_view AS SELECT last_value FROM numbers;
CREATE UNLOGGED TABLE carts (id int);
CREATE VIEW cart_view AS SELECT * FROM carts;
CREATE TABLE events (at date) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE UNLOGGED TABLE events_2 PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE logs (at date) PARTITION BY RANGE (at);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parent (id int);
CREATE UNLOGGED TABLE child () INHERITS (parent);
CREATE TABLE secrets (id int, owner text);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON secrets USING (touch(id) = id);
CREATE TABLE tenants (id int, owner text);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON tenants USING (owner = current_setting('app.tenant', true));
CREATE TABLE disarmed (id int);
CREATE POLICY p ON disarmed USING (touch(id) = id);
CREATE MATERIALIZED VIEW totals AS SELECT touch(1);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE remote (id int) SERVER far;
";

const CASES: [(&str, Reason); 66] = [
    (
        "SELECT id, name FROM users WHERE id = 1 AND name LIKE 'a%'",
        Reason::Read,
    ),
    (
        "SELECT lower(name), now(), random() FROM public.users ORDER BY 1",
        Reason::Read,
    ),
    ("SELECT tax(1), users.name FROM users", Reason::Read),
    ("SELECT since()", Reason::Read),
    ("SELECT 1 <+> 2, 1 + 2, '{}'::jsonb @> '{}'", Reason::Read),
    (
        "SELECT 'a@b'::email, 'happy'::mood, '1'::int4, ARRAY[1]::_int4",
        Reason::Read,
    ),
    ("SELECT * FROM plain_view", Reason::Read),
    ("SELECT * FROM random_view", Reason::Read),
    ("SELECT * FROM setting_view", Reason::Read),
    ("SELECT * FROM events_1", Reason::Read),
    ("SELECT * FROM logs", Reason::Read),
    ("SELECT * FROM tenants", Reason::Read),
    ("SELECT * FROM disarmed", Reason::Read),
    ("SELECT * FROM totals", Reason::Read),
    (
        "SELECT * FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace",
        Reason::Read,
    ),
    ("SELECT * FROM information_schema.columns", Reason::Read),
    (
        "SELECT table_name FROM information_schema.tables",
        Reason::Read,
    ),
    (
        "SELECT * FROM pg_tables, pg_indexes, pg_roles",
        Reason::Read,
    ),
    (
        "SELECT pg_get_viewdef(oid), pg_relation_size(oid), format_type(1, 2) FROM pg_class",
        Reason::Read,
    ),
    (
        "SELECT count(*), sum(id), string_agg(name, ',') FROM users TABLESAMPLE system (10)",
        Reason::Read,
    ),
    (
        "SELECT inet_server_port(), version(), current_setting('app.x', true)",
        Reason::Read,
    ),
    ("SELECT touch(1)", Reason::VolatileFunction),
    ("SELECT locks()", Reason::AdvisoryLock),
    ("SELECT draws()", Reason::VolatileFunction),
    ("SELECT draws_through()", Reason::VolatileFunction),
    ("SELECT total(1)", Reason::VolatileFunction),
    ("SELECT traced(id) FROM users", Reason::VolatileFunction),
    (
        "SELECT users.full_name FROM users",
        Reason::VolatileFunction,
    ),
    ("SELECT nothing(1)", Reason::UnknownFunction),
    ("SELECT greet('x')", Reason::UnsafeType),
    ("SELECT 1 === 2", Reason::UnsafeOperator),
    ("SELECT 1 OPERATOR(public.===) 2", Reason::UnsafeOperator),
    ("SELECT 'x'::checked", Reason::UnsafeType),
    ("SELECT 'x'::checked_twice", Reason::UnsafeType),
    ("SELECT ARRAY['x']::checked[]", Reason::UnsafeType),
    ("SELECT checked 'x'", Reason::UnsafeType),
    ("SELECT ROW('x', 1)::contact", Reason::UnsafeType),
    ("SELECT 1::tracked", Reason::UnsafeType),
    ("SELECT 1::nothing", Reason::UnsafeType),
    ("SELECT * FROM noisy_view", Reason::UnsafeView),
    ("SELECT * FROM outer_view", Reason::UnsafeView),
    ("SELECT * FROM pid_view", Reason::UnsafeView),
    ("SELECT * FROM lock_view", Reason::UnsafeView),
    ("SELECT * FROM activity_view", Reason::UnsafeView),
    ("SELECT * FROM operator_view", Reason::UnsafeView),
    ("SELECT * FROM aggregate_view", Reason::UnsafeView),
    ("SELECT * FROM window_view", Reason::UnsafeView),
    ("SELECT * FROM domain_view", Reason::UnsafeView),
    ("SELECT * FROM any_view", Reason::UnsafeView),
    ("SELECT * FROM sequence_view", Reason::UnsafeView),
    ("SELECT * FROM cart_view", Reason::UnsafeView),
    ("SELECT * FROM carts", Reason::UnloggedRelation),
    ("SELECT * FROM events", Reason::UnloggedRelation),
    ("SELECT * FROM parent", Reason::UnloggedRelation),
    ("SELECT * FROM remote", Reason::ForeignRelation),
    ("SELECT * FROM secrets", Reason::UnsafePolicy),
    ("SELECT last_value FROM numbers", Reason::Sequence),
    ("SELECT * FROM pg_sequences", Reason::Sequence),
    ("SELECT nextval('numbers')", Reason::Sequence),
    ("SELECT * FROM nothing", Reason::UnknownRelation),
    ("SELECT * FROM pg_stat_activity", Reason::NodeLocalRelation),
    ("SELECT * FROM pg_locks", Reason::NodeLocalRelation),
    ("SELECT * FROM pg_settings", Reason::NodeLocalRelation),
    ("SELECT pg_is_in_recovery()", Reason::NodeLocalFunction),
    ("SELECT txid_current()", Reason::NodeLocalFunction),
    ("SELECT pg_try_advisory_lock(1)", Reason::AdvisoryLock),
];

#[tokio::test]
async fn what_a_statement_reaches_is_found_by_an_ordinary_role() {
    let cluster = harness::cluster(1).await;
    cluster.superuser_sql(0, SCHEMA).await.unwrap();
    cluster
        .superuser_sql(0, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
        .await
        .unwrap();
    let client = cluster.connect(0).await.unwrap();
    let begun = Instant::now();
    let catalog = load(&client).await.unwrap();
    println!("catalog loaded in {:?}", begun.elapsed());
    let mut wrong = Vec::new();
    for (sql, expected) in CASES {
        let found = reason(&catalog, sql);
        if found != expected {
            wrong.push(format!("{sql}: expected {expected:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    cluster.wait_for_replay(1).await.unwrap();
    let replica = cluster.connect(1).await.unwrap();
    assert!(matches!(
        load(&replica).await,
        Err(CatalogError::NotPrimary)
    ));
}

#[tokio::test]
async fn procedures_that_run_no_ddl_are_told_from_others_by_an_ordinary_role() {
    let cluster = harness::cluster(0).await;
    let body = |body: &str| format!("LANGUAGE plpgsql AS $p$ BEGIN {body}; END $p$");
    let (quiet, creates) = (body("PERFORM 1"), body("CREATE TABLE made (id int)"));
    let runs_anything = body("EXECUTE 'SELECT 1'");
    let sql = "LANGUAGE sql AS 'SELECT 1'";
    for statement in [
        "CREATE SCHEMA one; CREATE SCHEMA two".to_owned(),
        format!("CREATE PROCEDURE quiet() {quiet}; CREATE PROCEDURE one.quiet(int) {quiet}"),
        format!("CREATE PROCEDURE creates() {creates}; CREATE PROCEDURE runs() {runs_anything}"),
        format!("CREATE PROCEDURE twice() {quiet}; CREATE PROCEDURE two.twice() {creates}"),
        format!("CREATE PROCEDURE in_sql() {sql}"),
    ] {
        cluster.superuser_sql(0, &statement).await.unwrap();
    }
    let client = cluster.connect(0).await.unwrap();
    let catalog = load(&client).await.unwrap();
    let effect = |sql: &str| judge(&analyse(sql.as_bytes()), Some(&catalog), &routing()).catalog;
    for sql in ["CALL quiet()", "CALL one.quiet(1)", "CALL \"quiet\"()"] {
        assert_eq!(effect(sql), CatalogEffect::Calls("quiet".into()), "{sql}");
    }
    for name in ["creates", "runs", "twice", "in_sql", "unknown"] {
        let sql = format!("CALL {name}()");
        assert_eq!(effect(&sql), CatalogEffect::MayChange, "{sql}");
    }
}

/// The test itself asks the replica: what the catalog calls a read runs there, and gives no error.
#[tokio::test]
async fn what_is_called_a_read_runs_on_a_replica() {
    let cluster = harness::cluster(1).await;
    cluster.superuser_sql(0, SCHEMA).await.unwrap();
    // A wrapper without a handler breaks information_schema.columns on every node.
    cluster
        .superuser_sql(0, "DROP SERVER far CASCADE")
        .await
        .unwrap();
    cluster.wait_for_replay(1).await.unwrap();
    for (sql, _) in CASES.iter().filter(|(_, reason)| *reason == Reason::Read) {
        if let Err(error) = cluster.superuser_sql(1, sql).await {
            panic!("{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn the_catalog_is_loaded_when_asked_for_and_again_after_ddl() {
    let cluster = harness::cluster(0).await;
    let snapshot = RoutingSnapshot {
        generation: 1,
        primary: Some(NodeId(0)),
        nodes: Vec::new(),
    };
    let world = Arc::new(ClusterWorld::new(snapshot, Instant::now()));
    let loop_of_keeping = keep_current(Arc::new(config(&cluster)), Arc::clone(&world));
    let task = tokio::spawn(loop_of_keeping);

    let entry = world.catalogs.of(&database(&cluster)).unwrap();
    harness::eventually("the first load", async || entry.current().is_some()).await;
    let sql = "SELECT * FROM late";
    assert_eq!(
        reason(&entry.current().unwrap(), sql),
        Reason::UnknownRelation
    );

    cluster
        .superuser_sql(0, "CREATE TABLE late (id int)")
        .await
        .unwrap();
    let seen = Instant::now();
    entry.invalidate(&CatalogEffect::MayChange);
    assert!(entry.current().is_none());
    harness::eventually("the load after DDL", async || entry.current().is_some()).await;
    println!("reloaded {:?} after DDL", seen.elapsed());
    assert_eq!(reason(&entry.current().unwrap(), sql), Reason::Read);

    let nobody = world.catalogs.of("no_such_database").unwrap();
    let never = timeout(Duration::from_secs(1), async {
        while nobody.current().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(never.await.is_err());
    task.abort();
}

fn reason(catalog: &Catalog, sql: &str) -> Reason {
    judge(&analyse(sql.as_bytes()), Some(catalog), &routing()).reason
}

fn routing() -> RoutingPolicy {
    RoutingPolicy {
        max_staleness: Duration::from_secs(10),
        max_lag_bytes: 1 << 26,
        balance: Balance::LeastLoaded,
        transactions: Transactions::Primary,
        zone: None,
        read_functions: vec![],
        write_functions: vec![],
        primary_tables: vec![],
    }
}

/// The database that the cluster's own verbs use.
fn database(cluster: &LocalCluster) -> String {
    let url: tokio_postgres::Config = cluster.superuser_url(0).parse().unwrap();
    url.get_dbname().unwrap().to_owned()
}

/// The parts of a configuration that the catalog needs, for a superuser that needs no password.
fn config(cluster: &LocalCluster) -> ClusterConfig {
    let url: tokio_postgres::Config = cluster.superuser_url(0).parse().unwrap();
    let consistency = ConsistencyPolicy {
        default: Consistency::Session,
        read_after_write: ReadAfterWrite::Position,
        max_staleness: None,
        wait: Duration::ZERO,
        max_wait: Duration::ZERO,
        spill_limit: 100,
        monotonic_reads: MonotonicReads::Ordinary,
        audit_one_in: None,
        on_no_replica: OnNoReplica::Primary,
    };
    ClusterConfig {
        name: "main".into(),
        databases: vec![DatabasePattern::AllOthers],
        nodes: vec![NodeConfig {
            name: "a".into(),
            host: "127.0.0.1".into(),
            port: cluster.port(0),
            zone: None,
            weight: 1,
        }],
        role_lookup: None,
        monitor: MonitorConfig {
            user: url.get_user().unwrap().to_owned(),
            password: Secret::new(
                String::from_utf8_lossy(url.get_password().unwrap_or_default()).into_owned(),
            ),
            database: "postgres".into(),
        },
        pool: PoolConfig {
            size: 1,
            mode: PoolMode::Transaction,
            idle_timeout: Duration::from_secs(1),
            max_lifetime: Duration::from_secs(1),
            checkout_timeout: Duration::from_secs(1),
            option_names: OptionNames::Own,
            sequence_numbers: SequenceNumbers::OnceAsked,
        },
        server_tls: ServerTls::Disable,
        policies: Arc::new(Policies {
            routing: routing(),
            consistency,
        }),
        user_policies: std::collections::HashMap::new(),
    }
}
