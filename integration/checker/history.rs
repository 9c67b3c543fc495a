//! What clients did and were told: noted while it happens, judged when all is over.

use std::fmt;
use std::time::Instant;

/// Everything one client did, in order.
#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
}

/// One statement, with the client's own clock around it.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) invoked: Instant,
    pub(crate) ended: Instant,
    pub(crate) did: Did,
    /// The port of the server that answered: for whoever looks into a violation, and for the share of
    /// replicas. Nothing is judged by it.
    pub(crate) port: Option<i32>,
}

/// What a statement was, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    /// Appended a value, unique in the whole run, to a list.
    Append {
        list: i32,
        value: i32,
        outcome: Outcome,
    },
    /// Read a list.
    List { list: i32, elements: Vec<i32> },
    /// Read one row of the ring that a single writer numbers in turn.
    Ring { row: i64, number: i64 },
    /// A read that ended with an error.
    Refused { error: String },
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client was told that it is committed.
    Acknowledged,
    /// It may or may not have happened.
    Unknown,
}

impl History {
    /// Notes an operation that has just ended.
    pub(crate) fn note(&mut self, invoked: Instant, did: Did, port: Option<i32>) {
        self.operations.push(Operation {
            invoked,
            ended: Instant::now(),
            did,
            port,
        });
    }

    /// All of it.
    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operations up to the one at `index`, for a failing test's message.
    pub(crate) fn leading_to(&self, index: usize) -> String {
        let from = index.saturating_sub(12);
        let start = self.operations[from].invoked;
        let lines = self.operations[from..=index].iter().map(|operation| {
            let [from, to] = [operation.invoked, operation.ended].map(|at| at - start);
            format!(
                "{from:>10.1?} {to:>10.1?} {:?} {}\n",
                operation.port, operation.did
            )
        });
        lines.collect()
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List { list, elements } => {
                let tail = &elements[elements.len().saturating_sub(5)..];
                write!(
                    f,
                    "read list {list}: {} elements, the last {tail:?}",
                    elements.len()
                )
            }
            Self::Append { .. } | Self::Ring { .. } | Self::Refused { .. } => write!(f, "{self:?}"),
        }
    }
}
