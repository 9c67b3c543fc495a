mod service;

use super::*;
use crate::core::freshness::WalGeometry;
use crate::core::lsn::Lsn;
use crate::core::snapshot::Evidence;
use crate::limits::SAMPLE_EXPIRY;

const P: NodeId = NodeId(0);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const SYSTEM: i64 = 7;

struct Scene {
    observer: ClusterObserver,
    now: Instant,
}

impl Scene {
    /// Three connected nodes that have not answered yet.
    fn connected() -> Self {
        let entry = |name: &str| NodeEntry {
            name: name.into(),
            weight: 1,
            zone: None,
        };
        let bounds = RotationBounds {
            max_staleness: Duration::from_secs(10),
            max_lag_bytes: 1 << 20,
        };
        let mut observer = ClusterObserver::new(vec![entry("p"), entry("a"), entry("b")], bounds);
        for node in [P, A, B] {
            observer.on_connected(node, identity(SYSTEM));
        }
        Self {
            observer,
            now: Instant::now(),
        }
    }

    /// A primary and two caught-up replicas on timeline 1.
    fn healthy() -> Self {
        let mut scene = Self::connected();
        scene.replica(A, Some(1), 100);
        scene.replica(B, Some(1), 100);
        scene.primary(P, 1, 100);
        scene
    }

    fn primary(&mut self, node: NodeId, timeline: u32, position: u64) {
        self.now += Duration::from_millis(1);
        let sample = PrimarySample {
            sent: self.now,
            received: self.now,
            timeline,
            flush: Lsn(position),
            insert: Lsn(position),
            wal_writer_delay: Duration::from_millis(200),
        };
        self.observer.on_primary(node, sample);
    }

    fn replica(&mut self, node: NodeId, timeline: Option<u32>, replay: u64) {
        self.now += Duration::from_millis(1);
        let sample = ReplicaSample {
            sent: self.now,
            received: self.now,
            timeline,
            replay: Lsn(replay),
        };
        self.observer.on_replica(node, sample);
    }

    fn judged(&mut self, node: NodeId) -> Eligibility {
        self.observer.snapshot(self.now).nodes[node.index()].eligibility
    }
}

fn identity(system_identifier: i64) -> NodeIdentity {
    NodeIdentity {
        started_at_unix_micros: 1,
        system_identifier,
        geometry: WalGeometry::new(8192, 16 << 20).unwrap(),
    }
}

#[test]
fn measured_replicas_on_the_primarys_timeline_are_eligible() {
    let mut scene = Scene::healthy();
    let snapshot = scene.observer.snapshot(scene.now);
    assert_eq!(snapshot.primary, Some(P));
    assert_eq!(snapshot.nodes[0].eligibility, Eligibility::NotReplica);
    for node in &snapshot.nodes[1..] {
        assert_eq!(node.eligibility, Eligibility::Eligible);
        assert_eq!(node.lag.fresh_as_of(Evidence::Proved), Some(scene.now));
    }
}

#[test]
fn other_bounds_judge_what_is_known_already() {
    let mut scene = Scene::healthy();
    scene.now += Duration::from_millis(500);
    assert_eq!(scene.judged(A), Eligibility::Eligible);
    scene.observer.bounds.max_staleness = Duration::from_millis(400);
    assert_eq!(scene.judged(A), Eligibility::Lagging);
    assert_eq!(scene.observer.primary(), Some(P));
}

#[test]
fn a_replica_lacks_positions_of_the_elected_primary_on_its_own_timeline_only() {
    let mut scene = Scene::healthy();
    assert_eq!(scene.observer.missing(A), None, "it has all");
    scene.primary(P, 1, 200);
    scene.primary(P, 1, 300);
    assert_eq!(scene.observer.missing(A), None, "not asked since");
    scene.replica(A, Some(1), 100);
    assert_eq!(scene.observer.missing(A), Some(Lsn(200)), "not the newest");
    assert_eq!(scene.observer.missing(P), None, "it is no replica");
    scene.replica(A, None, 100);
    assert_eq!(scene.observer.missing(A), None, "no timeline");
    scene.replica(A, Some(1), 200);
    assert_eq!(scene.observer.missing(A), Some(Lsn(300)));
    scene.observer.on_connected(A, identity(SYSTEM));
    assert_eq!(scene.observer.missing(A), None, "not measured in this life");
    scene.observer.on_connected(B, identity(SYSTEM + 1));
    scene.replica(B, Some(1), 100);
    assert_eq!(scene.observer.missing(B), None, "another system");
    scene.replica(A, Some(1), 200);
    scene.observer.on_failed(P);
    assert_eq!(scene.observer.missing(A), Some(Lsn(300)));
    scene.observer.on_failed(P);
    assert_eq!(scene.observer.missing(A), None, "no primary");
}

