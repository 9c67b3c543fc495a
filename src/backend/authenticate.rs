//! Proves to a node who we are.
//!
//! Manual, "SASL Authentication" and "Start-up" (protocol-flow.html). Everything the node sends is
//! bounded in length; passwords and proofs never reach an error or a log.

use std::fmt;
use std::sync::Arc;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;

use crate::backend::error::{AuthenticationRequest, ConnectError, ServerError};
use crate::config::Secret;
use crate::limits::{AUTH_MESSAGE_BYTES, KEY_DERIVATIONS};
use crate::protocol::message::{Reader, write_message, write_string};
use crate::wire::{Message, read_message};

/// `AUTH_REQ_*` of `src/include/libpq/protocol.h`.
const OK: i32 = 0;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Lets few SCRAM key derivations run at once, off the threads that relay.
#[derive(Debug, Clone)]
pub struct KeyDerivation {
    permits: Arc<Semaphore>,
}

impl Default for KeyDerivation {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(KEY_DERIVATIONS)),
        }
    }
}

impl KeyDerivation {
    /// Computes the answer to the node's first SCRAM message.
    ///
    /// # Cancel safety
    /// A derivation that has begun runs to its end and keeps its permit until then.
    async fn answer(
        &self,
        mut scram: ScramSha256,
        challenge: Vec<u8>,
    ) -> Result<ScramSha256, ConnectError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let derived = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            scram.update(&challenge).map(|()| scram)
        });
        derived
            .await
            .map_err(|lost| ConnectError::Scram(lost.into()))?
            .map_err(ConnectError::Scram)
    }
}

/// Who logs in, and with what.
#[derive(Clone)]
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a Secret,
    pub(crate) derivation: &'a KeyDerivation,
    pub(crate) channel: Channel,
}

/// What SCRAM can be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Nothing: the connection is not encrypted.
    Plain,
    /// `tls-server-end-point` of an encrypted connection; `None` if the node's certificate has none.
    Encrypted(Option<Vec<u8>>),
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish()
    }
}

/// Answers the node's authentication requests until it says that all is well.
///
/// # Errors
/// When the node refuses, asks for what is not supported, or breaks the protocol.
pub(crate) async fn authenticate<S>(
    stream: &mut BufReader<S>,
    login: &Login<'_>,
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = next_request(stream).await?;
    let mut reader = Reader::new(&request.body);
    match reader.int32()? {
        OK => return Ok(()),
        CLEARTEXT => send_password(stream, password(login)?.as_bytes()).await?,
        MD5 => {
            let salt = *reader.rest().first_chunk::<4>().ok_or(MALFORMED)?;
            let password = password(login)?.as_bytes();
            let hash = md5_hash(login.user.as_bytes(), password, salt);
            send_password(stream, hash.as_bytes()).await?;
        }
        SASL => scram(stream, login, reader).await?,
        other => return Err(unsupported(other)),
    }
    let done = next_request(stream).await?;
    match Reader::new(&done.body).int32()? {
        OK => Ok(()),
        _ => Err(ConnectError::Protocol("unexpected authentication request")),
    }
}

const MALFORMED: ConnectError = ConnectError::Protocol("malformed authentication request");

fn unsupported(code: i32) -> ConnectError {
    ConnectError::UnsupportedAuthentication(AuthenticationRequest(code))
}

fn password<'a>(login: &Login<'a>) -> Result<&'a str, ConnectError> {
    match login.password.expose() {
        "" => Err(ConnectError::NoPassword),
        password => Ok(password),
    }
}

/// SCRAM, bound to the channel where both sides can; `offered` holds the names of the mechanisms.
async fn scram<S>(
    stream: &mut BufReader<S>,
    login: &Login<'_>,
    offered: Reader<'_>,
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mechanism, binding) = choose(offered, &login.channel)?;
    let password = password(login)?.as_bytes();
    let scram = ScramSha256::new(password, binding);
    let first = scram.message();
    let length = i32::try_from(first.len()).map_err(|_| MALFORMED)?;
    send(stream, |body| {
        write_string(body, mechanism.as_bytes());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(first);
    })
    .await?;
    let challenge = sasl_data(stream, SASL_CONTINUE).await?;
    let mut scram = login.derivation.answer(scram, challenge).await?;
    send(stream, |body| body.extend_from_slice(scram.message())).await?;
    let outcome = sasl_data(stream, SASL_FINAL).await?;
    scram.finish(&outcome).map_err(ConnectError::Scram)
}

