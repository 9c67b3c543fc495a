//! What an `ErrorResponse` does to the replies that are still owed.

use super::{ErrorKind, Outcome, ReplyScanner, Verdict};
use crate::protocol::backend::{ErrorView, SqlState, tag};
use crate::protocol::message::{Reader, write_message, write_string};
use crate::protocol::outstanding::{Called, Disposition, Expected, OutstandingReplies};

impl ReplyScanner {
    pub(super) fn error(
        &mut self,
        body: Option<&[u8]>,
        replies: &mut OutstandingReplies,
    ) -> Disposition {
        let view = body.and_then(|body| ErrorView::read(body).ok());
        self.last_error = view.map(|view| view.sqlstate);
        let is_fatal = view.is_some_and(|view| view.is_fatal());
        // A node that ends does not come to a mark behind a COPY.
        let is_cut = is_fatal && replies.is_behind_copy();
        let is_own = replies.head().is_some_and(Expected::is_own_query) && !is_cut;
        if !is_own && is_fatal {
            self.outcome.add(Outcome::FATAL);
        }
        if let Some(Expected::Checked(known)) = replies.head() {
            self.refused.push(known.clone());
        }
        match replies.head() {
            Some(_) if is_own => {
                self.outcome.add(Outcome::OWN_QUERY_FAILED);
                if is_fatal {
                    self.own_fatal = body.map(Into::into);
                }
                Disposition::Discard
            }
            Some(Expected::Query(Disposition::Forward)) => {
                self.outcome.add(Outcome::ERROR);
                self.instead = view.and_then(|view| instead(view, body?, replies.head()?));
                replies.fail_query();
                Disposition::Forward
            }
            _ => {
                self.outcome.add(Outcome::ERROR);
                self.instead = view.and_then(|view| instead(view, body?, replies.head()?));
                let mut verdict = Verdict::Failed;
                replies.fail(|lost| {
                    self.lose(lost, std::mem::replace(&mut verdict, Verdict::Skipped));
                });
                Disposition::Forward
            }
        }
    }

    /// What the node skips, or has just refused.
    fn lose(&mut self, lost: &Expected, verdict: Verdict) {
        match lost {
            Expected::Parsed(disposition, Some(id)) => {
                self.unparsed.push(*id);
                if *disposition == Disposition::Forward {
                    self.changes.push(verdict);
                }
            }
            Expected::Parsed(disposition, None) => {
                self.outcome.add(Outcome::UNNAMED_LOST);
                if *disposition == Disposition::Forward {
                    self.unnamed.push(verdict);
                }
            }
            Expected::Closed(Disposition::Discard) => self.outcome.add(Outcome::CLOSE_LOST),
            Expected::Closed(Disposition::Forward)
            | Expected::Bound(_)
            | Expected::Refused(_)
            | Expected::Described
            | Expected::Learned(..)
            | Expected::Compared(_)
            | Expected::Guarded(..)
            | Expected::Checked(_)
            | Expected::Outdated
            | Expected::Executed
            | Expected::Synced
            | Expected::Query(_)
            | Expected::Inspection
            | Expected::Aside
            | Expected::Around(_)
            | Expected::AfterCopy
            | Expected::CopySyncs
            | Expected::Synthesize(_) => {}
            Expected::AlreadyParsed(called) | Expected::AlreadyClosed(called) => {
                self.note_change(*called, verdict);
            }
            Expected::ClosedNamed => self.changes.push(verdict),
        }
    }

    /// Notes what became of a Parse or a Close.
    pub(super) fn note_change(&mut self, called: Called, verdict: Verdict) {
        match called {
            Called::Named => self.changes.push(verdict),
            Called::Unnamed => self.unnamed.push(verdict),
        }
    }
}

/// What the error says besides its SQLSTATE.
pub(super) fn kind_of(error: &ErrorView<'_>) -> ErrorKind {
    if error.is_fatal() {
        ErrorKind::Fatal
    } else if memchr::memmem::find(error.message, b"during recovery").is_some() {
        ErrorKind::DuringRecovery
    } else {
        ErrorKind::Ordinary
    }
}

/// What PostgreSQL says of a statement whose result type has changed (`RevalidateCachedQuery`,
/// `src/backend/utils/cache/plancache.c`).
const OUTDATED: [(u8, &[u8]); 4] = [
    (b'C', b"0A000"),
    (b'M', b"cached plan must not change result type"),
    (b'F', b"plancache.c"),
    (b'R', b"RevalidateCachedQuery"),
];

/// A statement that fails when it is planned, and not before: it stands under a client's name for one
/// whose result type has changed.
pub const OUTDATED_STAND_IN: &[u8] = b"SELECT 'pgweir: result type has changed'::text::int";

/// What the error of [`OUTDATED_STAND_IN`] holds.
const STAND_IN_MARK: &[u8] = b"pgweir: result type has changed";

