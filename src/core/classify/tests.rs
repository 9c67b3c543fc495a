use std::time::Duration;

use super::*;
use crate::core::catalog::Catalog;
use crate::core::policy::{Balance, RoutingPolicy};
use crate::core::statement::Reason;

fn policy() -> RoutingPolicy {
    RoutingPolicy {
        max_staleness: Duration::from_secs(10),
        max_lag_bytes: 1 << 26,
        balance: Balance::LeastLoaded,
        zone: None,
        read_functions: vec![],
        write_functions: vec![],
        primary_tables: vec![],
    }
}

#[test]
fn a_read_is_told_from_what_only_looks_like_one() {
    let catalog = Catalog::of_empty_database();
    for (sql, reason) in [
        (
            "select now(), random(), lower('x') from pg_class",
            Reason::Read,
        ),
        ("select nextval('s')", Reason::Sequence),
        (
            "with t as (delete from x returning 1) select * from t",
            Reason::ModifyingCte,
        ),
    ] {
        let found = judge(&analyse(sql.as_bytes()), Some(catalog), &policy());
        assert_eq!(found.reason, reason, "{sql}");
    }
}