/// The mechanism that is used, and what it is bound to. Whoever could have been bound and was not
/// offered it says so, which a node that did offer it takes for an attack (RFC 5802, section 6).
fn choose(
    mut offered: Reader<'_>,
    channel: &Channel,
) -> Result<(&'static str, ChannelBinding), ConnectError> {
    let (mut plain, mut plus) = (false, false);
    loop {
        match offered.string()? {
            b"" => break,
            name => {
                plain |= name == SCRAM_SHA_256.as_bytes();
                plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
            }
        }
    }
    match channel {
        Channel::Encrypted(Some(end_point)) if plus => {
            let binding = ChannelBinding::tls_server_end_point(end_point.clone());
            Ok((SCRAM_SHA_256_PLUS, binding))
        }
        Channel::Encrypted(Some(_)) if plain => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        Channel::Encrypted(None) | Channel::Plain if plain => {
            Ok((SCRAM_SHA_256, ChannelBinding::unsupported()))
        }
        Channel::Encrypted(_) | Channel::Plain => Err(unsupported(SASL)),
    }
}

/// The data of the next authentication request, which must be `expected`.
async fn sasl_data<S>(stream: &mut BufReader<S>, expected: i32) -> Result<Vec<u8>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = next_request(stream).await?;
    let mut reader = Reader::new(&request.body);
    if reader.int32()? != expected {
        return Err(ConnectError::Protocol("SASL messages out of order"));
    }
    Ok(reader.rest().to_vec())
}

/// The next authentication request. PostgreSQL may send a notice or, when it knows a newer
/// protocol than we do, `NegotiateProtocolVersion` before it.
async fn next_request<S>(stream: &mut BufReader<S>) -> Result<Message, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // One notice or negotiation is plausible here, an endless row of them is not.
    for _ in 0..8 {
        let message = read_message(stream, AUTH_MESSAGE_LENGTH).await?;
        match message.tag {
            b'R' => return Ok(message),
            b'E' => return Err(ConnectError::Server(ServerError::parse(&message.body)?)),
            b'N' => {}
            b'v' => accept_version(&message.body)?,
            _ => return Err(ConnectError::Protocol("unexpected message before login")),
        }
    }
    Err(ConnectError::Protocol("too many messages before login"))
}

/// [`AUTH_MESSAGE_BYTES`] as a length field.
#[expect(
    clippy::cast_possible_truncation,
    reason = "65535 fits, and the next line proves it"
)]
const AUTH_MESSAGE_LENGTH: u32 = AUTH_MESSAGE_BYTES as u32;
const _: () = assert!(AUTH_MESSAGE_BYTES <= u32::MAX as usize);

/// `NegotiateProtocolVersion`: we asked for 3.0 without `_pq_.` options, which every server of major
/// version 3 has, so anything but "3, everything recognised" is a mistake of the node.
fn accept_version(body: &[u8]) -> Result<(), ConnectError> {
    let mut reader = Reader::new(body);
    let version = reader.int32()?;
    // The manual says that this is the minor version, PostgreSQL sends the whole number.
    if !matches!(version >> 16, 0 | 3) || reader.int32()? != 0 {
        return Err(ConnectError::Protocol("no agreement on protocol 3.0"));
    }
    Ok(())
}

async fn send_password<S>(stream: &mut BufReader<S>, password: &[u8]) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(stream, |body| write_string(body, password)).await
}

/// Sends one `PasswordMessage`, `SASLInitialResponse` or `SASLResponse`: they share a tag.
async fn send<S>(
    stream: &mut BufReader<S>,
    body: impl FnOnce(&mut Vec<u8>),
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = Vec::with_capacity(256);
    write_message(&mut message, b'p', body);
    let sent = async {
        stream.get_mut().write_all(&message).await?;
        stream.get_mut().flush().await
    };
    sent.await.map_err(ConnectError::Io)
}
