//! `psql`, `pg_dump`, `pg_restore`, `pgbench`.

use std::fs;

use super::{Bench, finish, printed, tool, value};

const SESSION_MODE: &str = "clusters: { main: { pool: { mode: session } } }";

/// What the commands show: relations, functions, types, privileges, a view, a trigger, comments.
const OBJECTS: &str = "
    CREATE SCHEMA shop;
    CREATE TYPE shop.mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
    CREATE TABLE shop.item (id serial PRIMARY KEY, name text NOT NULL, price numeric(10, 2) DEFAULT 1,
        mood shop.mood, tags text[], made timestamptz DEFAULT '2020-01-01 00:00:00+00');
    CREATE TABLE shop.sale (item int REFERENCES shop.item, n shop.positive, day date) PARTITION BY RANGE (day);
    CREATE TABLE shop.sale_2020 PARTITION OF shop.sale FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE INDEX ON shop.item (lower(name)) WHERE price > 0;
    CREATE VIEW shop.cheap AS SELECT * FROM shop.item WHERE price < 5;
    CREATE MATERIALIZED VIEW shop.total AS SELECT count(*) FROM shop.item;
    CREATE FUNCTION shop.double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
    CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER touch BEFORE UPDATE ON shop.item FOR EACH ROW EXECUTE FUNCTION shop.touch();
    CREATE RULE quiet AS ON DELETE TO shop.cheap DO INSTEAD NOTHING;
    COMMENT ON TABLE shop.item IS 'it''s an item: é';
    GRANT SELECT ON shop.item TO repl;
    INSERT INTO shop.item (name, price, mood, tags)
        SELECT 'item ' || i, i, 'ok', ARRAY['a', NULL, 'b\\c'] FROM generate_series(1, 500) i;
    INSERT INTO shop.sale SELECT i, i, '2020-02-03' FROM generate_series(1, 100) i;
    SELECT lo_from_bytea(4711, 'large');
";

/// A session of psql that uses its own commands; `FILES` is a directory.
const COMMANDS: &str = r#"
\d
\d+ shop.item
\d shop.sale
\d+ shop.cheap
\dt+ shop.*
\di shop.*
\dv shop.*
\dm shop.*
\ds shop.*
\dn+
\df shop.*
\df+ shop.double
\sf shop.double
\sv shop.cheap
\dT+ shop.*
\dD shop.*
\dp shop.*
\ddp
\du
\l
\dx
\db
\dP shop.*
\dO
\dconfig work_mem
\copy (SELECT * FROM shop.item ORDER BY id) TO 'FILES/items' CSV HEADER
CREATE TABLE copied (LIKE shop.item);
\copy copied FROM 'FILES/items' CSV HEADER
SELECT count(*), sum(price) FROM copied;
SELECT format('SELECT %s AS n', i) FROM generate_series(1, 3) i \gexec
SELECT 7 AS seven, 'x' AS word \gset
SELECT :seven + 1, :'word';
SELECT 1 AS a, now() AS b, 'c'::text COLLATE "C" AS c \gdesc
SELECT id, name FROM shop.item ORDER BY id LIMIT 2 \gx
SELECT i % 2 AS r, i AS c, i * i FROM generate_series(1, 4) i \crosstabview
\set FETCH_COUNT 7
SELECT id FROM shop.item ORDER BY id LIMIT 20;
\set FETCH_COUNT 0
\lo_list
\lo_export 4711 'FILES/large'
\lo_import 'FILES/large'
SELECT count(*) FROM pg_largeobject_metadata;
\lo_unlink :LASTOID
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO copied (id, name) VALUES (9999, 'kept');
SELECT 1/0;
\errverbose
SELECT count(*) FROM copied WHERE id = 9999;
COMMIT;
\set AUTOCOMMIT off
INSERT INTO copied (id, name) VALUES (10000, 'gone');
ROLLBACK;
\set AUTOCOMMIT on
SELECT count(*) FROM copied;
SELECT 1 \; SELECT 2 \; SELECT 3;
\encoding
\encoding LATIN1
\encoding
PREPARE p(int) AS SELECT $1 * 2;
EXECUTE p(21);
\if :{?seven}
\echo seven is set
\endif
DROP TABLE copied;
SELECT nothing FROM nowhere;
"#;

/// A bench with the objects on every node.
async fn filled(overrides: &str) -> Bench {
    let bench = Bench::start(2, overrides).await;
    bench.cluster.sql(0, OBJECTS).await.unwrap();
    for replica in bench.cluster.replicas() {
        bench.cluster.wait_for_replay(replica).await.unwrap();
    }
    bench
}

