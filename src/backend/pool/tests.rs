mod bench;
mod homes;
mod options;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::net::TcpListener;

use super::*;
use crate::backend::login::Proof;
use crate::limits::{OPENS_PER_POOL, UNSOLICITED_BYTES};
use bench::*;

#[tokio::test]
async fn a_connection_given_back_is_used_again() {
    let bench = Bench::new(2).await;
    let first = bench.lease().await;
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
    let id = first.id;
    give_back(first);
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
    assert_eq!(bench.lease().await.id, id);
    assert!(bench.observed.waits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_last_one_used_is_preferred_then_the_own_worker_then_the_most_recent() {
    let bench = Bench::new(4).await;
    let mut ids = Vec::new();
    let mut leases = Vec::new();
    for worker in [0, 1, 1, 2] {
        let lease = checkout(&bench.pools, "x", preferring(None, worker)).await;
        ids.push(lease.as_ref().unwrap().id);
        leases.push(lease.unwrap());
    }
    leases.into_iter().for_each(give_back);
    for (last, worker, expected) in [
        (Some(ids[0]), 1, ids[0]),
        (None, 1, ids[2]),
        (None, 7, ids[3]),
        (Some(ConnectionId(999)), 1, ids[1]),
    ] {
        let preference = preferring(last, worker);
        let lease = checkout(&bench.pools, "x", preference).await.unwrap();
        assert_eq!((lease.id, lease.worker), (expected, WorkerId(worker)));
        std::mem::forget(lease);
    }
}

#[tokio::test]
async fn a_connection_taken_by_another_worker_still_works() {
    let bench = Bench::new(1).await;
    give_back(bench.lease().await);
    let lease = checkout(&bench.pools, "x", preferring(None, 3)).await;
    let mut lease = lease.unwrap();
    let peer = bench.node.peer(&lease);
    assert_eq!(peer.try_write(b"hello").unwrap(), 5);
    lease.stream.readable().await.unwrap();
    let mut bytes = [0; 8];
    assert_eq!(lease.stream.try_read(&mut bytes).unwrap(), 5);
}

#[tokio::test]
async fn never_more_than_size_and_the_queue_is_first_come_first_served() {
    let bench = Bench::new(2).await;
    let held = [bench.lease().await, bench.lease().await];
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..20 {
        let waiter = bench.queue("x").await;
        let (order, peers) = (Arc::clone(&order), Arc::clone(&bench.node.peers));
        tasks.push(tokio::spawn(async move {
            let lease = done(waiter).await.unwrap();
            order.lock().unwrap().push(number);
            assert!(peers.lock().unwrap().len() <= 2);
            give_back(lease);
        }));
    }
    assert_eq!(bench.counts(), counts(0, 2, 0, 20));
    let [first, second] = held;
    give_back(first);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(bench.node.begun(), 2);
    assert_eq!(bench.observed.waits.lock().unwrap().len(), 20);
    drop(second);
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_the_queue() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let waiter = bench.queue("x").await;
    give_back(held);
    // The connection has been handed over although its new owner has not run yet.
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
    let idle = bench.pools.checkout_idle(&key("x"), &preferring(None, 0));
    assert!(idle.is_none());
    drop(done(waiter).await.unwrap());
}

#[tokio::test]
async fn waiting_ends_with_a_timeout_that_does_not_blame_the_node() {
    let bench = Bench::with(1, "30ms", 10).await;
    let held = bench.lease().await;
    let error = bench.checkout("x").await.unwrap_err();
    assert!(matches!(error, CheckoutError::Timeout(_)), "{error}");
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
    give_back(held);
    assert!(bench.checkout("x").await.is_ok());
}

#[tokio::test]
async fn a_checkout_that_is_dropped_leaves_the_queue() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let (gone, stays) = (bench.queue("x").await, bench.queue("x").await);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(bench.counts().waiting, 1);
    give_back(held);
    drop(done(stays).await.unwrap());
}

#[tokio::test]
async fn a_turn_that_comes_to_nobody_frees_its_place() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let gone = bench.queue("x").await;
    // Handed over, and dropped before the task could take it.
    give_back(held);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(bench.counts().active, 0);
    assert!(bench.checkout("x").await.is_ok());
}

