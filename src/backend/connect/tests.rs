use std::time::Duration;

use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::backend::error::ConnectFault;
use crate::config::Secret;
use crate::protocol::message::write_message;

/// What a handshake with a node that follows `script` comes to.
async fn run<F>(password: &str, script: impl FnOnce(DuplexStream) -> F) -> Result<Greeting, String>
where
    F: Future<Output = DuplexStream>,
{
    let (mut ours, theirs) = duplex(1 << 20);
    let with = NodeLogin::with_password(Secret::new(password));
    let hashing = Hashing::start().unwrap();
    let login = Login {
        user: "app",
        with: &with,
        hashing: &hashing,
        channel: Channel::Plain,
    };
    let packet = startup_packet("app", "db", &StartupParameters::default()).unwrap();
    let both = async { tokio::join!(handshake(&mut ours, &packet, &login), script(theirs)) };
    let (result, _theirs) = tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .expect("the handshake ends");
    result.map_err(|error| error.to_string())
}

/// A node that sends `bytes` and hangs up, whatever it is told.
async fn says(bytes: &[u8]) -> Result<Greeting, String> {
    run("secret", async |mut peer| {
        peer.write_all(bytes).await.unwrap();
        peer.shutdown().await.unwrap();
        peer
    })
    .await
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn request(code: i32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), data].concat())
}

