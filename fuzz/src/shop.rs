//! The small database that the main crate's classification tests use.

#[path = "../../src/core/classify/tests/shop.rs"]
mod tested;

use std::sync::{Arc, LazyLock};

use pgweir::core::catalog::Catalog;

pub static SHOP: LazyLock<Arc<Catalog>> = LazyLock::new(|| Arc::new(tested::catalog()));