#[tokio::test]
async fn dropping_a_lease_closes_the_socket_and_lets_the_next_one_open() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let (id, peer) = (held.id, bench.node.peer(&held));
    let waiter = bench.queue("x").await;
    drop(held);
    assert_eq!(FakeNode::closed(&peer).await, b"");
    let next = done(waiter).await.unwrap();
    assert_ne!(next.id, id);
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
}

#[tokio::test]
async fn other_startup_parameters_evict_the_least_recently_used() {
    let bench = Bench::new(2).await;
    let (one, two) = (bench.lease().await, bench.lease().await);
    let (kept, peer) = (two.id, bench.node.peer(&one));
    give_back(one);
    give_back(two);
    let other = bench.checkout("other").await.unwrap();
    assert_eq!(other.startup, key("other").startup);
    assert_eq!(FakeNode::closed(&peer).await, b"X\0\0\0\x04");
    assert_eq!(bench.counts(), counts(1, 1, 0, 0));
    assert_eq!(bench.lease().await.id, kept);
}

#[tokio::test]
async fn a_waiter_with_other_startup_parameters_gets_the_place_of_what_comes_back() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let waiter = bench.queue("other").await;
    give_back(held);
    let lease = done(waiter).await.unwrap();
    assert_eq!(lease.startup, key("other").startup);
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
}

#[tokio::test]
async fn an_idle_connection_that_the_node_has_ended_is_not_handed_out() {
    let long = [b"S\0\0\x10\0a\0".to_vec(), vec![b'b'; UNSOLICITED_BYTES]].concat();
    for last_words in [
        &b""[..],
        SHUTDOWN,
        b"A\0\0\0\x0c\0\0\0\x01c\0p\0",
        b"S\0\0",
        &long,
    ] {
        for worker in [0, 1] {
            let bench = Bench::new(1).await;
            let mut lease = bench.lease().await;
            let (id, peer) = (lease.id, bench.node.peer(&lease));
            if last_words.is_empty() {
                bench.node.peers.lock().unwrap().clear();
                drop(peer);
            } else {
                assert!(peer.try_write(last_words).unwrap() > 0);
            }
            lease.stream.readable().await.unwrap();
            give_back(lease);
            let next = checkout(&bench.pools, "x", preferring(Some(id), worker)).await;
            assert_ne!(next.unwrap().id, id, "{last_words:?}");
            assert_eq!(bench.counts(), counts(0, 0, 0, 0));
        }
    }
}

