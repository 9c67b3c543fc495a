//! `latest` and `max_staleness`: how old is what reads show, by the clock of the writers and the readers,
//! who are on one machine.

use std::time::{Duration, Instant};

use pgweir::sandbox::LocalCluster;
use tokio::time::sleep;

use super::faults::{Fault, Faults, Stopped, while_it_stops_now_and_then};
use super::stamps::{Reading, Sightings, Stamps, Writers, known, prepare, read};
use super::{servers, sized};
use crate::harness::Proxy;

const READERS: usize = 8;
const PRIMARY: usize = 0;
/// The time between two measurements of a node nobody waits for.
const PERIOD: Duration = Duration::from_millis(100);

/// Has readers read what writers who bypass the proxy, and some who do not, count up under faults.
async fn run(
    servers: &'static LocalCluster,
    proxy: &Proxy,
    menu: &[Fault],
    reading: Reading<'_>,
) -> (Sightings, Vec<Stamps>, String) {
    prepare(servers, 4).await;
    known(proxy).await;
    let mut writers = Writers::default();
    for _ in 0..2 {
        let pause = Duration::from_millis(1);
        writers.add(servers.connect(PRIMARY).await.unwrap(), pause);
        writers.add(proxy.connect().await, 5 * pause);
    }
    let faults = Faults::begin(servers, menu);
    let begun = Instant::now();
    let seen = while_it_stops_now_and_then(proxy, read(proxy, reading)).await;
    let took = begun.elapsed();
    let stamps = writers.end().await;
    let struck = faults.end().await;
    let line = format!(
        "{} reads ({:.0} % on replicas), {} refused, {struck} faults, {took:.1?}",
        seen.all.len(),
        100.0 * seen.share_not_from(servers.port(PRIMARY)),
        seen.refused,
    );
    (seen, stamps, line)
}

#[tokio::test]
async fn latest_reads_show_all_that_anybody_was_told_before() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    let menu = [
        Fault::PausedReplay,
        Fault::ApplyDelay,
        Fault::CutOff,
        Fault::ReceiverStopped,
    ];
    let mut reading = Reading {
        readers: READERS,
        reads: sized(1_200),
        settings: "SET pgweir.consistency = 'latest'",
    };
    let (seen, writers, line) = run(servers, &proxy, &menu, reading).await;
    let older = seen.count(|read| read.is_beyond(Duration::ZERO, &writers));
    let reversed = seen.count(|read| read.reverses_cause(&writers));
    println!("latest: {line}, older {older}, causes reversed {reversed}");
    assert_eq!((older, reversed), (0, 0), "{line}");
    assert!(seen.refused * 5 <= seen.all.len(), "{line}");
    assert!(seen.share_not_from(servers.port(PRIMARY)) >= 0.05, "{line}");
    // The control.
    reading.settings = "SET pgweir.consistency = 'session'";
    reading.reads = sized(600);
    let (seen, writers, line) = run(servers, &proxy, &menu, reading).await;
    let older = seen.count(|read| read.is_beyond(Duration::ZERO, &writers));
    println!("control, session: {line}, older {older}");
    assert!(older * 20 >= seen.all.len(), "void: {line}");
}

#[tokio::test]
async fn bounded_reads_show_nothing_older_than_their_bound() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    let all = [50, 1_000, 250, 10_000];
    let (usual, _) = all.split_at(2);
    let bounds = if sized(1) > 1 { &all } else { usual };
    for &milliseconds in bounds {
        let settings = format!(
            "SET pgweir.consistency = 'eventual'; SET pgweir.max_staleness = '{milliseconds}ms'"
        );
        let reading = Reading {
            readers: READERS,
            reads: sized(800),
            settings: &settings,
        };
        let (seen, writers, line) = run(servers, &proxy, &Fault::ALL, reading).await;
        let bound = Duration::from_millis(milliseconds);
        let older = seen.count(|read| read.is_beyond(bound, &writers));
        let oldest = seen.all.iter().map(|read| read.staleness(&writers)).max();
        println!(
            "bound {bound:?}: {line}, older {older}, oldest {:.1?}",
            oldest.unwrap()
        );
        assert_eq!(older, 0, "{line}");
        assert!(seen.refused * 5 <= seen.all.len(), "{line}");
        assert!(seen.share_not_from(servers.port(PRIMARY)) >= 0.05, "{line}");
    }
}

