//! What PostgreSQL's own functions and relations mean on a hot standby and for the session.
//!
//! Volatility alone does not tell: `random()` is volatile and harmless, `query_to_xml` is volatile
//! because it runs any text, `pg_backend_pid()` is stable and belongs to one connection. Volatile
//! functions that are not listed go to the primary; so do those of versions newer than this list.

use std::sync::LazyLock;

use super::{
    Catalog, CatalogBuilder, FunctionRow, FunctionVerdict, OperatorRow, RelationRow, TypeRow,
};
use super::{Persistence, RelationKind, Volatility};
use crate::core::statement::{PinReason, Reason};

/// The schema of what belongs to PostgreSQL itself.
pub(super) const SYSTEM_SCHEMA: &str = "pg_catalog";

/// Volatile functions whose answer may come from any node; sorted. `inet_server_addr` and
/// `inet_server_port` are stable and allowed: they are asked to see which node serves.
const HARMLESS: [&str; 27] = [
    "bernoulli",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_collation_actual_version",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_get_multixact_members",
    "pg_indexes_size",
    "pg_jit_available",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "system",
    "timeofday",
    "ts_rewrite",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];

/// Volatile functions of PostgreSQL's own extensions that draw random values only; sorted pairs.
const HARMLESS_EXTENSION: [(&str, &str); 7] = [
    ("pgcrypto", "gen_random_bytes"),
    ("pgcrypto", "gen_random_uuid"),
    ("pgcrypto", "gen_salt"),
    ("uuid-ossp", "uuid_generate_v1"),
    ("uuid-ossp", "uuid_generate_v1mc"),
    ("uuid-ossp", "uuid_generate_v4"),
    ("tsm_system_rows", "system_rows"),
];

/// Functions that run SQL given as text, or a query of the whole schema; sorted.
const RUNS_TEXT: [&str; 16] = [
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Stable functions whose answer differs between nodes or connections; sorted. Prefixes below.
const NODE_LOCAL: [&str; 36] = [
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_backend_pid",
    "pg_conf_load_time",
    "pg_config",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_cursor",
    "pg_extension_update_paths",
    "pg_filenode_relation",
    "pg_get_replication_slots",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_is_in_recovery",
    "pg_is_other_temp_schema",
    "pg_listening_channels",
    "pg_lock_status",
    "pg_my_temp_schema",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_relation_filenode",
    "pg_relation_filepath",
    "pg_settings_get_flags",
    "pg_show_all_file_settings",
    "pg_show_all_settings",
    "pg_show_replication_origin_status",
    "pg_tablespace_databases",
    "pg_tablespace_location",
    "pg_xact_status",
    "set_config",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "txid_status",
];

/// Prefixes of families whose answer belongs to one node.
const NODE_LOCAL_PREFIXES: [&str; 13] = [
    "pg_stat_",
    "pg_current_",
    "pg_last_",
    "pg_get_wal",
    "pg_wal_",
    "pg_replication_",
    "pg_control_",
    "pg_ls_",
    "pg_read_",
    "pg_get_aios",
    "pg_get_shmem",
    "pg_get_backend",
    "pg_numa_",
];

/// Views of `pg_catalog` whose rows come from the tables of the catalog, which every node has;
/// sorted. Every other view there is about one node.
const SHARED_VIEWS: [&str; 20] = [
    "pg_group",
    "pg_indexes",
    "pg_matviews",
    "pg_policies",
    "pg_publication_tables",
    "pg_roles",
    "pg_rules",
    "pg_seclabels",
    "pg_sequences",
    "pg_shadow",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_tables",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_user",
    "pg_user_mapping",
    "pg_user_mappings",
    "pg_views",
];

/// The verdict on a function of `pg_catalog`.
pub(super) fn function(name: &str, volatility: Volatility) -> FunctionVerdict {
    if let Some(verdict) = session_function(name) {
        return verdict;
    }
    if RUNS_TEXT.binary_search(&name).is_ok() {
        return FunctionVerdict::refused(Reason::VolatileFunction, Some(PinReason::UnknownCode));
    }
    let node_local = NODE_LOCAL.binary_search(&name).is_ok()
        || NODE_LOCAL_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix));
    // Arithmetic on positions and the immutable text functions of such families are not about nodes.
    if node_local && volatility != Volatility::Immutable {
        return FunctionVerdict::refused(Reason::NodeLocalFunction, None);
    }
    match volatility {
        Volatility::Volatile if HARMLESS.binary_search(&name).is_err() => {
            FunctionVerdict::refused(Reason::VolatileFunction, None)
        }
        Volatility::Volatile | Volatility::Stable | Volatility::Immutable => FunctionVerdict::SAFE,
    }
}

