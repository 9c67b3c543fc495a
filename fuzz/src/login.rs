//! Authentication, on both sides.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use pgweir::backend::fuzzing::log_in;
use pgweir::config::{Config, parse};
use pgweir::credential::hashing::Hashing;
use pgweir::frontend::auth::{Applicant, Authenticator, Channel, Progress};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::configuration::NoVariables;

static HASHING: LazyLock<Hashing> = LazyLock::new(|| Hashing::start().unwrap());

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    static AUTHENTICATORS: Vec<Authenticator> = ["scram-sha-256", "md5", "password"]
        .map(|method| Authenticator::new(&configuration(method), HASHING.clone()))
        .into();
}

fn configuration(method: &str) -> Config {
    let text = format!(
        "clusters: {{ main: {{ nodes: [{{ name: a, host: h, port: 1 }}], \
         monitor: {{ user: m, password: p, database: postgres }} }} }}\n\
         users: [{{ name: app, password: 'a long password that nobody guesses' }}]\n\
         auth: {{ method: {method} }}\n"
    );
    parse(&text, "fuzz", &NoVariables).unwrap()
}

/// A node that says what the input says. `~` in it stands for the nonce of the client's message.
struct Node {
    lines: Vec<Vec<u8>>,
    unread: Vec<u8>,
    nonce: Vec<u8>,
}

/// The nonce of a SCRAM message, however it is wrapped.
fn nonce(message: &[u8]) -> Option<Vec<u8>> {
    let at = message.windows(2).position(|two| two == b"r=")?;
    let rest = message[at + 2..].iter();
    Some(
        rest.take_while(|byte| byte.is_ascii_graphic() && **byte != b',')
            .copied()
            .collect(),
    )
}

fn with_nonce(line: &[u8], nonce: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b'~').collect();
    parts.join(nonce)
}

impl Node {
    /// The next message: the first byte says the type, the second the request's code.
    fn answer(&self, line: &[u8]) -> Vec<u8> {
        let (kind, code, rest) = match line {
            [kind, code, rest @ ..] => (*kind, *code, rest),
            _ => (b'R', 0, line),
        };
        let mut body = if kind == b'R' {
            u32::from(code).to_be_bytes().to_vec()
        } else {
            vec![code]
        };
        body.extend(with_nonce(rest, &self.nonce));
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], &body].concat()
    }
}

impl AsyncRead for Node {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() && !self.lines.is_empty() {
            let line = self.lines.remove(0);
            self.unread = self.answer(&line);
        }
        let count = self.unread.len().min(out.remaining());
        out.put_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Node {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        sent: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(nonce) = nonce(sent) {
            self.nonce = nonce;
        }
        Poll::Ready(Ok(sent.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// pgweir logs in to a node. With a first byte of 0 the rest is sent as it is, else line by line.
pub fn to_node(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let mut node = Node {
        lines: Vec::new(),
        unread: Vec::new(),
        nonce: Vec::new(),
    };
    if *mode == 0 {
        node.unread = rest.to_vec();
    } else {
        node.lines = rest
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
    }
    // That it ends is what counts: the node decides whether it is satisfied.
    let ended = RUNTIME.with(|runtime| runtime.block_on(log_in(node, "app", "secret", &HASHING)));
    // What the node says itself is its own.
    let said = rest.windows(6).any(|six| six == b"secret");
    if let Err(error) = ended {
        assert!(said || !error.to_string().contains("secret"));
    }
}

/// A client logs in to pgweir: the lines are its messages, `~` in them the nonce it was told.
pub fn of_client(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let user = if mode & 4 == 0 { "app" } else { "nobody" };
    AUTHENTICATORS.with(|all| {
        let authenticator = &all[usize::from(mode & 3) % all.len()];
        let channel = Channel::default();
        let deadline = Instant::now() + Duration::from_secs(30);
        let applicant = Applicant {
            user,
            channel: &channel,
            source: None,
            deadline,
        };
        let mut progress = authenticator.begin(applicant);
        for line in rest.split(|byte| *byte == b'\n') {
            let Ok(Progress::Ask { request, exchange }) = progress else {
                break;
            };
            let told = nonce(&request).unwrap_or_default();
            let answer = with_nonce(line, &told);
            progress = RUNTIME.with(|runtime| runtime.block_on(exchange.answer(&answer)));
        }
        assert!(
            !matches!(progress, Ok(Progress::Proved { .. })),
            "nobody knows the password"
        );
    });
}