/// The control.
#[tokio::test]
async fn without_a_bound_reads_show_older_things() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    let reading = Reading {
        readers: READERS,
        reads: sized(500),
        settings: "SET pgweir.consistency = 'eventual'",
    };
    // However soon the reads are over, what is old is there to be read.
    let behind = Duration::from_millis(400);
    servers.set_apply_delay(1, behind).await.unwrap();
    let others = Fault::ALL
        .into_iter()
        .filter(|fault| *fault != Fault::ApplyDelay);
    let others: Vec<_> = others.collect();
    let (seen, writers, line) = run(servers, &proxy, &others, reading).await;
    servers.set_apply_delay(1, Duration::ZERO).await.unwrap();
    for bound in [50, 250].map(Duration::from_millis) {
        let older = seen.count(|read| read.is_beyond(bound, &writers));
        println!("control, no bound, judged by {bound:?}: {line}, older {older}");
        assert!(older > 0, "void: {line}");
    }
}

#[tokio::test]
async fn bounded_reads_stay_on_replicas_while_nobody_writes() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    prepare(servers, 1).await;
    known(&proxy).await;
    // The last commit is then older than the bound.
    sleep(Duration::from_millis(1_200)).await;
    let reading = Reading {
        readers: READERS,
        reads: sized(1_000),
        settings: "SET pgweir.consistency = 'eventual'; SET pgweir.max_staleness = '1s'",
    };
    let seen = read(&proxy, reading).await;
    let share = seen.share_not_from(servers.port(PRIMARY));
    println!(
        "idle: {} reads bound to 1 s, {:.1} % on replicas",
        seen.all.len(),
        100.0 * share
    );
    assert!(share >= 0.99, "{share}");
    // The control: by the age of the last commit that was replayed, none would serve.
    for replica in servers.replicas() {
        let age = "SELECT now() - pg_last_xact_replay_timestamp() > interval '1 s'";
        let rows = servers.sql(replica, age).await.unwrap();
        assert_eq!(rows, [[Some("t".to_owned())]], "void");
    }
}

/// How a replica is kept from getting anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Its receiver ends.
    Openly,
    /// Its receiver stands still.
    Silently,
}

/// The bound of the reads while a replica is cut off.
const BOUND: Duration = Duration::from_millis(500);

/// Cuts replica 1 off, soon, until well beyond the bound; when it was.
async fn cut_for_a_while(servers: &LocalCluster, cut: Cut) -> Instant {
    sleep(2 * PERIOD).await;
    let stopped = match cut {
        Cut::Openly => {
            servers.cut_receiver(1).await.unwrap();
            None
        }
        Cut::Silently => Stopped::stop(servers, 1, "walreceiver").await,
    };
    assert_eq!(stopped.is_some(), cut == Cut::Silently);
    let at = Instant::now();
    sleep(BOUND + 8 * PERIOD).await;
    // The control: it has replayed all that it received, but for the half of a record if it was cut off
    // within one, so by that it would serve forever.
    let received = "SELECT pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn() BETWEEN 0 AND 8192";
    let rows = servers.sql(1, received).await.unwrap();
    assert_eq!(rows, [[Some("t".to_owned())]], "void");
    drop(stopped);
    if cut == Cut::Openly {
        servers.restore_receiver(1).await.unwrap();
    }
    at
}

#[tokio::test]
async fn a_replica_that_gets_nothing_any_more_serves_until_the_bound_only() {
    let (servers, _alone) = servers().await;
    let proxy = Proxy::start(servers, "").await;
    for cut in [Cut::Openly, Cut::Silently] {
        prepare(servers, 1).await;
        known(&proxy).await;
        let mut writers = Writers::default();
        let pause = Duration::from_millis(1);
        writers.add(servers.connect(PRIMARY).await.unwrap(), pause);
        let reading = Reading {
            readers: READERS,
            reads: READERS * 250,
            settings: "SET pgweir.consistency = 'eventual'; SET pgweir.max_staleness = '500ms'",
        };
        let both = async { tokio::join!(read(&proxy, reading), cut_for_a_while(servers, cut)) };
        let (seen, at) = both.await;
        let writers = writers.end().await;
        let until_back = at + BOUND + 8 * PERIOD;
        let port = i32::from(servers.port(1));
        let there = seen.all.iter().filter(|read| read.port == port);
        let there = there.filter(|read| read.invoked < until_back);
        let last = there.map(|read| read.invoked).max();
        let stayed = last.expect("it has served").saturating_duration_since(at);
        let older = seen.count(|read| read.is_beyond(BOUND, &writers));
        let afterwards = seen.count(|read| read.invoked > at + BOUND + 2 * PERIOD);
        println!("cut off {cut:?}, bound {BOUND:?}: it served for {stayed:.1?}, older {older}");
        assert!(stayed <= BOUND + 2 * PERIOD, "{stayed:?}");
        assert_eq!(older, 0);
        assert!(afterwards > 0, "void");
    }
}
