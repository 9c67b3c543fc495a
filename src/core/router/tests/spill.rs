//! The share of the primary that displaced reads may take.

use super::*;

#[test]
fn a_read_that_finds_no_room_on_the_primary_waits_for_it_or_for_a_replica() {
    let mut scene = Scene::new();
    scene.lag(A, 10, ms(5000));
    scene.lag(B, 10, ms(5000));
    let read = |spill| RouteRequest {
        target: Target::Read,
        floor: everywhere(scene.now),
        excluded: NodeSet::default(),
        spill,
    };
    let (room, full) = (read(Spill::Room), read(Spill::Full));
    let arrived = |ago| Patience::Since(scene.now - ms(ago));
    let refused = Decision::Refuse(NoRoute::NoFreshReplica);
    let wait = |left| Decision::Wait {
        until: scene.now + ms(left),
        floor: scene.now,
    };
    for (request, ago, expected) in [
        (room, 0, go(P, RouteReason::NotFresh)),
        (full, 0, wait(1000)),
        (full, 999, wait(1)),
        (full, 1000, refused),
        (room, 1000, go(P, RouteReason::NotFresh)),
    ] {
        let decision = scene.decide_for(&request, arrived(ago));
        assert_eq!(decision, expected, "{:?} {ago}", request.spill);
        assert_eq!(
            decision.is_displaced(),
            matches!(decision, Decision::Go(_)),
            "{decision:?}"
        );
    }
    let mut stale = scene.clone();
    stale.consistency.on_no_replica = OnNoReplica::Stale;
    assert_eq!(
        stale.decide_for(&full, arrived(0)),
        go(A, RouteReason::Stale),
        "the policy prefers a stale replica to the primary"
    );
    let expected = expected_wait(&full, &scene.world());
    assert_eq!(expected, Some(ms(5000)), "told with the refusal");
}

#[test]
fn the_room_for_displaced_reads_is_a_share_of_the_pool() {
    let mut policy = Scene::new().consistency;
    for (share, size, places) in [
        (100, 20, None),
        (0, 20, Some(0)),
        (20, 20, Some(4)),
        (20, 3, Some(1)),
        (99, 1, Some(1)),
        (50, 7, Some(3)),
    ] {
        policy.spill_limit = share;
        assert_eq!(policy.spill_places(size), places, "{share} % of {size}");
    }
}
