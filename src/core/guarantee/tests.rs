#![expect(
    clippy::unchecked_time_subtraction,
    reason = "the clock of a running machine is far from its beginning"
)]

use super::*;
use crate::core::testing::{A, B, LIFE, POLICY};

fn policy(read_after_write: ReadAfterWrite) -> ConsistencyPolicy {
    ConsistencyPolicy {
        read_after_write,
        ..POLICY
    }
}

fn session_floor(session: &SessionGuarantee, at: Instant) -> Floor {
    session.floor(
        &policy(ReadAfterWrite::Position),
        Consistency::Session,
        None,
        at,
    )
}

#[test]
fn a_session_that_did_nothing_has_no_floor() {
    let now = Instant::now();
    assert_eq!(
        session_floor(&SessionGuarantee::new(), now),
        Floor::default()
    );
}

#[test]
fn two_floors_with_different_homes_leave_neither_free_of_the_other() {
    let t0 = Instant::now();
    let t1 = t0 + Duration::from_millis(1);
    let at_home = |home, at| Floor {
        elsewhere: Some(at),
        home: Some((home, LIFE)),
        ..Floor::default()
    };
    let both = at_home(A, t0).and(at_home(B, t1));
    assert_eq!(both.bound_for(A, Some(LIFE)), Some(t1));
    assert_eq!(both.bound_for(B, Some(LIFE)), Some(t0));
    let same = at_home(A, t0).and(at_home(A, t1));
    assert_eq!(same.bound_for(A, Some(LIFE)), None);
    assert_eq!(same.bound_for(B, Some(LIFE)), Some(t1));
    let one = at_home(A, t0).and(Floor {
        everywhere: Some(t1),
        ..Floor::default()
    });
    assert_eq!(one.bound_for(A, Some(LIFE)), Some(t1));
    assert_eq!(one.bound_for(B, Some(LIFE)), Some(t1));
}

#[test]
fn own_writes_bind_every_replica_even_the_home() {
    let t0 = Instant::now();
    let mut session = SessionGuarantee::new();
    session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
    let t1 = t0 + Duration::from_millis(1);
    session.on_write_acknowledged(t1);
    let floor = session_floor(&session, t1);
    assert_eq!(floor.bound_for(A, Some(LIFE)), Some(t1));
    assert_eq!(floor.bound_for(B, Some(LIFE)), Some(t1));
}

#[test]
fn a_home_is_free_in_its_own_life_only() {
    let t0 = Instant::now();
    let mut session = SessionGuarantee::new();
    session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
    let floor = session_floor(&session, t0);
    let restarted = Incarnation {
        connection: 2,
        ..LIFE
    };
    for (node, life, bound) in [
        (A, Some(LIFE), None),
        (A, Some(restarted), Some(t0)),
        (A, None, Some(t0)),
        (B, Some(LIFE), Some(t0)),
    ] {
        assert_eq!(floor.bound_for(node, life), bound, "{node:?} {life:?}");
    }
}

#[test]
fn a_read_on_the_primary_binds_every_replica() {
    let t0 = Instant::now();
    let mut session = SessionGuarantee::new();
    session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
    let t1 = t0 + Duration::from_millis(1);
    session.on_read_completed(NodeId(0), NodeRole::Primary, Some(LIFE), t1);
    assert_eq!(
        session_floor(&session, t1).bound_for(A, Some(LIFE)),
        Some(t1)
    );
}

#[test]
fn an_eventual_read_on_an_older_replica_does_not_loosen_the_session() {
    let t0 = Instant::now();
    let t1 = t0 + Duration::from_millis(1);
    let mut session = SessionGuarantee::new();
    session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t0);
    session.on_read_completed(B, NodeRole::Replica, Some(LIFE), t1);
    let floor = session_floor(&session, t1);
    assert_eq!(
        floor.bound_for(B, Some(LIFE)),
        Some(t0),
        "what A showed binds B"
    );
    assert_eq!(
        floor.bound_for(A, Some(LIFE)),
        Some(t1),
        "what B showed binds A"
    );
}

#[test]
fn a_read_of_an_unknown_life_leaves_no_home() {
    let t0 = Instant::now();
    let mut session = SessionGuarantee::new();
    session.on_read_completed(A, NodeRole::Replica, None, t0);
    assert_eq!(session_floor(&session, t0).bound_for(A, None), Some(t0));
}

#[test]
fn a_window_keeps_reads_on_the_primary_and_still_counts_what_was_seen() {
    let t0 = Instant::now();
    let window = Duration::from_secs(15);
    let mut session = SessionGuarantee::new();
    session.on_write_acknowledged(t0);
    let policy = policy(ReadAfterWrite::Window(window));
    let floor = session.floor(&policy, Consistency::Session, None, t0);
    assert_eq!(floor.primary_until, Some(t0 + window));
    assert_eq!(floor.everywhere, None);
    session.on_read_completed(NodeId(0), NodeRole::Primary, None, t0);
    let floor = session.floor(&policy, Consistency::Session, None, t0);
    assert_eq!(floor.everywhere, Some(t0));
}