#[tokio::test]
async fn psql_shows_the_same_as_on_the_primary() {
    for overrides in ["", SESSION_MODE] {
        let bench = filled(overrides).await;
        let mut shown = Vec::new();
        for (name, port) in bench.both() {
            let directory = bench.directory(name);
            let script = COMMANDS.replace("FILES", &directory.display().to_string());
            let file = directory.join("script.sql");
            fs::write(&file, script).unwrap();
            let file = file.display().to_string();
            let output = finish(tool("psql", port, "app", &["-X", "-e", "-f", &file])).await;
            let text = |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let text = text.replace(&directory.display().to_string(), "FILES");
                // Ids of large objects grow from run to run.
                let lines = text.lines().filter(|line| !line.starts_with("lo_"));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            shown.push((text(&output.stdout), text(&output.stderr)));
        }
        assert!(shown[0].0.len() > 300, "{} lines", shown[0].0.len());
        for (direct, proxied) in [(&shown[0].0, &shown[1].0), (&shown[0].1, &shown[1].1)] {
            for (at, (direct, proxied)) in direct.iter().zip(proxied).enumerate() {
                assert_eq!(direct, proxied, "line {at}, {overrides}");
            }
            assert_eq!(direct.len(), proxied.len());
        }
    }
}

/// A dump as SQL, without the lines that have a random key in every dump.
async fn dump(port: u16, database: &str) -> String {
    let dump = printed(tool("pg_dump", port, "app", &[database])).await;
    let lines = dump.lines().filter(|line| !line.contains("restrict "));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_dump_is_the_same_and_can_be_restored() {
    for overrides in ["", SESSION_MODE] {
        let bench = filled(overrides).await;
        let mut dumps = Vec::new();
        for (_, port) in bench.both() {
            dumps.push(dump(port, "app").await);
        }
        assert!(dumps[0].contains("COPY shop.item"));
        assert!(dumps[0] == dumps[1], "{overrides}");
        // Two connections beside the first read under its snapshot.
        let port = bench.proxy.port();
        let create = "CREATE DATABASE copy OWNER app";
        bench.cluster.superuser_sql(0, create).await.unwrap();
        let directory = bench.directory("dump").join("files");
        let directory = directory.display().to_string();
        let into = format!("--file={directory}");
        let arguments = ["--format=directory", "--jobs=2", &into];
        printed(tool("pg_dump", port, "app", &arguments)).await;
        let restore = ["--dbname=copy", "--jobs=2", "--exit-on-error", &directory];
        printed(tool("pg_restore", port, "app", &restore)).await;
        let restored = dump(bench.cluster.port(0), "copy").await;
        assert!(restored == dumps[0], "{overrides}");
    }
}

#[tokio::test]
async fn pgbench_does_the_same_in_every_protocol() {
    for overrides in ["", SESSION_MODE] {
        let bench = Bench::start(2, overrides).await;
        let port = bench.proxy.port();
        printed(tool(
            "pgbench",
            port,
            "app",
            &["-i", "-s", "1", "--foreign-keys"],
        ))
        .await;
        let pipeline = bench.directory("pgbench").join("pipeline.sql");
        let script = "\\startpipeline\n\\set id random(1, 100000)\n\
                      UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :id;\n\
                      SELECT abalance FROM pgbench_accounts WHERE aid = :id;\n\
                      INSERT INTO pgbench_history (delta, mtime) VALUES (1, now());\n\
                      \\endpipeline\n";
        fs::write(&pipeline, script).unwrap();
        let pipeline = format!("--file={}", pipeline.display());
        for protocol in ["simple", "extended", "prepared"] {
            let protocol_option = format!("--protocol={protocol}");
            for work in ["--builtin=tpcb-like", "--builtin=select-only", &pipeline] {
                if protocol == "simple" && work == pipeline {
                    continue;
                }
                let arguments = [
                    "-n",
                    "-c",
                    "4",
                    "-j",
                    "2",
                    "-t",
                    "30",
                    &protocol_option,
                    work,
                ];
                let shown = printed(tool("pgbench", port, "app", &arguments)).await;
                let all = shown.contains("processed: 120/120");
                assert!(all, "{protocol} {work} {overrides}: {shown}");
                assert!(shown.contains("failed transactions: 0"), "{shown}");
            }
        }
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) \
                    = (SELECT sum(delta) FROM pgbench_history), \
                    (SELECT count(*) FROM pgbench_history)";
        let rows = bench.cluster.sql(0, sums).await.unwrap();
        let kept: Vec<_> = rows[0].iter().map(|value| value.clone().unwrap()).collect();
        assert_eq!(kept, ["t", "600"], "{overrides}");
        // Reads were really split.
        let metrics = bench.proxy.metrics().await;
        let replicas = metrics.sum("pgweir_queries_total", &[("role", "replica")]);
        assert!(replicas > 300.0, "{replicas}");
        assert_eq!(value(&bench.cluster, "SELECT 1").await, "1");
    }
}
