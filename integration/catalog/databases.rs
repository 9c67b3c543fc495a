//! A database that no client uses any more is free for statements that need it for themselves.

use pgweir::sandbox::{ClusterOptions, LocalCluster};

use crate::harness::Proxy;
use crate::harness::wire::{Message, Wire};

/// `object_in_use`.
const IN_USE: &str = "55006";

#[tokio::test]
async fn a_database_is_left_when_its_last_client_has_gone() {
    let cluster = LocalCluster::start(ClusterOptions::new(1)).await.unwrap();
    let allow = "ALTER ROLE app CREATEDB";
    cluster.superuser_sql(0, allow).await.unwrap();
    let proxy = Proxy::start(&cluster, "").await;
    let mut owner = Wire::connect(proxy.port());
    owner.run("CREATE DATABASE shop");
    let visit = || {
        let mut client = Wire::connect_with(proxy.port(), &[("database", "shop")]);
        client.run("CREATE TABLE IF NOT EXISTS z (a int)");
        assert_eq!(client.value("SELECT count(*) FROM z"), "0");
        client
    };
    for statement in [
        "CREATE DATABASE copy TEMPLATE shop",
        "ALTER DATABASE shop RENAME TO store",
        "ALTER DATABASE store RENAME TO shop",
        "DROP DATABASE shop",
    ] {
        if !statement.contains("store RENAME") {
            drop(visit());
        }
        owner.run(statement);
    }
    owner.run("DROP DATABASE copy");
    owner.run("CREATE DATABASE shop");
    // Where a client is, the server refuses it as ever.
    let mut client = visit();
    let refused = owner.query("DROP DATABASE shop");
    let refused = refused.iter().find_map(Message::sqlstate);
    assert_eq!(refused.as_deref(), Some(IN_USE));
    assert_eq!(client.value("SELECT count(*) FROM z"), "0");
}
