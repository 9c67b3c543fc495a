//! How a client proves who it is, without reading or writing a socket.
//!
//! Invariants:
//! * A role that does not exist costs the same messages and the same time as a wrong password, and
//!   ends in the same error; its salt is the same at every attempt, like a real one's.
//! * A login never derives a key from a password: each role's SCRAM verifier is derived once.
//! * Every message body is read with checked reads; passwords and keys are never printed.
//!
//! Must not decide which database a role may use.
//!
//! Messages: manual, "Message Flow" / "Start-up" and "SASL Authentication".

mod scram;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use pgwire::api::auth::md5pass::hash_md5_password;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use tokio::sync::{OnceCell, Semaphore};

use super::error::ProxyError;
use crate::config::{AuthMethod, Config, UserConfig};
use crate::limits::SCRAM_DERIVATIONS;
use crate::protocol::message::{Malformed, Reader, write_message};

use scram::{ScramChallenge, Verifier};

/// Codes of `AuthenticationRequest` (manual, "Message Formats").
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT: i32 = 3;
    pub(super) const MD5: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// The SASL mechanism that is always offered.
const SCRAM: &[u8] = b"SCRAM-SHA-256";

/// The one that is bound to an encrypted connection.
const SCRAM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// What the connection itself says of the client.
#[derive(Debug, Default)]
pub struct Channel<'a> {
    /// SCRAM that is bound to the connection; `None` if it is not encrypted or cannot be bound to.
    pub binding: Option<&'a ScramServerAuth>,
    /// The common name of the certificate that the client has shown and that has been verified:
    /// `None` without a certificate, `Some(None)` if it names nobody.
    pub certificate: Option<Option<String>>,
}

/// Who may log in and how; built from one configuration.
pub struct Authenticator {
    method: AuthMethod,
    roles: HashMap<String, Arc<Role>>,
    secrets: Arc<Secrets>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("method", &self.method)
            .field("roles", &self.roles.len())
            .finish_non_exhaustive()
    }
}

/// What one process keeps through all its configurations.
struct Secrets {
    /// Makes salts from names: secret, so that an outsider cannot compute them.
    salts: [RandomState; 2],
    /// Stands in for the verifier of a role that does not exist; nobody can prove to know it.
    mock: Verifier,
    derivations: Semaphore,
}

struct Role {
    user: Arc<UserConfig>,
    verifier: OnceCell<Arc<Verifier>>,
}

impl Authenticator {
    /// Reads roles and method from `config`; derives nothing yet.
    pub fn new(config: &Config) -> Self {
        let secrets = Arc::new(Secrets {
            salts: [RandomState::new(), RandomState::new()],
            mock: Verifier::mock(),
            derivations: Semaphore::new(SCRAM_DERIVATIONS),
        });
        Self::build(config, secrets, &HashMap::new())
    }

    /// The same for a new configuration: verifiers of roles whose password is unchanged stay.
    #[must_use]
    pub fn reloaded(&self, config: &Config) -> Self {
        Self::build(config, Arc::clone(&self.secrets), &self.roles)
    }

    fn build(config: &Config, secrets: Arc<Secrets>, old: &HashMap<String, Arc<Role>>) -> Self {
        let role = |(name, user): (&String, &Arc<UserConfig>)| {
            let verifier = old
                .get(name)
                .filter(|role| role.user.password == user.password)
                .map_or_else(OnceCell::new, |role| role.verifier.clone());
            let user = Arc::clone(user);
            (name.clone(), Arc::new(Role { user, verifier }))
        };
        Self {
            method: config.auth_method,
            roles: config.users.iter().map(role).collect(),
            secrets,
        }
    }

    /// Derives every verifier that is missing, so that no later login waits for one and the first
    /// login of a role takes no longer than a wrong guess. Runs for a few milliseconds of one
    /// blocking thread a role; may be dropped at any time.
    pub async fn warm(&self) {
        if self.method != AuthMethod::ScramSha256 {
            return;
        }
        for role in self.roles.values() {
            if let Err(error) = self.secrets.verifier(role).await {
                tracing::error!(%error, "could not derive a scram verifier");
                return;
            }
        }
    }

