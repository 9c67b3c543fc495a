//! The forms in which drivers send a statement, and what counts of an answer.

use crate::harness::wire::{
    Message, Wire, bind, copy_fail, describe, execute, message, parse, query, sync,
};

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a Query message.
    Simple,
    /// Through the unnamed statement, in one batch.
    Extended,
    /// Prepared under a name and described first.
    Prepared,
}

pub(crate) const FORMS: [Form; 3] = [Form::Simple, Form::Extended, Form::Prepared];

/// What counts of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// SQLSTATEs.
    pub(crate) errors: Vec<String>,
    /// Rows, their descriptions, COPY data and command tags.
    data: Vec<Message>,
    /// Whether the session is in a block that has failed.
    pub(crate) failed_block: bool,
}

/// Sends `sql` and reads all that answers it. Parameters of a Query are written into its text.
pub(crate) fn ask(wire: &mut Wire, form: Form, sql: &str, parameters: &[&str]) -> Answer {
    let values: Vec<&[u8]> = parameters.iter().map(|value| value.as_bytes()).collect();
    let run = |name| {
        [
            bind(name, &values),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat()
    };
    let mut all = Vec::new();
    match form {
        Form::Simple => {
            wire.send(&query(&with_literals(sql, parameters)));
        }
        Form::Extended => wire.send(&[parse("", sql), run("")].concat()),
        Form::Prepared => {
            wire.send(&[parse("judged", sql), describe(b'S', "judged"), sync()].concat());
            all.extend(receive(wire, form));
            wire.send(&run("judged"));
            all.extend(receive(wire, form));
            wire.send(&[message(b'C', &[b"Sjudged\0"]), sync()].concat());
        }
    }
    all.extend(receive(wire, form));
    answer(all)
}

/// Messages up to `ReadyForQuery`; COPY FROM gets no data.
fn receive(wire: &mut Wire, form: Form) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let next = wire.receive();
        let tag = next.tag;
        all.push(next);
        match tag {
            b'G' => {
                wire.send(&copy_fail("no data"));
                if form != Form::Simple {
                    wire.send(&sync());
                }
            }
            b'Z' => return all,
            _ => {}
        }
    }
}

fn answer(all: Vec<Message>) -> Answer {
    let failed_block = all
        .iter()
        .rfind(|it| it.tag == b'Z')
        .is_some_and(|it| it.body == b"E");
    Answer {
        errors: all.iter().filter_map(Message::sqlstate).collect(),
        data: all
            .into_iter()
            .filter(|it| matches!(it.tag, b'T' | b'D' | b'd' | b'C' | b'I' | b't'))
            .collect(),
        failed_block,
    }
}

/// The text with `$1` and so on replaced.
fn with_literals(sql: &str, parameters: &[&str]) -> String {
    let numbered = parameters.iter().enumerate().rev();
    numbered.fold(sql.to_owned(), |text, (at, value)| {
        text.replace(
            &format!("${}", at + 1),
            &format!("'{}'", value.replace('\'', "''")),
        )
    })
}
