//! Connections on which sessions have used customized options.

use super::*;
use crate::backend::custom::{CustomNames, NamesScope};

#[tokio::test]
async fn where_another_sessions_option_exists_nobody_is_led_who_could_tell() {
    let bench = Bench::new(2).await;
    let mut lease = bench.lease().await;
    let tainted = lease.id;
    lease.custom.add("app.tenant");
    let mut own = lease.custom.possible.clone();
    give_back(lease);
    let asking = |own: &CustomNames, scope| Preference {
        names: WantedNames {
            own: own.clone(),
            scope,
            ..WantedNames::default()
        },
        ..preferring(Some(tainted), 0)
    };
    let none = CustomNames::default();
    for (names, scope) in [(&none, NamesScope::Any), (&own, NamesScope::Own)] {
        let lease = checkout(&bench.pools, "x", asking(names, scope)).await;
        let lease = lease.unwrap();
        assert_eq!(lease.id, tainted);
        give_back(lease);
    }
    let first = checkout(&bench.pools, "x", asking(&none, NamesScope::Own)).await;
    let first = first.unwrap();
    assert_ne!(first.id, tainted);
    // The pool is full now: what is idle makes room.
    let second = checkout(&bench.pools, "x", asking(&none, NamesScope::Own)).await;
    let second = second.unwrap();
    assert!(second.id != tainted && second.id != first.id);
    assert_eq!(bench.counts(), counts(0, 2, 0, 0));
    let evictions = bench.observed.evictions.lock().unwrap().clone();
    assert_eq!(evictions, [EvictionCause::Options]);
    own.add("app.other");
    let (clean, begun) = (first.id, bench.node.begun());
    give_back(first);
    let covered = checkout(&bench.pools, "x", asking(&own, NamesScope::Own)).await;
    assert_eq!((covered.unwrap().id, bench.node.begun()), (clean, begun));
    drop(second);
}

#[tokio::test]
async fn sessions_with_options_leave_connections_without_any_to_others() {
    let bench = Bench::new(3).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.lease().await);
    }
    let tainted = leases[0].id;
    leases[0].custom.add("app.tenant");
    let own = leases[0].custom.possible.clone();
    leases.into_iter().for_each(give_back);
    for (own, expected) in [(own, true), (CustomNames::default(), false)] {
        let mut preference = preferring(None, 0);
        preference.names.own = own;
        let lease = checkout(&bench.pools, "x", preference).await.unwrap();
        assert_eq!(lease.id == tainted, expected);
        give_back(lease);
    }
}

/// The control is the first in the queue, whom the connection does not suit: it still waits.
#[tokio::test]
async fn what_the_first_in_the_queue_cannot_use_goes_to_the_next_that_can() {
    let bench = Bench::with(OPENS_PER_POOL + 4, "20s", 1).await;
    let held = bench.lease().await;
    let id = held.id;
    let opening: Vec<_> = (0..OPENS_PER_POOL).map(|_| bench.spawn("y")).collect();
    until(|| bench.counts().connecting == OPENS_PER_POOL).await;
    let first = bench.queue("z").await;
    let second = bench.queue("x").await;
    give_back(held);
    let served = done(second).await.unwrap();
    assert_eq!((served.id, bench.counts().waiting), (id, 1));
    give_back(served);
    // A newcomer finds it idle.
    assert_eq!(done(bench.spawn("x")).await.unwrap().id, id);
    assert!(!first.is_finished());
    bench.node.gate.add_permits(OPENS_PER_POOL + 1);
    for waiting in opening.into_iter().chain([first]) {
        drop(done(waiting).await.unwrap());
    }
}

/// The first in the queue waits for the connections that are in use, of which one may suit it; once all may
/// have come back, one makes room.
#[tokio::test]
async fn before_a_connection_is_closed_for_the_first_those_have_it_whom_it_suits() {
    let bench = Bench::new(2).await;
    let (mut held, other) = (bench.lease().await, bench.lease().await);
    let id = held.id;
    let first = bench.queue("y").await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(bench.queue("x").await);
    }
    let last = later.pop().unwrap();
    for next in later {
        give_back(held);
        held = done(next).await.unwrap();
        assert_eq!((held.id, bench.node.begun()), (id, 2));
    }
    give_back(held);
    assert_eq!(done(first).await.unwrap().startup, key("y").startup);
    assert_eq!(bench.node.begun(), 3);
    assert!(!last.is_finished());
    give_back(other);
    assert_eq!(done(last).await.unwrap().startup, key("x").startup);
}

#[tokio::test]
async fn two_kinds_of_sessions_share_a_busy_pool_and_close_few_connections() {
    const ROUNDS: usize = 200;
    let bench = Bench::new(4).await;
    let sessions = (0..16).map(|number| {
        let pools = Arc::clone(&bench.pools);
        let application = if number % 2 == 0 { "x" } else { "y" };
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let lease = checkout(&pools, application, preferring(None, 0)).await;
                tokio::task::yield_now().await;
                give_back(lease.unwrap());
                tokio::task::yield_now().await;
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.unwrap();
    }
    let evictions = bench.observed.evictions.lock().unwrap().len();
    println!("{evictions} evictions in {} checkouts", 16 * ROUNDS);
    assert!(evictions < 16 * ROUNDS / 20, "{evictions}");
}
