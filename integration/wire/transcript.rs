//! All that a client received, as text that can be compared.
//!
//! Three things are named instead of shown, because they differ between two runs against
//! the same server:
//! * process ids: the one that the Nth connection was told reads `<pid N>`, wherever it is shown, and
//!   no other number does;
//! * object ids of what was created after the cluster (16384 and up): `<oid 1>`, `<oid 2>`, in the
//!   order in which they are first seen;
//! * the number of a connection's temporary schema: `pg_temp_<n>`.
//!
//! The source line of "cached plan must not change result type" is left out: where pgweir says it, it
//! does not know that of the server's version.

use crate::harness::wire::Message;

/// `FirstNormalObjectId` (`src/include/access/transam.h`).
const FIRST_NORMAL_OBJECT_ID: u32 = 16_384;

/// What was received so far.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    lines: Vec<String>,
    process_ids: Vec<(usize, i32)>,
    /// Connections whose process may be another one's now.
    ended: Vec<usize>,
    object_ids: Vec<u32>,
}

impl Transcript {
    /// The connection with this number was told this process id.
    pub(crate) fn process_id(&mut self, connection: usize, process_id: i32) {
        self.ended.retain(|ended| *ended != connection);
        let ended = &self.ended;
        self.process_ids.retain(|(other, known)| {
            *other != connection && (*known != process_id || !ended.contains(other))
        });
        self.process_ids.push((connection, process_id));
    }

    /// The connection with this number has ended.
    pub(crate) fn ended(&mut self, connection: usize) {
        self.ended.push(connection);
    }

    /// The step with process ids in place of `{pid1}`, `{pid2}`.
    pub(crate) fn with_process_ids(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (connection, process_id) in &self.process_ids {
            line = line.replace(&format!("{{pid{connection}}}"), &process_id.to_string());
        }
        line
    }

    /// What follows was caused by this.
    pub(crate) fn step(&mut self, step: &str) {
        let step = self.without_process_ids(step);
        self.lines.push(format!("> {step}"));
    }

    /// Something happened that is not a message.
    pub(crate) fn says(&mut self, what: &str) {
        self.lines.push(what.to_owned());
    }

    /// Whether the last thing that happened was the end of a connection.
    pub(crate) fn ended_well(&self) -> bool {
        self.lines.last().is_some_and(|line| line == "(closed)")
    }

    /// A message came.
    pub(crate) fn received(&mut self, message: &Message) {
        let shown = self.shown(message);
        self.lines.push(shown);
    }

    /// One line for each message and step.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }

    fn shown(&mut self, message: &Message) -> String {
        let mut body = Body(&message.body);
        match message.tag {
            b'1' | b'2' | b'3' | b'I' | b'n' | b's' | b'c' => {
                format!("{} {}", name(message.tag), body.rest())
            }
            b'C' => format!("CommandComplete {}", body.rest()),
            b'Z' => format!("ReadyForQuery {}", body.rest()),
            b'S' => format!("ParameterStatus {} = {}", body.string(), body.string()),
            b'K' => format!("BackendKeyData {}", self.process(body.i32())),
            b'A' => {
                let process = self.process(body.i32());
                let (channel, payload) = (body.string(), body.string());
                format!("NotificationResponse {process} {channel} {payload:?}")
            }
            b'E' => format!("ErrorResponse {}", self.fields(body)),
            b'N' => format!("NoticeResponse {}", self.fields(body)),
            b'T' => format!("RowDescription {}", self.columns(body)),
            b't' => {
                let types: Vec<String> = (0..body.u16()).map(|_| self.object(body.u32())).collect();
                format!("ParameterDescription {types:?}")
            }
            b'D' => format!("DataRow {}", self.row(body)),
            b'V' => format!("FunctionCallResponse {:?}", body.value()),
            tag => format!("{} {}", name(tag), body.rest()),
        }
    }

