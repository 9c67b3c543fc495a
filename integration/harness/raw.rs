//! A client that sends whatever bytes a test wants, and reads what comes back.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::LIMIT;

/// The proxy's whole answer: what it said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Tag and body of each message, in order.
    pub messages: Vec<(u8, Vec<u8>)>,
    /// Whether the connection has ended.
    pub ended: bool,
}

impl Answer {
    /// The SQLSTATEs of all errors.
    pub fn sqlstates(&self) -> Vec<String> {
        self.errors(b'C')
    }

    /// One field of all errors (`ErrorResponse` fields, manual, "Error and Notice Message Fields").
    pub fn errors(&self, field: u8) -> Vec<String> {
        self.messages
            .iter()
            .filter(|(tag, _)| *tag == b'E')
            .filter_map(|(_, body)| {
                body.split(|byte| *byte == 0)
                    .find(|text| text.first() == Some(&field))
                    .map(|text| String::from_utf8_lossy(&text[1..]).into_owned())
            })
            .collect()
    }

    /// The tags, in order.
    pub fn tags(&self) -> String {
        self.messages.iter().map(|(tag, _)| *tag as char).collect()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    /// Connects and says nothing.
    pub async fn connect(port: u16) -> Self {
        let connecting = TcpStream::connect(("127.0.0.1", port));
        let stream = tokio::time::timeout(LIMIT, connecting)
            .await
            .unwrap()
            .unwrap();
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// Connects and starts a session as `app`, which must need no password (`trust`).
    pub async fn session(port: u16) -> Self {
        let mut raw = Self::connect(port).await;
        raw.send(&startup(&[("user", "app"), ("database", "app")]))
            .await;
        let answer = raw.until_ready().await;
        assert!(!answer.ended, "{:?}", answer.errors(b'M'));
        raw
    }

    /// Sends bytes. The proxy may have closed the connection meanwhile; what it said is read later.
    pub async fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// Ends the direction towards the proxy.
    pub async fn finish(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Everything up to and with the next `ReadyForQuery`, or to the end.
    pub async fn until_ready(&mut self) -> Answer {
        self.until(|message| message.0 == b'Z').await
    }

    /// Everything up to the end of the connection.
    pub async fn until_end(&mut self) -> Answer {
        self.until(|_| false).await
    }

    /// Everything up to and with the first message that `stops`, or to the end.
    pub async fn until(&mut self, stops: impl Fn(&(u8, Vec<u8>)) -> bool) -> Answer {
        let mut messages = Vec::new();
        while let Some(message) = self.next(LIMIT).await {
            let stop = stops(&message);
            messages.push(message);
            if stop {
                let ended = false;
                return Answer { messages, ended };
            }
        }
        let ended = true;
        Answer { messages, ended }
    }

    /// One message; `None` at the end of the connection.
    pub async fn next(&mut self, limit: Duration) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(header) = self.unread.first_chunk::<5>() {
                let [tag, a, b, c, d] = *header;
                let total = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                if self.unread.len() >= total {
                    let message = self.unread[5..total].to_vec();
                    self.unread.drain(..total);
                    return Some((tag, message));
                }
            }
            let reading = self.stream.read_buf(&mut self.unread);
            let read = tokio::time::timeout(limit, reading).await;
            // A reset ends the connection as well as a proper end does.
            match read.expect("the proxy must answer or close within the limit") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// One byte that is not a message (the answer to an `SSLRequest`).
    pub async fn byte(&mut self) -> Option<u8> {
        tokio::time::timeout(LIMIT, self.stream.read_u8())
            .await
            .unwrap()
            .ok()
    }
}

/// A message: tag, length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    lying(tag, u32::try_from(body.len() + 4).unwrap(), body)
}

/// A message whose length field says `length`.
pub fn lying(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A Query.
pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// A Parse without types.
pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// Bind of the unnamed portal without parameters.
pub fn bind(statement: &str) -> Vec<u8> {
    message(b'B', format!("\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

/// Execute of the unnamed portal.
pub fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// A startup packet of protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    packet(&body)
}

/// A first packet: length and body.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body].concat()
}
