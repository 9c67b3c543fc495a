//! Bad input before a client is authenticated.

use std::time::{Duration, Instant};

use super::harness::raw::{Answer, Raw, message, packet, query, startup};
use super::harness::{self, Proxy};
use super::{Bench, bystander};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// What the proxy says to `bytes` from a client that then waits.
async fn answer(port: u16, bytes: &[u8]) -> Answer {
    let mut raw = Raw::connect(port).await;
    raw.send(bytes).await;
    raw.until_end().await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn impossible_first_packets_are_refused_at_once() {
    let bench = Bench::start("").await;
    let app = startup(&[("user", "app"), ("database", "app")]);
    let version = |version: u32| {
        let mut bytes = app.clone();
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes
    };
    let length = |length: u32| [&length.to_be_bytes()[..], &[0; 64]].concat();
    let many = "x\0y\0".repeat(3_000);
    for (name, bytes, code) in [
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "08P01",
        ),
        ("a length of 0", length(0), "08P01"),
        ("a length of 7", length(7), "08P01"),
        ("a length of 10,005", length(10_005), "08P01"),
        ("a length of 2^31", length(1 << 31), "08P01"),
        ("a length of 2^32 - 1", length(u32::MAX), "08P01"),
        ("an oversized packet", packet(many.as_bytes()), "08P01"),
        ("protocol 2.0", version(2 << 16), "0A000"),
        ("protocol 4.0", version(4 << 16), "0A000"),
        ("no terminator", packet(b"\0\x03\0\0user\0app"), "08P01"),
        (
            "bytes behind the terminator",
            packet(b"\0\x03\0\0user\0app\0\0more"),
            "08P01",
        ),
        ("no user", startup(&[("database", "app")]), "28000"),
        ("an empty user", startup(&[("user", "")]), "28000"),
        (
            "an unknown user",
            startup(&[("user", "nobody"), ("database", "app")]),
            "28000",
        ),
        (
            "another replication",
            startup(&[("user", "app"), ("replication", "databases")]),
            "22023",
        ),
        (
            "a value that is not UTF-8",
            packet(b"\0\x03\0\0user\0app\0DateStyle\0\xff\0\0"),
            "22021",
        ),
        (
            "a bad setting",
            startup(&[("user", "app"), ("pgweir.consistency", "x")]),
            "22023",
        ),
        (
            "a server's setting",
            startup(&[("user", "app"), ("database", "app"), ("DateStyle", "x")]),
            "22023",
        ),
    ] {
        let answer = answer(bench.proxy.port(), &bytes).await;
        assert_eq!(
            answer.sqlstates(),
            [code],
            "{name}: {:?}",
            answer.errors(b'M')
        );
        assert_eq!(answer.errors(b'V'), ["FATAL"], "{name}");
    }
    // TLS where there is none: as with PostgreSQL, no answer would be understood.
    let answer = answer(
        bench.proxy.port(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    )
    .await;
    assert!(answer.sqlstates().is_empty(), "{:?}", answer.errors(b'M'));
    bench.finish().await;
}

#[tokio::test]
async fn junk_before_login_ends_the_connection() {
    let bench = Bench::start("limits: { startup_timeout: 2s }").await;
    let mut random = super::mutations::Random(7);
    for _ in 0..300 {
        let junk: Vec<u8> = (0..=random.below(400)).map(|_| random.byte()).collect();
        let mut raw = Raw::connect(bench.proxy.port()).await;
        raw.send(&junk).await;
        raw.finish().await;
        let answer = raw.until_end().await;
        assert!(answer.sqlstates().len() <= 1, "{junk:?}");
    }
    bench.finish().await;
}

#[tokio::test]
async fn encryption_is_refused_once_and_a_second_request_is_an_error() {
    let bench = Bench::start("").await;
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut raw = Raw::connect(bench.proxy.port()).await;
        let bytes = packet(&request.to_be_bytes());
        raw.send(&bytes).await;
        assert_eq!(raw.byte().await, Some(b'N'));
        raw.send(&bytes).await;
        let answer = raw.until_end().await;
        assert_eq!(answer.sqlstates(), ["0A000"]);
    }
    bench.finish().await;
}

