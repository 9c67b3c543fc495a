use super::*;
use crate::core::testing::{A, B, LIFE, POLICY, ms};

const LIST: NodeList = NodeList(0);
const ROOMY: KeyBounds = KeyBounds {
    keys: 1000,
    bytes: 1 << 20,
    ttl: Duration::from_secs(60),
};
fn on(node: NodeId) -> Visit {
    Visit {
        place: Place::Replica(node, LIFE),
        nodes: LIST,
    }
}

fn elsewhere() -> Visit {
    Visit {
        place: Place::Elsewhere,
        nodes: LIST,
    }
}

fn key(text: &str) -> Arc<str> {
    usable_key(text).unwrap()
}

/// The bounds that a read which arrives now has on A and on B.
fn bounds(table: &KeyTable, key: &str, now: Instant) -> [Option<Instant>; 2] {
    let floor = table.floor(key, LIST, &POLICY, now);
    [A, B].map(|node| floor.bound_for(node, Some(LIFE)))
}

#[test]
fn what_one_member_wrote_binds_the_reads_of_all_with_the_key_and_of_nobody_else() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("user:42"), elsewhere(), t0 + ms(1));
    table.end(&key("user:42"), elsewhere(), Effect::Wrote, t0 + ms(2));
    let now = t0 + ms(10);
    assert_eq!(bounds(&table, "user:42", now), [Some(t0 + ms(2)); 2]);
    assert_eq!(bounds(&table, "user:43", now), [Some(t0); 2]);
}

#[test]
fn a_write_under_way_binds_reads_to_their_arrival_for_it_may_be_acknowledged_already() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("k"), elsewhere(), t0);
    assert_eq!(bounds(&table, "k", t0 + ms(5)), [Some(t0 + ms(5)); 2]);
    table.begin(&key("k"), elsewhere(), t0);
    table.end(&key("k"), elsewhere(), Effect::Wrote, t0 + ms(6));
    assert_eq!(bounds(&table, "k", t0 + ms(7)), [Some(t0 + ms(7)); 2]);
    table.end(&key("k"), elsewhere(), Effect::Wrote, t0 + ms(8));
    assert_eq!(bounds(&table, "k", t0 + ms(9)), [Some(t0 + ms(8)); 2]);
}

#[test]
fn a_read_on_a_replica_leaves_that_replica_free_and_binds_the_others() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("k"), on(A), t0);
    assert_eq!(
        bounds(&table, "k", t0 + ms(1)),
        [Some(t0), Some(t0 + ms(1))],
        "under way"
    );
    table.end(&key("k"), on(A), Effect::Read, t0 + ms(2));
    assert_eq!(
        bounds(&table, "k", t0 + ms(9)),
        [Some(t0), Some(t0 + ms(2))]
    );
}

#[test]
fn reads_under_way_on_two_replicas_bind_both() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("k"), on(A), t0);
    table.begin(&key("k"), on(B), t0);
    assert_eq!(bounds(&table, "k", t0 + ms(1)), [Some(t0 + ms(1)); 2]);
    table.end(&key("k"), on(A), Effect::Read, t0 + ms(2));
    table.end(&key("k"), on(B), Effect::Read, t0 + ms(3));
    assert_eq!(
        bounds(&table, "k", t0 + ms(9)),
        [Some(t0 + ms(3)), Some(t0 + ms(2))],
        "each is bound by what the other has shown"
    );
}

#[test]
fn a_read_on_the_primary_binds_every_replica() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("k"), on(A), t0);
    table.end(&key("k"), on(A), Effect::Read, t0);
    table.begin(&key("k"), elsewhere(), t0);
    table.end(&key("k"), elsewhere(), Effect::Read, t0 + ms(1));
    assert_eq!(bounds(&table, "k", t0 + ms(2)), [Some(t0 + ms(1)); 2]);
}

