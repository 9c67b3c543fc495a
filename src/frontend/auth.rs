//! How a client proves who it is, without reading or writing a socket.
//!
//! Invariants:
//! * A role that does not exist costs the same messages and the same time as a wrong password, and
//!   ends in the same error; its salt is the same at every attempt, like a real one's. That holds for
//!   names that are looked up on the database too; a name that the configuration has is found sooner.
//! * What takes milliseconds runs on the threads of [`Hashing`], and each listed role's SCRAM verifier
//!   is derived once.
//! * Every message body is read with checked reads; passwords and keys are never printed.
//!
//! Must not decide which database a role may use.
//!
//! Messages: manual, "Message Flow" / "Start-up" and "SASL Authentication".

mod claim;
mod lookups;
mod roles;
mod scram;

use std::collections::HashMap;
use std::sync::Arc;

use pgwire::api::auth::sasl::scram::ScramServerAuth;
use tokio::time::Instant;

use super::error::ProxyError;
use crate::config::{AuthMethod, Config, RoleLookup, UserPassword};
use crate::credential::hashing::Hashing;
use crate::protocol::message::{Malformed, Reader, write_message};

use claim::{Candidate, Claim, PasswordCheck, Rules, Secrets, Standing};
use lookups::FoundRoles;
pub use lookups::RoleSource;
use roles::Role;
pub use roles::SessionUser;
use scram::ScramChallenge;

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

/// Who asks to be let in.
#[derive(Debug)]
pub struct Applicant<'a> {
    /// Who it says it is.
    pub user: &'a str,
    /// What the connection says of it.
    pub channel: &'a Channel<'a>,
    /// Where its role is found if the configuration does not have it.
    pub source: Option<RoleSource>,
    /// When it must have proved itself.
    pub deadline: Instant,
}

/// Who may log in and how; built from one configuration.
pub struct Authenticator {
    method: AuthMethod,
    roles: HashMap<String, Arc<Role>>,
    rules: Arc<Rules>,
    /// How the roles were looked up, by cluster.
    asked: Vec<(Arc<str>, Option<RoleLookup>)>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("method", &self.method)
            .field("roles", &self.roles.len())
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Reads roles and method from `config`; derives nothing yet. `hashing` is for logins alone.
    pub fn new(config: &Config, hashing: Hashing) -> Self {
        let secrets = Arc::new(Secrets::new(hashing));
        let found = Arc::new(FoundRoles::new(config.auth_cache));
        Self::build(config, (secrets, found), &HashMap::new())
    }

    /// The same for a new configuration: verifiers of roles whose password is unchanged stay, and so
    /// do roles that were looked up in the same way.
    #[must_use]
    pub fn reloaded(&self, config: &Config) -> Self {
        let same = self.asked == asked(config) && self.rules.found.life() == config.auth_cache;
        let found = if same {
            Arc::clone(&self.rules.found)
        } else {
            Arc::new(FoundRoles::new(config.auth_cache))
        };
        let secrets = Arc::clone(&self.rules.secrets);
        Self::build(config, (secrets, found), &self.roles)
    }

    fn build(
        config: &Config,
        (secrets, found): (Arc<Secrets>, Arc<FoundRoles>),
        old: &HashMap<String, Arc<Role>>,
    ) -> Self {
        let asked = asked(config);
        let mut passwords = PasswordCheck::Compared;
        if asked.iter().any(|(_, lookup)| lookup.is_some()) {
            passwords = PasswordCheck::Hashed;
        }
        for user in config.users.values() {
            if let UserPassword::Verifier(verifier) = &user.password {
                secrets.note_verifier(verifier);
                passwords = PasswordCheck::Hashed;
            }
        }
        let users = config.users.iter();
        let roles = users.map(|(name, user)| {
            let role = Role::listed(user, config.auth_mode, old.get(name));
            (name.clone(), role)
        });
        Self {
            method: config.auth_method,
            roles: roles.collect(),
            rules: Arc::new(Rules {
                secrets,
                found,
                passwords,
            }),
            asked,
        }
    }