#[tokio::test]
async fn a_client_that_dawdles_is_closed_when_its_time_is_up() {
    let bench = Bench::start("limits: { startup_timeout: 1s }").await;
    let packet = startup(&[("user", "app"), ("database", "app")]);
    let begun = Instant::now();
    let mut raw = Raw::connect(bench.proxy.port()).await;
    let mut silent = Raw::connect(bench.proxy.port()).await;
    for byte in packet.iter().take(8) {
        raw.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    raw.until_end().await;
    silent.until_end().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    bench.finish().await;
}

#[tokio::test]
async fn wrong_users_passwords_and_databases_have_their_own_sqlstates() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let narrow = Proxy::start(cluster, "clusters: { main: { databases: [app] } }").await;
    let bystander = bystander::Bystander::start(&proxy).await;
    let refusal = async |port: u16, credentials: &str, database: &str| {
        let url = format!("postgresql://{credentials}@127.0.0.1:{port}/{database}");
        let error = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .err()
            .unwrap();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        (error.code().code().to_owned(), error.message().to_owned())
    };
    for (proxy, credentials, database, code, text) in [
        (
            &proxy,
            "app:wrong",
            "app",
            "28P01",
            "password authentication failed for user \"app\"",
        ),
        (
            &proxy,
            "nobody:x",
            "app",
            "28P01",
            "password authentication failed for user \"nobody\"",
        ),
        (
            &proxy,
            "app:app",
            "nosuch",
            "3D000",
            "database \"nosuch\" does not exist",
        ),
        (
            &narrow,
            "app:app",
            "other",
            "3D000",
            "database \"other\" does not exist",
        ),
        (
            &narrow,
            "app:wrong",
            "other",
            "28P01",
            "password authentication failed for user \"app\"",
        ),
    ] {
        let (sqlstate, message) = refusal(proxy.port(), credentials, database).await;
        assert_eq!((sqlstate.as_str(), message.as_str()), (code, text));
    }
    bystander.finish().await;
    assert!(proxy.is_running() && narrow.is_running());
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn lying_scram_messages_are_refused() {
    let cluster = harness::shared_cluster().await;
    let proxy = Proxy::start(cluster, "").await;
    let bystander = bystander::Bystander::start(&proxy).await;
    let first = b"n,,n=,r=abcdefghijklmnop";
    let initial = |mechanism: &[u8], length: u32, data: &[u8]| {
        message(b'p', &[mechanism, &length.to_be_bytes(), data].concat())
    };
    let good = u32::try_from(first.len()).unwrap();
    let scram = b"SCRAM-SHA-256\0";
    for (name, bytes, codes) in [
        (
            "a huge inner length",
            initial(scram, 0x7fff_ffff, first),
            &["08P01"][..],
        ),
        (
            "an inner length of -1",
            initial(scram, u32::MAX, b""),
            &["08P01", "28P01"],
        ),
        (
            "an inner length of -2",
            initial(scram, u32::MAX - 1, first),
            &["08P01"],
        ),
        (
            "an inner length too short",
            initial(scram, good - 4, first),
            &["08P01"],
        ),
        (
            "an inner length too long",
            initial(scram, good + 1, first),
            &["08P01"],
        ),
        ("no terminator", message(b'p', b"SCRAM-SHA-256"), &["08P01"]),
        ("an empty message", message(b'p', b""), &["08P01"]),
        (
            "another mechanism",
            initial(b"PLAIN\0", good, first),
            &["08P01"],
        ),
        (
            "an oversized message",
            message(b'p', &vec![b'x'; 70_000]),
            &["08P01"],
        ),
        ("a length of 3", b"p\0\0\0\x03".to_vec(), &["08P01"]),
        (
            "a length of 2^32 - 1",
            b"p\xff\xff\xff\xff".to_vec(),
            &["08P01"],
        ),
        ("a query", query("SELECT 1"), &["08P01"]),
        (
            "no SCRAM at all",
            initial(scram, 4, b"\xff\xfe\0\0"),
            &["08P01", "28P01"],
        ),
        (
            "a short nonce",
            initial(scram, 7, b"n,,n=,r"),
            &["08P01", "28P01"],
        ),
        (
            "a final message of junk",
            [
                initial(scram, good, first),
                message(b'p', b"c=biws,r=x,p=!!"),
            ]
            .concat(),
            &["08P01", "28P01"],
        ),
    ] {
        let mut raw = Raw::connect(proxy.port()).await;
        raw.send(&startup(&[("user", "app"), ("database", "app")]))
            .await;
        raw.send(&bytes).await;
        let answer = raw.until_end().await;
        let found = answer.sqlstates();
        assert_eq!(found.len(), 1, "{name}: {}", answer.tags());
        assert!(
            codes.contains(&found[0].as_str()),
            "{name}: {:?}",
            answer.errors(b'M')
        );
    }
    bystander.finish().await;
    assert!(proxy.is_running());
}
