//! The promises, checked on real PostgreSQL while replicas suffer: every client notes what it did and was
//! told with its own clock, and what was noted is judged when all is over, by values alone.
//!
//! `PGWEIR_CHECKER=full cargo test --test checker -- --nocapture --test-threads 1` is the full size, 25 times
//! the usual one; a number instead of `full` is another factor. Each comes with a
//! control, in which the promise is switched off and must be seen broken.
//!
//! | Promise | Here | In other targets |
//! |---|---|---|
//! | read your writes | under every fault, with blocks and asynchronous commits | `read_your_writes`: lag, pauses, DDL |
//! | monotonic reads | lists that only grow, and a ring of numbers by one writer | `read_your_writes`: a counter |
//! | the same, where the primary waits for a synchronous standby | commits that hang while the standby's receiver is stopped | |
//! | causality across connections | keys and tokens under faults | `causality`: ways, bounds, the store, restarts |
//! | the same, where a replica shows a commit before its position says so | hundreds of tables dropped at once | |
//! | no wait without lag | ends of pages, log that nobody flushes, a closed loop | |
//! | closed on doubt | 12 things that may be wrong with a replica | `freshness`: privileges, promotions, fences |
//! | latest | writers inside and outside of the proxy; cause never after effect | |
//! | bounded staleness | bounds from 50 ms to 10 s under every fault, an idle cluster, replicas cut off | `freshness`: the monitor |
//! | no more on the primary than its share | | `spill` |

#![cfg(test)]

mod checker {
    pub(crate) mod crossing;
    #[path = "../causality/family.rs"]
    pub(crate) mod family;
    pub(crate) mod faults;
    pub(crate) mod fresh;
    pub(crate) mod history;
    pub(crate) mod ineligible;
    pub(crate) mod judge;
    pub(crate) mod keys;
    pub(crate) mod order;
    pub(crate) mod sessions;
    pub(crate) mod stamps;
    pub(crate) mod waits;

    pub(crate) use super::{ALONE, servers, sized};
}
mod harness;

use std::time::Duration;

use checker::faults::{Fault, Faults, heal, while_it_stops_now_and_then};
use checker::judge::{Broken, Verdict, judge};
use checker::sessions::{Plan, Recorded, fraction, prepare, record};
use harness::{Proxy, cluster, full_size};
use pgweir::sandbox::LocalCluster;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// The tests measure shares and times and hurt replicas, so they run one after another.
static ALONE: Mutex<()> = Mutex::const_new(());
static SERVERS: OnceCell<LocalCluster> = OnceCell::const_new();

const OWN_WRITES: [Broken; 1] = [Broken::OwnWriteMissed];
const MONOTONIC: [Broken; 2] = [Broken::ListWentBack, Broken::RingWentBack];

/// A primary with three replicas, for one test at a time.
async fn servers() -> (&'static LocalCluster, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let servers = SERVERS.get_or_init(|| cluster(3)).await;
    heal(servers).await;
    (servers, alone)
}

/// How much a test does that does `usual` if nothing is said.
fn sized(usual: usize) -> usize {
    let times = match full_size::<String>("PGWEIR_CHECKER").as_deref() {
        None => 1,
        Some("full") => 25,
        Some(number) => number.parse().expect("full, or a factor"),
    };
    usual * times
}

/// Has 16 sessions work under the faults of `menu`, and judges what they noted.
async fn run(proxy: &Proxy, menu: &[Fault], plan: Plan) -> (Recorded, Verdict, String) {
    let servers = SERVERS.get().expect("started");
    prepare(servers, &plan).await;
    let faults = Faults::begin(servers, menu);
    let recording = record(servers, proxy, plan);
    let recorded = if menu.is_empty() {
        recording.await
    } else {
        while_it_stops_now_and_then(proxy, recording).await
    };
    let struck = faults.end().await;
    let verdict = judge(&recorded.histories, &recorded.end);
    let line = format!(
        "{} reads of {} sessions ({:.0} % on replicas), {} appends, {struck} faults, {} refused, \
         own writes missed {} ({} of {} first reads), went back {}, {:.1?}",
        verdict.reads,
        recorded.histories.len(),
        100.0 * recorded.share_not_from(servers.port(0)),
        verdict.appends,
        verdict.refused,
        verdict.count(&OWN_WRITES),
        verdict.stale_first_reads,
        verdict.first_reads,
        verdict.count(&MONOTONIC),
        recorded.took,
    );
    (recorded, verdict, line)
}

fn assert_nothing_broken(what: &str, (recorded, verdict, line): &(Recorded, Verdict, String)) {
    println!("{what}: {line}");
    if let Some(first) = verdict.violations.first() {
        let history = &recorded.histories[first.client];
        panic!("{what}: {first:?}\n{}", history.leading_to(first.operation));
    }
    assert!(verdict.refused * 5 <= verdict.reads, "{what}: {line}");
}

fn plan(reads: usize) -> Plan {
    Plan {
        sessions: 16,
        reads,
        think: Duration::from_millis(100),
    }
}

#[tokio::test]
async fn sessions_see_their_writes_and_never_less_than_before_whatever_happens_to_replicas() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    let run = run(&proxy, &Fault::ALL, plan(sized(2_000))).await;
    assert_nothing_broken("every fault", &run);
    let on_replicas = run.0.share_not_from(servers.port(0));
    assert!(on_replicas >= 0.1, "the primary has served all: {}", run.2);
}

/// The control: with nothing but balancing, the same sessions do see less than before.
#[tokio::test]
async fn with_the_guarantee_off_sessions_miss_writes_and_go_back() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "consistency: { default: eventual }").await;
    for (replica, delay) in servers.replicas().zip([0, 100, 400]) {
        let delay = Duration::from_millis(delay);
        servers.set_apply_delay(replica, delay).await.unwrap();
    }
    let (recorded, verdict, line) = run(&proxy, &[], plan(sized(1_000))).await;
    for replica in servers.replicas() {
        let no_delay = Duration::ZERO;
        servers.set_apply_delay(replica, no_delay).await.unwrap();
    }
    println!("control, eventual, replicas 0, 100 and 400 ms behind: {line}");
    let stale = fraction(verdict.stale_first_reads, verdict.first_reads);
    let back = fraction(verdict.count(&MONOTONIC), verdict.reads);
    assert!(stale >= 0.2 && back >= 0.01, "void: {line}");
    let others = [Broken::NoPrefix, Broken::Lost];
    assert_eq!(verdict.count(&others), 0, "{recorded:?}");
}
