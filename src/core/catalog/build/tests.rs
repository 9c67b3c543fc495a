use super::super::{FunctionRow, TypeRow, Volatility};
use super::*;

const LOUD: u32 = 40_000;
const MOOD: u32 = 40_001;
const DIARY: u32 = 40_002;

/// A volatile function, a type of the user's, the row type of a table with a column of it.
fn with_cast(source: u32, target: u32, context: CastContext) -> Catalog {
    let mut builder = Catalog::builder_of_empty_database();
    builder.function(&FunctionRow {
        oid: LOUD,
        schema: "public",
        name: "loud",
        volatility: Volatility::Volatile,
        extension: None,
        types: &[],
        attribute_of_row: false,
    });
    for (oid, name, parts) in [(MOOD, "mood", &[][..]), (DIARY, "diary", &[MOOD])] {
        builder.type_row(&TypeRow {
            oid,
            name,
            parts,
            function: 0,
        });
    }
    builder.cast(&CastRow {
        source,
        target,
        function: LOUD,
        context,
    });
    builder.build()
}

#[test]
fn an_unsafe_cast_refuses_what_has_a_value_of_the_users_type_and_nothing_else() {
    const INT4: u32 = 23;
    const TEXT: u32 = 25;
    let unsafe_type = Some(Reason::UnsafeType);
    for (source, target, context, everything, users) in [
        (INT4, MOOD, CastContext::Implicit, false, unsafe_type),
        (MOOD, INT4, CastContext::Implicit, false, unsafe_type),
        (INT4, MOOD, CastContext::Written, false, unsafe_type),
        (MOOD, INT4, CastContext::Written, false, None),
        (INT4, TEXT, CastContext::Implicit, true, None),
        (INT4, TEXT, CastContext::Written, false, None),
    ] {
        let catalog = with_cast(source, target, context);
        let found = (
            catalog.has_unsafe_implicit_cast(),
            catalog.watched("mood"),
            catalog.watched("diary"),
        );
        let case = format!("{source} {target} {context:?}");
        assert_eq!(found, (everything, users, users), "{case}");
    }
}
