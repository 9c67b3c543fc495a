#![expect(
    clippy::unchecked_time_subtraction,
    reason = "the clock of a running machine is far from its beginning"
)]

use super::*;
use crate::core::lsn::Lsn;
use crate::core::policy::Transactions;
use crate::core::snapshot::Incarnation;
use crate::core::testing::{A, B, LIFE, POLICY, PRIMARY as P, ms};

mod forecasts;
mod spill;
mod stated;

/// A cluster of a primary and two replicas that were measured 1 ms ago and fresh 2 ms ago.
#[derive(Clone)]
struct Scene {
    now: Instant,
    snapshot: RoutingSnapshot,
    routing: RoutingPolicy,
    consistency: ConsistencyPolicy,
    loads: Vec<u32>,
    pick: u64,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            snapshot: RoutingSnapshot {
                generation: 1,
                primary: Some(P),
                nodes: vec![
                    node(P, NodeRole::Primary, now),
                    node(A, NodeRole::Replica, now),
                    node(B, NodeRole::Replica, now),
                ],
            },
            routing: RoutingPolicy {
                max_staleness: Duration::from_secs(10),
                max_lag_bytes: 1000,
                balance: Balance::Random,
                transactions: Transactions::Primary,
                zone: None,
                read_functions: vec![],
                write_functions: vec![],
                primary_tables: vec![],
            },
            consistency: POLICY,
            loads: vec![],
            pick: 0,
        }
    }

    fn lag(&mut self, id: NodeId, bytes: u64, behind: Duration) {
        let fresh_as_of = self.now - ms(2) - behind;
        self.snapshot.nodes[id.index()].lag = ReplayLag::Known {
            bytes,
            fresh_as_of,
            replay: Lsn(1),
            behind,
            measured_at: self.now - ms(1),
        };
    }

    fn decide_for(&self, request: &RouteRequest, patience: Patience) -> Decision {
        route(request, &self.world(), patience)
    }

    fn world(&self) -> RouteWorld<'_> {
        RouteWorld {
            snapshot: &self.snapshot,
            routing: &self.routing,
            consistency: &self.consistency,
            loads: &self.loads,
            now: self.now,
            pick: self.pick,
        }
    }

    fn decide(&self, floor: Floor, patience: Patience) -> Decision {
        let request = RouteRequest {
            target: Target::Read,
            floor,
            excluded: NodeSet::default(),
            spill: Spill::Room,
        };
        self.decide_for(&request, patience)
    }

    fn read(&self) -> Decision {
        self.decide(Floor::default(), Patience::Since(self.now))
    }
}

fn node(id: NodeId, role: NodeRole, now: Instant) -> NodeState {
    let (lag, eligibility) = match role {
        NodeRole::Replica => (
            ReplayLag::Known {
                bytes: 0,
                fresh_as_of: now - ms(2),
                replay: Lsn(1),
                behind: Duration::ZERO,
                measured_at: now - ms(1),
            },
            Eligibility::Eligible,
        ),
        NodeRole::Primary | NodeRole::Unknown => (ReplayLag::Unknown, Eligibility::NotReplica),
    };
    NodeState {
        id,
        name: format!("n{}", id.0).into(),
        weight: 1,
        zone: None,
        role,
        incarnation: Some(LIFE),
        lag,
        eligibility,
    }
}

fn go(node: NodeId, reason: RouteReason) -> Decision {
    let role = if node == P {
        NodeRole::Primary
    } else {
        NodeRole::Replica
    };
    Decision::Go(Route { node, role, reason })
}

fn everywhere(at: Instant) -> Floor {
    Floor {
        everywhere: Some(at),
        ..Floor::default()
    }
}

#[test]
fn reads_are_spread_over_the_replicas() {
    let mut scene = Scene::new();
    for (pick, node) in [(0, A), (1, B), (2, A), (u64::MAX, B)] {
        scene.pick = pick;
        assert_eq!(scene.read(), go(node, RouteReason::Fresh));
    }
}

#[test]
fn weights_share_the_reads_and_weight_zero_takes_none() {
    let mut scene = Scene::new();
    scene.snapshot.nodes[A.index()].weight = 3;
    let to_a = (0..400)
        .filter(|pick| {
            scene.pick = *pick;
            scene.read() == go(A, RouteReason::Fresh)
        })
        .count();
    assert_eq!(to_a, 300);
    scene.snapshot.nodes[A.index()].weight = 0;
    for pick in 0..4 {
        scene.pick = pick;
        assert_eq!(scene.read(), go(B, RouteReason::Fresh));
    }
    scene.snapshot.nodes[B.index()].weight = 0;
    assert_eq!(scene.read(), go(P, RouteReason::NoReplica));
}

