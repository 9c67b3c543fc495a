//! A node that encrypts.

use std::fs;

use pgweir::sandbox::LocalCluster;

use super::authority::{Authority, Signed};
use super::harness::eventually;

/// Gives node 0 a certificate and the authority of its clients, and puts `access` before its other
/// lines of `pg_hba.conf`.
pub(crate) async fn encrypt(
    cluster: &LocalCluster,
    shown: &Signed,
    clients: &Authority,
    access: &str,
) {
    store(cluster, "server.crt", &shown.certificate).await;
    store(cluster, "server.key", &shown.key).await;
    store(cluster, "root.crt", &clients.pem).await;
    for setting in ["ssl_ca_file = 'root.crt'", "ssl = on"] {
        let sql = format!("ALTER SYSTEM SET {setting}");
        cluster.superuser_sql(0, &sql).await.unwrap();
    }
    allow(cluster, access).await;
    let encrypts = || async {
        let shown = cluster.superuser_sql(0, "SHOW ssl").await;
        shown.is_ok_and(|rows| rows[0][0].as_deref() == Some("on"))
    };
    eventually("the node encrypts", encrypts).await;
}

/// Puts `access` before the other lines of `pg_hba.conf`, and reads all configuration again.
pub(crate) async fn allow(cluster: &LocalCluster, access: &str) {
    let file = cluster.superuser_sql(0, "SHOW hba_file").await.unwrap()[0][0].clone();
    let file = file.unwrap();
    let others = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{access}{others}")).unwrap();
    let loaded = "SELECT pg_conf_load_time()";
    let before = cluster.superuser_sql(0, loaded).await.unwrap();
    cluster
        .superuser_sql(0, "SELECT pg_reload_conf()")
        .await
        .unwrap();
    let reloaded = || async {
        cluster
            .superuser_sql(0, loaded)
            .await
            .is_ok_and(|now| now != before)
    };
    eventually("the rules are in force", reloaded).await;
    let wrong = "SELECT 1 FROM pg_hba_file_rules WHERE error IS NOT NULL";
    assert!(
        cluster.superuser_sql(0, wrong).await.unwrap().is_empty(),
        "{access}"
    );
}

/// Writes a file into the data directory as the server's own user.
async fn store(cluster: &LocalCluster, name: &str, contents: &str) {
    let sql = format!(
        "COPY (SELECT unnest(string_to_array('{contents}', E'\\n'))) \
         TO PROGRAM 'umask 077; cat > {name}'"
    );
    cluster.superuser_sql(0, &sql).await.unwrap();
}
