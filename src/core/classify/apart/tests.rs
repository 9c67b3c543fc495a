use super::super::{analyse, judge};
use super::*;
use crate::core::catalog::{
    CastContext, CastRow, CatalogBuilder, FunctionRow, OperatorRow, Persistence, RelationKind,
    RelationRow, Source, Target, TypeRow, Volatility,
};
use crate::core::policy::RoutingPolicy;
use crate::core::statement::AccessMode;

const NOTES: u32 = 30_000;
const ODD: u32 = 30_001;
const VIEW: u32 = 30_002;
const GUARDED: u32 = 30_003;
const PARENT: u32 = 30_004;
const TAX: u32 = 40_000;
const MOODY: u32 = 40_002;
const EVEN: u32 = 40_004;

/// What somebody has made of the types that come with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Nothing,
    ImplicitCast,
    WrittenCast,
    StableComparison,
    ImmutableComparison,
    TypeOfThatName,
}

fn catalog(made: Made) -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    for (oid, name, kind) in [
        (NOTES, "notes", RelationKind::Table),
        (ODD, "odd", RelationKind::Table),
        (VIEW, "view_of_notes", RelationKind::View),
        (GUARDED, "guarded", RelationKind::Table),
        (PARENT, "parent", RelationKind::Table),
    ] {
        builder.relation(&RelationRow {
            oid,
            schema: "public",
            name,
            kind,
            persistence: Persistence::Permanent,
        });
        builder.type_row(&TypeRow {
            oid: oid + 100,
            name,
            parts: &[],
            function: 0,
        });
    }
    builder.odd_column(ODD);
    builder.reference(Source::View(VIEW), Target::Relation(NOTES));
    builder.reference(Source::Policy(GUARDED), Target::Relation(NOTES));
    builder.reference(Source::Parent(PARENT), Target::Relation(ODD));
    for (oid, name) in [(1259, "pg_class"), (1255, "pg_proc")] {
        builder.relation(&RelationRow {
            oid,
            schema: "pg_catalog",
            name,
            kind: RelationKind::Table,
            persistence: Persistence::Permanent,
        });
    }
    // `prosupport` is a `regproc`.
    builder.odd_column(1255);
    functions(&mut builder);
    for (oid, name, function) in [
        (41_000, "+", TAX),
        (41_001, "-", MOODY),
        (41_002, "~~~", MOODY),
        (41_003, "=", MOODY),
    ] {
        builder.operator(&OperatorRow {
            oid,
            name,
            function,
        });
    }
    for (oid, name) in [(50_000, "mood"), (50_001, "box")] {
        if name == "mood" || made == Made::TypeOfThatName {
            builder.type_row(&TypeRow {
                oid,
                name,
                parts: &[],
                function: 0,
            });
        }
    }
    remake(&mut builder, made);
    builder.build()
}

fn remake(builder: &mut CatalogBuilder, made: Made) {
    let mut cast = |context| {
        builder.cast(&CastRow {
            source: 23,
            target: 25,
            function: TAX,
            context,
        });
    };
    match made {
        Made::ImplicitCast => cast(CastContext::Implicit),
        Made::WrittenCast => cast(CastContext::Written),
        Made::StableComparison => builder.comparison_function(TAX),
        Made::ImmutableComparison => builder.comparison_function(EVEN),
        Made::Nothing | Made::TypeOfThatName => {}
    }
}

fn functions(builder: &mut CatalogBuilder) {
    for (oid, schema, name, types) in [
        (TAX, "public", "tax", &[23_u32][..]),
        (40_001, "public", "upper", &[25]),
        (MOODY, "public", "of_mood", &[50_000]),
        (40_003, "pg_catalog", "looks_like_the_servers", &[25]),
        (EVEN, "public", "even", &[23, 23]),
        (40_005, "public", "full_name", &[30_100]),
        (9_000, "pg_catalog", "size_of", &[2205]),
    ] {
        builder.function(&FunctionRow {
            oid,
            schema,
            name,
            volatility: if oid == EVEN {
                Volatility::Immutable
            } else {
                Volatility::Stable
            },
            extension: None,
            types,
            attribute_of_row: name == "full_name",
        });
    }
}

fn analysed(sql: &str, made: Made) -> (Analysis, Catalog) {
    let (analysis, catalog) = (analyse(sql.as_bytes()), catalog(made));
    let verdict = judge(&analysis, Some(&catalog), &RoutingPolicy::default());
    assert_eq!(verdict.access, AccessMode::ReadOnly, "{sql}: {verdict:?}");
    (analysis, catalog)
}

