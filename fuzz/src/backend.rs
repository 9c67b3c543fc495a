//! Messages of a node that pgweir reads itself.

use pgweir::backend::error::ServerError;
use pgweir::frontend::session::fuzzing;
use pgweir::protocol::backend::{ErrorView, TransactionStatus, command_tag, parameter_status};

/// Bodies of errors, statuses and tags.
pub fn messages(data: &[u8]) {
    let view = ErrorView::read(data);
    if let (Ok(error), Ok(view)) = (ServerError::parse(data), view) {
        assert_eq!(error.sqlstate(), view.sqlstate.as_str());
        assert_eq!(error.message(), String::from_utf8_lossy(view.message));
        assert_eq!(error.body(), data);
        let _ = (error.fault(), error.to_string(), view.is_fatal());
    }
    if let Ok(tag) = command_tag(data) {
        assert!(tag.len() < data.len());
    }
    if let Ok((name, value)) = parameter_status(data) {
        assert!(name.len() + value.len() + 2 <= data.len());
    }
    if let Ok(status) = TransactionStatus::read(data) {
        assert_eq!(data, [status.as_byte()]);
    }
}

/// The rows that tell what a session has left behind; each as long as its first byte says.
pub fn residue(mut data: &[u8]) {
    let mut rows: Vec<Box<[u8]>> = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (row, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        rows.push(row.into());
        data = rest;
    }
    let Ok(residue) = fuzzing::residue(&rows) else {
        return;
    };
    for (name, value) in residue.settings {
        // What is sent on is one value, whatever the node says.
        let sql = format!("SET a TO {value}; ROLLBACK");
        let (tokens, complete) = pgweir::core::classify::fuzzing::tokens(sql.as_bytes());
        if value.contains('\0') {
            continue;
        }
        assert!(complete, "{name}: {sql}");
        let semicolons = tokens
            .iter()
            .filter(|(_, start, end)| &sql[*start..*end] == ";");
        assert_eq!(semicolons.count(), 1, "{name}: {sql}");
    }
}
