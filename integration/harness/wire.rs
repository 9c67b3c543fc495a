//! A tiny blocking client that says exactly what it is told and shows exactly what comes back.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::LIMIT;

/// One message of a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<u8> = self.body.iter().copied().take(300).collect();
        let text = String::from_utf8_lossy(&shown).replace('\0', "|");
        write!(f, "{} {text}", char::from(self.tag))
    }
}

impl Message {
    /// The field of an `ErrorResponse` or `NoticeResponse` with this code.
    pub fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|byte| *byte == 0);
        fields
            .filter_map(|field| field.split_first())
            .find(|(first, _)| **first == code)
            .map(|(_, rest)| String::from_utf8_lossy(rest).into_owned())
    }

    /// The SQLSTATE of an `ErrorResponse`.
    pub fn sqlstate(&self) -> Option<String> {
        (self.tag == b'E').then(|| self.field(b'C')).flatten()
    }

    /// The values of a `DataRow`.
    pub fn values(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "{self:?}");
        let (count, mut rest) = self.body.split_at(2);
        let mut values = Vec::new();
        for _ in 0..u16::from_be_bytes(count.try_into().unwrap()) {
            let (length, after) = rest.split_at(4);
            let length = i32::from_be_bytes(length.try_into().unwrap());
            let (value, after) = after.split_at(usize::try_from(length.max(0)).unwrap());
            values.push((length >= 0).then(|| String::from_utf8_lossy(value).into_owned()));
            rest = after;
        }
        values
    }
}

/// A connection to a proxy or to a node.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// What came between authentication and the first `ReadyForQuery`.
    pub greeting: Vec<Message>,
}

impl Wire {
    /// A session of the role `app` in the database `app`.
    pub fn connect(port: u16) -> Self {
        Self::connect_with(port, &[])
    }

    /// The same with more parameters in the startup packet.
    pub fn connect_with(port: u16, parameters: &[(&str, &str)]) -> Self {
        Self::try_connect(port, parameters)
            .unwrap_or_else(|refusal| panic!("not let in: {refusal:?}"))
    }

