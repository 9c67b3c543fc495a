//! Statements about what a node has counted of scans and calls.
//!
//! Each node counts what it has run itself. Who looks at the primary's counters expects to find the
//! session's own reads in them.

use super::lexer::Piece;

/// Beginnings of the names of views and functions that show counters of databases, tables, indexes and
/// functions (`src/backend/catalog/system_views.sql`).
const COUNTERS: [&str; 8] = [
    "pg_stat_all_",
    "pg_stat_database",
    "pg_stat_force_next_flush",
    "pg_stat_get_",
    "pg_stat_sys_",
    "pg_stat_user_",
    "pg_stat_xact_",
    "pg_statio_",
];

/// Whether the statement names such a view or function.
pub(super) fn are_named(pieces: &[Piece<'_>]) -> bool {
    let shows = |piece: &Piece<'_>| {
        piece.text.starts_with("pg_stat")
            && COUNTERS.iter().any(|name| piece.text.starts_with(name))
    };
    pieces.iter().any(|piece| piece.is_name() && shows(piece))
}
