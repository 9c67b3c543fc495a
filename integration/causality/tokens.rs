//! Tokens: what one session hands over, another one sees, through whichever proxy.

use std::time::Duration;

use pgweir::config::Secret;
use pgweir::core::causality::positions::SystemPosition;
use pgweir::core::causality::token::Token;
use pgweir::core::lsn::Lsn;
use pgweir::frontend::tokens::TokenKey;
use pgweir::sandbox::LocalCluster;
use tokio_postgres::Client;

use super::causality::family::{TABLES, Way};
use super::harness::{Proxy, cluster, eventually};
use super::{ALONE, assert_causal, lagging_cluster, run, shown, value};

const SECRET: &str = "the same in every proxy of the group";

fn shared_secret() -> String {
    format!("causality: {{ secret: {SECRET:?} }}")
}

#[tokio::test]
async fn a_token_hands_everything_over_also_to_another_proxy() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let first = Proxy::start(&servers, &shared_secret()).await;
    let second = Proxy::start(&servers, &shared_secret()).await;
    let found = run(&servers, &[&first, &second], Way::Token).await;
    assert_causal(&found, "tokens");
}

/// A token whose position replicas have already needs none of them to catch up.
#[tokio::test]
async fn an_old_token_leaves_reads_on_replicas_that_stay_behind() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let proxy = Proxy::start(&servers, "").await;
    let writer = proxy.connect().await;
    writer
        .batch_execute("UPDATE family SET v = 5 WHERE id = 1")
        .await
        .unwrap();
    let token = shown(&writer, "SHOW pgweir.token").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reader = proxy.connect().await;
    reader
        .batch_execute(&format!("SET pgweir.after = '{token}'"))
        .await
        .unwrap();
    assert_eq!(value(&reader).await, 5);
    let route = shown(&reader, "SHOW pgweir.last_route").await;
    assert!(route.contains("role=replica"), "{route}");
}

async fn refusal(client: &Client, token: &str) -> String {
    let set = format!("SET pgweir.after = '{token}'");
    let error = client.batch_execute(&set).await.unwrap_err();
    error.code().unwrap().code().to_owned()
}

async fn number(servers: &LocalCluster, sql: &str) -> i64 {
    let rows = servers.superuser_sql(0, sql).await.unwrap();
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn forged_foreign_and_future_tokens_are_refused() {
    let _alone = ALONE.lock().await;
    let servers = cluster(1).await;
    let proxy = Proxy::start(&servers, &shared_secret()).await;
    let client = proxy.connect().await;
    let system = number(
        &servers,
        "SELECT system_identifier FROM pg_control_system()",
    )
    .await;
    let now = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn";
    let here = u64::try_from(number(&servers, now).await).unwrap();
    let hi = SystemPosition {
        system,
        timeline: 1,
        lsn: Lsn(here),
    };
    let good = Token { hi, lo: Lsn(0) };
    let key = TokenKey::new(Some(&Secret::new(SECRET)));
    let set = format!("SET pgweir.after = '{}'", key.sign(good));
    client.batch_execute(&set).await.unwrap();
    let token = |hi| key.sign(Token { hi, ..good });
    let refused = [
        ("made up", "AAAA".to_owned()),
        ("signed by another", TokenKey::new(None).sign(good)),
        (
            "of another cluster",
            token(SystemPosition {
                system: system ^ 1,
                ..hi
            }),
        ),
        (
            "ahead of the primary",
            token(SystemPosition {
                lsn: Lsn(here + (1 << 30)),
                ..hi
            }),
        ),
        (
            "of a timeline to come",
            token(SystemPosition { timeline: 2, ..hi }),
        ),
    ];
    for (what, token) in &refused {
        assert_eq!(refusal(&client, token).await, "22023", "{what}");
        assert_eq!(shown(&client, "SELECT 1").await, "1", "the session goes on");
    }
    let altered = key.sign(good).replace(['A', 'B'], "C");
    assert_eq!(refusal(&client, &altered).await, "22023");
    for read_only in ["SET pgweir.token = 'x'", "RESET pgweir.token"] {
        let error = client.batch_execute(read_only).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "55P02");
    }
    // As an option of the startup packet it ends the login.
    let mut config: tokio_postgres::Config = proxy.url("app").parse().unwrap();
    config.options(format!("-c pgweir.after={}", refused[0].1));
    let error = config.connect(tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "22023");
}

#[tokio::test]
async fn a_token_is_read_back_and_forgotten_like_other_settings() {
    let servers = super::harness::shared_cluster().await;
    let proxy = Proxy::start(servers, "").await;
    let client = proxy.connect().await;
    let token = shown(&client, "SHOW pgweir.token").await;
    let show = async || shown(&client, "SHOW pgweir.after").await;
    client
        .batch_execute(&format!("SET pgweir.after = '{token}'"))
        .await
        .unwrap();
    assert_eq!(show().await, token);
    client.batch_execute("RESET pgweir.after").await.unwrap();
    assert_eq!(show().await, "");
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute(&format!("SET LOCAL pgweir.after = '{token}'"))
        .await
        .unwrap();
    assert_eq!(show().await, token);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(show().await, "");
    // In the extended protocol as well.
    let row = client.query_one("SHOW pgweir.token", &[]).await.unwrap();
    let token: String = row.get(0);
    client
        .execute(&format!("SET pgweir.after = '{token}'"), &[])
        .await
        .unwrap();
    assert_eq!(show().await, token);
}

/// What was acknowledged before a switch and has survived it, the token's holder sees after it.
#[tokio::test]
async fn a_token_from_before_a_promotion_still_holds() {
    let _alone = ALONE.lock().await;
    let servers = cluster(2).await;
    servers.sql(0, TABLES).await.unwrap();
    let [first, second] = {
        let mut replicas = servers.replicas();
        [replicas.next().unwrap(), replicas.next().unwrap()]
    };
    let proxy = Proxy::start(&servers, &shared_secret()).await;
    let writer = proxy.connect().await;
    writer
        .batch_execute("UPDATE family SET v = 9 WHERE id = 1")
        .await
        .unwrap();
    let token = shown(&writer, "SHOW pgweir.token").await;
    for replica in [first, second] {
        servers.wait_for_replay(replica).await.unwrap();
    }
    servers.stop_node(0).await.unwrap();
    servers.promote(first).await.unwrap();
    servers.follow(second, first).await.unwrap();
    let reader = proxy.connect().await;
    eventually("the token is accepted", async || {
        let set = format!("SET pgweir.after = '{token}'");
        reader.batch_execute(&set).await.is_ok()
    })
    .await;
    eventually("a read", async || {
        reader.simple_query("SELECT 1").await.is_ok()
    })
    .await;
    assert_eq!(value(&reader).await, 9);
}