#[test]
fn the_least_loaded_replica_by_weight_is_chosen() {
    let mut scene = Scene::new();
    scene.routing.balance = Balance::LeastLoaded;
    for (loads, weight_of_a, expected) in [
        (vec![0, 5, 4], 1, B),
        (vec![0, 5, 4], 2, A),
        (vec![9, 1, 1], 4, A),
        (vec![0, 1], 1, B),
    ] {
        scene.loads = loads;
        scene.snapshot.nodes[A.index()].weight = weight_of_a;
        for pick in 0..4 {
            scene.pick = pick;
            assert_eq!(scene.read(), go(expected, RouteReason::Fresh));
        }
    }
}

#[test]
fn the_own_zone_is_preferred_while_it_has_a_fresh_replica() {
    let mut scene = Scene::new();
    scene.routing.zone = Some("here".into());
    scene.snapshot.nodes[B.index()].zone = Some("here".into());
    for pick in 0..4 {
        scene.pick = pick;
        assert_eq!(scene.read(), go(B, RouteReason::Fresh));
    }
    scene.snapshot.nodes[B.index()].eligibility = Eligibility::Unreachable;
    assert_eq!(scene.read(), go(A, RouteReason::Fresh));
}

#[test]
fn a_replica_without_the_floor_is_not_chosen() {
    let mut scene = Scene::new();
    scene.lag(A, 10, ms(50));
    let floor = everywhere(scene.now - ms(20));
    for pick in 0..4 {
        scene.pick = pick;
        assert_eq!(
            scene.decide(floor, Patience::Since(scene.now)),
            go(B, RouteReason::Fresh)
        );
    }
}

#[test]
fn a_read_beyond_every_sample_waits_for_the_next_one_and_then_takes_the_primary() {
    let scene = Scene::new();
    let floor = everywhere(scene.now - ms(1));
    assert_eq!(
        scene.decide(floor, Patience::Since(scene.now - ms(1))),
        Decision::Wait {
            until: scene.now + ms(9),
            floor: scene.now - ms(1)
        }
    );
    let late = scene.decide(floor, Patience::Since(scene.now - ms(10)));
    assert_eq!(late, go(P, RouteReason::NotFresh));
    assert_eq!(
        scene.decide(floor, Patience::Exhausted),
        go(P, RouteReason::NotFresh)
    );
}

#[test]
fn no_wait_is_made_that_the_measured_distance_rules_out() {
    let mut scene = Scene::new();
    scene.lag(A, 10, ms(50));
    scene.lag(B, 10, ms(50));
    let decide = |floor| scene.decide(everywhere(floor), Patience::Since(scene.now));
    assert_eq!(decide(scene.now), go(P, RouteReason::NotFresh));
    let nearly = scene.now - ms(45);
    assert_eq!(
        decide(nearly),
        Decision::Wait {
            until: scene.now + ms(10),
            floor: nearly
        }
    );
}

#[test]
fn without_a_replica_in_rotation_nothing_waits() {
    for (eligibility, reason) in [
        (Eligibility::Unreachable, RouteReason::NoReplica),
        (Eligibility::Unmeasured, RouteReason::NoReplica),
        (Eligibility::ForeignTimeline, RouteReason::NoReplica),
        (Eligibility::NotReplica, RouteReason::NoReplica),
        (Eligibility::Lagging, RouteReason::Lagging),
    ] {
        let mut scene = Scene::new();
        for id in [A, B] {
            scene.snapshot.nodes[id.index()].eligibility = eligibility;
        }
        assert_eq!(scene.read(), go(P, reason), "{eligibility:?}");
        let floor = everywhere(scene.now);
        let decision = scene.decide(floor, Patience::Since(scene.now));
        assert_eq!(decision, go(P, reason), "{eligibility:?}");
    }
}

#[test]
fn an_eligible_replica_that_is_unknown_or_too_far_behind_by_now_serves_nothing() {
    type Change = fn(&mut Scene);
    let changes: [(&str, Change); 5] = [
        ("lag unknown", |s| {
            for id in [A, B] {
                s.snapshot.nodes[id.index()].lag = ReplayLag::Unknown;
            }
        }),
        ("bytes", |s| s.routing.max_lag_bytes = 9),
        ("staleness", |s| s.routing.max_staleness = ms(51)),
        ("snapshot too old", |s| {
            s.now += SAMPLE_EXPIRY;
            s.routing.max_staleness = Duration::from_secs(3600);
        }),
        ("role", |s| {
            for id in [A, B] {
                s.snapshot.nodes[id.index()].role = NodeRole::Unknown;
            }
        }),
    ];
    for (name, change) in changes {
        let mut scene = Scene::new();
        scene.lag(A, 10, ms(50));
        scene.lag(B, 10, ms(50));
        assert!(matches!(scene.read(), Decision::Go(r) if r.node != P));
        change(&mut scene);
        assert!(
            matches!(scene.read(), Decision::Go(r) if r.node == P),
            "{name}"
        );
        scene.consistency.on_no_replica = OnNoReplica::Stale;
        assert!(
            matches!(scene.read(), Decision::Go(r) if r.node == P),
            "{name}, stale"
        );
    }
}

