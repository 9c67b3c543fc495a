use super::*;

fn request(floor: Floor) -> RouteRequest {
    RouteRequest {
        target: Target::Read,
        floor,
        ..RouteRequest::to_primary(RouteReason::Write)
    }
}

fn goes(node: NodeId, role: NodeRole, reason: RouteReason) -> Route {
    Route { node, role, reason }
}

#[test]
fn what_needs_no_wait_is_foreseen_as_it_is_decided() {
    let scene = Scene::new();
    for floor in [Floor::default(), everywhere(scene.now - ms(2))] {
        let foreseen = forecast(&request(floor), &scene.world());
        let Decision::Go(route) = scene.decide(floor, Patience::Since(scene.now)) else {
            panic!("a wait for {floor:?}");
        };
        assert_eq!(foreseen.outcome, Ok(route));
        assert_eq!(foreseen.wait, Duration::ZERO);
    }
    let write = RouteRequest::to_primary(RouteReason::Write);
    let foreseen = forecast(&write, &scene.world());
    assert_eq!(
        foreseen.outcome,
        Ok(goes(P, NodeRole::Primary, RouteReason::Write))
    );
}

#[test]
fn a_wait_is_as_long_as_the_nearest_replica_needs() {
    let mut scene = Scene::new();
    scene.lag(A, 10, ms(8));
    scene.lag(B, 10, ms(5));
    let floor = everywhere(scene.now - ms(1));
    let foreseen = forecast(&request(floor), &scene.world());
    assert_eq!(
        foreseen.outcome,
        Ok(goes(B, NodeRole::Replica, RouteReason::Waited))
    );
    assert_eq!(foreseen.wait, ms(4));
}

#[test]
fn a_wait_in_vain_ends_where_the_policy_says() {
    let mut scene = Scene::new();
    scene.lag(A, 10, ms(800));
    scene.lag(B, 10, ms(5000));
    let floor = request(everywhere(scene.now));
    let to_primary = forecast(&floor, &scene.world());
    assert_eq!(
        to_primary.outcome,
        Ok(goes(P, NodeRole::Primary, RouteReason::NotFresh))
    );
    assert_eq!(to_primary.wait, Duration::ZERO);
    assert!(to_primary.is_displaced());
    scene.consistency.on_no_replica = OnNoReplica::Wait;
    let waits = forecast(&floor, &scene.world());
    assert_eq!(
        waits.outcome,
        Ok(goes(A, NodeRole::Replica, RouteReason::Waited))
    );
    assert_eq!(waits.wait, ms(800));
    scene.lag(A, 10, ms(3000));
    let in_vain = forecast(&floor, &scene.world());
    assert_eq!(in_vain.outcome, Err(NoRoute::NoFreshReplica));
    assert_eq!(in_vain.wait, ms(1000));
    scene.consistency.on_no_replica = OnNoReplica::Error;
    let refused = forecast(&floor, &scene.world());
    assert_eq!(refused.outcome, Err(NoRoute::NoFreshReplica));
    assert_eq!(refused.wait, Duration::ZERO);
}

#[test]
fn every_node_has_its_standing() {
    let mut scene = Scene::new();
    scene.lag(B, 10, ms(50));
    let request = request(everywhere(scene.now - ms(10)));
    let stands = |scene: &Scene, id: NodeId| {
        standing(&scene.snapshot.nodes[id.index()], &request, &scene.world())
    };
    assert_eq!(stands(&scene, A), Standing::Fresh);
    assert_eq!(stands(&scene, B), Standing::NotFresh);
    assert_eq!(stands(&scene, P), Standing::Out(Eligibility::NotReplica));
    scene.snapshot.nodes[A.index()].weight = 0;
    assert_eq!(stands(&scene, A), Standing::Excluded);
    scene.lag(B, 10_000, ms(50));
    assert_eq!(stands(&scene, B), Standing::Out(Eligibility::Lagging));
}
