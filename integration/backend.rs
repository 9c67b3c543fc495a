//! Server connections to a real PostgreSQL: every authentication method, refusals, pooling, cancel.

#![cfg(test)]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::backend::cancel::CancelTarget;
use pgweir::backend::connection::{BackendConnection, WorkerId};
use pgweir::backend::custom::WantedNames;
use pgweir::backend::error::{ConnectError, ConnectFault};
use pgweir::backend::login::NodeLogin;
use pgweir::backend::pool::{CheckoutError, Lease, PoolKey, Pools, Preference, Unobserved};
use pgweir::backend::startup::StartupParameters;
use pgweir::config::{ProcessEnvironment, Secret, parse};
use pgweir::core::snapshot::NodeId;
use pgweir::credential::hashing::Hashing;
use pgweir::sandbox::{ClusterOptions, LocalCluster};
use pgweir::wire::{Message, read_message};
use tokio::io::AsyncWriteExt as _;

/// Roles with the ways in which they have to prove themselves.
const ROLES: &str = "SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'right';
    SET password_encryption = 'scram-sha-256'; CREATE ROLE scrammed LOGIN PASSWORD 'right';
    CREATE ROLE plain LOGIN PASSWORD 'right'; CREATE ROLE trusted LOGIN;
    CREATE ROLE single LOGIN PASSWORD 'right' CONNECTION LIMIT 1; CREATE ROLE shut LOGIN";
const ACCESS: &str = "host all hashed 127.0.0.1/32 md5\nhost all plain 127.0.0.1/32 password\n\
    host all trusted 127.0.0.1/32 trust\nhost all shut 127.0.0.1/32 reject\n";
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    cluster: LocalCluster,
    pools: Pools,
}

impl Bench {
    async fn start(size: usize) -> Self {
        let cluster = LocalCluster::start(ClusterOptions::new(0)).await.unwrap();
        cluster.superuser_sql(0, ROLES).await.unwrap();
        let shown = cluster.superuser_sql(0, "SHOW hba_file").await.unwrap();
        let file = shown[0][0].clone().unwrap();
        let others = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{ACCESS}{others}")).unwrap();
        let reload = "SELECT pg_reload_conf()";
        cluster.superuser_sql(0, reload).await.unwrap();
        let pools = pools(cluster.port(0), size);
        let bench = Self { cluster, pools };
        bench.reloaded().await;
        bench
    }

    /// Waits until the new access rules are in force.
    async fn reloaded(&self) {
        let begun = Instant::now();
        while self.log_in("trusted", "", "app", &[]).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the rules come into force");
        }
    }

    async fn log_in(
        &self,
        user: &str,
        password: &str,
        database: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Lease, CheckoutError> {
        let parameters = parameters.iter();
        let parameters = parameters.map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let key = PoolKey {
            node: NodeId(0),
            database: database.into(),
            user: user.into(),
            startup: Arc::new(StartupParameters::new(parameters)),
        };
        let login = NodeLogin::with_password(Secret::new(password));
        let preference = Preference {
            home: None,
            last: None,
            worker: WorkerId(0),
            names: WantedNames::default(),
        };
        let checkout = self
            .pools
            .checkout(&key, &login, &preference, Instant::now());
        tokio::time::timeout(PATIENCE, checkout)
            .await
            .expect("the checkout ends")
    }

    /// The SQLSTATE that a log-in is refused with.
    async fn refusal(&self, user: &str, password: &str, database: &str) -> String {
        match self.log_in(user, password, database, &[]).await {
            Err(CheckoutError::Connect(ConnectError::Server(error))) => {
                assert_ne!(error.fault(), ConnectFault::NodeUnavailable);
                assert!(error.body().ends_with(b"\0\0"));
                error.sqlstate().to_owned()
            }
            other => panic!("not refused by the node: {other:?}"),
        }
    }
}

fn pools(port: u16, size: usize) -> Pools {
    let text = format!(
        "clusters: {{ main: {{ nodes: [{{ host: localhost, port: {port} }}], \
         pool: {{ size: {size} }}, monitor: {{ user: pgweir, password: pgweir }} }} }}\n\
         users: [{{ name: app, password: app }}]\n"
    );
    let config = parse(&text, "test", &ProcessEnvironment).unwrap();
    Pools::new(
        Arc::clone(&config.clusters[0]),
        Arc::new(Unobserved),
        Hashing::start().unwrap(),
    )
}

/// Sends a simple query and reads the reply up to `ReadyForQuery`.
async fn query(connection: &mut BackendConnection, sql: &str) -> Vec<Message> {
    send(connection, sql).await;
    rest(connection).await
}

/// The rest of a reply, up to `ReadyForQuery`.
async fn rest(connection: &mut BackendConnection) -> Vec<Message> {
    let mut reply = Vec::new();
    loop {
        let message = read_message(&mut connection.stream, 1 << 20);
        let message = tokio::time::timeout(PATIENCE, message).await;
        let message = message.expect("the node answers").unwrap();
        let last = message.tag == b'Z';
        reply.push(message);
        if last {
            return reply;
        }
    }
}

