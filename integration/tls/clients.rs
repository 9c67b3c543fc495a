//! Encrypted connections of clients.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_rustls::rustls::pki_types::ServerName;

use pgweir::wire::read_message;

use crate::authority::{Authority, Files};
use crate::client::{Tls, answer};
use crate::harness::{LIMIT, Proxy, eventually, scram, shared_cluster};
use crate::{SSL_REQUEST, STARTUP};

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
    let stored = scram::verifier("bound", 4096);
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
