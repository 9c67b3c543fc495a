//! How scripts are written.
//!
//! A file holds several scripts, each under a line `== name`. Empty lines and lines that start with
//! `#` say nothing. Every other line is one step:
//!
//! | Step | Does |
//! |---|---|
//! | `query SQL` | sends a Query message, reads to `ReadyForQuery` |
//! | `send MESSAGE + MESSAGE ...` | sends messages in one write, reads nothing |
//! | `run MESSAGE + MESSAGE ...` | the same, and reads one `ReadyForQuery` for each Query, Sync and `FunctionCall` |
//! | `ready`, `ready 3` | reads to the next, or the third, `ReadyForQuery` |
//! | `until G` | reads to the next message of this type |
//! | `connect user=root options="-c a=b"` | opens the connection with startup parameters |
//! | `cancel` | waits until `pg_sleep` runs for anybody, then asks to cancel what this connection runs |
//! | `end`, `terminate`, `vanish` | reads to the end of the connection; says goodbye first; closes without a word |
//!
//! | `direct SQL` | runs SQL on the primary, past the proxy, and waits until the replicas have it |
//! | `elsewhere` | closes the proxy's server connections that hold no transaction, if its clients share them |
//! | `sleeping` | waits until `pg_sleep` runs for anybody |
//! | `later` | lets the time pass for which a prepared statement counts as unchanged |
//!
//! A step that begins with `2:` is for the second connection, `3:` for the third; a connection
//! opens with its first step. At the end of a script every open connection says goodbye, first to last, and what it
//! still receives counts. `{pid2}` is the process id that the second connection was told.
//!
//! Messages: `Query "sql"`, `Parse name "sql" 23 25`, `Bind portal statement "value" null`,
//! `Describe S name`, `Execute portal 10`, `Close P name`, `Sync`, `Flush`, `CopyData "data"`,
//! `CopyDone`, `CopyFail "why"`, `FunctionCall 1397 "-5"`, `Terminate`, `Raw Q "bytes"`. `-` is the unnamed statement or portal.
//! Bind and `FunctionCall` take `formats=1,0` and `results=1` before the values. `20*` before a message
//! repeats it. Inside quotes `\n`, `\t`, `\"`, `\\` and `\x00` mean what they mean in C.

use std::fs;
use std::path::Path;

use crate::harness::wire;

/// Steps under a name.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The file and the heading.
    pub(crate) name: String,
    /// The steps, as written.
    pub(crate) lines: Vec<String>,
}

impl Script {
    /// Whether one client is to see what another one has done.
    pub(crate) fn has_several_clients(&self) -> bool {
        let mut steps = self.lines.iter().filter_map(|line| line.split_once(": "));
        steps.any(|(number, _)| number.len() == 1 && number != "1")
    }
}

/// All scripts of a file.
pub(crate) fn scripts(file: &Path) -> Vec<Script> {
    let text = fs::read_to_string(file).unwrap();
    let topic = file.file_stem().unwrap().to_str().unwrap();
    let mut scripts: Vec<Script> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("== ") {
            let name = format!("{topic}: {name}");
            assert!(scripts.iter().all(|script| script.name != name), "{name}");
            scripts.push(Script {
                name,
                lines: Vec::new(),
            });
        } else if !line.is_empty() && !line.starts_with('#') {
            let script = scripts.last_mut().expect("a file starts with a heading");
            script.lines.push(line.to_owned());
        }
    }
    scripts
}

/// A word, or what stood in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// Without quotes.
    Word(String),
    /// In quotes, perhaps with `name=` before them.
    Quoted(Vec<u8>),
}