#[test]
fn ids_of_another_list_of_nodes_leave_nobody_free() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    let of_next = |visit: Visit| Visit {
        nodes: NodeList(1),
        ..visit
    };
    table.begin(&key("k"), on(A), t0);
    table.end(&key("k"), on(A), Effect::Read, t0 + ms(1));
    table.begin(&key("k"), on(A), t0 + ms(2));
    let next = |table: &KeyTable, now| table.floor("k", NodeList(1), &POLICY, now);
    let now = t0 + ms(3);
    assert_eq!(next(&table, now).bound_for(A, Some(LIFE)), Some(now));
    // The first member with the new list; one with the old list is still under way.
    table.begin(&key("k"), of_next(on(B)), now);
    assert_eq!(next(&table, now).bound_for(B, Some(LIFE)), Some(now));
    table.end(&key("k"), of_next(on(B)), Effect::Read, t0 + ms(4));
    table.end(&key("k"), on(A), Effect::Read, t0 + ms(5));
    let floor = next(&table, t0 + ms(9));
    assert_eq!(floor.bound_for(A, Some(LIFE)), Some(t0 + ms(5)));
    assert_eq!(floor.bound_for(B, Some(LIFE)), Some(t0 + ms(5)));
    let old = table.floor("k", LIST, &POLICY, t0 + ms(9));
    assert_eq!(old.bound_for(B, Some(LIFE)), Some(t0 + ms(9)));
}

#[test]
fn a_table_never_holds_more_than_its_bounds_and_never_forgets_what_binds() {
    let t0 = Instant::now();
    for (bounds, most) in [
        (KeyBounds { keys: 100, ..ROOMY }, 100),
        (
            KeyBounds {
                bytes: 100 * (CAUSAL_KEY_OVERHEAD_BYTES + 4),
                ..ROOMY
            },
            100,
        ),
        (KeyBounds { keys: 1, ..ROOMY }, 2),
    ] {
        let mut table = KeyTable::new(bounds, t0);
        for count in 1..5000_u64 {
            let at = t0 + Duration::from_micros(count);
            let own = key(&count.to_string());
            table.begin(&own, elsewhere(), at);
            table.end(&own, elsewhere(), Effect::Wrote, at);
            assert!(table.len() <= most, "{} of {most}", table.len());
        }
        for count in 1..5000_u64 {
            let floor = table.floor(&count.to_string(), LIST, &POLICY, t0 + ms(100));
            let wrote = t0 + Duration::from_micros(count);
            assert!(floor.everywhere >= Some(wrote), "{count}: {floor:?}");
        }
    }
}

#[test]
fn a_key_that_comes_back_is_bound_by_what_was_forgotten() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(KeyBounds { keys: 2, ..ROOMY }, t0);
    for (count, name) in (1..).zip(["k", "x", "y", "z"]) {
        table.begin(&key(name), elsewhere(), t0 + ms(count));
        table.end(&key(name), elsewhere(), Effect::Wrote, t0 + ms(count));
    }
    table.begin(&key("k"), on(A), t0 + ms(9));
    table.end(&key("k"), on(A), Effect::Read, t0 + ms(9));
    let [a, _] = bounds(&table, "k", t0 + ms(10));
    assert!(a >= Some(t0 + ms(1)), "{a:?}");
}

#[test]
fn what_is_under_way_outlives_every_bound() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(KeyBounds { keys: 2, ..ROOMY }, t0);
    table.begin(&key("long"), elsewhere(), t0);
    for count in 0..100 {
        let own = key(&format!("k{count}"));
        table.begin(&own, elsewhere(), t0);
        table.end(&own, elsewhere(), Effect::Wrote, t0);
    }
    assert_eq!(bounds(&table, "long", t0 + ms(9)), [Some(t0 + ms(9)); 2]);
    table.end(&key("long"), elsewhere(), Effect::Wrote, t0 + ms(10));
    assert_eq!(bounds(&table, "long", t0 + ms(11)), [Some(t0 + ms(10)); 2]);
}

#[test]
fn an_expired_key_is_forgotten_and_binds_no_less() {
    let t0 = Instant::now();
    let mut table = KeyTable::new(ROOMY, t0);
    table.begin(&key("k"), elsewhere(), t0);
    table.end(&key("k"), elsewhere(), Effect::Wrote, t0 + ms(1));
    for minutes in 1..=3 {
        let later = t0 + Duration::from_secs(61 * minutes);
        table.begin(&key("other"), on(A), later);
        table.end(&key("other"), on(A), Effect::Read, later);
    }
    assert_eq!(table.len(), 1);
    assert_eq!(
        bounds(&table, "k", t0 + Duration::from_secs(200)),
        [Some(t0 + Duration::from_secs(61)); 2],
        "as much as was noted in the same half"
    );
}

#[test]
fn a_key_is_neither_empty_nor_long() {
    assert!(usable_key("").is_none());
    assert!(usable_key(&"k".repeat(CAUSAL_KEY_BYTES)).is_some());
    assert!(usable_key(&"k".repeat(CAUSAL_KEY_BYTES + 1)).is_none());
}
