//! What to do when this machine has no PostgreSQL.

use super::binaries::SearchPath;

/// One sentence that says how to get the programs.
pub(super) fn hint(search: &SearchPath) -> String {
    if let Some(chosen) = &search.chosen {
        return format!(
            "PGWEIR_PG_BIN says {}, which does not hold initdb, postgres and pg_basebackup",
            chosen.display()
        );
    }
    "install them".to_owned()
}
