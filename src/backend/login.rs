//! What one role logs in to the nodes with, and what has become of it.
//!
//! Invariants:
//! * Whoever has a role's [`NodeLogin`] has proved to be that role, so its keys open connections for
//!   that role only: a pool belongs to one role of one cluster.
//! * Keys are derived from a password once, not for each connection.
//! * Nothing here is printed or written anywhere.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Secret;
use crate::credential::Md5Hash;
use crate::credential::hashing::Hashing;
use crate::credential::scram::{Derivation, Keys};

use super::error::ConnectError;

/// What proves to a node who we are.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Nothing: the node has to trust us.
    Nothing,
    /// The password; keys are derived from it.
    Password(Secret),
    /// The keys of a client that has proved to know the password.
    Keys(Arc<Keys>),
    /// The MD5 hash that a client has proved to know the password of.
    Md5(Md5Hash),
}

/// What one role logs in to the nodes of a cluster with; shared by its sessions.
pub struct NodeLogin {
    state: Mutex<State>,
    refused: AtomicBool,
}

struct State {
    proof: Proof,
    /// What was derived from the password last.
    derived: Option<Arc<Keys>>,
}

impl fmt::Debug for NodeLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeLogin")
    }
}

impl NodeLogin {
    /// A login with `proof`.
    pub fn new(proof: Proof) -> Self {
        Self {
            state: Mutex::new(State {
                proof,
                derived: None,
            }),
            refused: AtomicBool::new(false),
        }
    }

    /// A login with a password.
    pub fn with_password(password: Secret) -> Self {
        Self::new(Proof::Password(password))
    }

    /// From now on connections are opened with `proof`: the newest is the right one.
    pub fn replace(&self, proof: Proof) {
        let mut state = self.lock();
        *state = State {
            proof,
            derived: None,
        };
        self.refused.store(false, Ordering::Release);
    }

    /// The same with a password, unless it is the one in use.
    pub fn follow(&self, password: &Secret) {
        if !matches!(self.proof(), Proof::Password(current) if current == *password) {
            self.replace(Proof::Password(password.clone()));
        }
    }

    /// Whether a node has refused it since the last [`Self::replace`].
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Notes why a connection could not be opened.
    pub(super) fn note(&self, error: &ConnectError) {
        if error.is_disbelief() {
            self.refused.store(true, Ordering::Release);
        }
    }

    pub(super) fn proof(&self) -> Proof {
        self.lock().proof.clone()
    }

    /// The keys for a node that keeps a verifier with `derivation`.
    ///
    /// # Errors
    /// When there are none, or they are those of another verifier.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn keys(
        &self,
        derivation: Derivation,
        hashing: &Hashing,
    ) -> Result<Arc<Keys>, ConnectError> {
        let password = match self.proof() {
            Proof::Nothing | Proof::Md5(_) => return Err(ConnectError::NoPassword),
            Proof::Keys(keys) if *keys.derivation() == derivation => return Ok(keys),
            Proof::Keys(_) => return Err(ConnectError::KeysOutdated),
            Proof::Password(password) => password,
        };
        let derived = self.lock().derived.clone();
        if let Some(derived) = derived.filter(|keys| *keys.derivation() == derivation) {
            return Ok(derived);
        }
        let hashed = password.clone();
        let derive = move || Keys::derive(hashed.expose(), derivation);
        let derived = hashing.run(derive).await.map_err(ConnectError::Hashing)?;
        let derived = Arc::new(derived.ok_or(ConnectError::TooManyIterations)?);
        let mut state = self.lock();
        // The password may have been replaced meanwhile.
        if matches!(&state.proof, Proof::Password(current) if *current == password) {
            state.derived = Some(Arc::clone(&derived));
        }
        Ok(derived)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation(salt: u8) -> Derivation {
        Derivation {
            salt: [salt; 16].into(),
            iterations: 10,
        }
    }

    #[tokio::test]
    async fn keys_of_a_password_are_derived_once_for_each_verifier() {
        let hashing = Hashing::start().unwrap();
        let login = NodeLogin::with_password(Secret::new("secret"));
        let first = login.keys(derivation(1), &hashing).await.unwrap();
        let again = login.keys(derivation(1), &hashing).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = login.keys(derivation(2), &hashing).await.unwrap();
        assert_ne!(first, other);
        login.replace(Proof::Password(Secret::new("changed")));
        let changed = login.keys(derivation(2), &hashing).await.unwrap();
        assert_ne!(changed, other);
    }

    #[tokio::test]
    async fn a_clients_keys_are_used_for_their_own_verifier_only() {
        let hashing = Hashing::start().unwrap();
        let keys = Arc::new(Keys::derive("secret", derivation(1)).unwrap());
        let login = NodeLogin::new(Proof::Keys(Arc::clone(&keys)));
        let found = login.keys(derivation(1), &hashing).await.unwrap();
        assert!(Arc::ptr_eq(&found, &keys));
        let other = login.keys(derivation(2), &hashing).await;
        assert!(matches!(other, Err(ConnectError::KeysOutdated)));
        login.replace(Proof::Nothing);
        let none = login.keys(derivation(1), &hashing).await;
        assert!(matches!(none, Err(ConnectError::NoPassword)));
    }

    #[test]
    fn a_new_proof_has_not_been_refused() {
        let login = NodeLogin::new(Proof::Nothing);
        login.note(&ConnectError::KeysOutdated);
        assert!(login.is_refused());
        login.replace(Proof::Password(Secret::new("secret")));
        assert!(!login.is_refused());
        assert_eq!(format!("{login:?}"), "NodeLogin");
    }
}
