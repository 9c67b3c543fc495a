//! One role as far as letting it in goes, wherever it was found.

use std::fmt;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::backend::login::{NodeLogin, Proof};
use crate::config::{AuthMode, Secret, UserConfig, UserPassword};
use crate::credential::scram::{Keys, Verifier};
use crate::credential::{Md5Hash, StoredPassword};

/// The role of a session.
#[derive(Debug)]
pub struct SessionUser {
    /// Its name, for the client and for the nodes.
    pub name: String,
    /// What its server connections are opened with.
    pub login: Arc<NodeLogin>,
}

/// One role.
pub(super) struct Role {
    pub(super) user: Arc<SessionUser>,
    pub(super) password: RolePassword,
    pub(super) keys: KeyUse,
    /// Derived from a plain password.
    pub(super) verifier: OnceCell<Arc<Verifier>>,
}

/// What a client must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RolePassword {
    /// Nothing that it could prove.
    None,
    /// The password itself.
    Plain(Secret),
    /// What fits this.
    Stored(StoredPassword),
}

/// What becomes of what a client proves itself with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// It is forgotten.
    Forgotten,
    /// The role's server connections are opened with it.
    Kept,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Role({})", self.user.name)
    }
}

impl Role {
    /// A role of the file; `old` is the same one of the configuration before. Its sessions go on
    /// with the new password.
    pub(super) fn listed(user: &UserConfig, mode: AuthMode, old: Option<&Arc<Self>>) -> Arc<Self> {
        let password = match &user.password {
            UserPassword::None => RolePassword::None,
            UserPassword::Plain(password) => RolePassword::Plain(password.clone()),
            UserPassword::Verifier(verifier) => {
                RolePassword::Stored(StoredPassword::Scram(Arc::clone(verifier)))
            }
        };
        let keys = match (&user.server_password, mode) {
            (None, AuthMode::Passthrough) => KeyUse::Kept,
            (Some(_), _) | (None, AuthMode::Stored) => KeyUse::Forgotten,
        };
        let known = old.filter(|old| old.password == password);
        let verifier = known.map_or_else(OnceCell::new, |old| old.verifier.clone());
        let session_user = match old {
            Some(old) => Arc::clone(&old.user),
            None => Arc::new(SessionUser {
                name: user.name.clone(),
                login: Arc::new(NodeLogin::new(Proof::Nothing)),
            }),
        };
        match (&user.server_password, keys) {
            (Some(password), _) => session_user.login.follow(password),
            // The next client brings the keys, if its sessions do not have the right ones.
            (None, KeyUse::Kept) => {}
            (None, KeyUse::Forgotten) => session_user.login.replace(Proof::Nothing),
        }
        Arc::new(Self {
            user: session_user,
            password,
            keys,
            verifier,
        })
    }

    /// A role that the database knows; `old` is what was found before.
    pub(super) fn found(name: &str, stored: StoredPassword, old: Option<&Arc<Self>>) -> Arc<Self> {
        let user = match old {
            Some(old) => Arc::clone(&old.user),
            None => Arc::new(SessionUser {
                name: name.to_owned(),
                login: Arc::new(NodeLogin::new(Proof::Nothing)),
            }),
        };
        Arc::new(Self {
            user,
            password: RolePassword::Stored(stored),
            keys: KeyUse::Kept,
            verifier: OnceCell::new(),
        })
    }

    /// The MD5 hash that a client must know the password of.
    pub(super) fn md5(&self) -> Option<Md5Hash> {
        match &self.password {
            RolePassword::Plain(password) => {
                Some(Md5Hash::of(&self.user.name, password.expose().as_bytes()))
            }
            RolePassword::Stored(StoredPassword::Md5(hash)) => Some(hash.clone()),
            RolePassword::None | RolePassword::Stored(StoredPassword::Scram(_)) => None,
        }
    }

    /// A client has proved to have these keys.
    pub(super) fn proved_keys(&self, keys: Keys) {
        match self.keys {
            KeyUse::Kept => self.user.login.replace(Proof::Keys(Arc::new(keys))),
            KeyUse::Forgotten => {}
        }
    }

    /// A client has proved to know the password of this hash.
    pub(super) fn proved_md5(&self, hash: Md5Hash) {
        match (self.keys, &self.password) {
            (KeyUse::Kept, RolePassword::Stored(_)) => self.user.login.replace(Proof::Md5(hash)),
            (KeyUse::Kept | KeyUse::Forgotten, _) => {}
        }
    }
}
