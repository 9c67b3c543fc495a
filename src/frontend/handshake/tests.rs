use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;

use super::*;
use crate::config::{Environment, parse};
use crate::credential::hashing::Hashing;
use crate::protocol::message::{Reader, write_counted, write_message, write_string};
use crate::wire::read_message;

mod scripts;

struct NoVariables;

impl Environment for NoVariables {
    fn value_of(&self, _: &str) -> Option<String> {
        None
    }
}

fn config(method: &str) -> Config {
    let text = format!(
        "clusters:\n  main:\n    databases: [app, shop]\n    nodes: [{{ name: a, host: h, port: 1 }}]\n    \
         monitor: {{ user: m, password: p, database: postgres }}\n  \
         rest:\n    databases: [\"*\"]\n    nodes: [{{ name: a, host: i, port: 1 }}]\n    \
         monitor: {{ user: m, password: p, database: postgres }}\n\
         users: [{{ name: app, password: secret }}]\nauth: {{ method: {method} }}\n\
         limits: {{ startup_timeout: 15s }}\n"
    );
    parse(&text, "test.yaml", &NoVariables).unwrap()
}

/// A startup message; `parameters` are names and values in turn.
fn startup(version: u32, parameters: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    write_counted(&mut out, |body| {
        body.extend_from_slice(&version.to_be_bytes());
        for text in parameters {
            write_string(body, text.as_bytes());
        }
        body.push(0);
    });
    out
}

fn answer(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, b'p', |body| body.extend_from_slice(text));
    out
}

const V3: u32 = 0x0003_0000;
const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd";
const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

fn fatal(code: &str, message: &str) -> Vec<u8> {
    format!("FATAL\0C{code}\0M{message}\0").into_bytes()
}

/// A client whose socket is in memory and stays plain.
impl ClientSocket for DuplexStream {
    async fn encrypt(self, _: &Acceptor, _: Opening<'_>, _: &Semaphore) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn certificate(&self) -> Option<&[u8]> {
        None
    }
}

/// How a handshake ended, in words, and what follows it in the stream.
async fn summary(outcome: Result<Outcome<DuplexStream>, HandshakeError>) -> String {
    match outcome {
        Ok(Outcome::Session(mut session)) => {
            let mut rest = Vec::new();
            session.stream.read_to_end(&mut rest).await.unwrap();
            let rest = rest.escape_ascii();
            let (user, database) = (&session.user.name, &session.database);
            format!("{user}@{database} on {} then {rest}", session.cluster)
        }
        Ok(Outcome::Cancel { request, .. }) => format!("cancel {}", request.process_id),
        Err(HandshakeError::Closed(_)) => "closed".to_owned(),
        Err(HandshakeError::Tls(_)) => "tls".to_owned(),
        Err(HandshakeError::Silent) => "silent".to_owned(),
        Err(HandshakeError::Refused(error)) => error.sqlstate().to_owned(),
    }
}

