//! Proves to a node who we are.
//!
//! Manual, "SASL Authentication" and "Start-up" (protocol-flow.html). Everything the node sends is
//! bounded in length; passwords and proofs never reach an error or a log.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::backend::error::{AuthenticationRequest, ConnectError, ServerError};
use crate::backend::login::{NodeLogin, Proof};
use crate::backend::scram::{Begun, Binding};
use crate::config::Secret;
use crate::credential::Md5Hash;
use crate::credential::hashing::Hashing;
use crate::limits::AUTH_MESSAGE_BYTES;
use crate::protocol::message::{Reader, write_message, write_string};
use crate::wire::{Message, read_message};

/// `AUTH_REQ_*` of `src/include/libpq/protocol.h`.
const OK: i32 = 0;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Who logs in, and with what.
#[derive(Clone)]
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) with: &'a NodeLogin,
    pub(crate) hashing: &'a Hashing,
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
        CLEARTEXT => {
            let password = password(login)?;
            send_password(stream, password.expose().as_bytes()).await?;
        }
        MD5 => {
            let salt = *reader.rest().first_chunk::<4>().ok_or(MALFORMED)?;
            let hash = match login.with.proof() {
                Proof::Md5(hash) => hash,
                Proof::Nothing | Proof::Password(_) | Proof::Keys(_) => {
                    Md5Hash::of(login.user, password(login)?.expose().as_bytes())
                }
            };
            send_password(stream, hash.answer(salt).as_bytes()).await?;
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

fn password(login: &Login<'_>) -> Result<Secret, ConnectError> {
    match login.with.proof() {
        Proof::Password(password) if !password.expose().is_empty() => Ok(password),
        Proof::Keys(_) | Proof::Md5(_) => Err(ConnectError::KeysUseless),
        Proof::Password(_) | Proof::Nothing => Err(ConnectError::NoPassword),
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
    match login.with.proof() {
        Proof::Keys(_) => {}
        Proof::Nothing | Proof::Password(_) | Proof::Md5(_) => drop(password(login)?),
    }
    let begun = Begun::new(binding);
    let first = begun.message();
    let length = i32::try_from(first.len()).map_err(|_| MALFORMED)?;
    send(stream, |body| {
        write_string(body, mechanism.as_bytes());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(first.as_bytes());
    })
    .await?;
    let challenge = sasl_data(stream, SASL_CONTINUE).await?;
    let challenged = begun.challenged(&challenge).map_err(ConnectError::Scram)?;
    let derivation = challenged.derivation.clone();
    let keys = login.with.keys(derivation, login.hashing).await?;
    let (last, answered) = challenged.answer(&keys);
    send(stream, |body| body.extend_from_slice(last.as_bytes())).await?;
    let outcome = sasl_data(stream, SASL_FINAL).await?;
    answered.finish(&outcome).map_err(ConnectError::Scram)
}

const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The mechanism that is used, and what it is bound to. Whoever could have been bound and was not
/// offered it says so, which a node that did offer it takes for an attack (RFC 5802, section 6).
fn choose(
    mut offered: Reader<'_>,
    channel: &Channel,
) -> Result<(&'static str, Binding), ConnectError> {
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
            Ok((SCRAM_SHA_256_PLUS, Binding::EndPoint(end_point.clone())))
        }
        Channel::Encrypted(Some(_)) if plain => Ok((SCRAM_SHA_256, Binding::NotOffered)),
        Channel::Encrypted(None) | Channel::Plain if plain => {
            Ok((SCRAM_SHA_256, Binding::Impossible))
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
