//! Which connection is a session's home, and who gets it when it is idle.

use super::*;
use crate::config::Secret;
use crate::limits::OPENS_PER_POOL;

async fn home(bench: &Bench, application: &str, worker: u16) -> Option<Home> {
    home_by(bench, application, worker, PATIENCE).await
}

async fn home_by(
    bench: &Bench,
    application: &str,
    worker: u16,
    patience: Duration,
) -> Option<Home> {
    let key = key(application);
    let login = NodeLogin::with_password(Secret::new("secret"));
    let deadline = Instant::now() + patience;
    let worker = WorkerId(worker);
    bench.pools.home(&key, &login, worker, deadline).await
}

async fn lease_of(bench: &Bench, home: &Home) -> Lease {
    let preference = Preference {
        home: Some(home.key()),
        ..preferring(None, 0)
    };
    checkout(&bench.pools, "x", preference).await.unwrap()
}

#[tokio::test]
async fn sessions_have_homes_of_their_own_up_to_the_size_and_share_them_evenly_beyond() {
    let bench = Bench::new(3).await;
    let mut homes = Vec::new();
    for _ in 0..9 {
        homes.push(home(&bench, "x", 0).await.unwrap());
    }
    assert_eq!(
        (bench.node.begun(), bench.counts()),
        (3, counts(3, 0, 0, 0))
    );
    let mut ids: Vec<_> = homes.iter().map(Home::process_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    // Whose sessions have ended is taken first.
    let freed = homes[4].process_id();
    homes.retain(|home| home.process_id() != freed);
    assert_eq!(home(&bench, "x", 0).await.unwrap().process_id(), freed);
}

#[tokio::test]
async fn many_logins_at_once_have_homes_of_their_own_too() {
    const SIZE: usize = OPENS_PER_POOL + 4;
    let bench = Arc::new(Bench::new(SIZE).await);
    let logins: Vec<_> = (0..2 * SIZE)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { home(&bench, "x", 0).await.unwrap() })
        })
        .collect();
    let mut homes = Vec::new();
    for login in logins {
        homes.push(login.await.unwrap());
    }
    assert_eq!(bench.node.begun(), SIZE);
    for one in &homes {
        let owners = homes
            .iter()
            .filter(|home| home.process_id() == one.process_id());
        assert!(owners.count() <= 3);
    }
    let mut ids: Vec<_> = homes.iter().map(Home::process_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), SIZE);
}

#[tokio::test]
async fn a_connection_that_is_there_and_nobodys_is_a_home_without_another_being_opened() {
    let bench = Bench::new(3).await;
    let leased = bench.lease().await;
    give_back(bench.lease().await);
    let homes = [home(&bench, "x", 0).await, home(&bench, "x", 0).await];
    let ids = homes.map(|home| home.unwrap().process_id());
    assert_eq!((ids, bench.node.begun()), ([2, 1], 2));
    drop(leased);
}

#[tokio::test]
async fn everybody_gets_their_own_home_when_it_is_idle_and_any_other_when_it_is_not() {
    let bench = Bench::new(2).await;
    let (one, two) = (home(&bench, "x", 0).await, home(&bench, "x", 0).await);
    let (one, two) = (one.unwrap(), two.unwrap());
    for home in [&one, &two, &one] {
        let lease = lease_of(&bench, home).await;
        assert_eq!(lease.id, home.connection());
        give_back(lease);
    }
    let held = lease_of(&bench, &one).await;
    let moved = lease_of(&bench, &one).await;
    assert_eq!(moved.id, two.connection());
    give_back(moved);
    give_back(held);
    assert_eq!(bench.node.begun(), 2);
}

#[tokio::test]
async fn who_has_no_home_takes_nobodys_connection_then_opens_one_then_takes_anothers() {
    let bench = Bench::new(3).await;
    let mine = home(&bench, "x", 0).await.unwrap();
    let free = home(&bench, "x", 0).await.unwrap().connection();
    // The home is the most recently used one.
    give_back(lease_of(&bench, &mine).await);
    let first = bench.lease().await;
    assert_eq!(first.id, free);
    let second = bench.lease().await;
    assert_eq!(bench.node.begun(), 3, "opened, as there is room");
    assert_ne!(second.id, mine.connection());
    assert_eq!(bench.lease().await.id, mine.connection());
}

#[tokio::test]
async fn a_home_that_was_closed_is_not_given_to_the_next() {
    let bench = Bench::new(2).await;
    let first = home(&bench, "x", 0).await.unwrap();
    drop(lease_of(&bench, &first).await);
    let second = home(&bench, "x", 0).await.unwrap();
    assert_ne!(second.connection(), first.connection());
    bench.pools.close_idle(A);
    let third = home(&bench, "x", 0).await.unwrap();
    assert_ne!(third.connection(), second.connection());
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
}

