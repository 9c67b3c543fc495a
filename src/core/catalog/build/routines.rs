//! What the sources of routines say.

use super::{CatalogBuilder, Target};
use crate::core::residue::SettingNames;
use crate::core::statement::Asks;

/// Both forms of `current_setting` (`src/include/catalog/pg_proc.dat`).
const CURRENT_SETTING: [u32; 2] = [2077, 3294];

impl CatalogBuilder {
    /// Adds the source of a function that may set placeholders.
    pub fn source(&mut self, source: &str) {
        self.settings = self.settings.and(&SettingNames::in_source(source));
    }

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