/// Whether the text is a read that may run apart from a temporary `scratch`.
fn apart(sql: &str, made: Made) -> bool {
    let (analysis, catalog) = analysed(sql, made);
    is_apart_from(Held::Temporary(&["scratch".into()]), &analysis, &catalog)
}

/// Whether the text is a read that may run apart from locks, cursors and their like.
fn unheld(sql: &str) -> bool {
    let (analysis, catalog) = analysed(sql, Made::Nothing);
    is_apart_from(Held::Unnamed, &analysis, &catalog)
}

#[test]
fn a_read_of_plain_tables_and_values_can_mean_no_temporary_object() {
    for sql in [
        "select 1",
        "show work_mem",
        "select a, count(*), max(lower(b)) from notes n where a in (1, 2) group by a order by 1",
        "with q as (select a / 1 as a from public.notes) select q.a::numeric(10, 2) from q join notes using (a)",
        "select date '2020-01-01', now(), extract(year from now()), substring('abc' from 2)",
        "select box '((1,1),(0,0))' from notes where a = 1",
        "table notes",
        "select relname, relkind from pg_catalog.pg_class",
        "copy notes to stdout",
        "explain select * from notes",
        "select 'scratch'",
        "select regexp_replace('a', 'b', 'c'), regr_r2(1.0, 2.0)",
    ] {
        assert!(apart(sql, Made::Nothing), "{sql}");
        assert!(unheld(sql), "{sql}");
    }
}

#[test]
fn what_users_make_of_the_servers_types_leaves_no_read_apart() {
    for (made, expected) in [
        (Made::Nothing, true),
        (Made::ImmutableComparison, true),
        (Made::ImplicitCast, false),
        (Made::WrittenCast, false),
        (Made::StableComparison, false),
        (Made::TypeOfThatName, false),
    ] {
        assert_eq!(apart("select 1", made), expected, "{made:?}");
    }
}

#[test]
fn whatever_may_look_a_name_up_is_not_apart() {
    for sql in [
        "select * from scratch",
        "select * from notes as scratch",
        "select scratch.a from notes, odd as o",
        "select '{}'::_scratch",
        "select null::pg_temp.anything",
        "select * from odd",
        "select * from view_of_notes",
        "select * from guarded",
        "select * from parent",
        "select proname from pg_proc",
        "select oid::regclass from pg_class",
        "select relname from pg_class where pg_table_is_visible(oid)",
        "select * from pg_views",
        "select tax(1)",
        "select upper('a')",
        "select looks_like_the_servers('a')",
        "select n.full_name from notes n",
        "select size_of(1)",
        "select n.size_of from notes n",
        "select pg_typeof(1)",
        "select to_regclass('scratch')",
        "select has_table_privilege('scratch', 'select')",
        "select 'scratch'::regclass",
        "select regclass 'scratch'",
        "select current_schema",
        "select format_type(1, 2)",
        "select 1 + 1",
        "select 'a' ~~~ 'b'",
        "select 'a' - 'b'",
        "select mood 'x'",
        "select 'x'::mood",
    ] {
        let (analysis, held) = (analyse(sql.as_bytes()), ["scratch".into()]);
        let catalog = catalog(Made::Nothing);
        assert!(
            !is_apart_from(Held::Temporary(&held), &analysis, &catalog),
            "{sql}"
        );
    }
}

#[test]
fn beside_what_has_no_name_the_servers_own_lookups_are_free_and_code_of_users_is_not() {
    for sql in [
        "select relname from pg_class",
        "select pg_typeof(1)",
        "select 'notes'::regclass",
        "select to_regclass('scratch')",
        "select * from scratch",
    ] {
        let (analysis, catalog) = (analyse(sql.as_bytes()), catalog(Made::Nothing));
        assert!(is_apart_from(Held::Unnamed, &analysis, &catalog), "{sql}");
    }
    for sql in [
        "select tax(1)",
        "select upper('a')",
        "select looks_like_the_servers('a')",
        "select n.full_name from notes n",
        "select * from view_of_notes",
        "select * from odd",
        "select * from guarded",
        "select 1 + 1",
        "select 'x'::mood",
        "select null::pg_temp.anything",
    ] {
        let (analysis, catalog) = (analyse(sql.as_bytes()), catalog(Made::Nothing));
        assert!(!is_apart_from(Held::Unnamed, &analysis, &catalog), "{sql}");
    }
}
