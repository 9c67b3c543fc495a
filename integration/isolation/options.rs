//! Customized options (`SET app.tenant`): a name that one client has used does not exist for another,
//! and exists for its own session wherever that runs.

use pgweir::sandbox::LocalCluster;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::OnceCell;

use super::harness::Proxy;
use super::harness::parity::filled;
use super::harness::wire::{self, Message, Wire};
use super::{SHARED, sharing};

static SCHEMA: OnceCell<()> = OnceCell::const_new();

async fn cluster() -> &'static LocalCluster {
    let cluster = filled().await;
    SCHEMA
        .get_or_init(|| async {
            for sql in [
                "CREATE TABLE guarded AS SELECT 1 AS a; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; \
                 GRANT SELECT ON guarded TO app",
                "CREATE POLICY unset ON guarded USING (current_setting('opt.owner', true) IS NULL)",
                "CREATE FUNCTION configures() RETURNS void LANGUAGE plpgsql AS \
                 $$ BEGIN PERFORM set_config('opt.inside', '1', true); END $$",
                "CREATE FUNCTION configured() RETURNS text SET opt.clause = 'x' LANGUAGE sql \
                 AS $$ SELECT current_setting('opt.clause') $$",
            ] {
                cluster.superuser_sql(0, sql).await.unwrap();
            }
            for replica in cluster.replicas() {
                cluster.wait_for_replay(replica).await.unwrap();
            }
        })
        .await;
    cluster
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    /// But for several statements in one text.
    Extended,
}

/// What each statement of a client answers: its last row, or its SQLSTATE.
fn answers(port: u16, protocol: Protocol, script: &[(usize, &str)]) -> Vec<String> {
    let mut clients: Vec<_> = (0..3).map(|_| Wire::connect(port)).collect();
    let answer = |(client, sql): &(usize, &str)| {
        let messages = if protocol == Protocol::Simple || sql.contains(';') {
            clients[*client].query(sql)
        } else {
            let bind = wire::bind("", &[]);
            let batch = [
                wire::parse("", sql),
                bind,
                wire::execute("", 0),
                wire::sync(),
            ];
            clients[*client].send(&batch.concat());
            clients[*client].until_ready()
        };
        let error = messages.iter().find_map(Message::sqlstate);
        let mut rows = messages.iter().filter(|message| message.tag == b'D');
        let last = rows.next_back().map(|row| format!("{:?}", row.values()));
        format!("{client}: {sql}: {}", error.or(last).unwrap_or_default())
    };
    script.iter().map(answer).collect()
}

async fn compare(script: &[(usize, &str)]) {
    let cluster = cluster().await;
    for protocol in [Protocol::Simple, Protocol::Extended] {
        let proxy = sharing(cluster, SHARED).await;
        assert_eq!(
            answers(proxy.port(), protocol, script),
            answers(cluster.port(0), protocol, script)
        );
    }
}

const ASK: &str = "SELECT current_setting('opt.a', true)";

#[tokio::test]
async fn an_option_of_one_client_does_not_exist_for_another() {
    compare(&[
        (0, "SET opt.a = '7'"),
        (1, ASK),
        (1, "SHOW opt.a"),
        (0, ASK),
        (1, "BEGIN"),
        (1, ASK),
        (1, "COMMIT"),
        (0, "RESET opt.a"),
        (0, ASK),
        (1, ASK),
        (2, "SET opt.b = '1'"),
        (2, ASK),
        (1, "SELECT current_setting('opt.b', true)"),
    ])
    .await;
}

#[tokio::test]
async fn an_option_that_only_a_transaction_had_exists_behind_it_for_its_session_alone() {
    compare(&[
        (0, "BEGIN"),
        (0, "SET LOCAL opt.a = '7'"),
        (0, ASK),
        (0, "COMMIT"),
        (0, ASK),
        (1, ASK),
        (1, "BEGIN"),
        (1, "SELECT set_config('opt.a', '8', true)"),
        (1, "ROLLBACK"),
        (1, ASK),
        (0, ASK),
        (2, ASK),
    ])
    .await;
}