/// Functions that leave something behind in the session, in a lock table or in a sequence.
pub(super) fn session_function(name: &str) -> Option<FunctionVerdict> {
    let refused = |reason, pin| Some(FunctionVerdict::refused(reason, pin));
    match name {
        "set_config" => refused(Reason::NodeLocalFunction, Some(PinReason::Setting)),
        // A setting of the session like any other goes with it to every node; a snapshot ends with its
        // transaction.
        "current_setting" | "pg_export_snapshot" => refused(Reason::NodeLocalFunction, None),
        "setseed" | "pg_replication_origin_session_setup" => {
            refused(Reason::NodeLocalFunction, Some(PinReason::Seed))
        }
        "pg_prepared_statement" => refused(Reason::NodeLocalFunction, Some(PinReason::SqlPrepare)),
        "currval" | "lastval" => refused(Reason::Sequence, Some(PinReason::Sequence)),
        "nextval" | "setval" | "pg_sequence_last_value" => refused(Reason::Sequence, None),
        // Descriptors of large objects are closed at the end of the transaction.
        "pg_notify" | "loread" | "lowrite" => refused(Reason::VolatileFunction, None),
        _ if name.starts_with("lo_") => refused(Reason::VolatileFunction, None),
        _ if name.contains("advisory_xact_lock") => refused(Reason::AdvisoryLock, None),
        _ if name.starts_with("pg_") && name.contains("advisory_") => {
            refused(Reason::AdvisoryLock, Some(PinReason::AdvisoryLock))
        }
        _ => None,
    }
}

/// Whether a function that an extension declares volatile only draws random values.
pub(super) fn harmless_extension(extension: &str, name: &str) -> bool {
    HARMLESS_EXTENSION.contains(&(extension, name))
}

/// Why a relation of PostgreSQL's own must be read on the primary, if it must.
pub(super) fn relation(name: &str, kind: RelationKind) -> Option<Reason> {
    match kind {
        RelationKind::View if name == "pg_sequences" => Some(Reason::Sequence),
        RelationKind::View if SHARED_VIEWS.binary_search(&name).is_err() => {
            Some(Reason::NodeLocalRelation)
        }
        RelationKind::View
        | RelationKind::Table
        | RelationKind::Foreign
        | RelationKind::Sequence => None,
    }
}

static EMPTY_DATABASE: LazyLock<Catalog> = LazyLock::new(|| empty_database().build());

/// The catalog of a database in which nobody has created anything, for use without a server.
pub(super) fn empty_database_catalog() -> &'static Catalog {
    &EMPTY_DATABASE
}

/// A builder that holds the rows of an empty database.
pub(super) fn empty_database() -> CatalogBuilder {
    let mut builder = CatalogBuilder::default();
    let mut section: Vec<&str> = Vec::new();
    let mut oid = 1;
    for line in include_str!("builtin.txt").lines() {
        if let Some(title) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = title.split(' ').collect();
            continue;
        }
        for name in line.split_whitespace() {
            add(&mut builder, &section, name, oid);
            oid += 1;
        }
    }
    builder
}

fn add(builder: &mut CatalogBuilder, section: &[&str], name: &str, oid: u32) {
    let schema = SYSTEM_SCHEMA;
    match section {
        ["functions", volatility] => {
            let volatility = match *volatility {
                "immutable" => Volatility::Immutable,
                "stable" => Volatility::Stable,
                _ => Volatility::Volatile,
            };
            builder.function(&FunctionRow {
                oid,
                schema,
                name,
                volatility,
                extension: None,
                types: &[],
                attribute_of_row: false,
            });
        }
        ["operators"] => builder.operator(&OperatorRow {
            oid,
            name,
            function: 0,
        }),
        ["types"] => builder.type_row(&TypeRow {
            oid,
            name,
            parts: &[],
            function: 0,
        }),
        ["tables", schema] => builder.relation(&RelationRow {
            oid,
            schema,
            name,
            kind: RelationKind::Table,
            persistence: Persistence::Permanent,
        }),
        ["views", schema] => builder.relation(&RelationRow {
            oid,
            schema,
            name,
            kind: RelationKind::View,
            persistence: Persistence::Permanent,
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_searched_are_sorted() {
        for list in [&HARMLESS[..], &RUNS_TEXT, &NODE_LOCAL, &SHARED_VIEWS] {
            assert!(list.is_sorted(), "{list:?}");
        }
    }
}