    /// The same, or the messages with which the client was not let in. A parameter `user` or
    /// `database` replaces the usual one; every role's password is its name.
    pub fn try_connect(port: u16, parameters: &[(&str, &str)]) -> Result<Self, Vec<Message>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Self {
            stream,
            greeting: Vec::new(),
        };
        let given = |name| parameters.iter().find(|(given, _)| *given == name);
        let user = given("user").map_or("app", |(_, user)| user);
        let base = [("user", "app"), ("database", "app")];
        let base = base.iter().filter(|(name, _)| given(name).is_none());
        let all = base.chain(parameters).copied();
        wire.say(|out| frontend::startup_message(all, out).unwrap());
        wire.authenticate(user)?;
        loop {
            let message = wire.receive();
            let tag = message.tag;
            wire.greeting.push(message);
            match tag {
                b'Z' => return Ok(wire),
                b'E' => return Err(wire.greeting),
                _ => {}
            }
        }
    }

    fn authenticate(&mut self, password: &str) -> Result<(), Vec<Message>> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let message = self.receive();
            if message.tag == b'E' {
                return Err(vec![message]);
            }
            assert_eq!(message.tag, b'R', "{message:?}");
            let (kind, data) = message.body.split_at(4);
            match kind[3] {
                0 => return Ok(()),
                10 => {
                    let first = scram.message().to_vec();
                    self.say(|out| {
                        frontend::sasl_initial_response(SCRAM_SHA_256, &first, out).unwrap();
                    });
                }
                11 => {
                    scram.update(data).unwrap();
                    let last = scram.message().to_vec();
                    self.say(|out| frontend::sasl_response(&last, out).unwrap());
                }
                12 => scram.finish(data).unwrap(),
                other => panic!("authentication method {other}"),
            }
        }
    }

    fn say(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut out);
        self.send(&out);
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends as much as is taken; the peer may have closed.
    pub fn send_if_open(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next message.
    pub fn receive(&mut self) -> Message {
        self.try_receive()
            .unwrap_or_else(|error| panic!("no message: {error}"))
    }

    /// The next message, or why there is none.
    pub fn try_receive(&mut self) -> std::io::Result<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) - 4;
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok(Message {
            tag: header[0],
            body,
        })
    }

    /// All messages up to and with the next `ReadyForQuery`.
    pub fn until_ready(&mut self) -> Vec<Message> {
        self.until(b'Z')
    }

    /// All messages up to and with the next of this type.
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let got = self.try_receive();
            let message = got.unwrap_or_else(|error| panic!("{error} after {all:?}"));
            let last = message.tag == tag;
            all.push(message);
            if last {
                return all;
            }
        }
    }

    /// Reads and counts bytes until `ReadyForQuery`, keeping none of the rows.
    pub fn skim_until_ready(&mut self) -> u64 {
        let mut total = 0;
        let mut block = vec![0; 1 << 16];
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).unwrap();
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) - 4;
            let mut left = usize::try_from(length).unwrap();
            total += 5 + u64::from(length);
            while left > 0 {
                let some = left.min(block.len());
                self.stream.read_exact(&mut block[..some]).unwrap();
                left -= some;
            }
            assert_ne!(header[0], b'E', "an error in the result");
            if header[0] == b'Z' {
                return total;
            }
        }
    }

    /// A Query message and all that answers it.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// The first value of a query's answer.
    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.query(sql);
        let row = answer.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("no row for {sql}: {answer:?}"));
        row.values()[0].clone().unwrap_or_else(|| "NULL".to_owned())
    }

    /// Runs statements and fails on an error.
    pub fn run(&mut self, sql: &str) {
        let answer = self.query(sql);
        assert!(answer.iter().all(|m| m.tag != b'E'), "{sql}: {answer:?}");
    }

    /// Where the previous statement ran and why (`SHOW pgweir.last_route`).
    pub fn last_route(&mut self) -> String {
        self.value("SHOW pgweir.last_route")
    }

    /// How long [`Wire::try_receive`] waits for the next bytes.
    pub fn wait_at_most(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
    }

    /// The process id and the secret key from the greeting.
    pub fn cancel_key(&self) -> (i32, Vec<u8>) {
        let key = self.greeting.iter().find(|message| message.tag == b'K');
        let (process_id, secret) = key.unwrap().body.split_at(4);
        let process_id = i32::from_be_bytes(process_id.try_into().unwrap());
        (process_id, secret.to_vec())
    }

    /// Closes the socket without a word.
    pub fn vanish(self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Any message.
pub fn message(tag: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], &body].concat()
}

/// Asks the server at `port` to cancel what runs for the owner of the key, and waits until it has
/// closed the connection that carried the request.
pub fn cancel(port: u16, (process_id, secret): &(i32, Vec<u8>)) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let length = u32::try_from(12 + secret.len()).unwrap().to_be_bytes();
    let code = 80_877_102_i32.to_be_bytes();
    let process_id = process_id.to_be_bytes();
    let request = [&length[..], &code, &process_id, secret].concat();
    stream.write_all(&request).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// A Query message.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

/// A Parse message without parameter types.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
}

/// A Bind message of the unnamed portal with parameters in text form; results in text form.
pub fn bind(statement: &str, parameters: &[&[u8]]) -> Vec<u8> {
    bind_portal("", statement, parameters)
}

/// A Bind message.
pub fn bind_portal(portal: &str, statement: &str, parameters: &[&[u8]]) -> Vec<u8> {
    let mut values = Vec::new();
    for parameter in parameters {
        values.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
        values.extend_from_slice(parameter);
    }
    let count = u16::try_from(parameters.len()).unwrap().to_be_bytes();
    let (portal, statement) = (portal.as_bytes(), statement.as_bytes());
    let head: [&[u8]; 4] = [portal, b"\0", statement, b"\0"];
    message(b'B', &[&head.concat(), b"\0\0", &count, &values, b"\0\0"])
}

/// A Describe message: `S` for a statement, `P` for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], name.as_bytes(), b"\0"])
}

/// A Close message.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], name.as_bytes(), b"\0"])
}

/// An Execute message; 0 rows is all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
}

/// A Sync message.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// A Flush message.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// A `CopyData` message.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', &[data])
}

/// A `CopyDone` message.
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// A `CopyFail` message.
pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &[why.as_bytes(), b"\0"])
}

/// A Terminate message.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}
