//! Encrypted connections to nodes.

use std::sync::Arc;
use std::time::Instant;

use pgweir::backend::connection::WorkerId;
use pgweir::backend::custom::WantedNames;
use pgweir::backend::login::NodeLogin;
use pgweir::backend::pool::{PoolKey, Pools, Preference, Unobserved};
use pgweir::backend::startup::StartupParameters;
use pgweir::config::{ProcessEnvironment, Secret, parse};
use pgweir::control::probe::probe_once;
use pgweir::core::snapshot::NodeId;
use pgweir::credential::hashing::Hashing;
use pgweir::sandbox::{ClusterOptions, LocalCluster};

use crate::authority::{Authority, Files};
use crate::harness::eventually;
use crate::server;

/// A primary that shows a certificate for `localhost`, signed by the authority.
pub(crate) struct Encrypting {
    pub(crate) cluster: LocalCluster,
    pub(crate) files: Files,
    ours: Authority,
}

impl Encrypting {
    pub(crate) async fn start(access: &str) -> Self {
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

    pub(crate) fn tls(&self, tls: &str) -> String {
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
            names: WantedNames::default(),
        };
        let probed = probe_once(&cluster.nodes[0], &cluster).await;
        let login = NodeLogin::with_password(Secret::new("app"));
        let lease = pools
            .checkout(&key, &login, &preference, Instant::now())
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
