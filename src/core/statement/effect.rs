//! What a statement may change in the catalog.

use std::sync::Arc;

use crate::limits::TOUCHED_NAMES;

/// Whether a statement may change what the catalog knowledge was built from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum CatalogEffect {
    /// No DDL.
    #[default]
    None,
    /// DDL that only takes things away, or lessens what reads must obey: a verdict that was right before
    /// is still no milder than it has to be, and a load may find a milder one.
    Removes,
    /// DDL that matters only to texts that name one of these, or something that reaches one. Without
    /// names it matters to no read; event triggers may do more.
    Touches(Arc<[TouchedName]>),
    /// A step of a two-phase commit under this name: what the transaction has changed becomes visible
    /// with the last one.
    TwoPhase(TwoPhaseStep, Arc<str>),
    /// A call of the procedure of this name, of whichever schema, whose source runs no DDL as far as is
    /// known.
    Calls(Arc<str>),
    /// DDL whose reach the text does not tell, or code that may run DDL.
    MayChange,
}

/// A step of a two-phase commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TwoPhaseStep {
    /// PREPARE TRANSACTION.
    Prepare,
    /// COMMIT PREPARED.
    Commit,
    /// ROLLBACK PREPARED.
    Rollback,
}

impl CatalogEffect {
    /// The effect of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            // Without names there is nothing to load for.
            (Self::Removes, Self::Touches(names)) | (Self::Touches(names), Self::Removes)
                if names.is_empty() =>
            {
                Self::Removes
            }
            (Self::None, effect) | (effect, Self::None) => effect.clone(),
            (Self::Calls(one), Self::Calls(two)) if one == two => self.clone(),
            // Beside other DDL it is not told apart what was prepared.
            (Self::MayChange | Self::TwoPhase(..) | Self::Calls(_), _)
            | (_, Self::MayChange | Self::TwoPhase(..) | Self::Calls(_)) => Self::MayChange,
            (Self::Removes, effect) | (effect, Self::Removes) => effect.clone(),
            (Self::Touches(one), Self::Touches(two)) => {
                let new = two.iter().filter(|name| !one.contains(name));
                let all: Arc<[TouchedName]> = one.iter().chain(new).cloned().collect();
                if all.len() <= TOUCHED_NAMES {
                    Self::Touches(all)
                } else {
                    Self::MayChange
                }
            }
        }
    }
}

/// Something that DDL adds, changes or drops.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TouchedName {
    /// As the catalog has it, without a schema.
    pub name: Box<str>,
    /// What it names.
    pub kind: TouchedKind,
}

/// What a touched name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TouchedKind {
    /// What runs behind a write to a relation: a trigger, a default, a constraint. No read sees it.
    Code,
    /// A relation or row type with further columns, of types that come with the server.
    Columns,
    /// A permanent table that is new and can be read like any other: nothing but columns of types that
    /// come with the server.
    NewTable,
    /// What is read under this name. It is not another type than before, or is a new one.
    Rows,
    /// A relation or a type.
    Relation,
    /// An operator, or what constructs use that compare without naming one.
    Operator,
    /// A function, procedure or aggregate that is new; there may be others of this name.
    NewRoutine,
    /// A function, procedure or aggregate.
    Routine,
}

impl TouchedKind {
    /// The kind of what has both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.min(other), self.max(other)) {
            (Self::Relation, Self::NewRoutine) => Self::Routine,
            (_, more) => more,
        }
    }
}
