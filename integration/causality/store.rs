//! Keys that two proxies share through a real Redis server, and what becomes of them without it.
//!
//! Without `redis-server` these tests say so and end, unless `PGWEIR_REQUIRE_REDIS` is set.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgweir::sandbox::{LocalCluster, free_port};
use tokio::time::sleep;

use super::causality::family::Way;
use super::harness::{Proxy, eventually, full_size};
use super::{ALONE, assert_causal, lagging_cluster, member, run, value};

/// A Redis server that keeps nothing; ends when dropped.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// `None` if there is no such program here.
    async fn start(servers: &LocalCluster, port: u16) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(servers.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                eventually("Redis listens", async || {
                    tokio::net::TcpStream::connect(("127.0.0.1", port))
                        .await
                        .is_ok()
                })
                .await;
                Some(Self { child, port })
            }
            Err(error) => {
                let required: Option<u8> = full_size("PGWEIR_REQUIRE_REDIS");
                assert!(required.is_none(), "redis-server: {error}");
                println!("skipped: there is no redis-server ({error})");
                None
            }
        }
    }

    fn yaml(&self) -> String {
        format!(
            "causality: {{ store: \"redis://127.0.0.1:{}\" }}",
            self.port
        )
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Replicas 50 ms behind, a store, and two proxies that use it.
struct Group {
    servers: Arc<LocalCluster>,
    redis: Redis,
    proxies: [Proxy; 2],
}

impl Group {
    async fn start() -> Option<Self> {
        let servers = lagging_cluster().await;
        let redis = Redis::start(&servers, free_port().unwrap()).await?;
        let first = Proxy::start(&servers, &redis.yaml()).await;
        let second = Proxy::start(&servers, &redis.yaml()).await;
        let group = Self {
            servers,
            redis,
            proxies: [first, second],
        };
        group.shares().await;
        Some(group)
    }

    fn proxies(&self) -> [&Proxy; 2] {
        self.proxies.each_ref()
    }

    /// Waits until both proxies reach the store.
    async fn shares(&self) {
        for proxy in self.proxies() {
            let client = member(proxy, "shares").await;
            let before = outcome(proxy, "answered").await;
            eventually("the store answers", async || {
                value(&client).await;
                outcome(proxy, "answered").await > before
            })
            .await;
        }
    }
}

async fn outcome(proxy: &Proxy, outcome: &str) -> f64 {
    let metrics = proxy.metrics().await;
    metrics.sum("pgweir_causal_store_total", &[("outcome", outcome)])
}

#[tokio::test]
async fn members_at_two_proxies_miss_nothing_of_each_other() {
    let _alone = ALONE.lock().await;
    let Some(group) = Group::start().await else {
        return;
    };
    for way in [Way::Set, Way::SetLocal, Way::Comment] {
        let found = run(&group.servers, &group.proxies(), way).await;
        assert_causal(&found, &format!("{way:?}"));
    }
    for proxy in group.proxies() {
        assert!(outcome(proxy, "unpublished").await < 0.5);
    }
}

/// The control: two proxies that share nothing.
#[tokio::test]
async fn without_a_store_members_at_two_proxies_miss_writes() {
    let _alone = ALONE.lock().await;
    let servers = lagging_cluster().await;
    let (first, second) = (
        Proxy::start(&servers, "").await,
        Proxy::start(&servers, "").await,
    );
    let found = run(&servers, &[&first, &second], Way::Set).await;
    assert!(
        found.stale * 10 >= found.reads,
        "the other tests prove nothing: {found:?}"
    );
}

#[tokio::test]
async fn while_the_store_is_down_nothing_is_missed_and_writes_are_acknowledged_and_counted() {
    let _alone = ALONE.lock().await;
    let Some(mut group) = Group::start().await else {
        return;
    };
    group.redis.kill();
    let found = run(&group.servers, &group.proxies(), Way::Set).await;
    assert_eq!((found.stale, found.backwards), (0, 0), "{found:?}");
    assert!(found.writes > 0);
    for proxy in group.proxies() {
        assert!(outcome(proxy, "unavailable").await > 0.5);
        assert!(outcome(proxy, "unpublished").await > 0.5);
    }
    // It comes back with nothing in it.
    let port = group.redis.port;
    group.redis = Redis::start(&group.servers, port).await.unwrap();
    group.shares().await;
    let found = run(&group.servers, &group.proxies(), Way::Set).await;
    assert_causal(&found, "after an outage");
}

#[tokio::test]
async fn a_store_that_goes_and_comes_makes_no_read_stale() {
    let _alone = ALONE.lock().await;
    let Some(group) = Group::start().await else {
        return;
    };
    let Group {
        servers,
        mut redis,
        proxies,
    } = group;
    let port = redis.port;
    let disturbed = Arc::clone(&servers);
    let disturbing = tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(3500)).await;
            redis.kill();
            sleep(Duration::from_millis(300)).await;
            redis = Redis::start(&disturbed, port).await.unwrap();
        }
    });
    let found = run(&servers, &proxies.each_ref(), Way::Comment).await;
    assert!(
        !disturbing.is_finished(),
        "the store must have been disturbed to the end"
    );
    disturbing.abort();
    assert_eq!((found.stale, found.backwards), (0, 0), "{found:?}");
}

/// A proxy that ends in the middle of a transaction leaves its key in doubt, and that binds the others.
#[tokio::test]
async fn a_proxy_that_dies_before_it_could_tell_leaves_no_read_stale() {
    let _alone = ALONE.lock().await;
    let Some(group) = Group::start().await else {
        return;
    };
    let [first, second] = &group.proxies;
    let writer = member(first, "dying").await;
    let reader = member(second, "dying").await;
    assert_eq!(value(&reader).await, 0);
    let update = "BEGIN; UPDATE family SET v = 3 WHERE id = 1; COMMIT; SELECT pg_sleep(60)";
    let running = tokio::spawn(async move { writer.batch_execute(update).await });
    eventually("the commit", async || {
        let found = group
            .servers
            .sql(0, "SELECT v FROM family WHERE id = 1")
            .await;
        format!("{:?}", found.unwrap()).contains('3')
    })
    .await;
    first.signal("KILL");
    assert_eq!(value(&reader).await, 3);
    running.abort();
}