#[tokio::test]
async fn policies_and_functions_see_no_option_of_another_client() {
    let count = "SELECT count(*) FROM guarded";
    let inside = "SELECT current_setting('opt.inside', true)";
    compare(&[
        (0, "SET opt.owner = 'x'"),
        (0, count),
        (1, count),
        (1, "BEGIN READ ONLY"),
        (1, count),
        (1, "COMMIT"),
        (1, "BEGIN"),
        (1, count),
        (1, "COMMIT"),
        (0, "RESET opt.owner"),
        (0, count),
        (1, count),
        (2, "SELECT configures()"),
        (2, inside),
        (1, inside),
        (0, inside),
    ])
    .await;
}

/// No catalog knows a function that has just been made, nor what it sets.
#[tokio::test]
async fn what_a_new_function_sets_goes_with_its_session_and_nobody_else() {
    let cluster = cluster().await;
    cluster
        .superuser_sql(
            0,
            "CREATE SCHEMA IF NOT EXISTS anew; GRANT ALL ON SCHEMA anew TO app",
        )
        .await
        .unwrap();
    compare(&[
        (0, "DROP FUNCTION IF EXISTS anew.keeps(text)"),
        (
            0,
            "CREATE FUNCTION anew.keeps(v text) RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('opt.kept', v, false); EXECUTE 'SET opt.also = 7'; END $$",
        ),
        (0, "SELECT anew.keeps('mine')"),
        (1, "SELECT current_setting('opt.kept', true)"),
        (1, "SELECT current_setting('opt.also', true)"),
        (1, "SELECT anew.keeps('yours')"),
        (0, "SELECT current_setting('opt.kept', true)"),
        (0, "SELECT current_setting('opt.also', true)"),
        (1, "SELECT current_setting('opt.kept', true)"),
        (2, "SELECT current_setting('opt.kept', true)"),
    ])
    .await;
}

#[tokio::test]
async fn what_failed_may_have_made_an_option_exist() {
    compare(&[
        (0, "SET LOCAL opt.a = '7'; SELECT 1/0"),
        (0, ASK),
        (1, ASK),
        (1, "BEGIN"),
        (
            1,
            "SET LOCAL opt.a = '7'; SELECT 1/0; SET LOCAL opt.b = '7'",
        ),
        (1, "SET LOCAL opt.c = '7'"),
        (1, "ROLLBACK"),
        (1, ASK),
        (1, "SELECT current_setting('opt.b', true)"),
        (1, "SELECT current_setting('opt.c', true)"),
        (2, "BEGIN"),
        (2, "SAVEPOINT s"),
        (2, "SET opt.d = '7'"),
        (2, "ROLLBACK TO s"),
        (2, "COMMIT"),
        (2, "SELECT current_setting('opt.d', true)"),
        (0, "SELECT current_setting('opt.d', true)"),
        (0, "DISCARD ALL"),
        (0, ASK),
    ])
    .await;
}

#[tokio::test]
async fn a_session_that_keeps_a_connection_finds_its_options_there_and_no_others() {
    compare(&[
        (0, "SET opt.a = '7'"),
        (1, "SET LOCAL opt.b = '7'"),
        (1, "SELECT set_config('opt.c', '7', true)"),
        (1, "CREATE TEMP TABLE kept (a int)"),
        (1, "SELECT current_setting('opt.b', true) FROM kept"),
        (1, "INSERT INTO kept VALUES (1)"),
        (1, "SELECT current_setting('opt.c', true) FROM kept"),
        (1, "SELECT current_setting('opt.a', true) FROM kept"),
        (1, "BEGIN READ ONLY"),
        (1, "SELECT current_setting('opt.c', true)"),
        (1, ASK),
        (1, "COMMIT"),
        (
            1,
            "DO $$ BEGIN PERFORM set_config('opt.d', '', true); END $$",
        ),
        (1, "SELECT current_setting('opt.d', true) FROM kept"),
    ])
    .await;
}

/// What pgweir has not asked about on a kept connection has a value there that is not to be taken away.
#[tokio::test]
async fn a_kept_connection_keeps_values_that_nobody_has_asked_about() {
    compare(&[
        (0, "SELECT setseed(0.5)"),
        (0, "SELECT set_config('opt.a', '7', false)"),
        (0, ASK),
        (0, "SELECT set_config('opt.' || 'b', '8', false)"),
        (0, "SELECT current_setting('opt.b', true)"),
        (0, "SELECT current_setting('opt.c', true)"),
    ])
    .await;
}

