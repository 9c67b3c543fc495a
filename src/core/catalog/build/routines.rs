//! What the sources of routines say.

use super::CatalogBuilder;
use crate::core::residue::SettingNames;

impl CatalogBuilder {
    /// Adds the source of a function that may set placeholders.
    pub fn source(&mut self, source: &str) {
        self.settings = self.settings.and(&SettingNames::in_source(source));
    }

    /// Adds the name of procedures of which none runs DDL.
    pub fn quiet_procedure(&mut self, name: &str) {
        self.quiet_procedures.insert(name.into());
    }
}
