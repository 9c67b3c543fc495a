//! Replicas whose freshness is only stated.

use super::*;
use crate::core::snapshot::Evidence;

/// Both replicas are said to be this stale.
fn said_to_be(scene: &mut Scene, staleness: Duration) {
    for id in [A, B] {
        scene.snapshot.nodes[id.index()].lag = ReplayLag::Stated {
            fresh_as_of: scene.now - staleness,
            measured_at: scene.now - ms(1),
        };
    }
}

fn stated(everywhere: Option<Instant>) -> Floor {
    Floor {
        everywhere,
        evidence: Evidence::Stated,
        ..Floor::default()
    }
}

#[test]
fn what_is_only_stated_serves_no_read_that_needs_a_proof() {
    let mut scene = Scene::new();
    said_to_be(&mut scene, ms(20));
    let patience = Patience::Since(scene.now);
    for floor in [Floor::default(), everywhere(scene.now - ms(500))] {
        assert_eq!(scene.decide(floor, patience), go(P, RouteReason::Unproved));
    }
    assert!(go(P, RouteReason::Unproved).is_displaced());
    for (policy, expected) in [
        (OnNoReplica::Stale, go(P, RouteReason::Unproved)),
        (
            OnNoReplica::Error,
            Decision::Refuse(NoRoute::NoFreshReplica),
        ),
    ] {
        scene.consistency.on_no_replica = policy;
        assert_eq!(scene.decide(Floor::default(), patience), expected);
    }
    let request = RouteRequest {
        target: Target::Read,
        floor: Floor::default(),
        excluded: NodeSet::default(),
        spill: Spill::Room,
    };
    let node = &scene.snapshot.nodes[A.index()];
    assert_eq!(standing(node, &request, &scene.world()), Standing::Unproved);
}

#[test]
fn a_read_that_relies_on_it_is_served_within_the_bound_and_with_what_was_seen() {
    let mut scene = Scene::new();
    said_to_be(&mut scene, ms(20));
    let patience = Patience::Since(scene.now);
    let fresh = go(A, RouteReason::Fresh);
    assert_eq!(scene.decide(stated(None), patience), fresh);
    let seen = |ago| stated(Some(scene.now - ms(ago)));
    assert_eq!(scene.decide(seen(20), patience), fresh);
    // Waiting is worthwhile only until the service is asked again.
    assert_eq!(
        scene.decide(seen(19), patience),
        go(P, RouteReason::NotFresh)
    );
    scene.consistency.wait = ms(200);
    let wait = Decision::Wait {
        until: scene.now + ms(200),
        floor: scene.now - ms(19),
    };
    assert_eq!(scene.decide(seen(19), patience), wait);
    let beyond = scene.routing.max_staleness + ms(1);
    said_to_be(&mut scene, beyond);
    assert_eq!(
        scene.decide(stated(None), patience),
        go(P, RouteReason::Lagging)
    );
    let expired = scene.now + SAMPLE_EXPIRY + ms(1);
    said_to_be(&mut scene, ms(20));
    scene.now = expired;
    assert_eq!(
        scene.decide(stated(None), patience),
        go(P, RouteReason::Lagging)
    );
}
