//! Where translated messages go: a connection's outgoing bytes, with the replies that will come.

use crate::backend::state::PreparedNames;
use crate::frontend::session::names::Names;
use crate::frontend::statements::{Prepared, SERVER_NAME_PREFIX, server_name};
use crate::protocol::frontend::{Bind, tag, write_bind, write_named_statement, write_parse};
use crate::protocol::message::{write_message, write_string};
use crate::protocol::outstanding::{Around, Disposition, Expected, OutstandingReplies};

/// The name of the statements that stand around a Parse, and of their portals.
const AROUND: &[u8] = b"_pgweir_around";

/// Where translated messages go.
#[derive(Debug)]
pub(in crate::frontend::session) struct Destination<'a> {
    /// Bytes for the node.
    pub(in crate::frontend::session) out: &'a mut Vec<u8>,
    /// The replies that will come.
    pub(in crate::frontend::session) replies: &'a mut OutstandingReplies,
    /// The connection's statements; `None` where no node is involved.
    pub(in crate::frontend::session) node: Option<NodeStatements<'a>>,
}

/// What is prepared on a connection.
#[derive(Debug)]
pub(in crate::frontend::session) struct NodeStatements<'a> {
    /// Named statements.
    pub(in crate::frontend::session) prepared: &'a mut PreparedNames,
    /// Under which names the session's statements are known.
    pub(in crate::frontend::session) names: Names,
    /// Whose the unnamed statement is: the number of the statement that was parsed last.
    pub(in crate::frontend::session) unnamed: &'a mut Option<u64>,
}

impl Destination<'_> {
    pub(super) fn copy(&mut self, message: &[u8], expected: Expected) {
        self.out.extend_from_slice(message);
        self.replies.push(expected);
    }

    pub(super) fn answer(&mut self, bytes: Box<[u8]>) {
        self.replies.push(Expected::Synthesize(bytes));
    }

    pub(super) fn has_client_names(&self) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| node.names == Names::Client)
    }

    pub(super) fn forget_unnamed(&mut self) {
        if let Some(node) = &mut self.node {
            *node.unnamed = None;
        }
    }

    /// Whether there is a node, and its connection has not got the statement and can get it.
    pub(super) fn lacks(&mut self, statement: &Prepared) -> bool {
        let node = self.node.as_mut();
        node.is_some_and(|node| !statement.stays() && !node.prepared.touch(statement.id))
    }

    /// Sends a Parse if the connection lacks the statement; `false` if it has it or cannot get it.
    pub(in crate::frontend::session) fn prepare(
        &mut self,
        statement: &Prepared,
        types: &[u8],
        expected: Expected,
    ) -> bool {
        if !self.lacks(statement) {
            return false;
        }
        let Some(node) = &mut self.node else {
            return false;
        };
        if let Some(evicted) = node.prepared.insert(statement.id) {
            write_named_statement(self.out, tag::CLOSE, server_name(evicted).as_bytes());
            self.replies.push(Expected::Closed(Disposition::Discard));
        }
        let name = statement.server_name();
        write_parse(self.out, name, &statement.sql, types);
        self.replies.push(expected);
        true
    }

    /// Sends a Parse for a statement that may be there or not.
    pub(super) fn prepare_anew(&mut self, statement: &Prepared) {
        let name = statement.server_name();
        write_named_statement(self.out, tag::CLOSE, name);
        self.replies.push(Expected::Closed(Disposition::Discard));
        write_parse(self.out, name, &statement.sql, statement.found_types());
        let parsed = Expected::Parsed(Disposition::Discard, Some(statement.id));
        self.replies.push(parsed);
    }

    /// Whether there is a node, and its connection has another unnamed statement.
    pub(super) fn lacks_unnamed(&self, id: u64) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| *node.unnamed != Some(id))
    }

    /// Sends the unnamed statement again. One that cannot be is gone, as the node then says.
    pub(super) fn prepare_unnamed(&mut self, statement: &Prepared) {
        let Some(node) = &mut self.node else { return };
        if statement.stays() {
            return self.drop_unnamed();
        }
        *node.unnamed = Some(statement.id);
        write_parse(self.out, b"", &statement.sql, &statement.types);
        self.replies
            .push(Expected::Parsed(Disposition::Discard, None));
    }

    /// Prepares a statement under the client's name.
    pub(in crate::frontend::session) fn adopt(&mut self, name: &[u8], statement: &Prepared) {
        write_parse(self.out, name, &statement.sql, statement.found_types());
        let parsed = Expected::Parsed(Disposition::Discard, Some(statement.id));
        self.replies.push(parsed);
    }

    /// Runs a statement of pgweir's own before or behind a Parse. It has a name, so that the client keeps
    /// its unnamed statement and portal, and is closed before it runs, so that it never stays. What an
    /// error has left of it is closed first.
    pub(in crate::frontend::session) fn run_around(&mut self, sql: &str) {
        write_named_statement(self.out, tag::CLOSE, AROUND);
        write_parse(self.out, AROUND, sql.as_bytes(), &[0, 0]);
        // Without parameters, results as text.
        let bind = Bind {
            portal: AROUND,
            statement: AROUND,
            rest: &[0; 6],
        };
        write_bind(self.out, bind, AROUND);
        write_named_statement(self.out, tag::CLOSE, AROUND);
        write_message(self.out, tag::EXECUTE, |body| {
            write_string(body, AROUND);
            body.extend_from_slice(&[0; 4]);
        });
        self.replies.push(Expected::Around(Around::Runs));
        write_message(self.out, tag::CLOSE, |body| {
            body.push(b'P');
            write_string(body, AROUND);
        });
        self.replies.push(Expected::Around(Around::Closes));
    }

    /// Lets the node say that there is no such statement.
    pub(super) fn unknown_statement(&mut self, bind: Bind<'_>, message: &[u8]) {
        if bind.statement.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
            write_bind(self.out, bind, &hidden(bind.statement));
            let name = Some(bind.statement.into());
            self.replies.push(Expected::Bound(name));
        } else {
            if bind.statement.is_empty() {
                self.drop_unnamed();
            }
            self.copy(message, Expected::Bound(None));
        }
    }

    pub(super) fn unknown_name(&mut self, message: u8, name: &[u8], expected: Expected) {
        if name.is_empty() {
            self.drop_unnamed();
        }
        write_named_statement(self.out, message, &hidden(name));
        self.replies
            .push(if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
                Expected::Refused(name.into())
            } else {
                expected
            });
    }

    /// The client has no unnamed statement, so it must not meet another client's.
    pub(super) fn drop_unnamed(&mut self) {
        self.forget_unnamed();
        write_named_statement(self.out, tag::CLOSE, b"");
        self.replies.push(Expected::Closed(Disposition::Discard));
    }
}

/// A name that no statement of pgweir's has: a client cannot reach another's statement by guessing.
fn hidden(name: &[u8]) -> Vec<u8> {
    if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) {
        [b"_", name].concat()
    } else {
        name.to_vec()
    }
}