#[tokio::test]
async fn homes_are_of_the_own_worker_if_owners_are_equal() {
    let bench = Bench::new(2).await;
    let (one, two) = (home(&bench, "x", 1).await, home(&bench, "x", 2).await);
    let ids = [one, two].map(|home| home.unwrap().connection());
    for (worker, expected) in [(1, ids[0]), (2, ids[1]), (1, ids[0])] {
        assert_eq!(
            home(&bench, "x", worker).await.unwrap().connection(),
            expected
        );
    }
}

#[tokio::test]
async fn other_startup_parameters_take_the_place_of_nobodys_connection_only() {
    let bench = Bench::new(2).await;
    let mine = home(&bench, "x", 0).await.unwrap();
    drop(home(&bench, "x", 0).await);
    let other = home(&bench, "other", 0).await.unwrap();
    assert_eq!(bench.counts(), counts(2, 0, 0, 0));
    assert!(home(&bench, "third", 0).await.is_none(), "both are homes");
    for owner in [&mine, &home(&bench, "x", 0).await.unwrap()] {
        assert_eq!(owner.connection(), mine.connection());
    }
    drop(other);
    assert!(home(&bench, "third", 0).await.is_some());
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_not_waited_for_beyond_the_deadline() {
    let bench = Bench::with(2, "20s", 1).await;
    let patience = Duration::from_millis(50);
    let first = home(&bench, "x", 0).await.unwrap();
    let second = home_by(&bench, "x", 0, patience).await.unwrap();
    assert_eq!(second.connection(), first.connection(), "shared");
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
    assert!(home_by(&bench, "other", 0, patience).await.is_none());
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
}

#[tokio::test]
async fn nobody_overtakes_those_who_queue_to_open_a_home() {
    let bench = Bench::new(1).await;
    let held = bench.lease().await;
    let waiter = bench.queue("x").await;
    assert_eq!(home(&bench, "x", 0).await.unwrap().connection(), held.id);
    assert!(home(&bench, "other", 0).await.is_none());
    give_back(held);
    drop(done(waiter).await.unwrap());
}

#[tokio::test]
async fn what_is_nobodys_makes_room_before_a_home_is_shared_or_taken_from_its_owner() {
    let bench = Bench::new(3).await;
    drop([
        home(&bench, "old", 0).await,
        home(&bench, "old", 0).await,
        home(&bench, "old", 0).await,
    ]);
    let first = home(&bench, "x", 0).await.unwrap();
    let second = home(&bench, "x", 0).await.unwrap();
    assert_ne!(first.connection(), second.connection());
    let homeless = bench.lease().await;
    assert_ne!(homeless.id, first.connection());
    assert_ne!(homeless.id, second.connection());
    assert_eq!(bench.counts(), counts(2, 1, 0, 0));
}

#[tokio::test]
async fn a_connection_kept_for_one_session_goes_to_nobody_else_and_ends_with_the_session() {
    let bench = Bench::new(2).await;
    let owner = home(&bench, "x", 0).await.unwrap();
    let sharing = home(&bench, "x", 0).await.unwrap();
    let kept = lease_of(&bench, &owner).await;
    let peer = bench.node.peer(&kept);
    kept.anchor.keep_for(&owner);
    give_back(kept);
    for _ in 0..3 {
        let other = home(&bench, "x", 0).await.unwrap();
        assert_eq!(other.connection(), sharing.connection());
        let lease = bench.lease().await;
        assert_eq!(lease.id, sharing.connection());
        give_back(lease);
        let own = lease_of(&bench, &owner).await;
        assert_eq!(own.id, owner.connection());
        give_back(own);
    }
    bench.pools.reap(Instant::now());
    assert_eq!(bench.counts(), counts(2, 0, 0, 0));
    drop(owner);
    bench.pools.reap(Instant::now());
    assert_eq!(bench.counts(), counts(1, 0, 0, 0));
    assert_eq!(FakeNode::closed(&peer).await, b"X\0\0\0\x04");
}

#[tokio::test]
async fn a_connection_kept_for_one_session_makes_room_when_there_is_no_other() {
    let bench = Bench::new(1).await;
    let owner = home(&bench, "x", 0).await.unwrap();
    let kept = lease_of(&bench, &owner).await;
    kept.anchor.keep_for(&owner);
    give_back(kept);
    assert!(home(&bench, "x", 0).await.is_none());
    let other = bench.lease().await;
    assert_ne!(other.id, owner.connection());
    give_back(other);
    assert_ne!(lease_of(&bench, &owner).await.id, owner.connection());
}
