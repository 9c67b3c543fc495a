//! Which code leaves something behind in the session that runs it.

use super::super::Volatility;
use super::{CatalogBuilder, Source, Target};
use crate::core::classify::{Language, leaves_nothing};
use crate::core::residue::SettingNames;
use crate::core::statement::PinReason;

/// The source of a function, or what it is run with.
#[derive(Debug, Clone, Copy)]
pub struct SourceRow<'a> {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// `prolang`.
    pub language: Language,
    /// `provolatile`.
    pub volatility: Volatility,
    /// `prosrc`, or the body in SQL.
    pub source: &'a str,
}

/// Something that runs code which leaves something behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoudObject {
    /// The table of the catalog that its row is in.
    pub class: u32,
    /// Its `oid` there.
    pub oid: u32,
}

/// `pg_proc`, `pg_class` and `pg_type` (`src/include/catalog`).
const FUNCTIONS: u32 = 1255;
const RELATIONS: u32 = 1259;
const TYPES: u32 = 1247;

impl CatalogBuilder {
    /// Adds the source of a function that may set placeholders, or leave anything else behind.
    pub fn source(&mut self, row: &SourceRow<'_>) {
        self.settings = self.settings.and(&SettingNames::in_source(row.source));
        if !leaves_nothing(row.source, row.language, row.volatility) {
            self.loud_object(LoudObject {
                class: FUNCTIONS,
                oid: row.oid,
            });
        }
    }

    /// Adds something that runs such code itself.
    pub fn loud_object(&mut self, object: LoudObject) {
        self.loud_objects.push(object);
    }

    /// Adds the name of something that reaches one of [`Self::loud_objects`].
    pub fn loud(&mut self, name: &str) {
        self.loud.insert(name.into());
    }

    /// What runs code that leaves something behind, without what reaches that.
    pub fn loud_objects(&self) -> Vec<LoudObject> {
        let references = self.references.iter();
        let referring = references.filter_map(|(source, target)| {
            let (class, oid) = match source {
                Source::View(oid) | Source::Policy(oid) => (RELATIONS, *oid),
                Source::Type(oid) => (TYPES, *oid),
                Source::Parent(_) => return None,
            };
            self.is_loud_of_server(*target)
                .then_some(LoudObject { class, oid })
        });
        self.loud_objects.iter().copied().chain(referring).collect()
    }

    /// Whether it is a function of the server's that leaves something behind; numbers of sequences are
    /// there to stay.
    fn is_loud_of_server(&self, target: Target) -> bool {
        let Target::Function(oid) = target else {
            return false;
        };
        let known = self.functions.get(&oid);
        let pin = known.and_then(|function| function.verdict.pin);
        oid < super::FIRST_USER_OID && !matches!(pin, None | Some(PinReason::Sequence))
    }
}