impl Token {
    fn word(&self) -> &str {
        match self {
            Self::Word(word) if word == "-" => "",
            Self::Word(word) => word,
            Self::Quoted(text) => std::str::from_utf8(text).unwrap(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Word(word) => word.as_bytes(),
            Self::Quoted(text) => text,
        }
    }
}

/// Startup parameters of a `connect` step.
pub(crate) fn parameters(text: &str) -> Vec<(String, String)> {
    let tokens = tokens(text);
    tokens
        .iter()
        .map(|token| {
            let (name, value) = token.word().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// The bytes of messages joined by `+`, and how many `ReadyForQuery` they bring.
pub(crate) fn messages(text: &str) -> (Vec<u8>, usize) {
    let tokens = tokens(text);
    let plus = Token::Word("+".to_owned());
    let (mut bytes, mut ready) = (Vec::new(), 0);
    for message in tokens.split(|token| *token == plus) {
        let times = message[0].word().strip_suffix('*');
        let (times, message) = match times {
            Some(times) => (times.parse().unwrap(), &message[1..]),
            None => (1, message),
        };
        for _ in 0..times {
            bytes.extend(one(message));
            ready += usize::from(matches!(
                message[0].word(),
                "Query" | "Sync" | "FunctionCall"
            ));
        }
    }
    (bytes, ready)
}

fn one(tokens: &[Token]) -> Vec<u8> {
    let (kind, rest) = tokens.split_first().unwrap();
    let word = |at: usize| rest.get(at).map_or("", Token::word);
    let bytes = |at: usize| rest.get(at).map_or(&b""[..], Token::bytes);
    match kind.word() {
        "Query" => wire::message(b'Q', &[bytes(0), b"\0"]),
        "Parse" => {
            let types: Vec<u8> = rest[2..]
                .iter()
                .flat_map(|oid| oid.word().parse::<u32>().unwrap().to_be_bytes())
                .collect();
            let body = [word(0).as_bytes(), b"\0", bytes(1), b"\0"].concat();
            wire::message(b'P', &[&body, &count(types.len() / 4), &types])
        }
        "Bind" => {
            let (formats, values, results) = values(&rest[2..]);
            let names = [word(0).as_bytes(), b"\0", word(1).as_bytes(), b"\0"].concat();
            wire::message(b'B', &[&names, &formats, &values, &results])
        }
        "FunctionCall" => {
            let (formats, values, results) = values(&rest[1..]);
            let result = results.get(2..).filter(|code| !code.is_empty());
            let oid = word(0).parse::<u32>().unwrap().to_be_bytes();
            wire::message(b'F', &[&oid, &formats, &values, result.unwrap_or(&[0, 0])])
        }
        "Describe" => wire::describe(bytes(0)[0], word(1)),
        "Close" => wire::close(bytes(0)[0], word(1)),
        "Execute" => wire::execute(word(0), word(1).parse().unwrap_or(0)),
        "Sync" => wire::sync(),
        "Flush" => wire::flush(),
        "CopyData" => wire::copy_data(bytes(0)),
        "CopyDone" => wire::copy_done(),
        "CopyFail" => wire::copy_fail(word(0)),
        "Terminate" => wire::terminate(),
        "Raw" => wire::message(bytes(0)[0], &[bytes(1)]),
        other => panic!("no message {other}"),
    }
}

/// Format codes, values and result format codes, each with its count.
fn values(tokens: &[Token]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut formats, mut results) = (count(0).to_vec(), count(0).to_vec());
    let (mut values, mut number) = (Vec::new(), 0);
    for token in tokens {
        match token {
            Token::Word(word) if word == "null" => {
                values.extend((-1_i32).to_be_bytes());
                number += 1;
            }
            Token::Word(word) if word.starts_with("formats=") => formats = codes(word),
            Token::Word(word) if word.starts_with("results=") => results = codes(word),
            Token::Word(_) | Token::Quoted(_) => {
                let value = token.bytes();
                values.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                values.extend(value);
                number += 1;
            }
        }
    }
    (formats, [&count(number), &values[..]].concat(), results)
}

fn codes(word: &str) -> Vec<u8> {
    let (_, list) = word.split_once('=').unwrap();
    let codes: Vec<u16> = list.split(',').map(|code| code.parse().unwrap()).collect();
    let bytes = codes.iter().flat_map(|code| code.to_be_bytes());
    count(codes.len()).into_iter().chain(bytes).collect()
}

fn count(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap().to_be_bytes()
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (token, after) = token(rest);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// The first token and what follows it.
fn token(text: &str) -> (Token, &str) {
    let end = text.find([' ', '"']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let Some(mut rest) = rest.strip_prefix('"') else {
        return (Token::Word(word.to_owned()), rest);
    };
    let mut bytes = word.as_bytes().to_vec();
    loop {
        let stop = rest.find(['"', '\\']).expect("quotes must end");
        let (plain, special) = rest.split_at(stop);
        bytes.extend(plain.as_bytes());
        let Some(escaped) = special.strip_prefix('\\') else {
            return (Token::Quoted(bytes), special.split_at(1).1);
        };
        let (kind, after) = escaped.split_at(1);
        rest = after;
        match kind {
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "x" => {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = after;
            }
            other => bytes.extend(other.as_bytes()),
        }
    }
}
