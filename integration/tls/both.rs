//! Both sides encrypted.

use std::fs;
use std::time::Duration;

use pgweir::wire::{Message, read_message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::authority::Authority;
use crate::client::{self, Tls, answer, program, psql};
use crate::harness::{LIMIT, Proxy, eventually};
use crate::nodes::Encrypting;
use crate::{SSL_REQUEST, STARTUP, server};

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