    fn columns(&mut self, mut body: Body<'_>) -> String {
        let columns: Vec<String> = (0..body.u16())
            .map(|_| {
                let name = body.string();
                let (table, column) = (self.object(body.u32()), body.u16());
                let (of, length, modifier) = (self.object(body.u32()), body.u16(), body.i32());
                let format = body.u16();
                format!(
                    "{name}(table {table} column {column} type {of} length {length} \
                     modifier {modifier} format {format})"
                )
            })
            .collect();
        columns.join(", ")
    }

    fn row(&self, mut body: Body<'_>) -> String {
        let values: Vec<String> = (0..body.u16())
            .map(|_| match body.value() {
                Some(value) => format!("\"{}\"", self.without_process_ids(&value)),
                None => "NULL".to_owned(),
            })
            .collect();
        values.join(", ")
    }

    fn fields(&self, mut body: Body<'_>) -> String {
        let mut fields = Vec::new();
        while body.0.len() > 1 {
            let field = body.string();
            // An SQLSTATE, or the line of a source file, that looks like a process id is none.
            fields.push(if field.starts_with(['C', 'L', 'P']) {
                field
            } else {
                self.without_process_ids(&field)
            });
        }
        if fields.iter().any(|field| field == "Fplancache.c") {
            fields.retain(|field| !field.starts_with('L'));
        }
        fields.join(" | ")
    }

    /// The first connection that was told this process id.
    fn connection(&self, process_id: i32) -> Option<usize> {
        let mut all = self.process_ids.iter();
        let known = all.find(|(_, known)| *known == process_id)?;
        Some(known.0)
    }

    fn process(&self, process_id: i32) -> String {
        self.connection(process_id).map_or_else(
            || "<pid ?>".to_owned(),
            |connection| format!("<pid {connection}>"),
        )
    }

    fn without_process_ids(&self, text: &str) -> String {
        let text = without_temporary_schema(text);
        let mut rest = text.as_str();
        let mut replaced = String::new();
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, number) = rest.split_at(start);
            let end = number.find(|c: char| !c.is_ascii_digit());
            let (number, behind) = number.split_at(end.unwrap_or(number.len()));
            replaced.push_str(before);
            match number.parse() {
                Ok(id) if self.connection(id).is_some() => replaced.push_str(&self.process(id)),
                _ => replaced.push_str(number),
            }
            rest = behind;
        }
        replaced + rest
    }

    fn object(&mut self, object_id: u32) -> String {
        if object_id < FIRST_NORMAL_OBJECT_ID {
            return object_id.to_string();
        }
        let known = self.object_ids.iter().position(|known| *known == object_id);
        let at = known.unwrap_or_else(|| {
            self.object_ids.push(object_id);
            self.object_ids.len() - 1
        });
        format!("<oid {}>", at + 1)
    }
}

fn without_temporary_schema(text: &str) -> String {
    let Some((before, after)) = text.split_once("pg_temp_") else {
        return text.to_owned();
    };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}pg_temp_<n>{}", without_temporary_schema(after))
}

fn name(tag: u8) -> String {
    match tag {
        b'1' => "ParseComplete".to_owned(),
        b'2' => "BindComplete".to_owned(),
        b'3' => "CloseComplete".to_owned(),
        b'I' => "EmptyQueryResponse".to_owned(),
        b'n' => "NoData".to_owned(),
        b's' => "PortalSuspended".to_owned(),
        b'c' => "CopyDone".to_owned(),
        b'd' => "CopyData".to_owned(),
        b'G' => "CopyInResponse".to_owned(),
        b'H' => "CopyOutResponse".to_owned(),
        b'W' => "CopyBothResponse".to_owned(),
        other => format!("message {:?}", char::from(other)),
    }
}

/// What is left of a message.
#[derive(Clone, Copy)]
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = self.take(end).escape_ascii().to_string();
        self.take(1);
        text
    }

    fn value(&mut self) -> Option<String> {
        let length = usize::try_from(self.i32()).ok()?;
        Some(self.take(length).escape_ascii().to_string())
    }

    fn rest(self) -> String {
        self.0.escape_ascii().to_string()
    }
}
