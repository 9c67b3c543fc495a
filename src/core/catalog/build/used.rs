//! What is referred to by other things than texts.

use std::collections::HashSet;

use super::{CatalogBuilder, Target};

impl CatalogBuilder {
    /// The names of the functions and types that something else than a text refers to, so that a
    /// change to one may change the verdict of a thing with another name.
    pub(super) fn used(&self) -> HashSet<Box<str>> {
        let operators = self.operators.values().map(|operator| operator.function);
        let casts = self.casts.iter().map(|cast| cast.function);
        let inputs = self.types.values().map(|found| found.function);
        let referenced = self
            .references
            .iter()
            .filter_map(|(_, target)| match target {
                Target::Function(oid) => Some(*oid),
                Target::Operator(_) | Target::Relation(_) | Target::Type(_) => None,
            });
        let functions = operators
            .chain(casts)
            .chain(inputs)
            .chain(referenced)
            .chain(self.supported.iter().copied())
            .chain(self.comparison_functions.iter().copied())
            .filter_map(|oid| self.functions.get(&oid))
            .map(|function| function.name.clone());
        functions.chain(self.used_types()).collect()
    }

    fn used_types(&self) -> impl Iterator<Item = Box<str>> {
        let arguments = self.functions.values().flat_map(|function| &function.types);
        let casts = self.casts.iter().map(|cast| &cast.target);
        let referenced = self
            .references
            .iter()
            .filter_map(|(_, target)| match target {
                Target::Type(oid) => Some(oid),
                Target::Operator(_) | Target::Relation(_) | Target::Function(_) => None,
            });
        let outright = arguments.chain(casts).chain(referenced);
        let outright = outright.filter_map(|oid| self.types.get(oid));
        // Every type is part of its own array type.
        let parts = self.types.values().flat_map(|whole| {
            let parts = whole.parts.iter().filter_map(|oid| self.types.get(oid));
            parts.filter(|part| whole.name.strip_prefix('_') != Some(&*part.name))
        });
        outright.chain(parts).map(|found| found.name.clone())
    }
}
