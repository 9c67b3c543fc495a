//! Unix sockets on either side.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use pgweir::sandbox::{ClusterOptions, LocalCluster, free_port};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::client::answer;
use crate::harness::{LIMIT, Proxy, eventually};
use crate::server;

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
