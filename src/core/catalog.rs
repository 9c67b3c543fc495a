//! What the catalog says about functions, relations, operators and types.

/// The catalog knowledge of one database.
#[derive(Debug, Default)]
pub struct Catalog {}
