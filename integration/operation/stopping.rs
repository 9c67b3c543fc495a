//! SIGTERM and SIGINT.

use super::harness::{self, Proxy, eventually};
use super::{code, value};

#[tokio::test]
async fn idle_clients_are_told_and_a_transaction_may_finish() {
    let cluster = harness::shared_cluster().await;
    for signal in ["TERM", "INT"] {
        let proxy = Proxy::start(cluster, "").await;
        let idle = proxy.connect().await;
        assert_eq!(value(&idle, "SELECT 1").await.unwrap(), "1");
        let busy = proxy.connect().await;
        busy.batch_execute("DROP TABLE IF EXISTS drained; CREATE TABLE drained (v int); BEGIN")
            .await
            .unwrap();
        proxy.signal(signal);
        let closed = || async { idle.is_closed() };
        eventually("the idle client is closed", closed).await;
        assert!(
            tokio_postgres::connect(&proxy.url("app"), tokio_postgres::NoTls)
                .await
                .is_err()
        );
        busy.batch_execute("INSERT INTO drained VALUES (1)")
            .await
            .unwrap();
        assert!(proxy.is_running());
        busy.batch_execute("COMMIT").await.unwrap();
        eventually("it has ended", || async { !proxy.is_running() }).await;
        assert!(proxy.terminated().success());
        let rows = cluster.sql(0, "SELECT v FROM drained").await.unwrap();
        assert_eq!(rows.len(), 1);
    }
}

#[tokio::test]
async fn an_idle_client_reads_57p01() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "auth: { method: trust }").await;
    let mut idle = harness::raw::Raw::session(proxy.port()).await;
    let mut pinned = harness::raw::Raw::session(proxy.port()).await;
    pinned.send(&harness::raw::query("LISTEN x")).await;
    pinned.until_ready().await;
    proxy.signal("TERM");
    for client in [&mut idle, &mut pinned] {
        let answer = client.until_end().await;
        assert_eq!(answer.sqlstates(), ["57P01"]);
        assert_eq!(answer.errors(b'V'), ["FATAL"]);
    }
    eventually("it has ended", || async { !proxy.is_running() }).await;
    assert!(proxy.terminated().success());
}

/// Its `BEGIN` has reached no server before its first statement.
#[tokio::test]
async fn a_block_without_a_statement_yet_may_go_on() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let (idle, empty, used) = (
        proxy.connect().await,
        proxy.connect().await,
        proxy.connect().await,
    );
    for block in [&empty, &used] {
        block.batch_execute("BEGIN").await.unwrap();
    }
    proxy.signal("TERM");
    let closed = || async { idle.is_closed() };
    eventually("the idle client is closed", closed).await;
    assert_eq!(value(&used, "SELECT 1").await.unwrap(), "1");
    assert!(proxy.is_running());
    for block in [&empty, &used] {
        block.batch_execute("COMMIT").await.unwrap();
    }
    eventually("it has ended", || async { !proxy.is_running() }).await;
    assert!(proxy.terminated().success());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let busy = proxy.connect().await;
    busy.batch_execute("BEGIN").await.unwrap();
    proxy.signal("TERM");
    let told = || async { proxy.log().contains("transactions under way may end") };
    eventually("it drains", told).await;
    assert!(proxy.is_running());
    let begun = std::time::Instant::now();
    proxy.signal("INT");
    eventually("it has ended", || async { !proxy.is_running() }).await;
    let took = begun.elapsed();
    assert!(took.as_secs() < 5, "{took:?}");
    assert!(proxy.terminated().success());
    let error = busy.batch_execute("COMMIT").await.err().unwrap();
    assert_ne!(code(&error), "", "{error}");
}