#[test]
fn nobody_is_primary_before_every_node_was_asked() {
    let mut scene = Scene::connected();
    scene.primary(P, 1, 100);
    scene.replica(A, Some(1), 100);
    assert_eq!(scene.observer.primary(), None);
    scene.observer.on_failed(B);
    assert_eq!(scene.observer.primary(), Some(P));
}

#[test]
fn two_primaries_on_one_timeline_are_none_and_the_higher_timeline_wins() {
    let mut scene = Scene::healthy();
    scene.primary(A, 1, 200);
    assert_eq!(scene.observer.primary(), None);
    scene.primary(A, 2, 200);
    assert_eq!(scene.observer.primary(), Some(A));
    scene.primary(P, 1, 300);
    assert_eq!(scene.observer.primary(), Some(A), "the old one is fenced");
    scene.observer.on_failed(A);
    scene.observer.on_failed(A);
    scene.primary(P, 1, 400);
    assert_eq!(scene.observer.primary(), None, "and stays fenced");
}

#[test]
fn a_replica_on_a_higher_timeline_fences_the_old_primary() {
    let mut scene = Scene::healthy();
    scene.replica(B, Some(2), 200);
    scene.primary(P, 1, 300);
    assert_eq!(scene.observer.primary(), None);
}

#[test]
fn one_failed_probe_keeps_the_primary_and_the_second_gives_it_up() {
    let mut scene = Scene::healthy();
    scene.observer.on_failed(P);
    assert_eq!(scene.observer.primary(), Some(P));
    scene.observer.on_failed(P);
    assert_eq!(scene.observer.primary(), None);
    assert_eq!(
        scene.judged(A),
        Eligibility::Eligible,
        "reads go on without a primary"
    );
}

#[test]
fn a_primary_that_ends_the_monitors_connections_stays_primary_until_it_cannot_be_reached() {
    let mut scene = Scene::healthy();
    for _ in 0..5 {
        scene.observer.on_ended(P);
    }
    assert_eq!(scene.observer.primary(), Some(P));
    scene.observer.on_failed(P);
    assert_eq!(scene.observer.primary(), None);
}

#[test]
fn a_primary_without_room_for_the_monitor_stays_primary() {
    let mut scene = Scene::healthy();
    for _ in 0..5 {
        scene.observer.on_busy(P);
    }
    assert_eq!(scene.observer.primary(), Some(P));
}

/// What other proxies take for no lag at all.
#[test]
fn nothing_unknown_is_ever_eligible() {
    type Change = fn(&mut Scene);
    let cases: [(&str, Change, Eligibility); 8] = [
        (
            "connection lost once",
            |s| s.observer.on_failed(A),
            Eligibility::Unmeasured,
        ),
        (
            "given up",
            |s| (0..2).for_each(|_| s.observer.on_failed(A)),
            Eligibility::Unreachable,
        ),
        (
            "reconnected and not yet measured",
            |s| s.observer.on_connected(A, identity(SYSTEM)),
            Eligibility::Unmeasured,
        ),
        (
            "no probe for too long",
            |s| s.now += SAMPLE_EXPIRY + Duration::from_millis(1),
            Eligibility::Unmeasured,
        ),
        (
            "receiver's timeline not readable",
            |s| {
                s.observer.on_connected(A, identity(SYSTEM));
                s.replica(A, None, 100);
            },
            Eligibility::Unmeasured,
        ),
        (
            "everything received is replayed, but the primary is ahead in time",
            |s| {
                for _ in 0..200 {
                    s.now += Duration::from_millis(100);
                    s.primary(P, 1, 101);
                    s.replica(A, Some(1), 100);
                }
            },
            Eligibility::Lagging,
        ),
        (
            "another timeline",
            |s| {
                s.primary(B, 2, 100);
                s.replica(A, Some(1), 900);
            },
            Eligibility::ForeignTimeline,
        ),
        (
            "another database system",
            |s| {
                s.observer.on_connected(A, identity(SYSTEM + 1));
                s.replica(A, Some(1), 900);
            },
            Eligibility::ForeignTimeline,
        ),
    ];
    for (name, change, expected) in cases {
        let mut scene = Scene::healthy();
        assert_eq!(scene.judged(A), Eligibility::Eligible);
        change(&mut scene);
        assert_eq!(scene.judged(A), expected, "{name}");
    }
}

#[test]
fn a_stranger_cannot_fence_the_cluster() {
    let mut scene = Scene::healthy();
    scene.observer.on_connected(B, identity(SYSTEM + 1));
    scene.primary(B, 9, 100);
    scene.primary(P, 1, 200);
    assert_eq!(scene.observer.primary(), Some(P));
}

