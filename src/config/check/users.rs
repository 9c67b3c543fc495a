//! `users` and `auth`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::policies::Layer;
use super::tls::ClientCertificates;
use crate::config::limits::{NAME_BYTES, QUERY_BYTES};
use crate::config::raw::{Field, Misfit, Section};
use crate::config::{AuthMethod, AuthMode, Secret, UserConfig, UserPassword};
use crate::credential::scram::Verifier;

/// The longest password, in bytes: far above what PostgreSQL's own tools read.
const PASSWORD_BYTES: usize = 1024;

/// How long a looked-up role may be remembered.
const CACHE_TIMES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3_600);

/// PgBouncer's default query, without roles that have expired.
const DEFAULT_QUERY: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid \
    WHERE rolname = $1 AND rolcanlogin \
    AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())";

/// One entry of `users:` with its overrides.
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: UserPassword,
    /// What pgweir logs in to the nodes with.
    pub(super) server_password: Option<Secret>,
    /// What it says about `routing` and `consistency`; `None` if nothing.
    pub(super) overrides: Option<Layer>,
}

/// `auth:`.
pub(super) struct Auth {
    pub(super) method: AuthMethod,
    pub(super) mode: AuthMode,
    pub(super) cache: Duration,
    /// What is asked for users that are not listed; `None` if nothing is.
    pub(super) lookup: Option<Lookup>,
}

/// `auth.query` and `auth.lookup`: what is not said comes from the monitor of the cluster.
pub(super) struct Lookup {
    pub(super) query: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
}

/// Whether there is a `users:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Some,
    None,
}

/// Whether users must be looked up, as nothing else says who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Yes,
    No,
}

/// `auth:`.
pub(super) fn auth(field: &Field<'_>, certificates: ClientCertificates, named: Named) -> Auth {
    let mut auth = Auth {
        method: AuthMethod::ScramSha256,
        mode: AuthMode::Stored,
        cache: Duration::from_secs(10),
        lookup: None,
    };
    let Some(section) = field.section() else {
        return auth;
    };
    if let Some(method) = method(&section.field("method"), certificates) {
        auth.method = method;
    }
    let mode = section.field("mode");
    let modes = [
        ("stored", AuthMode::Stored),
        ("passthrough", AuthMode::Passthrough),
    ];
    if let Some(found) = mode.word(&modes) {
        auth.mode = found;
    }
    let needed = match (auth.mode, named) {
        (AuthMode::Passthrough, Named::None) => Needed::Yes,
        (AuthMode::Passthrough, Named::Some) | (AuthMode::Stored, _) => Needed::No,
    };
    auth.lookup = lookup(&section, needed);
    if let Some(cache) = section.field("cache").duration(CACHE_TIMES) {
        auth.cache = cache;
    }
    if !proves_a_password(auth.method) {
        for key in ["query", "lookup", "mode"] {
            let field = section.field(key);
            if field.is_present() && !field.is_word("stored") {
                field.refuse(
                    Misfit::new("needs clients that prove a password")
                        .hint("write method: scram-sha-256, md5 or password"),
                );
            }
        }
    }
    section.finish();
    auth
}

fn method(field: &Field<'_>, certificates: ClientCertificates) -> Option<AuthMethod> {
    const METHODS: [(&str, AuthMethod); 5] = [
        ("scram-sha-256", AuthMethod::ScramSha256),
        ("md5", AuthMethod::Md5),
        ("password", AuthMethod::Password),
        ("cert", AuthMethod::Certificate),
        ("trust", AuthMethod::Trust),
    ];
    let found = field.word(&METHODS);
    if found == Some(AuthMethod::Certificate) && certificates == ClientCertificates::Ignored {
        field.refuse(
            Misfit::new("needs verified client certificates")
                .hint("write client_tls: { mode: require, cert: ..., key: ..., client_ca: ... }"),
        );
    }
    found
}

const fn proves_a_password(method: AuthMethod) -> bool {
    match method {
        AuthMethod::ScramSha256 | AuthMethod::Md5 | AuthMethod::Password => true,
        AuthMethod::Certificate | AuthMethod::Trust => false,
    }
}