async fn send(connection: &mut BackendConnection, sql: &str) {
    let length = u32::try_from(sql.len() + 5).unwrap();
    let message = [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat();
    connection.stream.write_all(&message).await.unwrap();
}

/// The first column of the first row.
async fn value(connection: &mut BackendConnection, sql: &str) -> String {
    let reply = query(connection, sql).await;
    let row = reply.iter().find(|message| message.tag == b'D').unwrap();
    String::from_utf8(row.body[6..].to_vec()).unwrap()
}

#[tokio::test]
async fn every_authentication_method_lets_the_right_password_in_and_no_other() {
    let bench = Bench::start(4).await;
    for user in ["scrammed", "hashed", "plain", "trusted"] {
        let begun = Instant::now();
        let mut lease = bench.log_in(user, "right", "app", &[]).await.unwrap();
        println!("{user}: ready after {:?}", begun.elapsed());
        assert_eq!(value(&mut lease, "SELECT current_user").await, user);
        let pid = value(&mut lease, "SELECT pg_backend_pid()").await;
        assert_eq!(
            (pid, lease.cancel_key.len()),
            (lease.process_id.to_string(), 4)
        );
        let reported = lease
            .parameters
            .iter()
            .any(|(name, value)| (&**name, &**value) == ("in_hot_standby", "off"));
        assert!(reported, "{:?}", lease.parameters);
    }
    for user in ["scrammed", "hashed", "plain"] {
        // Its own database, because connections of the first loop would be used again.
        assert_eq!(bench.refusal(user, "wrong", "postgres").await, "28P01");
        let none = bench.log_in(user, "", "postgres", &[]).await.unwrap_err();
        let CheckoutError::Connect(error) = none else {
            panic!("{none:?}");
        };
        assert!(matches!(error, ConnectError::NoPassword), "{error}");
    }
}

#[tokio::test]
async fn the_nodes_refusals_arrive_as_they_are() {
    let bench = Bench::start(4).await;
    assert_eq!(bench.refusal("trusted", "", "nowhere").await, "3D000");
    assert_eq!(bench.refusal("nobody", "x", "app").await, "28P01");
    assert_eq!(bench.refusal("shut", "", "app").await, "28000");
    let _only = bench.log_in("single", "right", "app", &[]).await.unwrap();
    assert_eq!(bench.refusal("single", "right", "app").await, "53300");
    let bad = bench.log_in("trusted", "", "app", &[("options", "-c nothing.")]);
    let bad = bad.await.unwrap_err();
    let CheckoutError::Connect(error) = bad else {
        panic!("{bad:?}");
    };
    let server = error.server().expect("refused by the node");
    println!("{server}");
}

#[tokio::test]
async fn startup_parameters_take_effect_and_connections_are_kept_apart_by_them() {
    let bench = Bench::start(1).await;
    let first = [("application_name", "one"), ("options", "-c work_mem=1MB")];
    let mut lease = bench.log_in("trusted", "", "app", &first).await.unwrap();
    assert_eq!(value(&mut lease, "SHOW application_name").await, "one");
    assert_eq!(value(&mut lease, "SHOW work_mem").await, "1MB");
    let pid = lease.process_id;
    lease.give_back(Instant::now());
    let same = bench.log_in("trusted", "", "app", &first).await.unwrap();
    assert_eq!(same.process_id, pid);
    same.give_back(Instant::now());
    let second = [("application_name", "two")];
    let mut other = bench.log_in("trusted", "", "app", &second).await.unwrap();
    assert_ne!(other.process_id, pid);
    assert_eq!(value(&mut other, "SHOW application_name").await, "two");
}

#[tokio::test]
async fn cancel_ends_the_query_and_leaves_the_connection_usable() {
    let bench = Bench::start(1).await;
    let mut lease = bench.log_in("trusted", "", "app", &[]).await.unwrap();
    let target = CancelTarget::from(&*lease);
    let begun = Instant::now();
    send(&mut lease, "SELECT pg_sleep(60)").await;
    let active = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while bench.cluster.superuser_sql(0, active).await.unwrap()[0][0].as_deref() != Some("1") {
        assert!(begun.elapsed() < PATIENCE, "the query runs");
    }
    target.cancel(Instant::now() + PATIENCE).await.unwrap();
    let reply = rest(&mut lease).await;
    let error = reply.iter().find(|message| message.tag == b'E').unwrap();
    assert!(error.body.windows(7).any(|field| field == b"C57014\0"));
    assert_eq!(value(&mut lease, "SELECT 7").await, "7");
    assert!(begun.elapsed() < Duration::from_secs(50));
}

#[tokio::test]
async fn idle_connections_that_a_restart_has_ended_are_not_handed_out() {
    let bench = Bench::start(3).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.log_in("trusted", "", "app", &[]).await.unwrap());
    }
    let old: Vec<_> = leases.iter().map(|lease| lease.process_id).collect();
    for lease in leases {
        lease.give_back(Instant::now());
    }
    bench.cluster.restart_node(0).await.unwrap();
    for _ in 0..3 {
        let mut lease = bench.log_in("trusted", "", "app", &[]).await.unwrap();
        assert!(!old.contains(&lease.process_id));
        assert_eq!(value(&mut lease, "SELECT 1").await, "1");
        lease.give_back(Instant::now());
    }
    bench.pools.close_all();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'trusted'";
    let begun = Instant::now();
    while bench.cluster.superuser_sql(0, held).await.unwrap()[0][0].as_deref() != Some("0") {
        assert!(
            begun.elapsed() < PATIENCE,
            "closed connections leave the node"
        );
    }
}