/// Plays `input` in chunks against a handshake; returns how it ended and what the client got.
async fn play(method: &str, admission: Admission, input: &[u8], chunk: usize) -> (String, Vec<u8>) {
    let config = config(method);
    let authenticator = Authenticator::new(&config, Hashing::start().unwrap());
    // A paused clock runs ahead of the threads that hash.
    authenticator.warm().await;
    let terms = Terms {
        config: &config,
        authenticator: &authenticator,
        clusters: &[],
        admission,
        tls_slots: &Semaphore::new(1),
        deadline: Instant::now() + config.limits.startup_timeout,
    };
    let (client, server) = duplex(100_000);
    let (mut reading, mut writing) = tokio::io::split(client);
    let speak = async {
        for part in input.chunks(chunk) {
            if writing.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // The server may be gone already.
        let _ = writing.shutdown().await;
    };
    let hear = async {
        let mut heard = Vec::new();
        reading.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let serve = async { summary(receive(server, terms).await).await };
    let ((), heard, ended) = tokio::join!(speak, hear, serve);
    (ended, heard)
}

/// `heard` is exactly `start`, and an `ErrorResponse` with `refusal` in it if there is one.
fn is_heard(heard: &[u8], start: &[u8], refusal: &[u8]) -> bool {
    let Some(rest) = heard.strip_prefix(start) else {
        return false;
    };
    if refusal.is_empty() {
        return rest.is_empty();
    }
    rest.first() == Some(&b'E') && rest.windows(refusal.len()).any(|part| part == refusal)
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_seat_may_cancel_and_is_told_otherwise() {
    let full = Admission::Full;
    assert_eq!(
        play("trust", full, CANCEL, 5).await,
        ("cancel 7".to_owned(), Vec::new())
    );
    let input = [SSL, &startup(V3, &["user", "nobody"])].concat();
    let (ended, heard) = play("trust", full, &input, 5).await;
    assert_eq!(ended, "53300");
    assert!(is_heard(
        &heard,
        b"N",
        &fatal("53300", "sorry, too many clients already")
    ));
}

/// A handshake against a client that writing `input`, then a byte of `drip` every second, and never
/// closes; how it ended, what the client heard, and after how many seconds.
async fn play_slowly(input: &[u8], drip: &[u8]) -> (String, Vec<u8>, u64) {
    let config = config("password");
    let authenticator = Authenticator::new(&config, Hashing::start().unwrap());
    let began = Instant::now();
    let terms = Terms {
        config: &config,
        authenticator: &authenticator,
        clusters: &[],
        admission: Admission::Admitted,
        tls_slots: &Semaphore::new(1),
        deadline: began + config.limits.startup_timeout,
    };
    let (client, server) = duplex(100_000);
    let (mut reading, mut writing) = tokio::io::split(client);
    writing.write_all(input).await.unwrap();
    let dripping = async {
        for byte in drip.iter().copied() {
            sleep(Duration::from_secs(1)).await;
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let serve = async {
        (
            summary(receive(server, terms).await).await,
            began.elapsed().as_secs(),
        )
    };
    let (ended, seconds) = tokio::select! {
        ended = serve => ended,
        () = dripping => unreachable!(),
    };
    let mut heard = Vec::new();
    reading.read_to_end(&mut heard).await.unwrap();
    (ended, heard, seconds)
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_meets_the_one_deadline() {
    for input in [&b""[..], b"\0\0\0\x20\0\x03"] {
        assert_eq!(
            play_slowly(input, b"").await,
            ("silent".to_owned(), Vec::new(), 15)
        );
    }
    let app = startup(V3, &["user", "app"]);
    let dripped = play_slowly(b"", &app).await;
    assert_eq!((dripped.0.as_str(), dripped.2), ("silent", 15));
    for drip in [&b""[..], &[b"p\0\0\x10\0", &[b'x'; 100][..]].concat()] {
        let (ended, heard, seconds) = play_slowly(&app, drip).await;
        assert_eq!((ended.as_str(), seconds), ("57014", 15));
        let told = fatal("57014", "canceling authentication due to timeout");
        assert!(is_heard(&heard, CLEARTEXT, &told));
    }
}

/// What a libpq-like client sees of a SCRAM login: the messages' tags with their codes, and the
/// salt.
async fn scram_login(
    authenticator: &Authenticator,
    user: &str,
    password: &[u8],
) -> (String, Vec<u8>, String) {
    let config = config("scram-sha-256");
    let terms = Terms {
        config: &config,
        authenticator,
        clusters: &[],
        admission: Admission::Admitted,
        tls_slots: &Semaphore::new(1),
        deadline: Instant::now() + Duration::from_secs(15),
    };
    let (mut client, server) = duplex(100_000);
    let talk = async {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut seen = Vec::new();
        let mut salt = String::new();
        client
            .write_all(&startup(V3, &["user", user]))
            .await
            .unwrap();
        while let Ok(message) = read_message(&mut client, 10_000).await {
            let mut reader = Reader::new(&message.body);
            let code = if message.tag == b'R' {
                reader.int32().unwrap()
            } else {
                -1
            };
            seen.push(code);
            match code {
                10 => {
                    let first = scram.message();
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    let body = [b"SCRAM-SHA-256\0", &length[..], first].concat();
                    client.write_all(&answer(&body)).await.unwrap();
                }
                11 => {
                    let text = String::from_utf8_lossy(reader.rest()).into_owned();
                    salt = text.split(',').nth(1).unwrap().to_owned();
                    scram.update(reader.rest()).unwrap();
                    client.write_all(&answer(scram.message())).await.unwrap();
                }
                12 => scram.finish(reader.rest()).unwrap(),
                _ => break,
            }
        }
        drop(client);
        (
            seen.iter()
                .map(|code| u8::try_from(*code).unwrap_or(255))
                .collect(),
            salt,
        )
    };
    let serve = async { summary(receive(server, terms).await).await };
    let ((seen, salt), ended) = tokio::join!(talk, serve);
    (ended, seen, salt)
}

#[tokio::test]
async fn scram_tells_a_wrong_password_and_an_unknown_role_not_apart() {
    let authenticator = Authenticator::new(&config("scram-sha-256"), Hashing::start().unwrap());
    let right = scram_login(&authenticator, "app", b"secret").await;
    assert_eq!(
        (right.0.as_str(), &right.1[..]),
        ("app@app on 0 then ", &[10, 11, 12, 0][..])
    );
    let wrong = scram_login(&authenticator, "app", b"other").await;
    let unknown = scram_login(&authenticator, "nobody", b"secret").await;
    assert_eq!((wrong.0.as_str(), unknown.0.as_str()), ("28P01", "28P01"));
    assert_eq!(
        (&wrong.1[..], &unknown.1[..]),
        (&[10, 11, 255][..], &[10, 11, 255][..])
    );
    let again = scram_login(&authenticator, "nobody", b"x").await;
    assert_eq!((&wrong.2, &unknown.2), (&right.2, &again.2));
    assert_ne!(right.2, unknown.2);
    assert_eq!(right.2.len(), unknown.2.len());
}

#[test]
fn a_cluster_that_names_the_database_comes_before_the_one_for_all_others() {
    let config = config("trust");
    for (database, cluster) in [
        ("app", Some(0)),
        ("shop", Some(0)),
        ("App", Some(1)),
        ("", Some(1)),
        ("pgweir", None),
    ] {
        assert_eq!(cluster_for(&config, database), cluster, "{database}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_end_the_handshake_without_a_panic(
        method in prop::sample::select(vec!["trust", "password", "md5", "scram-sha-256"]),
        prefix in prop::sample::select(vec![
            Vec::new(),
            SSL.to_vec(),
            b"\0\0\0\x30\0\x03\0\0".to_vec(),
            startup(V3, &["user", "app"]),
            [&startup(V3, &["user", "app"])[..], b"p\0\0\0\x20SCRAM-SHA-256\0"].concat(),
            [&startup(V3, &["user", "app"])[..], b"p\0\0\0\x1aSCRAM-SHA-256\0\0\0\0\x08n,,n=,r=p\0\0\0\x20"].concat(),
        ]),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        chunk in 1_usize..50,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let input = [prefix, bytes].concat();
        let (ended, _) = runtime.block_on(play(method, Admission::Admitted, &input, chunk));
        prop_assert!(!ended.is_empty());
    }
}
