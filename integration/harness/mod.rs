//! What the test targets share: the real binary in front of a real cluster.
//!
//! `mod harness;` at the top of a test target. Everything here panics with an explanation instead
//! of returning errors, and prints the proxy's log when a test fails.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test target uses its own part"
)]

pub mod ending;
pub mod http;
pub mod metrics;
pub mod parity;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod scram;
pub mod wire;
pub mod yaml;

use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use pgweir::sandbox::{self, ClusterOptions, LocalCluster};
use tokio::sync::OnceCell;

pub use metrics::{Metrics, ReadsServed};
pub use proxy::Proxy;

/// How long anything awaited in a test may take, generous for a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

static SHARED: OnceCell<LocalCluster> = OnceCell::const_new();

/// A cluster of a test's own.
pub async fn cluster(replicas: usize) -> LocalCluster {
    LocalCluster::start(ClusterOptions::new(replicas))
        .await
        .unwrap()
}

/// One primary and two replicas shared by all tests of the target that do not harm it. It ends
/// with the process.
pub async fn shared_cluster() -> &'static LocalCluster {
    SHARED.get_or_init(|| cluster(2)).await
}

/// Asks again and again until the answer is yes; panics after [`LIMIT`], naming `condition`.
pub async fn eventually<F: Future<Output = bool>>(condition: &str, probe: impl Fn() -> F) {
    within(LIMIT, condition, probe).await;
}

/// The same with another limit.
pub async fn within<F: Future<Output = bool>>(
    limit: Duration,
    condition: &str,
    probe: impl Fn() -> F,
) {
    if let Err(error) = sandbox::eventually(limit, condition, probe).await {
        panic!("{error}");
    }
}

/// The size of a test that the environment asks for by `variable`; `None` for the usual, smaller
/// one.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no command line or configuration of its own"
)]
pub fn full_size<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a size must be a number"))
}