/// What the client gets instead of the error in reply to `head`.
fn instead(view: ErrorView<'_>, body: &[u8], head: &Expected) -> Option<Box<[u8]>> {
    match (&view.sqlstate.0, head) {
        (b"26000", Expected::Outdated) => outdated(body),
        (b"22P02", _) if memchr::memmem::find(view.message, STAND_IN_MARK).is_some() => {
            outdated(body)
        }
        (code, Expected::Bound(Some(name)) | Expected::Refused(name)) if NAMING.contains(code) => {
            naming(body, name)
        }
        _ => None,
    }
}

/// The whole error of a statement whose result type has changed, with the severity of `body`: the node
/// says it in its language.
fn outdated(body: &[u8]) -> Option<Box<[u8]>> {
    let mut reader = Reader::new(body);
    let mut severity = Vec::new();
    loop {
        let field = reader.byte().ok()?;
        if field == 0 {
            return Some(outdated_error(&severity));
        }
        let value = reader.string().ok()?;
        if matches!(field, b'S' | b'V') {
            severity.push(field);
            write_string(&mut severity, value);
        }
    }
}

/// The same with these fields before its own.
pub(super) fn outdated_error(severity: &[u8]) -> Box<[u8]> {
    let mut out = Vec::new();
    write_message(&mut out, tag::ERROR, |out| {
        out.extend_from_slice(severity);
        for (field, value) in OUTDATED {
            out.push(field);
            write_string(out, value);
        }
        out.push(0);
    });
    out.into()
}

/// The severity of an error that no node has said.
pub(super) const SEVERITY: &[u8] = b"SERROR\0VERROR\0";

/// How a replica that has other columns than its client was told is judged: like one that has not got
/// the table yet (`ERRCODE_UNDEFINED_TABLE`, `src/backend/utils/errcodes.txt`).
pub const OLDER_CATALOG: SqlState = SqlState(*b"42P01");

/// The code of a statement whose result type has changed (`ERRCODE_FEATURE_NOT_SUPPORTED`).
pub(super) const OUTDATED_CODE: SqlState = SqlState(*b"0A000");

/// What the name of every statement that pgweir prepares on a node begins with.
pub const SERVER_NAME_PREFIX: &str = "pgweir_";

/// The errors that name a prepared statement (`src/backend/tcop/postgres.c`,
/// `src/backend/commands/prepare.c`): wrong number of parameters, unknown and known name.
const NAMING: [[u8; 5]; 3] = [*b"08P01", *b"26000", *b"42P05"];

/// The whole error with the client's name of a prepared statement in its message; `None` if the message
/// does not speak of a statement of pgweir's.
fn naming(body: &[u8], name: &[u8]) -> Option<Box<[u8]>> {
    let mut reader = Reader::new(body);
    let mut renamed = None;
    let mut out = Vec::new();
    write_message(&mut out, tag::ERROR, |out| {
        while let Ok(field) = reader.byte() {
            out.push(field);
            let Ok(value) = reader.string() else { break };
            match with_name(value, name).filter(|_| field == b'M') {
                Some(message) => {
                    write_string(out, &message);
                    renamed = Some(());
                }
                None => write_string(out, value),
            }
        }
    });
    renamed.map(|()| out.into())
}

/// The message with `name` in place of the first name that pgweir gave.
fn with_name(message: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let prefix = SERVER_NAME_PREFIX.as_bytes();
    let at = memchr::memmem::find(message, prefix)?;
    let (before, rest) = message.split_at_checked(at)?;
    let rest = rest.strip_prefix(prefix)?;
    // A name of the client's that looks like one of pgweir's was sent with a mark before it.
    let marked = before.strip_suffix(b"_").zip(name.strip_prefix(prefix));
    let (before, after) = if let Some((before, own)) = marked {
        (before, rest.strip_prefix(own)?)
    } else {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (before, rest.get(digits..)?)
    };
    Some([before, name, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_statement_as_the_client_does() {
        for (message, name, expected) in [
            (
                "prepared statement \"pgweir_17\" already exists",
                "s1",
                Some("prepared statement \"s1\" already exists"),
            ),
            ("\u{ab}pgweir_1\u{bb}", "a b", Some("\u{ab}a b\u{bb}")),
            (
                "prepared statement \"_pgweir_x\" does not exist",
                "pgweir_x",
                Some("prepared statement \"pgweir_x\" does not exist"),
            ),
            ("division by zero", "s", None),
        ] {
            let found = with_name(message.as_bytes(), name.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{message}");
        }
        let missing = b"SFEHLER\0VERROR\0C26000\0Mnein\0Fpostgres.c\0L1\0Rx\0\0";
        assert_eq!(
            &outdated(missing).unwrap()[5..],
            b"SFEHLER\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0RRevalidateCachedQuery\0\0"
        );
        assert_eq!(outdated(b"SFEHLER\0V"), None);
        let body = b"SERROR\0C42P05\0M\"pgweir_3\"\0Dpgweir_3\0\0";
        let renamed = naming(body, b"s").unwrap();
        assert_eq!(&renamed[5..], b"SERROR\0C42P05\0M\"s\"\0Dpgweir_3\0\0");
    }
}
