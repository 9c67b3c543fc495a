//! What has which name.

use super::super::TypeNames;
use super::super::doubt::is_server_type;
use super::{CatalogBuilder, FIRST_USER_OID};

impl CatalogBuilder {
    pub(super) fn type_names(&self) -> TypeNames {
        let users = |oid: &u32| *oid >= FIRST_USER_OID;
        let mut names = self.types.iter().filter(|(oid, _)| users(oid));
        if names.any(|(_, found)| is_server_type(&found.name)) {
            TypeNames::Redefined
        } else {
            TypeNames::Own
        }
    }
}

/// How SQL spells a built-in type beside its name in the catalog.
pub(super) fn written_names(name: &str) -> &'static [&'static str] {
    match name {
        "bool" => &["boolean"],
        "int2" => &["smallint"],
        "int4" => &["int", "integer"],
        "int8" => &["bigint"],
        "float4" => &["real"],
        "float8" => &["float", "double"],
        "numeric" => &["decimal", "dec"],
        "bpchar" => &["char", "character", "nchar", "national"],
        "varchar" => &["character", "national"],
        "time" | "timetz" => &["time"],
        "timestamp" | "timestamptz" => &["timestamp"],
        "bit" | "varbit" => &["bit"],
        _ => &[],
    }
}