fn after_login(messages: &[Vec<u8>]) -> Vec<u8> {
    [request(0, b""), messages.concat()].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

#[tokio::test]
async fn greeting_collects_reports_and_key_and_skips_notices() {
    let greeting = says(&after_login(&[
        message(b'N', b"SNOTICE\0\0"),
        message(b'S', b"server_version\x0015.4\0"),
        message(b'S', b"in_hot_standby\0off\0"),
        message(b'K', b"\0\0\0\x2akeybytes"),
        ready(),
    ]))
    .await
    .unwrap();
    assert_eq!(greeting.process_id, 42);
    assert_eq!(*greeting.cancel_key, *b"keybytes");
    let names: Vec<_> = greeting.parameters.iter().map(|(n, _)| &**n).collect();
    assert_eq!(names, ["server_version", "in_hot_standby"]);
}

#[tokio::test]
async fn a_key_may_have_4_to_256_bytes_and_may_be_absent() {
    for (length, fits) in [(3, false), (4, true), (256, true), (257, false)] {
        let key = [&[0, 0, 0, 1][..], &vec![7; length]].concat();
        let outcome = says(&after_login(&[message(b'K', &key), ready()])).await;
        assert_eq!(outcome.is_ok(), fits, "{length}");
    }
    let without = says(&after_login(&[ready()])).await.unwrap();
    assert!(without.cancel_key.is_empty());
}

#[tokio::test]
async fn broken_authentication_is_refused_with_a_clear_error() {
    check_refused(&[
        (b"".to_vec(), "talking to the node"),
        (b"R\0\0\0".to_vec(), "talking to the node"),
        (b"R\0\0\0\x03".to_vec(), "impossible length"),
        (b"R\x7f\xff\xff\xff".to_vec(), "impossible length"),
        (b"R\0\0\0\x06\0\0".to_vec(), "malformed message"),
        (
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            "impossible length",
        ),
        (request(2, b""), "unsupported authentication (Kerberos V5)"),
        (request(7, b""), "unsupported authentication (GSSAPI)"),
        (request(9, b""), "unsupported authentication (SSPI)"),
        (request(77, b""), "request code 77"),
        (request(10, b"OAUTHBEARER\0\0"), "SASL without SCRAM"),
        (request(10, b"SCRAM-SHA-256"), "malformed message"),
        (request(5, b"abc"), "malformed authentication request"),
        (request(11, b""), "request code 11"),
        (
            [request(3, b""), request(3, b"")].concat(),
            "unexpected authentication",
        ),
        (
            [request(10, b"SCRAM-SHA-256\0\0"), request(0, b"")].concat(),
            "SASL messages out of order",
        ),
        (
            [
                request(10, b"SCRAM-SHA-256\0\0"),
                request(11, b"r=x,s=eA==,i=1"),
            ]
            .concat(),
            "SCRAM exchange",
        ),
        (ready(), "unexpected message before login"),
        (
            message(b'N', b"\0").repeat(9),
            "too many messages before login",
        ),
        (
            message(b'v', b"\0\x04\0\0\0\0\0\0"),
            "no agreement on protocol",
        ),
        (
            message(b'v', b"\0\x03\0\0\0\0\0\x01x\0"),
            "no agreement on protocol",
        ),
    ])
    .await;
}

#[tokio::test]
async fn broken_startup_is_refused_with_a_clear_error() {
    let many = message(b'N', b"\0").repeat(BACKEND_STARTUP_MESSAGES + 1);
    check_refused(&[
        (message(b'E', b"SFATAL\0"), "malformed message"),
        (after_login(&[message(b'S', b"name")]), "malformed message"),
        (
            after_login(&[message(b'Z', b"T")]),
            "unexpected message during",
        ),
        (
            after_login(&[message(b'D', b"")]),
            "unexpected message during",
        ),
        (after_login(&[many, ready()]), "too many messages during"),
        (
            after_login(&[ready(), ready()]),
            "bytes after ReadyForQuery",
        ),
        (
            after_login(&[message(b'N', &vec![b'x'; STARTUP_REPLY_BYTES as usize])]),
            "impossible length",
        ),
    ])
    .await;
}

async fn check_refused(table: &[(Vec<u8>, &str)]) {
    for (bytes, expected) in table {
        let error = says(bytes).await.unwrap_err();
        assert!(error.contains(expected), "{error:?} is not {expected:?}");
        assert!(!error.contains("secret"));
    }
}

#[tokio::test]
async fn an_older_protocol_answer_is_accepted() {
    let version = message(b'v', b"\0\x03\0\0\0\0\0\0");
    let login = [version, after_login(&[ready()])].concat();
    assert!(says(&login).await.is_ok());
}

#[tokio::test]
async fn passwords_are_sent_as_asked_for() {
    // The digest is md5sum's of md5sum's of "secretapp", followed by "salt".
    let table = [
        (request(3, b""), b"p\0\0\0\x0bsecret\0".to_vec()),
        (
            request(5, b"salt"),
            b"p\0\0\0\x28md57f097e06031b34893c20e25a0e68242c\0".to_vec(),
        ),
    ];
    for (asked, answer) in table {
        let mut got = vec![0; answer.len()];
        let outcome = run("secret", async |mut peer| {
            let mut packet = [0; 30];
            peer.read_exact(&mut packet).await.unwrap();
            assert_eq!(&packet[8..], b"user\0app\0database\0db\0\0");
            peer.write_all(&asked).await.unwrap();
            peer.read_exact(&mut got).await.unwrap();
            peer.write_all(&after_login(&[ready()])).await.unwrap();
            peer
        })
        .await;
        assert!(outcome.is_ok());
        assert_eq!(got, answer);
    }
}

#[tokio::test]
async fn no_password_is_made_up() {
    for asked in [
        request(3, b""),
        request(5, b"salt"),
        request(10, b"SCRAM-SHA-256\0\0"),
    ] {
        let outcome = run("", async |mut peer| {
            peer.write_all(&asked).await.unwrap();
            peer
        });
        let error = outcome.await.unwrap_err();
        assert!(error.contains("the configuration has none"), "{error}");
    }
}

fn node(port: u16) -> NodeConfig {
    NodeConfig {
        name: "a".into(),
        host: "127.0.0.1".into(),
        port,
        zone: None,
        weight: 1,
    }
}

async fn open(port: u16, within: Duration) -> ConnectError {
    let target = Target {
        id: NodeId(0),
        node: &node(port),
        tls: &ServerTls::Disable,
        database: "db",
        user: "app",
        login: &NodeLogin::with_password(Secret::new("secret")),
        startup: &Arc::default(),
    };
    let name = (ConnectionId(1), WorkerId(0));
    let deadline = Instant::now() + within;
    connect(target, &Hashing::start().unwrap(), name, deadline)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_silent_node_hits_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = open(port, Duration::from_millis(50)).await;
    assert!(matches!(error, ConnectError::Timeout), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_told_from_an_error_response() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = b"SFATAL\0VFATAL\0C53300\0Mtoo many clients\0\0";
    let (error, ()) = tokio::join!(open(port, Duration::from_secs(5)), async {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(&message(b'E', body)).await.unwrap();
        // Until the packet has been read, a close would be a reset.
        peer.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let server = error.server().unwrap();
    assert_eq!((server.sqlstate(), server.body()), ("53300", &body[..]));
    assert_eq!(error.fault(), ConnectFault::NodeSaturated);
    drop(listener);
    let error = open(port, Duration::from_secs(5)).await;
    assert!(matches!(error, ConnectError::Tcp(_)), "{error}");
    assert_eq!(error.fault(), ConnectFault::NodeUnavailable);
}
