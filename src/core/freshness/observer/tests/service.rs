//! Nodes that hide their positions.

use super::*;
use crate::core::freshness::service::{InstanceNote, InstanceRole, ReaderSample, WriterSample};

const HIDDEN: ServerIdentity = ServerIdentity::Hidden {
    started_at_unix_micros: 1,
};

impl Scene {
    /// A writer and two readers 20 ms behind.
    fn of_a_service() -> Self {
        let mut scene = Self::connected();
        for node in [P, A, B] {
            scene.observer.on_connected(node, HIDDEN);
        }
        scene.reader(A, "a");
        scene.reader(B, "b");
        scene.writer(P, "p", &[("a", 20.0), ("b", 20.0)]);
        scene
    }

    fn reader(&mut self, node: NodeId, server: &str) {
        self.now += Duration::from_millis(1);
        let sample = ReaderSample {
            sent: self.now,
            server: server.into(),
        };
        self.observer.on_reader(node, sample);
    }

    fn writer(&mut self, node: NodeId, server: &str, lags: &[(&str, f64)]) {
        self.now += Duration::from_millis(1);
        let told_of = |server: &str, role, lag_millis| InstanceNote {
            server: server.into(),
            role,
            lag_millis,
            age_millis: lag_millis.and(Some(0.0)),
        };
        let readers = lags
            .iter()
            .map(|(server, lag)| told_of(server, InstanceRole::Reader, Some(*lag)));
        let own = told_of(server, InstanceRole::Writer, None);
        let sample = WriterSample {
            sent: self.now,
            server: server.into(),
            notes: readers.chain([own]).collect(),
        };
        self.observer.on_writer(node, sample);
    }

    fn lag(&mut self, node: NodeId) -> ReplayLag {
        self.observer.snapshot(self.now).nodes[node.index()].lag
    }
}

#[test]
fn readers_are_in_rotation_by_the_writers_word_which_proves_nothing() {
    let mut scene = Scene::of_a_service();
    assert_eq!(scene.observer.primary(), Some(P));
    for node in [A, B] {
        assert_eq!(scene.judged(node), Eligibility::Eligible);
        let told = scene.now.checked_sub(Duration::from_millis(20));
        let lag = scene.lag(node);
        assert_eq!(lag.fresh_as_of(Evidence::Stated), told);
        assert_eq!(lag.fresh_as_of(Evidence::Proved), None);
        assert_eq!(scene.observer.fresh_as_of(node), None);
    }
    let life = scene.observer.snapshot(scene.now).nodes[1].incarnation;
    assert_eq!(life.unwrap().timeline, None);
}

#[test]
fn the_latest_word_counts_also_when_it_is_a_worse_one_or_none() {
    let mut scene = Scene::of_a_service();
    scene.writer(P, "p", &[("a", 10_001.0), ("b", 20.0)]);
    assert_eq!(scene.judged(A), Eligibility::Lagging);
    assert_eq!(scene.judged(B), Eligibility::Eligible);
    scene.writer(P, "p", &[("a", 20.0)]);
    assert_eq!(scene.judged(A), Eligibility::Eligible);
    assert_eq!(scene.judged(B), Eligibility::Unmeasured);
}

#[test]
fn what_was_said_of_a_reader_before_it_was_lost_says_nothing_afterwards() {
    let mut scene = Scene::of_a_service();
    scene.observer.on_failed(A);
    assert_eq!(scene.judged(A), Eligibility::Unmeasured);
    scene.observer.on_connected(A, HIDDEN);
    scene.reader(A, "a");
    assert_eq!(scene.judged(A), Eligibility::Unmeasured);
    scene.writer(P, "p", &[("a", 20.0), ("b", 20.0)]);
    assert_eq!(scene.judged(A), Eligibility::Eligible);
}

#[test]
fn the_word_of_a_writer_that_is_not_the_primary_counts_for_nothing_and_expires() {
    let mut scene = Scene::of_a_service();
    // Two say that they take writes.
    scene.writer(A, "a", &[("p", 0.0), ("b", 0.0)]);
    assert_eq!(scene.observer.primary(), None);
    let told = scene.lag(B).fresh_as_of(Evidence::Stated);
    scene.writer(A, "a", &[("p", 0.0), ("b", 0.0)]);
    assert_eq!(scene.lag(B).fresh_as_of(Evidence::Stated), told);
    scene.now += SAMPLE_EXPIRY + Duration::from_millis(10);
    scene.reader(B, "b");
    assert_eq!(scene.judged(B), Eligibility::Unmeasured);
    // The other has become a reader, and the new one tells.
    scene.reader(P, "p");
    scene.writer(A, "a", &[("p", 0.0), ("b", 0.0)]);
    assert_eq!(scene.observer.primary(), Some(A));
    assert_eq!(scene.judged(B), Eligibility::Eligible);
    assert_eq!(scene.judged(P), Eligibility::Eligible);
}

#[test]
fn a_node_of_a_service_is_a_stranger_to_a_cluster_that_shows_its_positions() {
    let mut scene = Scene::healthy();
    scene.observer.on_connected(B, HIDDEN);
    scene.reader(B, "b");
    assert_eq!(scene.judged(B), Eligibility::ForeignTimeline);
    scene.writer(B, "b", &[]);
    assert_eq!(scene.observer.primary(), Some(P));
    assert_eq!(scene.judged(A), Eligibility::Eligible);
}