#[test]
fn a_reconnect_changes_the_incarnation_under_the_same_start_time() {
    let mut scene = Scene::healthy();
    let before = scene.observer.snapshot(scene.now).nodes[1].incarnation;
    scene.observer.on_failed(A);
    scene.observer.on_connected(A, identity(SYSTEM));
    scene.replica(A, Some(1), 100);
    let after = scene.observer.snapshot(scene.now).nodes[1].incarnation;
    assert!(before.is_some() && after.is_some() && before != after);
}

#[test]
fn a_replica_that_catches_up_is_back_with_the_next_answer() {
    let mut scene = Scene::healthy();
    scene.primary(P, 1, 200);
    scene.now += Duration::from_secs(11);
    scene.primary(P, 1, 300);
    scene.replica(A, Some(1), 100);
    assert_eq!(scene.judged(A), Eligibility::Lagging);
    scene.replica(A, Some(1), 300);
    assert_eq!(scene.judged(A), Eligibility::Eligible);
}

#[test]
fn an_old_answer_is_proved_fresh_by_a_new_position_it_had_reached() {
    let mut scene = Scene::healthy();
    scene.replica(A, Some(1), 500);
    scene.primary(P, 1, 400);
    assert_eq!(scene.observer.fresh_as_of(A), Some(scene.now));
    assert!(scene.observer.fresh_as_of(B) < Some(scene.now));
}

#[test]
fn a_replica_on_a_higher_timeline_that_answers_first_fences_the_old_primary() {
    let mut scene = Scene::connected();
    scene.observer.on_failed(A);
    scene.replica(B, Some(2), 200);
    scene.primary(P, 1, 300);
    assert_eq!(
        scene.observer.primary(),
        None,
        "after a start of pgweir too"
    );
    scene.observer.on_failed(B);
    scene.primary(P, 1, 400);
    assert_eq!(
        scene.observer.primary(),
        None,
        "and when nobody says so any more"
    );
    scene.primary(A, 2, 400);
    assert_eq!(scene.observer.primary(), Some(A));
}

#[test]
fn primaries_of_two_systems_are_none_whatever_their_timelines() {
    let mut scene = Scene::connected();
    scene.observer.on_connected(B, identity(SYSTEM + 1));
    scene.primary(B, 9, 100);
    scene.primary(P, 1, 100);
    scene.replica(A, Some(1), 100);
    assert_eq!(scene.observer.primary(), None);
}

#[test]
fn a_primary_that_was_started_again_is_none_until_it_says_so() {
    let mut scene = Scene::healthy();
    scene.observer.on_failed(P);
    let restarted = NodeIdentity {
        started_at_unix_micros: 2,
        ..identity(SYSTEM)
    };
    scene.observer.on_connected(P, restarted);
    assert_eq!(scene.observer.primary(), None, "it may be a replica now");
    scene.primary(P, 1, 200);
    assert_eq!(scene.observer.primary(), Some(P));
}

#[test]
fn a_primary_whose_monitor_connection_was_ended_stays_primary() {
    let mut scene = Scene::healthy();
    scene.observer.on_failed(P);
    scene.observer.on_connected(P, identity(SYSTEM));
    assert_eq!(scene.observer.primary(), Some(P));
}

#[test]
fn a_replica_left_on_an_older_timeline_serves_nothing_even_without_a_primary() {
    let mut scene = Scene::healthy();
    scene.observer.on_failed(P);
    scene.observer.on_failed(P);
    assert_eq!(scene.judged(A), Eligibility::Eligible);
    scene.replica(B, Some(2), 200);
    assert_eq!(scene.observer.primary(), None);
    assert_eq!(scene.judged(A), Eligibility::ForeignTimeline);
    assert_eq!(
        scene.judged(B),
        Eligibility::Unmeasured,
        "nor does the one that goes on"
    );
    scene.primary(P, 2, 200);
    assert_eq!(scene.judged(B), Eligibility::Eligible);
}

#[test]
fn without_a_primary_replicas_serve_until_they_may_be_too_old() {
    let mut scene = Scene::healthy();
    let proved = scene.now;
    scene.observer.on_failed(P);
    scene.observer.on_failed(P);
    while scene.now < proved + Duration::from_millis(9900) {
        scene.now += Duration::from_millis(100);
        scene.replica(A, Some(1), 100);
        assert_eq!(scene.judged(A), Eligibility::Eligible);
    }
    scene.now += Duration::from_millis(200);
    scene.replica(A, Some(1), 100);
    assert_eq!(scene.judged(A), Eligibility::Lagging, "nothing proves more");
}