#[tokio::test]
async fn what_a_function_is_run_with_exists_for_its_session_alone() {
    let asks = "SELECT current_setting('opt.clause', true)";
    compare(&[
        (0, "SELECT configured()"),
        (1, asks),
        (0, asks),
        (2, "SELECT 1"),
        (2, asks),
    ])
    .await;
}

/// Segments that are sent together ask together, and a Flush keeps the connection.
#[tokio::test]
async fn several_segments_in_one_write_find_what_each_would_alone() {
    let bound = [wire::bind("", &[]), wire::execute("", 0)].concat();
    let one = [wire::parse("", "SELECT 1"), bound.clone()].concat();
    let asks = [wire::parse("", ASK), bound].concat();
    let answers = |port| {
        let mut clients = [(); 3].map(|()| Wire::connect(port));
        clients[0].run("SET opt.a = '7'");
        let mut rows = Vec::new();
        clients[1].send(&[&*one, &wire::sync(), &asks, &wire::sync()].concat());
        for _ in 0..2 {
            rows.extend(clients[1].until_ready());
        }
        clients[2].send(&[&*one, &wire::flush()].concat());
        rows.extend(clients[2].until(b'C'));
        clients[2].send(&[&*asks, &wire::sync()].concat());
        rows.extend(clients[2].until_ready());
        let rows = rows.iter().filter(|message| message.tag == b'D');
        rows.map(Message::values).collect::<Vec<_>>()
    };
    let cluster = cluster().await;
    let proxy = sharing(cluster, SHARED).await;
    assert_eq!(answers(proxy.port()), answers(cluster.port(0)));
}

/// Clients that come and go, and set several options one by one in each transaction, share a connection.
#[tokio::test]
async fn new_clients_that_set_what_others_have_set_open_no_connections() {
    let proxy = sharing(cluster().await, SHARED).await;
    let backends = (0..4).map(|_| {
        let mut client = Wire::connect(proxy.port());
        for sql in [
            "BEGIN",
            "SET LOCAL opt.owner = 'x'",
            "SET LOCAL opt.a = 'y'",
        ] {
            client.run(sql);
        }
        client.run("SELECT count(*) FROM guarded");
        let backend = client.value("SELECT pg_backend_pid()");
        client.run("COMMIT");
        backend
    });
    let backends: Vec<String> = backends.collect();
    assert_eq!(backends, vec![backends[0].clone(); 4]);
}

/// Whoever shares connections rather than opens new ones says so.
#[tokio::test]
async fn names_are_shared_where_the_pool_is_told_to() {
    let pool = "clusters: { main: { pool: { size: 1, option_names: shared } } }";
    let proxy = Proxy::start(cluster().await, pool).await;
    let mut clients = [(); 2].map(|()| Wire::connect(proxy.port()));
    let backend = clients[0].value("SELECT pg_backend_pid()");
    clients[0].run("SET opt.a = '7'");
    let asks = "SELECT current_setting('opt.a', true) || pg_backend_pid()";
    assert_eq!(clients[1].value(asks), backend);
}

/// What a client may do in one go, with the option `opt.NAME`.
const UNITS: &[&[&str]] = &[
    &["SELECT current_setting('opt.NAME', true)"],
    &["SHOW opt.NAME"],
    &["SET opt.NAME = 'VALUE'"],
    &["RESET opt.NAME"],
    &["SET opt.NAME TO DEFAULT; SELECT current_setting('opt.NAME', true)"],
    &["SELECT set_config('opt.NAME', 'VALUE', false)"],
    &["SELECT set_config('opt.NAME', 'VALUE', true)"],
    &["SELECT count(*) FROM guarded"],
    &["SELECT configures()"],
    &["SELECT 1"],
    &["DISCARD ALL"],
    &["SET opt.NAME = 'VALUE'; SELECT 1/0"],
    &["SET LOCAL opt.NAME = 'VALUE'; SELECT 1/0"],
    &["DO $$ BEGIN PERFORM set_config('opt.NAME', 'VALUE', true); END $$"],
    &[
        "BEGIN",
        "SELECT count(*) FROM guarded",
        "SET LOCAL opt.NAME = 'VALUE'",
        "SELECT count(*) FROM guarded",
        "COMMIT",
    ],
    &[
        "BEGIN",
        "SELECT current_setting('opt.NAME', true)",
        "ROLLBACK",
    ],
    &["BEGIN", "SELECT 1", "SET opt.NAME = 'VALUE'", "ROLLBACK"],
    &[
        "BEGIN",
        "SELECT 1",
        "SAVEPOINT s",
        "SET opt.NAME = 'VALUE'",
        "ROLLBACK TO s",
        "COMMIT",
    ],
    &[
        "BEGIN READ ONLY",
        "SELECT count(*) FROM guarded",
        "SHOW opt.NAME",
        "ROLLBACK",
    ],
    &["BEGIN", "SELECT 1/0", "SET opt.NAME = 'VALUE'", "COMMIT"],
];