    /// Begins the exchange with a client that says it is `user`.
    ///
    /// # Errors
    /// [`ProxyError::UnknownRole`] where nobody is asked for anything, and a certificate that is
    /// missing or another role's.
    pub fn begin(&self, user: &str, channel: &Channel<'_>) -> Result<Progress, ProxyError> {
        let claim = Claim {
            user: user.to_owned(),
            role: self.roles.get(user).map(Arc::clone),
            secrets: Arc::clone(&self.secrets),
        };
        match self.method {
            AuthMethod::Trust => match claim.role {
                Some(role) => Ok(Progress::proved(&role, Vec::new())),
                None => Err(ProxyError::UnknownRole { user: claim.user }),
            },
            AuthMethod::Password => Ok(Progress::Ask {
                request: request(code::CLEARTEXT, b""),
                exchange: Exchange(State::Password(claim)),
            }),
            AuthMethod::Md5 => {
                let salt: [u8; 4] = rand::random();
                Ok(Progress::Ask {
                    request: request(code::MD5, &salt),
                    exchange: Exchange(State::Md5(claim, salt)),
                })
            }
            AuthMethod::ScramSha256 => Ok(Progress::Ask {
                request: request(code::SASL, &mechanisms(channel)),
                exchange: Exchange(State::SaslFirst(claim, channel.binding.cloned())),
            }),
            AuthMethod::Certificate => by_certificate(claim, channel),
        }
    }
}

impl Secrets {
    /// The salt of `user`'s verifier; the same for all its logins in this process.
    fn salt(&self, user: &str) -> Vec<u8> {
        self.salts
            .iter()
            .flat_map(|state| state.hash_one(user).to_be_bytes())
            .collect()
    }

    async fn verifier(&self, role: &Role) -> Result<Arc<Verifier>, ProxyError> {
        let derive = || async {
            // Never closed; a failure would be our own fault.
            let permit = self.derivations.acquire().await;
            let _permit = permit.map_err(|_| ProxyError::Internal)?;
            let salt = self.salt(&role.user.name);
            let user = Arc::clone(&role.user);
            tokio::task::spawn_blocking(move || Verifier::derive(&user.password, &salt))
                .await
                .ok()
                .flatten()
                .map(Arc::new)
                .ok_or(ProxyError::Internal)
        };
        role.verifier.get_or_try_init(derive).await.map(Arc::clone)
    }
}

/// Who the client says it is.
struct Claim {
    user: String,
    role: Option<Arc<Role>>,
    secrets: Arc<Secrets>,
}

impl Claim {
    fn failed(self) -> ProxyError {
        ProxyError::AuthenticationFailed { user: self.user }
    }

    /// The password that the client must know; something random for a role that does not exist.
    fn password(&self) -> &str {
        let role = self.role.as_ref();
        role.map_or(self.secrets.mock.text(), |role| role.user.password.expose())
    }

    /// Ends an exchange: `last` is there when the proof is right, and only a role that exists can
    /// have proved anything.
    fn judge(self, last: Option<Vec<u8>>) -> Result<Progress, ProxyError> {
        match (&self.role, last) {
            (Some(role), Some(last)) => Ok(Progress::proved(role, last)),
            (Some(_) | None, _) => Err(self.failed()),
        }
    }
}

/// Where the exchange stands.
#[must_use]
#[derive(Debug)]
pub enum Progress {
    /// Send `request`, and hand the client's answer to the exchange.
    Ask {
        /// A whole message.
        request: Vec<u8>,
        /// What judges the answer.
        exchange: Exchange,
    },
    /// The client is who it says.
    Proved {
        /// Who.
        user: Arc<UserConfig>,
        /// What is still to be sent, up to and with `AuthenticationOk`.
        last: Vec<u8>,
    },
}

impl Progress {
    fn proved(role: &Role, mut last: Vec<u8>) -> Self {
        last.extend(request(code::OK, b""));
        Self::Proved {
            user: Arc::clone(&role.user),
            last,
        }
    }
}

/// An exchange that waits for the client's next message.
pub struct Exchange(State);

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

enum State {
    Password(Claim),
    Md5(Claim, [u8; 4]),
    /// With what may be bound to.
    SaslFirst(Claim, Option<ScramServerAuth>),
    SaslFinal(Claim, Box<ScramChallenge>),
}

