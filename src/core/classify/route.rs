//! `EXPLAIN ROUTE`: a question to pgweir, if it is sent alone.

use super::analysis::Analysis;
use super::dispatch::{Proof, StatementFacts};
use super::lexer::{Kind, Piece};
use super::references::References;
use crate::core::statement::{Hint, ProxyStatement, Reason, SessionEffect};

/// The facts of `EXPLAIN ROUTE` with something behind it; `None` if `pieces` are anything else.
/// `sql` is the whole text.
pub(super) fn explained(sql: &[u8], pieces: &[Piece<'_>]) -> Option<StatementFacts> {
    let [explain, route, rest @ ..] = pieces else {
        return None;
    };
    if rest.is_empty() || !explain.is("explain") || !route.is("route") {
        return None;
    }
    let (before, behind) = (sql.get(..explain.start)?, sql.get(route.end..)?);
    let asked = std::str::from_utf8(&[before, behind].concat())
        .ok()?
        .trim()
        .to_owned();
    let numbers = rest.iter().filter_map(|piece| number(sql, piece));
    let statement = ProxyStatement::ExplainRoute {
        sql: asked,
        parameters: numbers.max().unwrap_or(0),
    };
    Some(StatementFacts {
        session: SessionEffect::Proxy(statement),
        ..StatementFacts::new(Proof::Read(Reason::Show), References::default())
    })
}

/// The number of a parameter.
fn number(sql: &[u8], piece: &Piece<'_>) -> Option<u16> {
    let digits = sql.get(piece.start + 1..piece.end)?;
    let digits = std::str::from_utf8(digits).ok()?;
    (piece.kind == Kind::Parameter).then(|| digits.parse().ok())?
}

impl Analysis {
    /// What the comments ask for is asked of the statement that is explained, not of the explanation.
    pub(super) fn with_hints_of_explained(mut self) -> Self {
        if let [only] = &*self.statements
            && is_explanation(only)
        {
            self.hint = Hint::default();
        }
        self
    }
}

impl StatementFacts {
    /// The same facts where other statements stand beside it: to PostgreSQL `ROUTE` is an error of syntax.
    pub(super) fn without_explanation(self) -> Self {
        if is_explanation(&self) {
            Self::doubtful(Reason::ParseFailed)
        } else {
            self
        }
    }
}

fn is_explanation(facts: &StatementFacts) -> bool {
    matches!(
        facts.session,
        SessionEffect::Proxy(ProxyStatement::ExplainRoute { .. })
    )
}