    /// Derives every verifier that is missing, so that no later login waits for one and the first
    /// login of a role takes no longer than a wrong guess. Takes a few milliseconds a role; may be
    /// dropped at any time.
    pub async fn warm(&self) {
        let needed = match (self.method, self.rules.passwords) {
            (AuthMethod::ScramSha256, _) | (AuthMethod::Password, PasswordCheck::Hashed) => true,
            (AuthMethod::Password, PasswordCheck::Compared)
            | (AuthMethod::Md5 | AuthMethod::Certificate | AuthMethod::Trust, _) => false,
        };
        if !needed {
            return;
        }
        for role in self.roles.values() {
            if let Err(error) = self.rules.secrets.verifier(role).await {
                tracing::error!(%error, "could not derive a scram verifier");
                return;
            }
        }
    }

    /// Begins the exchange with a client.
    ///
    /// # Errors
    /// [`ProxyError::UnknownRole`] where nobody is asked for anything, and a certificate that is
    /// missing or another role's.
    pub fn begin(&self, applicant: Applicant<'_>) -> Result<Progress, ProxyError> {
        let Applicant { user, channel, .. } = applicant;
        let listed = self.roles.get(user).map(Arc::clone);
        let claim = Claim {
            user: user.to_owned(),
            standing: match (listed, applicant.source) {
                (Some(role), _) => Standing::Listed(role),
                (None, Some(source)) => Standing::ToBeFound(source),
                (None, None) => Standing::Nobody,
            },
            deadline: applicant.deadline,
            rules: Arc::clone(&self.rules),
        };
        match self.method {
            AuthMethod::Trust => match claim.standing {
                Standing::Listed(role) => Ok(Progress::proved(&role, Vec::new())),
                Standing::ToBeFound(_) | Standing::Nobody => {
                    Err(ProxyError::UnknownRole { user: claim.user })
                }
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

/// How roles are looked up, by cluster.
fn asked(config: &Config) -> Vec<(Arc<str>, Option<RoleLookup>)> {
    let clusters = config.clusters.iter();
    clusters
        .map(|cluster| (Arc::clone(&cluster.name), cluster.role_lookup.clone()))
        .collect()
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
        user: Arc<SessionUser>,
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
    SaslFinal(Claim, Candidate, Box<ScramChallenge>),
}

impl Exchange {
    /// Judges the body of a message of type `p`. Waits when something is hashed or a role is looked
    /// up.
    ///
    /// # Errors
    /// [`ProxyError::AuthenticationFailed`], a protocol violation, or that it cannot be judged now.
    pub async fn answer(self, body: &[u8]) -> Result<Progress, ProxyError> {
        match self.0 {
            State::Password(claim) => {
                let given = password(body)?;
                let mut candidate = claim.candidate().await?;
                let mut proved = claim.is_password(&candidate, given).await?;
                if !proved && let Some(changed) = claim.changed(&candidate).await? {
                    candidate = changed;
                    proved = claim.is_password(&candidate, given).await?;
                }
                claim.judge(&candidate, proved.then(Vec::new))
            }
            State::Md5(claim, salt) => {
                let answer = (password(body)?, salt);
                let mut candidate = claim.candidate().await?;
                let mut proved = claim.is_md5_answer(&candidate, answer);
                if !proved && let Some(changed) = claim.changed(&candidate).await? {
                    candidate = changed;
                    proved = claim.is_md5_answer(&candidate, answer);
                }
                claim.judge(&candidate, proved.then(Vec::new))
            }
            State::SaslFirst(claim, binding) => sasl_first(claim, binding, body).await,
            State::SaslFinal(claim, candidate, challenge) => {
                let last = challenge.verify(body)?.map(|(server_final, keys)| {
                    if let Some(role) = &candidate.role {
                        role.proved_keys(keys);
                    }
                    request(code::SASL_FINAL, server_final.as_bytes())
                });
                claim.judge(&candidate, last)
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
    match claim.standing {
        Standing::Listed(role) if name.as_ref() == Some(&claim.user) => {
            Ok(Progress::proved(&role, Vec::new()))
        }
        Standing::Listed(_) | Standing::ToBeFound(_) | Standing::Nobody => {
            Err(ProxyError::CertificateRefused { user: claim.user })
        }
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
    scram::check_client_first(client_first)?;
    let candidate = claim.candidate().await?;
    // The same steps for all: what differs is only whose keys are copied.
    let verifier = claim.verifier(&candidate).await?;
    let binding = binding.unwrap_or_default();
    let (server_first, challenge) = ScramChallenge::new(&binding, client_first, verifier)?;
    Ok(Progress::Ask {
        request: request(code::SASL_CONTINUE, server_first.as_bytes()),
        exchange: Exchange(State::SaslFinal(claim, candidate, Box::new(challenge))),
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

#[cfg(test)]
mod tests;
