//! Who a client says it is, and whether what it sends proves that.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use tokio::time::{Instant, timeout_at};

use super::Progress;
use super::lookups::{Found, FoundRoles, Origin, RoleSource};
use super::roles::{Role, RolePassword};
use crate::credential::hashing::{Hashing, HashingError};
use crate::credential::scram::{Derivation, Keys, USUAL_ITERATIONS, Verifier};
use crate::credential::{Md5Hash, StoredPassword, same_bytes};
use crate::frontend::error::ProxyError;

/// What the exchanges of one configuration share.
pub(super) struct Rules {
    pub(super) secrets: Arc<Secrets>,
    pub(super) found: Arc<FoundRoles>,
    pub(super) passwords: PasswordCheck,
}

/// How a password that a client has sent is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PasswordCheck {
    /// It is compared: every role's password is known.
    Compared,
    /// It is hashed: of some roles only a verifier is known, and no role is to stand out by the time
    /// that takes.
    Hashed,
}

/// What one process keeps through all its configurations.
pub(super) struct Secrets {
    /// Makes salts from names: secret, so that an outsider cannot compute them.
    salts: [RandomState; 2],
    /// Stands in for the password of a role that does not exist.
    no_password: String,
    /// The iterations of the first verifier that was seen: what a role that does not exist has.
    iterations: OnceLock<u32>,
    hashing: Hashing,
}

impl Secrets {
    /// New ones; `hashing` is for logins alone.
    pub(super) fn new(hashing: Hashing) -> Self {
        Self {
            salts: [RandomState::new(), RandomState::new()],
            no_password: format!("{:032x}", rand::random::<u128>()),
            iterations: OnceLock::new(),
            hashing,
        }
    }

    pub(super) fn note_verifier(&self, verifier: &Verifier) {
        // The first one stays.
        let _ = self.iterations.set(verifier.derivation().iterations);
    }

    /// How the verifier of `user` is derived if nothing else is known of it; the same for all its
    /// logins in this process.
    pub(super) fn derivation(&self, user: &str) -> Derivation {
        let halves = self.salts.iter();
        let salt = halves.flat_map(|state| state.hash_one(user).to_be_bytes());
        Derivation {
            salt: salt.collect(),
            iterations: *self.iterations.get().unwrap_or(&USUAL_ITERATIONS),
        }
    }

    /// What a client must fit that says it is `role`; nothing does if there is no such verifier.
    pub(super) async fn verifier(&self, role: &Role) -> Result<Arc<Verifier>, ProxyError> {
        let derivation = self.derivation(&role.user.name);
        match &role.password {
            RolePassword::Stored(StoredPassword::Scram(verifier)) => Ok(Arc::clone(verifier)),
            RolePassword::None | RolePassword::Stored(StoredPassword::Md5(_)) => {
                Ok(Arc::new(Verifier::mock(derivation)))
            }
            RolePassword::Plain(password) => {
                let password = password.clone();
                let derive = || async {
                    let work = move || Keys::derive(password.expose(), derivation);
                    let keys = self.hashing.run(work).await.map_err(hashing_refusal)?;
                    let keys = keys.ok_or(ProxyError::Internal)?;
                    Ok(Arc::new(keys.verifier()))
                };
                role.verifier.get_or_try_init(derive).await.map(Arc::clone)
            }
        }
    }
}

fn hashing_refusal(error: HashingError) -> ProxyError {
    match error {
        HashingError::Saturated => ProxyError::TooManyLogins,
        HashingError::Lost => ProxyError::Internal,
    }
}

/// Who the client says it is.
pub(super) struct Claim {
    pub(super) user: String,
    pub(super) standing: Standing,
    pub(super) deadline: Instant,
    pub(super) rules: Arc<Rules>,
}

/// What is known of it before anything is asked.
pub(super) enum Standing {
    Listed(Arc<Role>),
    ToBeFound(RoleSource),
    Nobody,
}

/// The role that it may be.
pub(super) struct Candidate {
    pub(super) role: Option<Arc<Role>>,
    /// If it was looked up, or there was nothing to find.
    found: Option<Found>,
}

impl Claim {
    pub(super) async fn candidate(&self) -> Result<Candidate, ProxyError> {
        let (role, found) = match &self.standing {
            Standing::Listed(role) => (Some(Arc::clone(role)), None),
            Standing::Nobody => (None, None),
            Standing::ToBeFound(source) => {
                let found = self.rules.found.find(source, &self.user).await;
                let found = found.map_err(|_| ProxyError::RolesUnavailable)?;
                (found.role.clone(), Some(found))
            }
        };
        if let Some(role) = &role
            && let RolePassword::Stored(StoredPassword::Scram(verifier)) = &role.password
        {
            self.rules.secrets.note_verifier(verifier);
        }
        Ok(Candidate { role, found })
    }

