//! A client's socket during the handshake: exact reads and whole writes under one deadline.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::encryption::{ClientSocket, Protection};
use super::{Beginning, HandshakeError};
use crate::frontend::error::ProxyError;
use crate::limits::{AUTH_MESSAGE_BYTES, REFUSAL_DRAIN_BYTES, REFUSAL_TIME};
use crate::protocol::startup::{FirstPacket, LENGTH_BYTES, body_length, parse};
use crate::tls::{self, Acceptor, Opening};
use crate::wire::{ReadError, read_message};

/// The type of `PasswordMessage`, `SASLInitialResponse` and `SASLResponse`.
const ANSWER: u8 = b'p';

/// The socket with the deadline of the handshake.
#[derive(Debug)]
pub(super) struct Conduit<S> {
    stream: S,
    deadline: Instant,
    lateness: Lateness,
}

/// What happens at the deadline.
#[derive(Debug, Clone, Copy)]
enum Lateness {
    /// The connection ends without a word: there is no sign yet that PostgreSQL's protocol is
    /// spoken.
    Silent,
    /// The client is told.
    Told,
}

/// What a connection begins with.
#[derive(Debug)]
pub(super) enum FirstBytes {
    /// A first packet, whole.
    Packet(FirstPacket),
    /// TLS, of which these bytes have been read.
    Tls([u8; LENGTH_BYTES]),
}

impl<S: ClientSocket> Conduit<S> {
    pub(super) fn new(stream: S, deadline: Instant) -> Self {
        Self {
            stream,
            deadline,
            lateness: Lateness::Silent,
        }
    }

    /// From now on a client that is too late is told so.
    pub(super) fn announce_errors(&mut self) {
        self.lateness = Lateness::Told;
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    fn late(&self) -> HandshakeError {
        match self.lateness {
            Lateness::Silent => HandshakeError::Silent,
            Lateness::Told => ProxyError::AuthenticationTimeout.into(),
        }
    }

    /// Awaits `work` until the deadline.
    pub(super) async fn in_time<F: Future>(&self, work: F) -> Result<F::Output, HandshakeError> {
        let done = timeout_at(self.deadline, work).await;
        done.map_err(|_| self.late())
    }

    pub(super) fn protection(&self) -> Protection {
        self.stream.protection()
    }

    pub(super) fn certificate(&self) -> Option<&[u8]> {
        self.stream.certificate()
    }

    /// Does the TLS handshake. Nothing behind the client's request has been read, so what it sent
    /// before the handshake is taken for a part of it and ends it (CVE-2021-23214).
    pub(super) async fn encrypt(
        self,
        acceptor: &Acceptor,
        opening: Opening<'_>,
        slots: &Semaphore,
    ) -> Result<Self, HandshakeError> {
        let encrypting = self.stream.encrypt(acceptor, opening, slots);
        match timeout_at(self.deadline, encrypting).await {
            Ok(Ok(stream)) => Ok(Self { stream, ..self }),
            Ok(Err(error)) => Err(HandshakeError::Tls(error)),
            Err(_) => Err(HandshakeError::Silent),
        }
    }

    /// Reads one first packet and not a byte more, or the first bytes of TLS.
    pub(super) async fn read_first_bytes(
        &mut self,
        beginning: Beginning,
    ) -> Result<FirstBytes, HandshakeError> {
        let mut field = [0; LENGTH_BYTES];
        self.fill(&mut field).await?;
        // No length of a packet begins like this.
        if beginning == Beginning::Any && field.first() == Some(&tls::FIRST_BYTE) {
            return Ok(FirstBytes::Tls(field));
        }
        let length = body_length(field).map_err(ProxyError::from)?;
        let mut body = vec![0; length];
        self.fill(&mut body).await?;
        Ok(FirstBytes::Packet(parse(&body).map_err(ProxyError::from)?))
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), HandshakeError> {
        match timeout_at(self.deadline, self.stream.read_exact(buffer)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(HandshakeError::Closed(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Reads the body of the client's next authentication message.
    pub(super) async fn read_answer(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let longest = u32::try_from(AUTH_MESSAGE_BYTES).unwrap_or(u32::MAX);
        let read = timeout_at(self.deadline, read_message(&mut self.stream, longest)).await;
        match read {
            Ok(Ok(message)) if message.tag == ANSWER => Ok(message.body),
            Ok(Ok(_)) => Err(ProxyError::ProtocolViolation("expected password response").into()),
            Ok(Err(ReadError::Length(_))) => {
                Err(ProxyError::ProtocolViolation("invalid message length").into())
            }
            Ok(Err(ReadError::Io(error))) => Err(HandshakeError::Closed(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Writes all of `bytes`.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout_at(self.deadline, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(HandshakeError::Closed(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Ends the connection: tells the client why, if it is to be told, and gives `error` back.
    pub(super) async fn refuse(mut self, error: HandshakeError) -> HandshakeError {
        if let HandshakeError::Refused(refusal) = &error {
            let response = refusal.fatal_response();
            // Whether the client hears it or not, the connection ends.
            let _ = timeout(REFUSAL_TIME, self.farewell(&response)).await;
        }
        error
    }

    /// Writes `response`, then reads what the client still sends until it closes: a close with
    /// unread input would reset the connection and could lose the response.
    async fn farewell(&mut self, response: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(response).await?;
        self.stream.shutdown().await?;
        let mut left = REFUSAL_DRAIN_BYTES;
        let mut scratch = [0; 512];
        while left > 0 {
            match self.stream.read(&mut scratch).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    }
}