#[test]
fn when_no_replica_is_fresh_the_policy_decides() {
    let base = Scene::new();
    let late = Patience::Exhausted;
    let floor = everywhere(base.now);
    for (policy, patience, expected) in [
        (OnNoReplica::Primary, late, go(P, RouteReason::NotFresh)),
        (
            OnNoReplica::Error,
            late,
            Decision::Refuse(NoRoute::NoFreshReplica),
        ),
        (OnNoReplica::Stale, late, go(A, RouteReason::Stale)),
        (
            OnNoReplica::Wait,
            late,
            Decision::Refuse(NoRoute::NoFreshReplica),
        ),
        (
            OnNoReplica::Wait,
            Patience::Since(base.now - ms(20)),
            Decision::Wait {
                until: base.now + ms(980),
                floor: base.now,
            },
        ),
        (
            OnNoReplica::Wait,
            Patience::Since(base.now - ms(1000)),
            Decision::Refuse(NoRoute::NoFreshReplica),
        ),
    ] {
        let mut scene = base.clone();
        scene.consistency.on_no_replica = policy;
        assert_eq!(scene.decide(floor, patience), expected, "{policy:?}");
    }
}

#[test]
fn the_home_replica_needs_no_more_than_own_writes() {
    let mut scene = Scene::new();
    let floor = Floor {
        everywhere: None,
        elsewhere: Some(scene.now),
        home: Some((B, LIFE)),
        ..Floor::default()
    };
    for pick in 0..4 {
        scene.pick = pick;
        let decision = scene.decide(floor, Patience::Since(scene.now));
        assert_eq!(decision, go(B, RouteReason::Fresh));
    }
    scene.snapshot.nodes[B.index()].incarnation = Some(Incarnation {
        started_at_unix_micros: 2,
        ..LIFE
    });
    let decision = scene.decide(floor, Patience::Since(scene.now));
    assert!(matches!(decision, Decision::Wait { .. }), "{decision:?}");
}

#[test]
fn a_window_holds_the_primary_until_it_ends() {
    let mut scene = Scene::new();
    let floor = Floor {
        primary_until: Some(scene.now + ms(1)),
        ..Floor::default()
    };
    assert_eq!(
        scene.decide(floor, Patience::Since(scene.now)),
        go(P, RouteReason::Window)
    );
    scene.now += ms(1);
    assert_eq!(
        scene.decide(floor, Patience::Since(scene.now)),
        go(A, RouteReason::Fresh)
    );
}

#[test]
fn without_a_primary_writes_are_refused_and_reads_go_on() {
    let mut scene = Scene::new();
    scene.snapshot.primary = None;
    let write = RouteRequest {
        target: Target::Primary(RouteReason::Write),
        floor: Floor::default(),
        excluded: NodeSet::default(),
        spill: Spill::Room,
    };
    assert_eq!(
        scene.decide_for(&write, Patience::Since(scene.now)),
        Decision::Refuse(NoRoute::NoPrimary)
    );
    assert_eq!(scene.read(), go(A, RouteReason::Fresh));
    assert_eq!(
        scene.decide(everywhere(scene.now), Patience::Exhausted),
        Decision::Refuse(NoRoute::NoPrimary)
    );
}

#[test]
fn no_primary_means_little_while_a_node_was_not_asked() {
    let mut scene = Scene::new();
    let node = &mut scene.snapshot.nodes[P.index()];
    (node.role, node.eligibility) = (NodeRole::Unknown, Eligibility::Unmeasured);
    scene.snapshot.primary = None;
    let decide = |scene: &Scene| scene.decide(everywhere(scene.now), Patience::Exhausted);
    assert_eq!(decide(&scene), Decision::Refuse(NoRoute::Unmeasured));
    scene.snapshot.nodes[P.index()].eligibility = Eligibility::Unreachable;
    assert_eq!(decide(&scene), Decision::Refuse(NoRoute::NoPrimary));
}

#[test]
fn a_node_that_failed_the_statement_is_not_tried_again() {
    let scene = Scene::new();
    let mut request = RouteRequest {
        target: Target::Read,
        floor: Floor::default(),
        excluded: NodeSet::default().with(A),
        spill: Spill::Room,
    };
    let decide = |request: &RouteRequest| scene.decide_for(request, Patience::Since(scene.now));
    assert_eq!(decide(&request), go(B, RouteReason::Fresh));
    request.excluded = request.excluded.with(B);
    assert!(matches!(decide(&request), Decision::Go(r) if r.node == P));
    request.excluded = request.excluded.with(P);
    assert_eq!(decide(&request), Decision::Refuse(NoRoute::NoPrimary));
}

#[test]
fn only_a_fresh_decision_is_relabelled_after_a_wait() {
    assert_eq!(
        go(A, RouteReason::Fresh).after_waiting(),
        go(A, RouteReason::Waited)
    );
    for kept in [
        go(P, RouteReason::NotFresh),
        go(A, RouteReason::Stale),
        Decision::Refuse(NoRoute::NoPrimary),
    ] {
        assert_eq!(kept.after_waiting(), kept);
    }
}