impl Exchange {
    /// Judges the body of a message of type `p`. Waits only when a role's verifier is derived for
    /// the first time.
    ///
    /// # Errors
    /// [`ProxyError::AuthenticationFailed`], or a protocol violation.
    pub async fn answer(self, body: &[u8]) -> Result<Progress, ProxyError> {
        match self.0 {
            State::Password(claim) => {
                let proved = same_bytes(password(body)?, claim.password().as_bytes());
                claim.judge(proved.then(Vec::new))
            }
            State::Md5(claim, salt) => {
                let expected = hash_md5_password(&claim.user, claim.password(), &salt);
                let proved = same_bytes(password(body)?, expected.as_bytes());
                claim.judge(proved.then(Vec::new))
            }
            State::SaslFirst(claim, binding) => sasl_first(claim, binding, body).await,
            State::SaslFinal(claim, challenge) => {
                let server_final = challenge.verify(body)?;
                let last = server_final.map(|text| request(code::SASL_FINAL, text.as_bytes()));
                claim.judge(last)
            }
        }
    }
}

/// Whether the certificate is the role's: its common name is the role's name, as PostgreSQL's `cert`
/// method without a map has it (`CheckCertAuth`, `src/backend/libpq/auth.c`).
fn by_certificate(claim: Claim, channel: &Channel<'_>) -> Result<Progress, ProxyError> {
    let Some(name) = &channel.certificate else {
        return Err(ProxyError::CertificateRequired);
    };
    match claim.role {
        Some(role) if name.as_ref() == Some(&claim.user) => Ok(Progress::proved(&role, Vec::new())),
        Some(_) | None => Err(ProxyError::CertificateRefused { user: claim.user }),
    }
}

/// The names of the mechanisms, the best first.
fn mechanisms(channel: &Channel<'_>) -> Vec<u8> {
    match channel.binding {
        Some(_) => [SCRAM_PLUS, b"\0", SCRAM, b"\0\0"].concat(),
        None => [SCRAM, b"\0\0"].concat(),
    }
}

async fn sasl_first(
    claim: Claim,
    binding: Option<ScramServerAuth>,
    body: &[u8],
) -> Result<Progress, ProxyError> {
    let client_first = sasl_initial_response(body, binding.as_ref())?;
    // The same steps for both: what differs is only whose keys are copied.
    let salt = claim.secrets.salt(&claim.user);
    let secret = match &claim.role {
        Some(role) => claim.secrets.verifier(role).await?.secret(salt),
        None => claim.secrets.mock.secret(salt),
    };
    let (server_first, challenge) =
        ScramChallenge::new(&binding.unwrap_or_default(), client_first, secret)?;
    Ok(Progress::Ask {
        request: request(code::SASL_CONTINUE, server_first.as_bytes()),
        exchange: Exchange(State::SaslFinal(claim, Box::new(challenge))),
    })
}

/// The client-first message of a `SASLInitialResponse` for a mechanism that is offered. It must say
/// that the channel is bound (`p=`) with the one mechanism and must not with the other; what it says
/// besides is judged with the rest of the message.
fn sasl_initial_response<'a>(
    body: &'a [u8],
    binding: Option<&ScramServerAuth>,
) -> Result<&'a [u8], ProxyError> {
    const INVALID: ProxyError =
        ProxyError::ProtocolViolation("client selected an invalid SASL authentication mechanism");
    let mut reader = Reader::new(body);
    let bound = match (reader.string()?, binding) {
        (name, _) if name == SCRAM => false,
        (name, Some(_)) if name == SCRAM_PLUS => true,
        _ => return Err(INVALID),
    };
    // -1 means that there is no response; SCRAM always has one.
    let length = usize::try_from(reader.int32()?).map_err(|_| Malformed)?;
    let response = reader.bytes(length)?;
    if !reader.rest().is_empty() {
        Err(Malformed.into())
    } else if response.starts_with(b"p=") == bound {
        Ok(response)
    } else {
        Err(scram::MALFORMED)
    }
}

/// The text of a `PasswordMessage`.
fn password(body: &[u8]) -> Result<&[u8], ProxyError> {
    let mut reader = Reader::new(body);
    let text = reader.string()?;
    if reader.rest().is_empty() {
        Ok(text)
    } else {
        Err(ProxyError::ProtocolViolation(
            "invalid password packet size",
        ))
    }
}

/// One `AuthenticationRequest`.
fn request(code: i32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, b'R', |body| {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(payload);
    });
    out
}

/// Compares in a time that depends on the length of `given` only.
pub(super) fn same_bytes(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (at, byte) in given.iter().enumerate() {
        let other = expected.get(at).copied().unwrap_or(0);
        difference = std::hint::black_box(difference | (byte ^ other));
    }
    difference == 0
}

#[cfg(test)]
mod tests;
