//! TLS from clients and to nodes, and Unix sockets, with real clients and real servers.

#![cfg(test)]

mod harness;

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/client.rs"]
mod client;
#[path = "tls/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authority::{Authority, Files};
use client::{Tls, answer, program, psql};
use harness::{LIMIT, Proxy, eventually, shared_cluster};
use pgweir::backend::connection::WorkerId;
use pgweir::backend::login::NodeLogin;
use pgweir::backend::pool::{PoolKey, Pools, Preference, Unobserved};
use pgweir::backend::startup::StartupParameters;
use pgweir::config::{ProcessEnvironment, Secret, parse};
use pgweir::control::probe::probe_once;
use pgweir::core::snapshot::NodeId;
use pgweir::credential::hashing::Hashing;
use pgweir::sandbox::{ClusterOptions, LocalCluster, free_port};
use pgweir::wire::{Message, read_message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_rustls::rustls::pki_types::ServerName;

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const STARTUP: &[u8] = b"\0\0\0\x1f\0\x03\0\0user\0app\0database\0app\0\0";

/// A proxy in front of the shared cluster that shows a certificate of `authority`.
struct Shown {
    proxy: Proxy,
    authority: Authority,
    files: Files,
}

/// `more` follows certificate and key in `client_tls`.
async fn shown(more: &str, overrides: &str) -> Shown {
    let cluster = shared_cluster().await;
    let files = Files::new(
        &cluster
            .directory()
            .join(format!("tls{:08x}", rand::random::<u32>())),
    );
    let authority = Authority::new("the right one");
    let shown = authority.server("localhost", &["localhost"]);
    let cert = files.write("server.crt", &shown.certificate);
    let key = files.write("server.key", &shown.key);
    files.write("ca.crt", &authority.pem);
    files.write("wrong.crt", &Authority::new("another").pem);
    let clients = more.replace("FILES", &files.0.display().to_string());
    let overrides = format!("client_tls: {{ cert: {cert}, key: {key}, {clients} }}\n{overrides}");
    let proxy = Proxy::start(cluster, &overrides).await;
    Shown {
        proxy,
        authority,
        files,
    }
}

impl Shown {
    /// For psql; FILES in `parameters` is the directory of the certificates.
    fn dsn(&self, parameters: &str) -> String {
        let parameters = parameters.replace("FILES", &self.files.0.display().to_string());
        let host = if parameters.contains("host=") {
            ""
        } else {
            "host=localhost"
        };
        let port = self.proxy.port();
        format!("{host} port={port} user=app password=app dbname=app {parameters}")
    }

    /// Whether psql says that the connection is encrypted, or why there is none.
    fn encrypted(&self, parameters: &str) -> Result<bool, String> {
        let said = answer(&self.dsn(parameters), "\\conninfo")?;
        Ok(said.contains("SSL connection (protocol: TLSv1.3"))
    }
}

#[tokio::test]
async fn a_verifier_binds_the_login_to_the_certificate_and_its_keys_lead_to_the_nodes() {
    let cluster = shared_cluster().await;
    let stored = harness::scram::verifier("bound", 4096);
    let role = format!("CREATE ROLE bound LOGIN PASSWORD '{stored}'");
    cluster.superuser_sql(0, &role).await.unwrap();
    let file =
        format!("users: [{{ name: bound, password: '{stored}' }}]\nauth: {{ mode: passthrough }}");
    let shown = shown("mode: require", &file).await;
    let dsn = |password: &str| {
        let port = shown.proxy.port();
        format!(
            "host=localhost port={port} user=bound password={password} dbname=app \
             sslmode=require channel_binding=require"
        )
    };
    let who = "/*pgweir_route='primary'*/ SELECT current_user";
    assert_eq!(answer(&dsn("bound"), who).as_deref(), Ok("bound"));
    let refused = answer(&dsn("wrong"), who).unwrap_err();
    assert!(
        refused.contains("password authentication failed"),
        "{refused}"
    );
}

#[tokio::test]
async fn libpq_gets_what_its_sslmode_asks_for() {
    let modes = ["disable", "prefer", "require"];
    let table: [(&str, [Result<bool, &str>; 3]); 8] = [
        (
            "sslmode=disable",
            [Ok(false), Ok(false), Err("encrypted connections only")],
        ),
        ("sslmode=allow", [Ok(false), Ok(false), Ok(true)]),
        ("sslmode=prefer", [Ok(false), Ok(true), Ok(true)]),
        (
            "sslmode=require",
            [Err("does not support SSL"), Ok(true), Ok(true)],
        ),
        (
            "sslmode=verify-ca sslrootcert=FILES/ca.crt",
            [Err("SSL"), Ok(true), Ok(true)],
        ),
        (
            "sslmode=verify-full sslrootcert=FILES/ca.crt",
            [Err("SSL"), Ok(true), Ok(true)],
        ),
        (
            "sslmode=verify-ca sslrootcert=FILES/wrong.crt",
            [
                Err("SSL"),
                Err("certificate verify failed"),
                Err("certificate verify failed"),
            ],
        ),
        (
            "host=127.0.0.1 sslmode=verify-full sslrootcert=FILES/ca.crt",
            [Err("SSL"), Err("does not match"), Err("does not match")],
        ),
    ];
    for (mode, column) in modes.iter().zip(0..) {
        let shown = shown(&format!("mode: {mode}"), "").await;
        for (parameters, expected) in &table {
            let got = shown.encrypted(parameters);
            let as_expected = match (&got, &expected[column]) {
                (Ok(got), Ok(expected)) => got == expected,
                (Err(got), Err(expected)) => got.contains(expected),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            assert!(as_expected, "{mode} {parameters}: {got:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_must_encrypt_is_told_so() {
    let shown = shown("mode: require", "").await;
    let refused = tokio_postgres::connect(&shown.proxy.url("app"), NoTls).await;
    let Err(refused) = refused else {
        panic!("it got in")
    };
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "28000");
    assert_eq!(refused.hint(), Some("Connect with sslmode=require."));
}

#[tokio::test]
async fn scram_is_bound_to_the_certificate() {
    let shown = shown("mode: prefer", "").await;
    let bound = "sslmode=require channel_binding=require";
    assert_eq!(shown.encrypted(bound), Ok(true));
    let wrong = format!("{bound} password=wrong");
    let wrong = shown.encrypted(&wrong).unwrap_err();
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    let plain = shown
        .encrypted("sslmode=disable channel_binding=require")
        .unwrap_err();
    assert!(plain.contains("channel binding"), "{plain}");
    // Without it the same.
    assert_eq!(
        shown.encrypted("sslmode=require channel_binding=disable"),
        Ok(true)
    );
}

#[tokio::test]
async fn tls_may_begin_without_a_request_if_it_names_the_protocol() {
    let shown = shown("mode: require", "").await;
    let mut config: tokio_postgres::Config = shown.proxy.url("app").parse().unwrap();
    config
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let named = Tls::new(&shown.authority, &[b"postgresql"]);
    let (client, connection) = config.connect(named).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SELECT 42", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    let unnamed = Tls::new(&shown.authority, &[]);
    assert!(config.connect(unnamed).await.is_err());
    let other = Tls::new(&shown.authority, &[b"h2"]);
    assert!(config.connect(other).await.is_err());
}

#[tokio::test]
async fn what_was_sent_in_plaintext_is_not_taken_for_encrypted() {
    let shown = shown("mode: prefer", "auth: { method: trust }").await;
    let mut raw = TcpStream::connect(("127.0.0.1", shown.proxy.port()))
        .await
        .unwrap();
    raw.write_all(&[SSL_REQUEST, STARTUP].concat())
        .await
        .unwrap();
    let mut heard = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(LIMIT, raw.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard.first(), Some(&b'S'));
    // An alert (RFC 8446, section 5.1), and nothing of PostgreSQL's.
    assert!(heard.len() == 1 || heard[1] == 21, "{heard:?}");
}

#[tokio::test]
async fn encryption_is_asked_for_once() {
    let shown = shown("mode: prefer", "auth: { method: trust }").await;
    let mut raw = TcpStream::connect(("127.0.0.1", shown.proxy.port()))
        .await
        .unwrap();
    raw.write_all(SSL_REQUEST).await.unwrap();
    assert_eq!(raw.read_u8().await.unwrap(), b'S');
    let tls = Tls::new(&shown.authority, &[]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = tls.0.connect(name, raw).await.unwrap();
    tls.write_all(SSL_REQUEST).await.unwrap();
    let refused = timeout(LIMIT, read_message(&mut tls, 10_000))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(refused.tag, b'E');
    assert!(
        refused.body.windows(5).any(|code| code == b"0A000"),
        "{:?}",
        refused.body
    );
}

#[tokio::test]
async fn a_certificate_proves_the_user_that_it_names() {
    let cluster = shared_cluster().await;
    let clients = Authority::new("of clients");
    let files = Files::new(&cluster.directory().join("clients"));
    files.write("clients.crt", &clients.pem);
    for (name, signed) in [
        ("app", clients.client("app")),
        ("other", clients.client("other")),
        ("stranger", Authority::new("of others").client("app")),
    ] {
        files.write(&format!("{name}.crt"), &signed.certificate);
        files.write(&format!("{name}.key"), &signed.key);
    }
    let directory = files.0.display();
    let more = format!("mode: require, client_ca: {directory}/clients.crt");
    let shown = shown(&more, "auth: { method: cert }").await;
    let with = |name: &str| {
        let parameters = format!("sslcert={directory}/{name}.crt sslkey={directory}/{name}.key");
        shown.encrypted(&format!("sslmode=require {parameters}"))
    };
    assert_eq!(with("app"), Ok(true));
    let other = with("other").unwrap_err();
    assert!(
        other.contains("certificate authentication failed for user \"app\""),
        "{other}"
    );
    let stranger = with("stranger").unwrap_err();
    assert!(
        stranger.contains("alert") || stranger.contains("closed"),
        "{stranger}"
    );
    let none = shown.encrypted("sslmode=require").unwrap_err();
    assert!(
        none.contains("requires a valid client certificate"),
        "{none}"
    );
}

#[tokio::test]
async fn certificates_are_read_again_and_broken_ones_are_not_taken() {
    let shown = shown("mode: prefer", "").await;
    let new = Authority::new("the next one");
    shown.files.write("next.crt", &new.pem);
    let with =
        |root: &str| shown.encrypted(&format!("sslmode=verify-full sslrootcert=FILES/{root}"));
    assert_eq!(with("ca.crt"), Ok(true));
    // A session that is there stays.
    let held = Tls::new(&shown.authority, &[]);
    let mut config: tokio_postgres::Config = shown.proxy.url("app").parse().unwrap();
    config.ssl_mode(SslMode::Require);
    let (client, connection) = config.connect(held).await.unwrap();
    tokio::spawn(connection);

    let next = new.server("localhost", &["localhost"]);
    shown.files.write("server.crt", &next.certificate);
    shown.proxy.reload();
    let complains = || async {
        shown
            .proxy
            .log()
            .contains("does not belong to the certificate")
    };
    eventually("the old key is refused", complains).await;
    assert_eq!(with("ca.crt"), Ok(true));
    shown.files.write("server.key", &next.key);
    shown.proxy.reload();
    eventually("the new certificate is shown", || async {
        with("next.crt") == Ok(true)
    })
    .await;
    assert!(with("ca.crt").is_err());
    client.query_one("SELECT 1", &[]).await.unwrap();
}

/// A primary that shows a certificate for `localhost`, signed by the authority.
struct Encrypting {
    cluster: LocalCluster,
    files: Files,
    ours: Authority,
}

impl Encrypting {
    async fn start(access: &str) -> Self {
        let cluster = LocalCluster::start(ClusterOptions::new(0)).await.unwrap();
        let authority = Authority::new("of nodes");
        let ours = Authority::new("of the proxy");
        server::encrypt(
            &cluster,
            &authority.server("db", &["localhost"]),
            &ours,
            access,
        )
        .await;
        let files = Files::new(&cluster.directory().join("tls"));
        files.write("ca.crt", &authority.pem);
        files.write("wrong.crt", &Authority::new("another").pem);
        let signed = ours.client("app");
        files.write("app.crt", &signed.certificate);
        files.write("app.key", &signed.key);
        Self {
            cluster,
            files,
            ours,
        }
    }

    fn tls(&self, tls: &str) -> String {
        tls.replace("FILES", &self.files.0.display().to_string())
    }

    /// Whether a pooled connection is encrypted, and its cancel requests; or why there is none. The
    /// monitor must get on just as well.
    async fn encrypted(&self, host: &str, tls: &str) -> Result<(bool, bool), String> {
        let text = format!(
            "clusters: {{ main: {{ nodes: [{{ host: {host}, port: {} }}], \
             monitor: {{ user: pgweir, password: pgweir }}, server_tls: {{ {} }} }} }}\n\
             users: [{{ name: app, password: app }}]\n",
            self.cluster.port(0),
            self.tls(tls)
        );
        let config = parse(&text, "test", &ProcessEnvironment).unwrap();
        let cluster = Arc::clone(&config.clusters[0]);
        let pools = Pools::new(
            Arc::clone(&cluster),
            Arc::new(Unobserved),
            Hashing::start().unwrap(),
        );
        let key = PoolKey {
            node: NodeId(0),
            database: "app".into(),
            user: "app".into(),
            startup: Arc::new(StartupParameters::new([])),
        };
        let preference = Preference {
            home: None,
            last: None,
            worker: WorkerId(0),
        };
        let probed = probe_once(&cluster.nodes[0], &cluster).await;
        let login = NodeLogin::with_password(Secret::new("app"));
        let lease = pools
            .checkout(&key, &login, preference, Instant::now())
            .await;
        match (lease, probed) {
            (Ok(lease), Ok(_)) => {
                let pid = lease.process_id;
                let sql = format!("SELECT ssl FROM pg_stat_ssl WHERE pid = {pid}");
                let rows = self.cluster.superuser_sql(0, &sql).await.unwrap();
                let session = rows[0][0].as_deref() == Some("t");
                Ok((session, lease.encryption.is_some()))
            }
            (Err(error), Err(probe)) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                assert!(!probe.to_string().is_empty());
                Err(format!("{error}: {}", source.unwrap_or_default()))
            }
            (lease, probe) => panic!("{lease:?} but {probe:?}"),
        }
    }
}

/// Whether the node says that a session is encrypted, and whether its cancel requests would be; or a
/// part of why there is none.
type Expected = Result<(bool, bool), &'static str>;

const ENCRYPTED: Expected = Ok((true, true));
const PLAIN: Expected = Ok((false, false));

async fn check_modes(node: &Encrypting, table: &[(&str, &str, Expected)]) {
    for (host, tls, expected) in table {
        let got = node.encrypted(host, tls).await;
        let as_expected = match (&got, expected) {
            (Ok(got), Ok(expected)) => got == expected,
            (Err(got), Err(expected)) => got.contains(expected),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        assert!(as_expected, "{host} {tls}: {got:?}");
    }
}

#[tokio::test]
async fn nodes_are_spoken_to_as_server_tls_says() {
    let node = Encrypting::start("").await;
    check_modes(
        &node,
        &[
            ("localhost", "mode: disable", PLAIN),
            ("localhost", "mode: prefer", ENCRYPTED),
            ("localhost", "mode: require", ENCRYPTED),
            ("localhost", "mode: require, ca: FILES/ca.crt", ENCRYPTED),
            (
                "localhost",
                "mode: require, ca: FILES/wrong.crt",
                Err("UnknownIssuer"),
            ),
            ("localhost", "mode: verify-ca, ca: FILES/ca.crt", ENCRYPTED),
            ("127.0.0.1", "mode: verify-ca, ca: FILES/ca.crt", ENCRYPTED),
            (
                "localhost",
                "mode: verify-ca, ca: FILES/wrong.crt",
                Err("UnknownIssuer"),
            ),
            (
                "localhost",
                "mode: verify-full, ca: FILES/ca.crt",
                ENCRYPTED,
            ),
            (
                "127.0.0.1",
                "mode: verify-full, ca: FILES/ca.crt",
                Err("certificate not valid for name"),
            ),
            (
                "localhost",
                "mode: verify-full, ca: FILES/wrong.crt",
                Err("UnknownIssuer"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn preference_gives_way_where_the_node_does_not_let_encrypted_sessions_in() {
    let node = Encrypting::start("hostssl all all all reject\n").await;
    check_modes(
        &node,
        &[
            ("localhost", "mode: prefer", PLAIN),
            ("localhost", "mode: require", Err("28000")),
        ],
    )
    .await;
    node.cluster
        .superuser_sql(0, "ALTER SYSTEM SET ssl = off")
        .await
        .unwrap();
    node.cluster
        .superuser_sql(0, "SELECT pg_reload_conf()")
        .await
        .unwrap();
    let off = || async {
        node.encrypted("localhost", "mode: require")
            .await
            .is_err_and(|e| e.contains("does not support TLS"))
    };
    eventually("the node does not encrypt any more", off).await;
    check_modes(&node, &[("localhost", "mode: prefer", PLAIN)]).await;
}

#[tokio::test]
async fn nodes_that_ask_for_a_certificate_get_ours() {
    let access = "hostssl all app all scram-sha-256 clientcert=verify-full\n\
                  hostnossl all app all reject\n";
    let node = Encrypting::start(access).await;
    let with = "mode: verify-full, ca: FILES/ca.crt, cert: FILES/app.crt, key: FILES/app.key";
    let got = node.encrypted("localhost", with).await;
    assert_eq!(got, Ok((true, true)));
    // Names without alternatives: the common name counts.
    let authority = Authority::new("of nodes again");
    server::encrypt(
        &node.cluster,
        &authority.server("localhost", &[]),
        &node.ours,
        "",
    )
    .await;
    node.files.write("ca.crt", &authority.pem);
    let again = || async { node.encrypted("localhost", with).await == Ok((true, true)) };
    eventually("the node shows its new certificate", again).await;
}

/// Both sides encrypted, nothing else let in.
struct Both {
    node: Encrypting,
    proxy: Proxy,
    tls: Tls,
}

impl Both {
    async fn start(more: &str) -> Self {
        Self::with(more, "size: 20").await
    }

    async fn with(more: &str, pool: &str) -> Self {
        let node = Encrypting::start("hostnossl all app,pgweir all reject\n").await;
        let authority = Authority::new("of the proxy's certificate");
        let shown = authority.server("localhost", &["localhost"]);
        let cert = node.files.write("shown.crt", &shown.certificate);
        let key = node.files.write("shown.key", &shown.key);
        let port = node.cluster.port(0);
        let overrides = format!(
            "client_tls: {{ mode: require, cert: {cert}, key: {key} }}\n\
             clusters: {{ main: {{ nodes: [{{ host: localhost, port: {port} }}], \
             pool: {{ {pool} }}, server_tls: {{ {} }} }} }}\n{more}",
            node.tls("mode: verify-full, ca: FILES/ca.crt")
        );
        let proxy = Proxy::start(&node.cluster, &overrides).await;
        let tls = Tls::new(&authority, &[]);
        Self { node, proxy, tls }
    }

    fn config(&self) -> tokio_postgres::Config {
        let mut config: tokio_postgres::Config = self.proxy.url("app").parse().unwrap();
        config.ssl_mode(SslMode::Require);
        config
    }

    /// Waits until the node runs the statement.
    async fn runs(&self, sql: &str) {
        let sql =
            format!("SELECT 1 FROM pg_stat_activity WHERE query = '{sql}' AND state = 'active'");
        let runs = || async {
            !self
                .node
                .cluster
                .superuser_sql(0, &sql)
                .await
                .unwrap()
                .is_empty()
        };
        eventually("the node runs the statement", runs).await;
    }

    fn dsn(&self) -> String {
        let port = self.proxy.port();
        format!("host=localhost port={port} user=app password=app dbname=app sslmode=require")
    }
}

#[tokio::test]
async fn requests_to_cancel_are_encrypted_too() {
    let both = Both::start("").await;
    let (client, connection) = both.config().connect(both.tls.clone()).await.unwrap();
    tokio::spawn(connection);
    let cancel = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(60)");
    let cancelling = async {
        both.runs("SELECT pg_sleep(60)").await;
        cancel.cancel_query(both.tls.clone()).await.unwrap();
    };
    let slept = timeout(LIMIT, async { tokio::join!(sleeping, cancelling).0 }).await;
    let slept = slept.unwrap().unwrap_err();
    assert_eq!(slept.code().unwrap().code(), "57014");
    // The node let no request in that was not encrypted; so it was.
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn much_data_passes_both_ways_in_bounded_memory() {
    const GROWTH: u64 = 48 << 20;

    let both = Both::start("").await;
    answer(&both.dsn(), "CREATE TABLE w (id int, t text)").unwrap();
    let before = both.proxy.rss_bytes();
    let down = "COPY (SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g) TO STDOUT";
    let file = both.node.files.0.join("rows");
    let output = psql(
        &both.dsn(),
        &["-c", down, "-o", &file.display().to_string()],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(bytes > 100_000_000, "{bytes}");
    let up = format!("\\copy w FROM '{}'", file.display());
    let output = psql(&both.dsn(), &["-c", &up]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sum = answer(
        &both.dsn(),
        "SELECT count(*), sum(id), sum(length(t)) FROM w",
    )
    .unwrap();
    assert_eq!(sum, "100000|5000050000|100000000");
    let rows = "SELECT id, t FROM w";
    let output = psql(&both.dsn(), &["-c", rows, "-o", "/dev/null"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let growth = both.proxy.rss_bytes().saturating_sub(before);
    assert!(growth < GROWTH, "grew by {growth} bytes");
}

#[tokio::test]
async fn a_base_backup_is_encrypted_on_both_ways() {
    let both = Both::start("").await;
    let cluster = &both.node.cluster;
    server::allow(cluster, "hostnossl replication all all reject\n").await;
    let role = "ALTER ROLE app REPLICATION";
    cluster.superuser_sql(0, role).await.unwrap();
    let directory = both.node.files.0.join("backup").display().to_string();
    let backup = |dsn: &str| {
        let arguments = ["-D", &directory, "-X", "stream", "-c", "fast", "-d", dsn];
        program("pg_basebackup", &arguments)
    };
    let (through, node) = (both.proxy.port().to_string(), cluster.port(0).to_string());
    let bare = both.dsn().replace(&through, &node);
    let refused = backup(&bare.replace("sslmode=require", "sslmode=disable"));
    assert!(!refused.status.success());
    let output = backup(&both.dsn());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(program("pg_verifybackup", &[&directory]).status.success());
}

#[tokio::test]
async fn a_client_that_reads_late_loses_nothing() {
    let both = Both::start("auth: { method: trust }").await;
    let mut client = Session::open(&both).await;
    // Far more than what fits between node and client.
    client
        .query("SELECT repeat(g::text, 10000) FROM generate_series(1000, 2999) g")
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut rows = 0;
    loop {
        let message = client.next().await;
        match message.tag {
            b'D' => {
                let expected = (1000 + rows).to_string().repeat(10_000);
                assert_eq!(message.body[6..], *expected.as_bytes());
                rows += 1;
            }
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(rows, 2000);
}

#[tokio::test]
async fn encrypted_server_connections_go_from_worker_to_worker() {
    let both = Both::with("", "size: 1").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (client, connection) = both.config().connect(both.tls.clone()).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let mut served = std::collections::HashSet::new();
    for turn in 0..400 {
        let client = &clients[turn % clients.len()];
        let sql = "SELECT pg_backend_pid(), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let asked = timeout(LIMIT, client.query_one(sql, &[])).await;
        let row = asked.unwrap().unwrap();
        assert!(row.get::<_, bool>(1));
        served.insert(row.get::<_, i32>(0));
    }
    assert_eq!(served.len(), 1);
}

#[tokio::test]
async fn a_request_to_cancel_may_come_without_encryption() {
    let both = Both::start("auth: { method: trust }").await;
    let mut client = Session::open(&both).await;
    client.query("SELECT pg_sleep(60)").await;
    both.runs("SELECT pg_sleep(60)").await;
    // As libpq before version 17 does it.
    let mut raw = TcpStream::connect(("127.0.0.1", both.proxy.port()))
        .await
        .unwrap();
    raw.write_all(b"\0\0\0\x10\x04\xd2\x16\x2e").await.unwrap();
    raw.write_all(&client.key).await.unwrap();
    timeout(LIMIT, raw.read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
    let codes = async {
        loop {
            let message = client.next().await;
            if message.tag == b'E' {
                return message.body;
            }
        }
    };
    let body = timeout(LIMIT, codes).await.unwrap();
    assert!(body.windows(5).any(|code| code == b"57014"), "{body:?}");
}

/// An encrypted session that is driven message by message.
struct Session {
    stream: client::Encrypted,
    /// The body of `BackendKeyData`.
    key: Vec<u8>,
}

impl Session {
    async fn open(both: &Both) -> Self {
        let mut raw = TcpStream::connect(("127.0.0.1", both.proxy.port()))
            .await
            .unwrap();
        raw.write_all(SSL_REQUEST).await.unwrap();
        assert_eq!(raw.read_u8().await.unwrap(), b'S');
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = both.tls.0.connect(name, raw).await.unwrap();
        stream.write_all(STARTUP).await.unwrap();
        stream.flush().await.unwrap();
        let mut session = Self {
            stream,
            key: Vec::new(),
        };
        loop {
            let message = session.next().await;
            match message.tag {
                b'K' => session.key = message.body,
                b'Z' => return session,
                b'E' => panic!("{}", String::from_utf8_lossy(&message.body)),
                _ => {}
            }
        }
    }

    async fn query(&mut self, sql: &str) {
        let length = u32::try_from(sql.len() + 5).unwrap().to_be_bytes();
        let query = [b"Q".as_slice(), &length, sql.as_bytes(), b"\0"].concat();
        self.stream.write_all(&query).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn next(&mut self) -> Message {
        let message = read_message(&mut self.stream, 1 << 20);
        timeout(LIMIT, message).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn clients_and_nodes_may_be_reached_through_unix_sockets() {
    let ours = SocketDirectory::new();
    let theirs = ours.0.display().to_string();
    let options = ClusterOptions::new(0).with_setting("unix_socket_directories", &theirs);
    let cluster = LocalCluster::start(options).await.unwrap();
    let access = "local all app,pgweir scram-sha-256\nhost all app,pgweir all reject\n";
    server::allow(&cluster, access).await;
    let port = free_port().unwrap();
    let overrides = format!(
        "listen: [\"127.0.0.1:{port}\", {theirs}]\n\
         clusters: {{ main: {{ nodes: [{{ host: {theirs}, port: {} }}] }} }}",
        cluster.port(0)
    );
    let proxy = Proxy::start(&cluster, &overrides).await;
    let socket = ours.0.join(format!(".s.PGSQL.{port}"));
    let dsn = format!("host={theirs} port={port} user=app password=app dbname=app");
    let sql = "SELECT coalesce(inet_server_port()::text, 'local')";
    assert_eq!(answer(&dsn, sql).as_deref(), Ok("local"));
    let wrong = answer(&format!("{dsn} password=wrong"), sql).unwrap_err();
    assert!(wrong.contains("password authentication failed"), "{wrong}");

    // A live socket is not taken over, by anybody.
    let second = Proxy::launch(&cluster, &overrides.replace("127.0.0.1", "127.0.0.2"));
    eventually("the second proxy gives up", || async {
        !second.is_running()
    })
    .await;
    assert!(
        second.log().contains("another process holds its lock file"),
        "{}",
        second.log()
    );
    assert_eq!(answer(&dsn, sql).as_deref(), Ok("local"));

    // What a killed proxy leaves behind is.
    proxy.signal("KILL");
    eventually("the proxy has ended", || async { !proxy.is_running() }).await;
    assert!(socket.exists());
    let third = Proxy::start(&cluster, &overrides).await;
    assert_eq!(answer(&dsn, sql).as_deref(), Ok("local"));
    third.terminate().await;
    let left: Vec<_> = fs::read_dir(&ours.0)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains(&port.to_string())),
        "{left:?}"
    );
}

#[tokio::test]
async fn statements_are_cancelled_through_unix_sockets() {
    let ours = SocketDirectory::new();
    let theirs = ours.0.display().to_string();
    let options = ClusterOptions::new(0).with_setting("unix_socket_directories", &theirs);
    let cluster = LocalCluster::start(options).await.unwrap();
    server::allow(&cluster, "local all app,pgweir scram-sha-256\n").await;
    let overrides = format!(
        "clusters: {{ main: {{ nodes: [{{ host: {theirs}, port: {} }}] }} }}",
        cluster.port(0)
    );
    let proxy = Proxy::start(&cluster, &overrides).await;
    let client = proxy.connect().await;
    let cancel = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(60)");
    let cancelling = async {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND client_addr IS NULL";
        let runs = || async { !cluster.superuser_sql(0, sql).await.unwrap().is_empty() };
        eventually("the node runs the statement", runs).await;
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let slept = timeout(LIMIT, async { tokio::join!(sleeping, cancelling).0 }).await;
    assert_eq!(slept.unwrap().unwrap_err().code().unwrap().code(), "57014");
}

/// A short path that every user may write to; removed at the end.
struct SocketDirectory(PathBuf);

impl SocketDirectory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pgw{:08x}", rand::random::<u32>()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }
}

impl Drop for SocketDirectory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
