//! Who may connect: verifiers, roles that are looked up, and what leads to the nodes.

use super::*;

const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

/// A file with this under `auth` and `users`; the monitor's password is known.
fn file(auth: &str, users: &str) -> String {
    format!(
        "clusters:\n  main:\n    nodes: [{{ host: h, port: 1 }}]\n    \
         monitor: {{ user: m, password: p }}\nauth: {{ {auth} }}\n{users}\n"
    )
}

fn verified(more: &str) -> String {
    format!("users: [{{ name: app, password: '{VERIFIER}'{more} }}]")
}

#[test]
fn a_verifier_needs_a_way_to_the_nodes() {
    for (auth, more, server_password) in [
        ("mode: passthrough", "", None),
        ("mode: passthrough", ", server_password: x", Some("x")),
        ("method: scram-sha-256", ", server_password: x", Some("x")),
        ("method: password, mode: passthrough", "", None),
        ("method: trust", ", server_password: x", Some("x")),
    ] {
        let config = accepted(&file(auth, &verified(more)));
        let user = &config.users["app"];
        assert!(matches!(user.password, UserPassword::Verifier(_)), "{auth}");
        assert_eq!(user.server_password, server_password.map(Secret::new));
    }
    let no_way = "users[0].password: is a SCRAM verifier, with which pgweir cannot log in to the nodes\n    \
                  hint: write auth: { mode: passthrough }, or a `server_password` beside it";
    for auth in ["method: scram-sha-256", "method: trust", "mode: stored"] {
        let found = report(&file(auth, &verified("")));
        assert!(found.contains(no_way), "{auth}: {found}");
    }
    let md5 = report(&file("method: md5, mode: passthrough", &verified("")));
    assert!(md5.contains("says nothing to an MD5 client"), "{md5}");
    for shown in [no_way, &md5] {
        assert!(!shown.contains("WG5d"), "{shown}");
    }
}

#[test]
fn roles_are_looked_up_as_the_monitor_unless_the_file_says_otherwise() {
    let lookup = |auth: &str, users: &str| {
        let config = accepted(&file(auth, users));
        config.clusters[0].role_lookup.clone()
    };
    let plain = "users: [{ name: app, password: secret }]";
    assert_eq!(lookup("mode: stored", plain), None);
    assert_eq!(lookup("mode: passthrough", plain), None);
    for auth in ["mode: passthrough", "lookup: {}"] {
        let found = lookup(auth, "").unwrap();
        assert_eq!((&*found.user, found.password.expose()), ("m", "p"));
        assert_eq!(found.database, "postgres");
        assert!(found.query.contains("pg_authid"), "{}", found.query);
    }
    let found = lookup(
        "query: 'SELECT * FROM find($1)', lookup: { user: app, database: app }",
        plain,
    );
    let found = found.unwrap();
    assert_eq!((&*found.user, found.password.expose()), ("app", "secret"));
    assert_eq!(found.database, "app");
    assert_eq!(found.query, "SELECT * FROM find($1)");
    let own = lookup("lookup: { user: u, password: v }", "").unwrap();
    assert_eq!((&*own.user, own.password.expose()), ("u", "v"));
}

#[test]
fn how_long_roles_are_remembered_can_be_said() {
    let cache = |auth: &str| accepted(&file(auth, "")).auth_cache;
    assert_eq!(cache("mode: passthrough"), Duration::from_secs(10));
    assert_eq!(cache("lookup: {}, cache: 0s"), Duration::ZERO);
    assert!(
        report(&file("lookup: {}, cache: 2h", "")).contains("auth.cache: `2h` is out of range")
    );
}

#[test]
fn what_cannot_work_is_refused() {
    let none = "clusters: { main: { nodes: [{ host: h, port: 1 }] } }\n";
    for (text, expected) in [
        (
            file("query: 'SELECT 1'", ""),
            "auth.query: `SELECT 1` does not ask for a name",
        ),
        (
            file("method: trust, lookup: {}", ""),
            "auth.lookup: needs clients that prove a password",
        ),
        (
            file("method: trust, mode: passthrough", &verified("")),
            "auth.mode: `passthrough` needs clients that prove a password",
        ),
        (
            file("lookup: { password: p }", ""),
            "auth.lookup.password: has no `user` beside it",
        ),
        (file("mode: none", ""), "auth.mode: `none` is not one of"),
        (
            format!("{none}auth: {{ mode: passthrough }}"),
            "clusters.main: has no `monitor` and there are no `users`",
        ),
        (
            format!("{none}auth: {{ mode: passthrough }}\n{}", verified("")),
            "clusters.main: has no `monitor`, and the first user has no password",
        ),
        (
            file(
                "mode: stored",
                "users: [{ name: app, password: md50123456789abcdef0123456789abcdef }]",
            ),
            "users[0].password: is an MD5 hash",
        ),
        (
            file(
                "mode: stored",
                "users: [{ name: app, password: x, server_password: 'SCRAM-SHA-256$1' }]",
            ),
            "users[0].server_password: is a SCRAM verifier, with which",
        ),
        (
            file(
                "mode: stored",
                "users: [{ name: app, password: x, server_password: [hidden] }]",
            ),
            "users[0].server_password: is a list",
        ),
    ] {
        let found = report(&text);
        assert!(found.contains(expected), "{expected}: {found}");
        assert!(!found.contains("hidden"), "{found}");
    }
}
