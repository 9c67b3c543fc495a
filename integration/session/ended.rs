//! A node that ends a connection behind the client's last answer takes nothing from the client.

use std::sync::atomic::Ordering;

use pgweir::limits::STATEMENT_TRUST;
use pgweir::sandbox::LocalCluster;
use tokio::time::sleep;

use crate::harness::ending::{Cue, ending_relay};
use crate::harness::wire::{self, Message, Wire, bind, execute, parse, sync};
use crate::harness::{Proxy, cluster};

const MARK: &str = "last words";
const MARKED: &str = "SELECT 'last words'";

/// How often each script runs: what the node says last can be read in one piece with its answer or not.
const ROUNDS: usize = 20;

async fn proxy(cluster: &LocalCluster, port: u16) -> Proxy {
    let nodes = format!("nodes: [{{ name: node0, host: 127.0.0.1, port: {port} }}]");
    Proxy::start(
        cluster,
        &format!("clusters: {{ main: {{ {nodes}, server_tls: {{ mode: disable }} }} }}"),
    )
    .await
}

fn told(answer: &[Message]) -> Option<String> {
    answer.iter().find_map(Message::sqlstate)
}

/// A named statement without the messages that prepare it.
fn run_s() -> Vec<u8> {
    [bind("s", &[]), execute("", 0), sync()].concat()
}

#[tokio::test]
async fn who_has_the_whole_answer_is_not_told_that_the_node_has_ended_the_connection() {
    let cluster = cluster(0).await;
    let (port, ended) = ending_relay(cluster.port(0), Cue::Behind(MARK));
    let proxy = proxy(&cluster, port).await;
    let mut client = Wire::connect(proxy.port());
    let extended = [parse("", MARKED), bind("", &[]), execute("", 0), sync()].concat();
    for (round, bytes) in (0..ROUNDS).zip([wire::query(MARKED), extended].iter().cycle()) {
        client.send(bytes);
        let answer = client.until_ready();
        assert_eq!(told(&answer), None, "{answer:?}");
        assert_eq!(ended.load(Ordering::SeqCst), round + 1);
        assert_eq!(client.value("SELECT 1"), "1", "on another connection");
    }
}

#[tokio::test]
async fn whose_transaction_is_lost_behind_an_answer_is_told() {
    let cluster = cluster(0).await;
    let (port, ended) = ending_relay(cluster.port(0), Cue::Behind(MARK));
    let proxy = proxy(&cluster, port).await;
    let mut client = Wire::connect(proxy.port());
    client.run("BEGIN");
    client.run("CREATE TABLE lost (id int)");
    assert_eq!(client.value(MARKED), MARK);
    let answer = client.until(b'E');
    let sqlstate = told(&answer).expect("an error");
    assert!(["57P01", "08006"].contains(&&*sqlstate), "{answer:?}");
    assert!(client.try_receive().is_err(), "the session has ended");
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whose_answer_breaks_off_is_told() {
    let cluster = cluster(0).await;
    let (port, _) = ending_relay(cluster.port(0), Cue::Amid(MARK));
    let proxy = proxy(&cluster, port).await;
    let mut client = Wire::connect(proxy.port());
    client.send(&wire::query(MARKED));
    let answer = client.until(b'E');
    assert_eq!(told(&answer).as_deref(), Some("57P01"), "{answer:?}");
    assert!(client.try_receive().is_err(), "the session has ended");
}

/// pgweir has a statement forgotten whose columns have changed, behind the client's answer.
#[tokio::test]
async fn a_node_that_ends_while_a_statement_is_closed_behind_an_answer_is_no_matter_of_the_clients()
{
    let cluster = cluster(0).await;
    cluster.sql(0, "CREATE TABLE u (id int)").await.unwrap();
    let (port, ended) = ending_relay(cluster.port(0), Cue::Close);
    let proxy = proxy(&cluster, port).await;
    let mut client = Wire::connect(proxy.port());
    client.send(&[parse("s", "SELECT * FROM u"), run_s()].concat());
    assert_eq!(told(&client.until_ready()), None);
    let change = "ALTER TABLE u ADD COLUMN v text; \
                  SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    cluster.superuser_sql(0, change).await.unwrap();
    // Until then it counts as unchanged.
    sleep(STATEMENT_TRUST).await;
    client.send(&run_s());
    let answer = client.until_ready();
    assert_eq!(told(&answer).as_deref(), Some("0A000"), "{answer:?}");
    assert_eq!(client.value("SELECT 1"), "1", "on another connection");
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the statement was closed");
    client.run("SELECT * FROM u");
}
