//! `listen`, `client_tls` and `server_tls`, whose values name files and directories.

use std::collections::HashMap;
use std::io;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Files in memory.
#[derive(Default)]
struct Files(HashMap<&'static str, String>);

impl Environment for Files {
    fn value_of(&self, _: &str) -> Option<String> {
        None
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let contents = path.to_str().and_then(|path| self.0.get(path));
        let contents = contents.ok_or(io::ErrorKind::NotFound)?;
        Ok(contents.clone().into_bytes())
    }
}

/// A certificate that signs itself, and its key.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["db".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn files() -> Files {
    let ((cert, key), (other, other_key)) = (certificate(), certificate());
    let damaged = cert.replace("BEGIN", "BEGUN");
    Files(HashMap::from([
        ("cert", cert),
        ("key", key),
        ("other", other),
        ("other-key", other_key),
        ("damaged", damaged),
        ("text", "nothing to see".to_owned()),
    ]))
}

fn text(top: &str, cluster: &str) -> String {
    format!(
        "clusters: {{ main: {{ nodes: [{{ host: h, port: 1 }}], {cluster} }} }}\n\
         users: [{{ name: app, password: p }}]\n{top}\n"
    )
}

/// What the report says, without file, line and hints.
fn faults(files: &Files, top: &str, cluster: &str) -> Vec<String> {
    let Err(errors) = parse(&text(top, cluster), "f", files) else {
        return Vec::new();
    };
    let report = errors.to_string();
    let lines = report.lines().filter(|line| !line.starts_with(' '));
    let fault = |line: &str| line.splitn(3, ':').nth(2).unwrap().trim().to_owned();
    lines.map(fault).collect()
}

#[test]
fn files_of_client_tls_are_proved() {
    let files = files();
    for (client_tls, expected) in [
        ("mode: disable", &[] as &[&str]),
        ("mode: prefer, cert: cert, key: key", &[]),
        ("mode: require, cert: cert, key: key, client_ca: other", &[]),
        (
            "mode: require",
            &["client_tls.cert: is missing", "client_tls.key: is missing"],
        ),
        (
            "mode: prefer, cert: nowhere, key: key",
            &["client_tls.cert: `nowhere` cannot be read: entity not found"],
        ),
        (
            "mode: prefer, cert: text, key: key",
            &["client_tls.cert: `text` holds no certificate in PEM form"],
        ),
        (
            "mode: prefer, cert: cert, key: text",
            &["client_tls.key: `text` holds no private key in PEM form, or an encrypted one"],
        ),
        (
            "mode: prefer, cert: cert, key: other-key",
            &["client_tls.key: `other-key` holds a key that does not belong to the certificate"],
        ),
        (
            "mode: prefer, cert: cert, key: key, client_ca: key",
            &["client_tls.client_ca: `key` holds no certificate in PEM form"],
        ),
        (
            "mode: disable, cert: damaged, key: key",
            &["client_tls.cert: `damaged` holds no certificate in PEM form"],
        ),
        (
            "mode: verify-full",
            &["client_tls.mode: `verify-full` is not one of the possible words"],
        ),
    ] {
        let top = format!("client_tls: {{ {client_tls} }}");
        assert_eq!(faults(&files, &top, "zone: a"), expected, "{client_tls}");
    }
}

#[test]
fn files_of_server_tls_are_proved() {
    let files = files();
    for (server_tls, expected) in [
        ("mode: disable", &[] as &[&str]),
        ("mode: prefer, cert: cert, key: key", &[]),
        ("mode: require", &[]),
        ("mode: require, ca: cert", &[]),
        ("mode: verify-ca, ca: cert", &[]),
        (
            "mode: verify-full, ca: cert, cert: other, key: other-key",
            &[],
        ),
        (
            "mode: verify-full",
            &["clusters.main.server_tls.ca: is missing"],
        ),
        (
            "ca: cert",
            &["clusters.main.server_tls.ca: `cert` is not looked at in this mode"],
        ),
        (
            "mode: require, cert: cert",
            &["clusters.main.server_tls.key: is missing"],
        ),
        (
            "mode: verify-ca, ca: text",
            &["clusters.main.server_tls.ca: `text` holds no certificate in PEM form"],
        ),
    ] {
        let cluster = format!("server_tls: {{ {server_tls} }}");
        assert_eq!(faults(&files, "", &cluster), expected, "{server_tls}");
    }
}

#[test]
fn server_tls_is_the_same_as_long_as_mode_and_files_are() {
    let mut files = files();
    let read = |files: &Files, tls: &str| {
        let text = text("", &format!("server_tls: {{ {tls} }}"));
        let config = parse(&text, "f", files).unwrap();
        config.clusters[0].server_tls.clone()
    };
    let before = read(&files, "mode: verify-ca, ca: cert");
    assert_eq!(before, read(&files, "mode: verify-ca, ca: cert"));
    assert_ne!(before, read(&files, "mode: verify-full, ca: cert"));
    files.0.insert("cert", certificate().0);
    assert_ne!(before, read(&files, "mode: verify-ca, ca: cert"));
    assert_eq!(read(&files, "mode: prefer"), read(&files, ""));
}

#[test]
fn certificates_can_prove_users_only_if_they_are_verified() {
    let files = files();
    let needs = "auth.method: `cert` needs verified client certificates";
    for (client_tls, expected) in [
        (
            "mode: require, cert: cert, key: key, client_ca: other",
            &[] as &[&str],
        ),
        ("mode: require, cert: cert, key: key", &[needs]),
        (
            "mode: disable, cert: cert, key: key, client_ca: other",
            &[needs],
        ),
    ] {
        let top = format!("client_tls: {{ {client_tls} }}\nauth: {{ method: cert }}");
        assert_eq!(faults(&files, &top, "zone: a"), expected, "{client_tls}");
    }
}

#[test]
fn a_unix_socket_has_the_port_of_the_first_address() {
    let files = Files::default();
    let listen = |entries: &str| {
        let config = parse(&text(&format!("listen: {entries}"), "zone: a"), "f", &files);
        let listen = config.unwrap().listen;
        listen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listen("/run/a"), ["/run/a/.s.PGSQL.6432"]);
    assert_eq!(
        listen("[/run/a, '127.0.0.1:0', '127.0.0.1:7', '127.0.0.1:8', /b]"),
        [
            "/run/a/.s.PGSQL.7",
            "127.0.0.1:0",
            "127.0.0.1:7",
            "127.0.0.1:8",
            "/b/.s.PGSQL.7"
        ]
    );
    let long = format!("/{}", "x".repeat(93));
    assert_eq!(
        faults(&files, &format!("listen: [/a, /a, {long}]"), "zone: a"),
        [
            "listen[1]: `/a` clashes with /a/.s.PGSQL.6432".to_owned(),
            format!("listen[2]: `{long}` is too long for a Unix socket")
        ]
    );
    let config = text("", "zone: a").replace("host: h", "host: /run/postgresql");
    let config = parse(&config, "f", &files).unwrap();
    let node = &config.clusters[0].nodes[0];
    assert_eq!(
        node.socket().as_deref(),
        Some(Path::new("/run/postgresql/.s.PGSQL.1"))
    );
}