    /// The role as the database knows it now, if that was not asked just before and has changed.
    pub(super) async fn changed(
        &self,
        candidate: &Candidate,
    ) -> Result<Option<Candidate>, ProxyError> {
        let Some(found) = &candidate.found else {
            return Ok(None);
        };
        if found.origin == Origin::Asked {
            return Ok(None);
        }
        self.rules.found.note_failed(found);
        let password = |of: &Candidate| of.role.as_ref().map(|role| role.password.clone());
        let now = self.candidate().await?;
        Ok((password(&now) != password(candidate)).then_some(now))
    }

    /// What a client must fit that says it is this role.
    pub(super) async fn verifier(
        &self,
        candidate: &Candidate,
    ) -> Result<Arc<Verifier>, ProxyError> {
        let secrets = &self.rules.secrets;
        match &candidate.role {
            None => Ok(Arc::new(Verifier::mock(secrets.derivation(&self.user)))),
            Some(role) => self.before_deadline(secrets.verifier(role)).await,
        }
    }

    /// Waits for what the hashing threads do, as long as the client has time.
    async fn before_deadline<T>(
        &self,
        hashed: impl Future<Output = Result<T, ProxyError>>,
    ) -> Result<T, ProxyError> {
        let done = timeout_at(self.deadline, hashed).await;
        done.unwrap_or(Err(ProxyError::TooManyLogins))
    }

    /// Whether `given` is the candidate's password.
    pub(super) async fn is_password(
        &self,
        candidate: &Candidate,
        given: &[u8],
    ) -> Result<bool, ProxyError> {
        let secrets = &self.rules.secrets;
        let role = candidate.role.as_deref();
        if self.rules.passwords == PasswordCheck::Compared {
            let expected = match role.map(|role| &role.password) {
                Some(RolePassword::Plain(password)) => password.expose(),
                Some(RolePassword::None | RolePassword::Stored(_)) | None => &secrets.no_password,
            };
            return Ok(same_bytes(given, expected.as_bytes()));
        }
        let verifier = self.verifier(candidate).await?;
        let password = String::from_utf8_lossy(given).into_owned();
        let derivation = verifier.derivation().clone();
        let work = move || Keys::derive(&password, derivation);
        let hashed = async { secrets.hashing.run(work).await.map_err(hashing_refusal) };
        let Some(keys) = self.before_deadline(hashed).await? else {
            tracing::error!("a role's verifier has more iterations than are computed here");
            return Err(ProxyError::Internal);
        };
        let Some(role) = role else { return Ok(false) };
        if let RolePassword::Stored(StoredPassword::Md5(hash)) = &role.password {
            let is_it = Md5Hash::of(&self.user, given).is(hash);
            if is_it {
                role.proved_md5(hash.clone());
            }
            return Ok(is_it);
        }
        let is_it = verifier.accepts(&keys);
        if is_it {
            role.proved_keys(keys);
        }
        Ok(is_it)
    }

    /// Whether `given` answers the challenge with `salt`.
    pub(super) fn is_md5_answer(
        &self,
        candidate: &Candidate,
        (given, salt): (&[u8], [u8; 4]),
    ) -> bool {
        let role = candidate.role.as_deref();
        let known = role.and_then(Role::md5);
        let no_password = self.rules.secrets.no_password.as_bytes();
        let hash = known
            .clone()
            .unwrap_or_else(|| Md5Hash::of(&self.user, no_password));
        let is_it = same_bytes(given, hash.answer(salt).as_bytes()) && known.is_some();
        if let (true, Some(role)) = (is_it, role) {
            role.proved_md5(hash);
        }
        is_it
    }

    /// Ends an exchange: `last` is there when the proof is right, and only a role that exists can
    /// have proved anything.
    pub(super) fn judge(
        self,
        candidate: &Candidate,
        last: Option<Vec<u8>>,
    ) -> Result<Progress, ProxyError> {
        let found = candidate.found.as_ref();
        if let (Some(role), Some(last)) = (&candidate.role, last) {
            if let Some(found) = found {
                found.note_proved();
            }
            return Ok(Progress::proved(role, last));
        }
        if let Some(found) = found {
            self.rules.found.note_failed(found);
        }
        Err(ProxyError::AuthenticationFailed { user: self.user })
    }
}
