//! Scripts that are run against the primary and through the proxy, and must read the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pgweir::sandbox::LocalCluster;
use tokio::sync::{Mutex, OnceCell};

use super::wire::{self, Message, Wire};
use super::{Proxy, shared_cluster};

static FILLED: OnceCell<()> = OnceCell::const_new();

/// The scripts write to the same table, so one runs after the other.
static TURN: Mutex<()> = Mutex::const_new(());

/// Bytes to send, and the last message of the answer with how many of them there are.
#[derive(Debug)]
pub struct Step(Vec<u8>, u8, usize);

/// A Query message.
pub fn query(sql: &str) -> Step {
    Step(wire::query(sql), b'Z', 1)
}

/// Messages in one write, up to one `ReadyForQuery`.
pub fn batch(messages: &[Vec<u8>]) -> Step {
    Step(messages.concat(), b'Z', 1)
}

/// Messages in one write, up to so many.
pub fn batches(messages: &[Vec<u8>], times: usize) -> Step {
    Step(messages.concat(), b'Z', times)
}

/// Messages in one write, up to the first reply of this type.
pub fn until(tag: u8, messages: &[Vec<u8>]) -> Step {
    Step(messages.concat(), tag, 1)
}

/// One primary with two replicas and the tables that the scripts use.
pub async fn filled() -> &'static LocalCluster {
    let cluster = shared_cluster().await;
    FILLED
        .get_or_init(|| async {
            let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE w (id int); \
                          INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 10) i";
            cluster.sql(0, tables).await.unwrap();
            for replica in cluster.replicas() {
                cluster.wait_for_replay(replica).await.unwrap();
            }
        })
        .await;
    cluster
}

/// All that answers the steps.
pub fn transcript(wire: &mut Wire, steps: &[Step]) -> Vec<Message> {
    let mut all = Vec::new();
    for Step(bytes, tag, times) in steps {
        wire.send(bytes);
        for _ in 0..*times {
            all.extend(wire.until(*tag));
        }
    }
    all
}

/// A proxy that the scripts run through, by `pool.mode`, and how often.
struct Way {
    mode: &'static str,
    rounds: usize,
    proxy: Proxy,
}

/// Runs every script directly and through the proxy in both pool modes, there several times over few
/// connections.
pub async fn compare(scripts: Vec<(&str, Vec<Step>)>) {
    let cluster = filled().await;
    let _turn = TURN.lock().await;
    let mut ways = Vec::new();
    for (mode, rounds) in [("transaction", 3), ("session", 2)] {
        let pool = format!("clusters: {{ main: {{ pool: {{ size: 2, mode: {mode} }} }} }}");
        let proxy = Proxy::start(cluster, &pool).await;
        ways.push(Way {
            mode,
            rounds,
            proxy,
        });
    }
    let mut different = Vec::new();
    for (name, steps) in &scripts {
        println!("{name}");
        cluster.sql(0, "TRUNCATE w").await.unwrap();
        let expected = transcript(&mut Wire::connect(cluster.port(0)), steps);
        for way in &ways {
            different.extend(differences(cluster, way, (name, steps), &expected).await);
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What the script reads otherwise through the proxy.
async fn differences(
    cluster: &LocalCluster,
    way: &Way,
    (name, steps): (&str, &[Step]),
    expected: &[Message],
) -> Vec<String> {
    let mode = way.mode;
    let mut different = Vec::new();
    for round in 0..way.rounds {
        cluster.sql(0, "TRUNCATE w").await.unwrap();
        let mut client = Wire::connect(way.proxy.port());
        let steps = AssertUnwindSafe(steps);
        match catch_unwind(move || transcript(&mut client, &steps)) {
            Ok(got) if got == expected => {}
            Ok(got) => {
                let at = got.iter().zip(expected).position(|(a, b)| a != b);
                let at = at.unwrap_or(got.len().min(expected.len()));
                let (got, expected) = (got.get(at), expected.get(at));
                different.push(format!(
                    "{name}, {mode} mode, round {round}, message {at}: {got:?} instead of {expected:?}"
                ));
            }
            Err(_) => {
                different.push(format!("{name}, {mode} mode, round {round}: no answer"));
                break;
            }
        }
    }
    different
}