#[tokio::test]
async fn notices_and_reports_do_not_end_an_idle_connection() {
    for worker in [0, 1] {
        let bench = Bench::new(1).await;
        let mut lease = bench.lease().await;
        let (id, peer) = (lease.id, bench.node.peer(&lease));
        let said = b"N\0\0\0\x05\0S\0\0\0\x0dzone\0CET\0S\0\0\0\x08a\0b\0";
        assert_eq!(peer.try_write(said).unwrap(), said.len());
        lease.stream.readable().await.unwrap();
        give_back(lease);
        let next = checkout(&bench.pools, "x", preferring(None, worker)).await;
        let mut next = next.unwrap();
        assert_eq!(next.id, id);
        let pairs: Vec<_> = next.parameters.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(pairs, [("zone", "CET"), ("a", "b")]);
        let mut bytes = [0; 1];
        let read = next.stream.try_read(&mut bytes);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn several_are_opened_at_once_up_to_the_bound() {
    let bench = Bench::with(OPENS_PER_POOL + 4, "20s", 0).await;
    let wanted = OPENS_PER_POOL + 3;
    let checkouts: Vec<_> = (0..wanted).map(|_| bench.spawn("x")).collect();
    until(|| bench.node.begun() == OPENS_PER_POOL && bench.counts().waiting == 3).await;
    assert_eq!(bench.counts(), counts(0, 0, OPENS_PER_POOL, 3));
    bench.node.gate.add_permits(1);
    until(|| bench.node.begun() == OPENS_PER_POOL + 1).await;
    bench.node.gate.add_permits(wanted);
    for checkout in checkouts {
        give_back(done(checkout).await.unwrap());
    }
    assert_eq!(bench.counts().connecting, 0);
}

#[tokio::test]
async fn a_failed_opening_frees_its_place_for_the_next() {
    let bench = Bench::with(1, "20s", 0).await;
    let first = bench.spawn("x");
    until(|| bench.node.begun() == 1).await;
    let second = bench.queue("x").await;
    first.abort();
    bench.node.gate.add_permits(2);
    drop(done(second).await.unwrap());
    assert_eq!(bench.counts().connecting, 0);
}

#[tokio::test]
async fn an_unreachable_node_is_a_connect_error_and_takes_no_place() {
    let bench = Bench::new(1).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut cluster = (*bench.pools.shared.cluster).clone();
    cluster.nodes[0].port = closed.local_addr().unwrap().port();
    drop(closed);
    let pools = Pools::new(
        Arc::new(cluster),
        Arc::new(Unobserved),
        Hashing::start().unwrap(),
    );
    for _ in 0..2 {
        let error = checkout(&pools, "x", preferring(None, 0)).await;
        let error = error.unwrap_err();
        assert!(matches!(
            error,
            CheckoutError::Connect(ConnectError::Tcp(_))
        ));
        assert_eq!(pools.counts(A), PoolCounts::default());
    }
    let unknown = PoolKey {
        node: NodeId(1),
        ..key("x")
    };
    let login = NodeLogin::new(Proof::Nothing);
    let preference = preferring(None, 0);
    let error = pools.checkout(&unknown, &login, &preference, Instant::now());
    assert!(matches!(error.await, Err(CheckoutError::UnknownNode)));
}

#[tokio::test]
async fn a_new_generation_closes_idle_and_returning_connections() {
    let bench = Bench::new(3).await;
    let (idle, used) = (bench.lease().await, bench.lease().await);
    let peers = [bench.node.peer(&idle), bench.node.peer(&used)];
    give_back(idle);
    assert!(reported(&bench).is_some());
    bench.pools.close_idle(A);
    assert_eq!(bench.counts(), counts(0, 1, 0, 0));
    assert!(reported(&bench).is_none());
    give_back(used);
    assert_eq!(bench.counts(), counts(0, 0, 0, 0));
    for peer in peers {
        assert_eq!(FakeNode::closed(&peer).await, b"X\0\0\0\x04");
    }
    give_back(bench.lease().await);
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
}

#[tokio::test]
async fn a_connection_whose_opening_began_before_a_new_generation_is_not_kept() {
    let bench = Bench::with(1, "20s", 0).await;
    let opening = bench.spawn("x");
    until(|| bench.node.begun() == 1).await;
    bench.pools.close_idle(A);
    bench.node.gate.add_permits(1);
    give_back(done(opening).await.unwrap());
    assert_eq!(bench.counts(), counts(0, 0, 0, 0));
}

fn reported(bench: &Bench) -> Option<ReportedParameters> {
    let startup = &key("x").startup;
    bench.pools.startup_parameters("db", "app", startup)
}

#[tokio::test]
async fn what_was_reported_is_known_for_the_same_names_and_parameters_only() {
    let bench = Bench::new(1).await;
    assert_eq!(reported(&bench), None);
    drop(bench.lease().await);
    let zone = [("zone".to_owned(), "UTC".to_owned())];
    assert_eq!(reported(&bench).unwrap()[..], zone);
    let (startup, other) = (key("x").startup, key("y").startup);
    assert_eq!(bench.pools.startup_parameters("db", "app", &other), None);
    assert_eq!(bench.pools.startup_parameters("db", "me", &startup), None);
    assert_eq!(bench.pools.startup_parameters("x", "app", &startup), None);
}

#[tokio::test]
async fn the_reaper_closes_what_is_too_old_or_dead_and_forgets_empty_pools() {
    let bench = Bench::new(3).await;
    let leases = [
        bench.lease().await,
        bench.lease().await,
        bench.lease().await,
    ];
    let now = Instant::now();
    let [mut dead, first, second] = leases;
    drop(bench.node.peers.lock().unwrap().remove(&dead.process_id));
    dead.stream.readable().await.unwrap();
    dead.give_back(now);
    first.give_back(now);
    second.give_back(now + Duration::from_secs(300));
    assert_eq!(bench.counts().idle, 3);
    for (minutes, left) in [(1, 2), (11, 1), (14, 1), (16, 0)] {
        bench.pools.reap(now + Duration::from_secs(60 * minutes));
        let seen = bench.observed.counts.lock().unwrap()[&A];
        assert_eq!((bench.counts().idle, seen.idle), (left, left), "{minutes}");
    }
    assert!(bench.pools.status().is_empty());
    let old = bench.lease().await;
    old.give_back(now + Duration::from_secs(2 * 3600));
    assert_eq!(bench.counts(), counts(0, 0, 0, 0));
}

#[tokio::test]
async fn closing_closes_what_is_idle_and_what_comes_back() {
    let bench = Bench::new(2).await;
    let (idle, used) = (bench.lease().await, bench.lease().await);
    let peers = [bench.node.peer(&idle), bench.node.peer(&used)];
    give_back(idle);
    bench.pools.close_all();
    give_back(used);
    for peer in peers {
        assert_eq!(FakeNode::closed(&peer).await, b"X\0\0\0\x04");
    }
    assert_eq!(bench.counts(), counts(0, 0, 0, 0));
}

#[tokio::test]
async fn closing_ends_waiting_and_further_checkouts() {
    let bench = Bench::new(1).await;
    let _held = bench.lease().await;
    let waiter = bench.queue("x").await;
    bench.pools.close_all();
    assert!(matches!(done(waiter).await, Err(CheckoutError::Closed)));
    let later = bench.checkout("x").await;
    assert!(matches!(later, Err(CheckoutError::Closed)));
}

/// What a client of the stress test does with every connection that it gets.
async fn use_and_leave(pools: &Pools, worker: u16, rounds: usize, used: &AtomicUsize) {
    for round in 0..rounds {
        let application = if round % 7 == 0 { "y" } else { "x" };
        let lease = checkout(pools, application, preferring(None, worker));
        if round % 11 == 3 {
            // Given up while waiting or just after having been served.
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => continue,
                lease = lease => drop(lease.unwrap()),
            }
            continue;
        }
        let lease = lease.await.unwrap();
        assert!(used.fetch_add(1, Ordering::SeqCst) < 4);
        tokio::task::yield_now().await;
        used.fetch_sub(1, Ordering::SeqCst);
        if round % 13 == 0 {
            drop(lease);
        } else {
            give_back(lease);
        }
    }
}

#[tokio::test]
async fn workers_that_share_a_pool_lose_no_place_and_wake_everybody() {
    let bench = Bench::new(4).await;
    let used = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3)
        .map(|worker| {
            let (pools, used) = (Arc::clone(&bench.pools), Arc::clone(&used));
            tokio::task::spawn_blocking(move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().unwrap();
                runtime.block_on(async {
                    let clients = (0..12).map(|_| use_and_leave(&pools, worker, 60, &used));
                    let clients: Vec<_> = clients.map(Box::pin).collect();
                    join_all(clients).await;
                });
            })
        })
        .collect();
    for thread in threads {
        let ended = tokio::time::timeout(2 * PATIENCE, thread).await;
        ended.expect("every client gets its turns").unwrap();
    }
    let left = bench.counts();
    assert_eq!(left, counts(left.idle, 0, 0, 0));
    assert!(left.idle <= 4);
}

/// Runs the futures concurrently to their ends.
async fn join_all<F: Future<Output = ()> + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