#[test]
fn the_stricter_staleness_bound_holds_in_every_mode() {
    let now = Instant::now();
    let ms = Duration::from_millis;
    let mut policy = policy(ReadAfterWrite::Position);
    for (configured, asked, effective) in [
        (None, None, None),
        (Some(ms(50)), None, Some(ms(50))),
        (None, Some(ms(20)), Some(ms(20))),
        (Some(ms(50)), Some(ms(20)), Some(ms(20))),
        (Some(ms(10)), Some(ms(20)), Some(ms(10))),
    ] {
        policy.max_staleness = configured;
        for mode in [Consistency::Eventual, Consistency::Session] {
            let floor = SessionGuarantee::new().floor(&policy, mode, asked, now);
            assert_eq!(floor.everywhere, effective.map(|bound| now - bound));
        }
    }
    let latest = SessionGuarantee::new().floor(&policy, Consistency::Latest, Some(ms(5)), now);
    assert_eq!(latest.everywhere, Some(now));
}

/// Statements of one pipeline arrive together: the second one before the first is acknowledged.
#[test]
fn latest_covers_what_the_session_did_after_the_read_had_arrived() {
    let arrived = Instant::now();
    let later = arrived + Duration::from_millis(1);
    let latest = |session: &SessionGuarantee| {
        let policy = policy(ReadAfterWrite::Position);
        let floor = session.floor(&policy, Consistency::Latest, None, arrived);
        floor.bound_for(B, Some(LIFE))
    };
    let mut writer = SessionGuarantee::new();
    writer.on_write_acknowledged(later);
    assert_eq!(latest(&writer), Some(later));
    let mut reader = SessionGuarantee::new();
    reader.on_read_completed(A, NodeRole::Replica, Some(LIFE), later);
    assert_eq!(latest(&reader), Some(later));
    reader.on_read_completed(NodeId(0), NodeRole::Primary, None, later);
    assert_eq!(latest(&reader), Some(later));
}

#[test]
fn only_a_window_without_a_bound_relies_on_what_a_service_states() {
    let now = Instant::now();
    let window = ReadAfterWrite::Window(Duration::from_secs(15));
    let endless = ReadAfterWrite::Window(Duration::MAX);
    let bound = Some(Duration::from_secs(1));
    let mut bounded = policy(window);
    bounded.max_staleness = bound;
    let mut wrote = SessionGuarantee::new();
    wrote.on_write_acknowledged(now);
    wrote.on_seen(now);
    let evidence = |policy, mode, bound| wrote.floor(&policy, mode, bound, now).evidence;
    for mode in [Consistency::Session, Consistency::Eventual] {
        assert_eq!(evidence(policy(window), mode, None), Evidence::Stated);
        for (what, policy, bound) in [
            ("a bound of the session", policy(window), bound),
            ("a bound of the policy", bounded, None),
            ("by position", policy(ReadAfterWrite::Position), None),
        ] {
            let found = evidence(policy, mode, bound);
            assert_eq!(found, Evidence::Proved, "{mode:?}: {what}");
        }
    }
    for (guard, mode) in [
        (window, Consistency::Latest),
        (window, Consistency::Primary),
        (endless, Consistency::Session),
    ] {
        let found = evidence(policy(guard), mode, None);
        assert_eq!(found, Evidence::Proved, "{guard:?} {mode:?}");
    }
    let stated = wrote.floor(&policy(window), Consistency::Session, None, now);
    assert_eq!(stated.and(Floor::default()).evidence, Evidence::Proved);
    assert_eq!(stated.and(stated).evidence, Evidence::Stated);
}

#[test]
fn what_a_replica_has_shown_last_is_known_until_a_read_on_the_primary() {
    let t0 = Instant::now();
    let t1 = t0 + Duration::from_millis(1);
    let mut session = SessionGuarantee::after(Some(t0));
    assert_eq!(session.shown_on_replica(), None);
    session.on_read_completed(A, NodeRole::Replica, Some(LIFE), t1);
    let shown = session.shown_on_replica().unwrap();
    assert_eq!(shown.bound_for(A, Some(LIFE)), Some(t0));
    assert_eq!(shown.bound_for(B, Some(LIFE)), Some(t1));
    session.on_read_completed(NodeId(0), NodeRole::Primary, Some(LIFE), t1);
    assert_eq!(session.shown_on_replica(), None);
    // In a life that is not known, it binds every replica.
    session.on_read_completed(A, NodeRole::Replica, None, t1);
    let shown = session.shown_on_replica().unwrap();
    assert_eq!(shown.bound_for(A, Some(LIFE)), Some(t1));
}
