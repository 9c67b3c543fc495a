//! `users` and `auth`.

use std::collections::HashMap;
use std::sync::Arc;

use super::policies::Layer;
use super::tls::ClientCertificates;
use crate::config::limits::NAME_BYTES;
use crate::config::raw::{Field, Misfit};
use crate::config::{AuthMethod, Secret, UserConfig};

/// The longest password, in bytes: far above what PostgreSQL's own tools read.
const PASSWORD_BYTES: usize = 1024;

/// One entry of `users:` with its overrides.
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: Secret,
    /// What it says about `routing` and `consistency`; `None` if nothing.
    pub(super) overrides: Option<Layer>,
}

/// `auth:`.
pub(super) fn auth_method(field: &Field<'_>, certificates: ClientCertificates) -> AuthMethod {
    const METHODS: [(&str, AuthMethod); 5] = [
        ("scram-sha-256", AuthMethod::ScramSha256),
        ("md5", AuthMethod::Md5),
        ("password", AuthMethod::Password),
        ("cert", AuthMethod::Certificate),
        ("trust", AuthMethod::Trust),
    ];
    let Some(section) = field.section() else {
        return AuthMethod::ScramSha256;
    };
    let method = section.field("method");
    let found = method.word(&METHODS);
    if found == Some(AuthMethod::Certificate) && certificates == ClientCertificates::Ignored {
        method.refuse(
            Misfit::new("needs verified client certificates")
                .hint("write client_tls: { mode: require, cert: ..., key: ..., client_ca: ... }"),
        );
    }
    for key in ["query", "mode"] {
        section
            .field(key)
            .not_built("leave it out and list the users under `users`");
    }
    section.finish();
    found.unwrap_or(AuthMethod::ScramSha256)
}

/// `users:`.
pub(super) fn users(field: Field<'_>, auth_method: AuthMethod) -> Vec<User> {
    let field = field.required("write users: [{ name: app, password: ... }]");
    let mut users: Vec<User> = Vec::new();
    let entries = field.list();
    if field.is_empty_collection() {
        field.refuse(Misfit::new("lists no user").hint("nobody could connect"));
    }
    for entry in &entries {
        let Some(user) = user(entry, auth_method) else {
            continue;
        };
        if users.iter().any(|other| other.name == user.name) {
            entry.refuse(Misfit::new("has a name that another user has"));
        } else {
            users.push(user);
        }
    }
    users
}

fn user(entry: &Field<'_>, auth_method: AuthMethod) -> Option<User> {
    let section = entry.section()?;
    let name = section
        .field("name")
        .required("the name of the role")
        .text(NAME_BYTES);
    let password = section.field("password");
    let password = match auth_method {
        AuthMethod::Trust | AuthMethod::Certificate if !password.is_present() => {
            Some(Secret::new(""))
        }
        AuthMethod::Trust
        | AuthMethod::Certificate
        | AuthMethod::ScramSha256
        | AuthMethod::Md5
        | AuthMethod::Password => secret(&password.required("pgweir logs in to the nodes with it")),
    };
    let overrides = Layer::read_of_user(&section);
    section.finish();
    Some(User {
        name: name?,
        // A missing one has been noted; the name still counts for what refers to it.
        password: password.unwrap_or_else(|| Secret::new("")),
        overrides,
    })
}

/// A plain password.
pub(super) fn secret(field: &Field<'_>) -> Option<Secret> {
    let text = field.text(PASSWORD_BYTES)?;
    if let Some(kind) = verifier_kind(&text) {
        field.refuse(
            Misfit::new(format!(
                "is {kind}, with which pgweir cannot log in to the nodes"
            ))
            .hint("write the password itself, or ${NAME} for an environment variable"),
        );
        return None;
    }
    Some(Secret::new(text))
}

/// What `pg_authid.rolpassword` holds instead of a password
/// (`get_password_type`, `src/backend/libpq/crypt.c`).
fn verifier_kind(text: &str) -> Option<&'static str> {
    const MD5_HASH_BYTES: usize = 35;

    let is_hash = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.starts_with("SCRAM-SHA-256$") {
        Some("a SCRAM verifier")
    } else if text.len() == MD5_HASH_BYTES && text.strip_prefix("md5").is_some_and(is_hash) {
        Some("an MD5 hash")
    } else {
        None
    }
}

/// The users as the configuration keeps them.
pub(super) fn by_name(users: Vec<User>) -> HashMap<String, Arc<UserConfig>> {
    let kept = users.into_iter().map(|user| {
        let config = UserConfig {
            name: user.name.clone(),
            password: user.password,
        };
        (user.name, Arc::new(config))
    });
    kept.collect()
}