#[tokio::test]
async fn whatever_clients_do_in_turn_each_finds_what_it_would_alone() {
    let cluster = cluster().await;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut script = Vec::new();
        for step in 0..120 {
            let client = random.random_range(0..3);
            let name = ["a", "b", "owner", "inside"][random.random_range(0..4)];
            let value = format!("v{step}");
            let unit = UNITS[random.random_range(0..UNITS.len())].iter();
            let filled = |sql: &&str| sql.replace("NAME", name).replace("VALUE", &value);
            script.extend(unit.map(|sql| (client, filled(sql))));
        }
        let script: Vec<(usize, &str)> = script.iter().map(|(at, sql)| (*at, &**sql)).collect();
        let proxy = sharing(cluster, SHARED).await;
        let protocol = [Protocol::Simple, Protocol::Extended][random.random_range(0..2)];
        let through = answers(proxy.port(), protocol, &script);
        let directly = answers(cluster.port(0), protocol, &script);
        for (at, (through, directly)) in through.iter().zip(&directly).enumerate() {
            let before = &script[at.saturating_sub(25)..at];
            assert_eq!(through, directly, "seed {seed}, behind {before:#?}");
        }
    }
}

/// What every new connection has belongs to nobody, so that nobody is kept from it.
#[tokio::test]
async fn an_option_that_a_role_or_database_has_been_given_keeps_nobody_away() {
    let cluster = cluster().await;
    for sql in [
        "ALTER ROLE app SET opt.of_role = 'role'",
        "ALTER DATABASE app SET opt.of_database = ''",
    ] {
        cluster.superuser_sql(0, sql).await.unwrap();
    }
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let shown = "SELECT current_setting('opt.of_role') || current_setting('opt.of_database')";
    compare(&[
        (0, "SET opt.of_role = 'mine'"),
        (0, "SET LOCAL opt.of_database = 'mine'"),
        (1, shown),
        (0, shown),
        (0, "RESET opt.of_role"),
        (0, shown),
    ])
    .await;
    let proxy = sharing(cluster, SHARED).await;
    let mut clients = [(); 2].map(|()| Wire::connect(proxy.port()));
    let asks = "SELECT pg_backend_pid(), current_setting('opt.of_role')";
    clients[0].run("SET opt.of_role = 'mine'; SET opt.of_database = 'mine'");
    // Which names those are shows on the first connection that nobody has used.
    clients[1].run(asks);
    let backend = clients[1].value("SELECT pg_backend_pid()");
    for client in [0, 1, 0, 1] {
        clients[client].run("SET opt.of_role = 'mine'");
        let row = clients[client].query(asks);
        let row = row.iter().find(|message| message.tag == b'D').unwrap();
        assert_eq!(row.values()[0].as_deref(), Some(&*backend));
    }
}

/// The control: whoever does not ask, or has the same options, shares the connection.
#[tokio::test]
async fn clients_that_cannot_tell_share_a_connection() {
    let proxy = sharing(cluster().await, SHARED).await;
    let mut clients: Vec<_> = (0..3).map(|_| Wire::connect(proxy.port())).collect();
    let backend = clients[0].value("SELECT pg_backend_pid()");
    clients[0].run("SET opt.a = '1'");
    assert_eq!(clients[2].value("SELECT pg_backend_pid()"), backend);
    clients[1].run("SET opt.a = '2'");
    let both = "SELECT current_setting('opt.a') || ' ' || pg_backend_pid()";
    assert_eq!(clients[0].value(both), format!("1 {backend}"));
    assert_eq!(clients[1].value(both), format!("2 {backend}"));
    let asks = "SELECT coalesce(current_setting('opt.a', true), 'none') || ' ' || pg_backend_pid()";
    let other = clients[2].value(asks);
    assert!(
        other.starts_with("none ") && !other.ends_with(&backend),
        "{other}"
    );
}
