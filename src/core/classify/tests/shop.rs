//! A small database with everything that can go wrong, without a server.

use crate::core::catalog::{
    CastContext, CastRow, Catalog, CatalogBuilder, FunctionRow, OperatorRow, Persistence,
    RelationKind, RelationRow, Source, Target, TypeRow, Volatility,
};

const TOUCH: u32 = 20_000;
const RANDOM: u32 = 20_001;
const SETTING: u32 = 20_002;

pub(super) fn catalog() -> Catalog {
    let mut shop = Catalog::builder_of_empty_database();
    functions(&mut shop);
    types_and_operators(&mut shop);
    relations(&mut shop);
    shop.build()
}

fn function(shop: &mut CatalogBuilder, oid: u32, name: &str, volatility: Volatility) {
    shop.function(&row(oid, "public", name, volatility));
}

fn row<'a>(oid: u32, schema: &'a str, name: &'a str, volatility: Volatility) -> FunctionRow<'a> {
    FunctionRow {
        oid,
        schema,
        name,
        volatility,
        extension: None,
        types: &[],
        attribute_of_row: false,
    }
}

fn functions(shop: &mut CatalogBuilder) {
    function(shop, TOUCH, "touch", Volatility::Volatile);
    shop.function(&row(RANDOM, "pg_catalog", "random", Volatility::Volatile));
    shop.function(&row(
        SETTING,
        "pg_catalog",
        "current_setting",
        Volatility::Stable,
    ));
    function(shop, 20_003, "add_tax", Volatility::Stable);
    function(shop, 20_004, "total", Volatility::Immutable);
    shop.function(&row(20_005, "audit", "total", Volatility::Volatile));
    function(shop, 20_006, "traced_sum", Volatility::Immutable);
    shop.calls(20_006, &[TOUCH]);
    shop.function(&FunctionRow {
        attribute_of_row: true,
        ..row(20_007, "public", "full_name", Volatility::Volatile)
    });
    shop.function(&FunctionRow {
        extension: Some("uuid-ossp"),
        ..row(20_008, "public", "uuid_generate_v4", Volatility::Volatile)
    });
    shop.function(&FunctionRow {
        types: &[21_000],
        ..row(20_009, "public", "greet", Volatility::Stable)
    });
    shop.function(&row(20_010, "app", "refresh_cache", Volatility::Volatile));
}

fn types_and_operators(shop: &mut CatalogBuilder) {
    for (oid, name, parts) in [
        (21_000, "checked_email", &[25_u32][..]),
        (21_001, "email", &[25]),
        (21_002, "mood", &[]),
        (21_003, "tracked", &[]),
        (21_004, "contact", &[21_000]),
    ] {
        shop.type_row(&TypeRow {
            oid,
            name,
            parts,
            function: 0,
        });
    }
    shop.reference(Source::Type(21_000), Target::Function(TOUCH));
    shop.cast(&CastRow {
        source: 23,
        target: 21_003,
        function: TOUCH,
        context: CastContext::Written,
    });
    shop.operator(&OperatorRow {
        oid: 22_000,
        name: "===",
        function: TOUCH,
    });
    shop.operator(&OperatorRow {
        oid: 22_001,
        name: "<+>",
        function: 20_003,
    });
}

fn relations(shop: &mut CatalogBuilder) {
    use Persistence::{Permanent, Temporary, Unlogged};
    use RelationKind::{Foreign, Sequence, Table, View};
    let rows = [
        (23_000, "public", "users", Table, Permanent),
        (23_001, "public", "orders", Table, Permanent),
        (23_002, "public", "items", Table, Permanent),
        (23_003, "public", "carts", Table, Unlogged),
        (23_004, "public", "remote_orders", Foreign, Permanent),
        (23_005, "public", "orders_id_seq", Sequence, Permanent),
        (23_006, "public", "active_users", View, Permanent),
        (23_007, "public", "random_users", View, Permanent),
        (23_008, "public", "noisy_users", View, Permanent),
        (23_009, "public", "noisy_names", View, Permanent),
        (23_010, "public", "cart_view", View, Permanent),
        (23_011, "public", "activity", View, Permanent),
        (23_012, "public", "secrets", Table, Permanent),
        (23_013, "public", "secret_view", View, Permanent),
        (23_014, "public", "tenants", Table, Permanent),
        (23_015, "public", "events", Table, Permanent),
        (23_016, "public", "events_new", Table, Unlogged),
        (23_017, "public", "logs", Table, Permanent),
        (23_018, "public", "totals", Table, Permanent),
        (23_019, "public", "measurements", Table, Permanent),
        (23_020, "public", "trail", Table, Permanent),
        (23_021, "audit", "trail", Table, Unlogged),
        (23_022, "pg_temp_3", "scratch", Table, Temporary),
        (23_023, "pg_temp_3", "users", Table, Temporary),
        (23_024, "pg_catalog", "pg_stat_activity", View, Permanent),
    ];
    for (oid, schema, name, kind, persistence) in rows {
        shop.relation(&RelationRow {
            oid,
            schema,
            name,
            kind,
            persistence,
        });
    }
    for (source, target) in [
        (Source::View(23_006), Target::Relation(23_000)),
        (Source::View(23_007), Target::Function(RANDOM)),
        (Source::View(23_008), Target::Function(TOUCH)),
        (Source::View(23_009), Target::Relation(23_008)),
        (Source::View(23_010), Target::Relation(23_003)),
        (Source::View(23_011), Target::Relation(23_024)),
        (Source::Policy(23_012), Target::Function(TOUCH)),
        (Source::View(23_013), Target::Relation(23_012)),
        (Source::Policy(23_014), Target::Function(SETTING)),
        (Source::Parent(23_015), Target::Relation(23_016)),
        (Source::Parent(23_017), Target::Relation(23_004)),
        (Source::Parent(23_019), Target::Relation(23_002)),
    ] {
        shop.reference(source, target);
    }
}