/// `auth.query` and `auth.lookup`; there is one too if it is `needed`.
fn lookup(auth: &Section<'_>, needed: Needed) -> Option<Lookup> {
    let (query, login) = (auth.field("query"), auth.field("lookup"));
    if needed == Needed::No && !query.is_present() && !login.is_present() {
        return None;
    }
    let text = query.text(QUERY_BYTES);
    if let Some(text) = &text
        && !text.contains("$1")
    {
        query.refuse(
            Misfit::new("does not ask for a name").hint(format!("such as: {DEFAULT_QUERY}")),
        );
    }
    let mut lookup = Lookup {
        query: text.unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
        user: None,
        password: None,
        database: None,
    };
    if let Some(section) = login.section() {
        lookup.user = section.field("user").text(NAME_BYTES);
        let password = section.field("password");
        lookup.password = secret(&password);
        if lookup.user.is_none() && password.is_present() {
            password.refuse(Misfit::new("has no `user` beside it"));
        }
        lookup.database = section.field("database").text(NAME_BYTES);
        section.finish();
    }
    Some(lookup)
}

/// `users:`.
pub(super) fn users(field: Field<'_>, auth: &Auth) -> Vec<User> {
    let field = match &auth.lookup {
        Some(_) => field,
        None => field.required("write users: [{ name: app, password: ... }]"),
    };
    let mut users: Vec<User> = Vec::new();
    let entries = field.list();
    if field.is_empty_collection() && auth.lookup.is_none() {
        field.refuse(Misfit::new("lists no user").hint("nobody could connect"));
    }
    for entry in &entries {
        let Some(user) = user(entry, auth) else {
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

fn user(entry: &Field<'_>, auth: &Auth) -> Option<User> {
    let section = entry.section()?;
    let name = section
        .field("name")
        .required("the name of the role")
        .text(NAME_BYTES);
    let mut field = section.field("password");
    if proves_a_password(auth.method) {
        field = field.required("the password itself, or a SCRAM verifier");
    }
    let server = section.field("server_password");
    // A missing one has been noted; the name still counts for what refers to it.
    let password = password(&field).unwrap_or(UserPassword::None);
    if let UserPassword::Verifier(_) = password {
        check_verifier(&field, auth, &server);
    }
    let server_password = secret(&server).or_else(|| match &password {
        UserPassword::Plain(password) => Some(password.clone()),
        UserPassword::None | UserPassword::Verifier(_) => None,
    });
    let overrides = Layer::read_of_user(&section);
    section.finish();
    Some(User {
        name: name?,
        password,
        server_password,
        overrides,
    })
}

/// Whether a client can be verified with a verifier, and whether there is a way to the nodes.
fn check_verifier(field: &Field<'_>, auth: &Auth, server: &Field<'_>) {
    if auth.method == AuthMethod::Md5 {
        field.refuse(
            Misfit::new("is a SCRAM verifier, which says nothing to an MD5 client")
                .hint("write auth: { method: scram-sha-256 }"),
        );
    } else if auth.mode == AuthMode::Stored && !server.is_present() {
        field.refuse(
            Misfit::new("is a SCRAM verifier, with which pgweir cannot log in to the nodes").hint(
                "write auth: { mode: passthrough }, or a `server_password` beside it, or the password itself",
            ),
        );
    }
}

/// A plain password or a verifier.
fn password(field: &Field<'_>) -> Option<UserPassword> {
    let text = field.text(PASSWORD_BYTES)?;
    match verifier_kind(&text) {
        None => Some(UserPassword::Plain(Secret::new(text))),
        Some(SCRAM_VERIFIER) => {
            let verifier = Verifier::parse(&text);
            if verifier.is_none() {
                field.refuse(
                    Misfit::new("begins like a SCRAM verifier and is none")
                        .hint("copy rolpassword from pg_authid, in quotes"),
                );
            }
            verifier.map(|verifier| UserPassword::Verifier(Arc::new(verifier)))
        }
        Some(kind) => {
            field.refuse(Misfit::new(format!("is {kind}")).hint(
                "write the password itself or a SCRAM verifier, or let auth.query find the user",
            ));
            None
        }
    }
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

const SCRAM_VERIFIER: &str = "a SCRAM verifier";

/// What `pg_authid.rolpassword` holds instead of a password
/// (`get_password_type`, `src/backend/libpq/crypt.c`).
fn verifier_kind(text: &str) -> Option<&'static str> {
    const MD5_HASH_BYTES: usize = 35;

    let is_hash = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.starts_with("SCRAM-SHA-256$") {
        Some(SCRAM_VERIFIER)
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
            server_password: user.server_password,
        };
        (user.name, Arc::new(config))
    });
    kept.collect()
}
