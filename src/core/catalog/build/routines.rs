//! What the sources of routines say.

use super::super::{FunctionRow, FunctionVerdict, Volatility};
use super::builtin::{self, SYSTEM_SCHEMA};
use super::{CatalogBuilder, Target};
use crate::core::statement::{Asks, PinReason, Reason};

/// Both forms of `current_setting` (`src/include/catalog/pg_proc.dat`).
const CURRENT_SETTING: [u32; 2] = [2077, 3294];

impl CatalogBuilder {
    /// Adds that some code or expression asks for settings by name.
    pub fn code_that_asks_for_settings(&mut self) {
        self.asks_for_options = Asks::Code;
    }

    /// Whether any code does, views and policies included.
    pub(super) fn asks_for_options(&self) -> Asks {
        let mut references = self.references.iter();
        let asks = references.any(
            |(_, target)| matches!(target, Target::Function(oid) if CURRENT_SETTING.contains(oid)),
        );
        if asks {
            Asks::Code
        } else {
            self.asks_for_options
        }
    }

    /// Adds the name of procedures of which none runs DDL.
    pub fn quiet_procedure(&mut self, name: &str) {
        self.quiet_procedures.insert(name.into());
    }
}

pub(super) fn verdict(row: &FunctionRow<'_>) -> FunctionVerdict {
    if row.schema == SYSTEM_SCHEMA {
        return builtin::function(row.name, row.volatility);
    }
    let harmless = row
        .extension
        .is_some_and(|extension| builtin::harmless_extension(extension, row.name));
    match row.volatility {
        Volatility::Volatile if !harmless => {
            FunctionVerdict::refused(Reason::VolatileFunction, Some(PinReason::UnknownCode))
        }
        Volatility::Volatile | Volatility::Stable | Volatility::Immutable => FunctionVerdict::SAFE,
    }
}
