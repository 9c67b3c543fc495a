//! An administrator ends the monitor's connections.

use super::harness::{self, Proxy, eventually};
use super::{code, value};

/// Ends them as soon as they are there, 400 times in two seconds.
const END_THEM: &str = "DO $$ BEGIN FOR i IN 1..400 LOOP \
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgweir-monitor'; \
    PERFORM pg_stat_clear_snapshot(); PERFORM pg_sleep(0.005); \
    END LOOP; END $$";

#[tokio::test]
async fn sessions_do_not_notice_that_the_monitor_has_lost_its_connections() {
    let cluster = harness::cluster(1).await;
    let proxy = Proxy::start(&cluster, "").await;
    let client = proxy.connect().await;
    let table = "CREATE TABLE kept (v int)";
    client.batch_execute(table).await.unwrap();
    let ending = async {
        let end = |node| cluster.superuser_sql(node, END_THEM);
        tokio::join!(end(0), end(1))
    };
    let mut written = 0;
    let serve = async {
        loop {
            let write = client.batch_execute("INSERT INTO kept VALUES (1)").await;
            write.unwrap_or_else(|error| panic!("{} after {written}", code(&error)));
            written += 1;
            let read = value(&client, "SELECT count(*) FROM kept").await;
            let read = read.unwrap_or_else(|error| panic!("{} after {written}", code(&error)));
            assert_eq!(read, written.to_string());
        }
    };
    tokio::select! {
        (primary, replica) = ending => {
            primary.unwrap();
            replica.unwrap();
        }
        () = serve => {}
    }
    let log = proxy.log();
    assert!(log.contains("the monitor gets no answer"), "{log}");
    let replica = || async {
        value(&client, "SELECT count(*) FROM kept").await.unwrap();
        let route = value(&client, "SHOW pgweir.last_route").await.unwrap();
        route.contains("role=replica")
    };
    eventually("the replica serves again", replica).await;
}
