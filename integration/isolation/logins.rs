//! A role's name that means another role, or one that may not log in any more: whoever comes later gets no
//! connection that was opened as what it meant before.

use super::harness::Proxy;
use super::harness::shared_cluster;
use super::harness::wire::{Message, Wire};

const USERS: &str = "users: [{ name: app, password: app }, { name: keeper, password: keeper }, \
    { name: guest, password: guest }]\nclusters: { main: { pool: { size: 2 } } }";

/// On the primary, and where reads go.
fn identity(client: &mut Wire) -> [Option<String>; 2] {
    let anywhere = "SELECT session_user";
    ["/*pgweir_route='primary'*/", ""].map(|hint| {
        let answer = client.query(&format!("{anywhere} {hint}"));
        let row = answer.iter().find(|message| message.tag == b'D');
        row.and_then(|row| row.values().remove(0))
    })
}

fn come(proxy: &Proxy) -> Result<Wire, Option<String>> {
    Wire::try_connect(proxy.port(), &[("user", "guest")])
        .map_err(|told| told.iter().find_map(Message::sqlstate))
}

/// The primary's connection is warm again.
fn come_and_go(proxy: &Proxy) {
    let mut guest = come(proxy).unwrap();
    assert_eq!(identity(&mut guest)[0].as_deref(), Some("guest"));
    guest.run("SELECT pg_current_xact_id()");
}

#[tokio::test]
async fn a_name_that_means_another_role_gets_connections_of_its_own() {
    let cluster = shared_cluster().await;
    let roles = "CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'keeper'; \
                 CREATE ROLE guest LOGIN PASSWORD 'guest'";
    cluster.superuser_sql(0, roles).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let proxy = Proxy::start(cluster, USERS).await;
    let mut keeper = Wire::connect_with(proxy.port(), &[("user", "keeper")]);

    come_and_go(&proxy);
    let mut stays = come(&proxy).unwrap();
    assert_eq!(identity(&mut stays)[0].as_deref(), Some("guest"));
    keeper.run("ALTER ROLE guest RENAME TO former");
    keeper.run("CREATE ROLE guest LOGIN PASSWORD 'guest'");
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let mut guest = come(&proxy).unwrap();
    assert_eq!(
        identity(&mut guest),
        [(); 2].map(|()| Some("guest".to_owned()))
    );
    assert_eq!(
        identity(&mut stays)[0].as_deref(),
        Some("former"),
        "who was there stays who it is"
    );

    keeper.run("BEGIN");
    keeper.run("DROP ROLE guest");
    keeper.run("CREATE ROLE guest LOGIN PASSWORD 'guest'");
    keeper.run("COMMIT");
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
    let mut guest = come(&proxy).unwrap();
    assert_eq!(
        identity(&mut guest),
        [(); 2].map(|()| Some("guest".to_owned()))
    );
    drop(guest);

    come_and_go(&proxy);
    keeper.run("ALTER ROLE guest NOLOGIN");
    let refused = come(&proxy).and_then(|mut guest| {
        let told = guest.query("SELECT pg_current_xact_id()");
        match told.iter().find_map(Message::sqlstate) {
            Some(state) => Err(Some(state)),
            None => Ok(()),
        }
    });
    assert_eq!(refused, Err(Some("28000".to_owned())));
    drop(stays);
}
