//! Whatever a client sends: a clear error or a clean end, the process alive, its memory bounded,
//! and nobody else disturbed.

#![cfg(test)]

#[path = "bad_input/bystander.rs"]
mod bystander;
mod harness;
#[path = "bad_input/login.rs"]
mod login;
#[path = "bad_input/mutations.rs"]
mod mutations;

use std::time::Duration;

use bystander::Bystander;
use harness::Proxy;
use harness::raw::{Raw, bind, execute, lying, message, parse, query, sync};

/// How much memory may be in use after bad input that was not before, in bytes.
const KEPT: u64 = 64 << 20;

/// Proxy and undisturbed client of one test.
struct Bench {
    proxy: Proxy,
    bystander: Bystander,
    rss_before: u64,
}

impl Bench {
    async fn start(overrides: &str) -> Self {
        let cluster = harness::shared_cluster().await;
        let proxy = Proxy::start(cluster, &format!("auth: {{ method: trust }}\n{overrides}")).await;
        let bystander = Bystander::start(&proxy).await;
        let rss_before = proxy.rss_bytes();
        Self {
            proxy,
            bystander,
            rss_before,
        }
    }

    /// What must hold at the end of every test.
    async fn finish(self) {
        assert!(self.proxy.is_running(), "{}", self.proxy.log());
        let log = self.proxy.log();
        assert!(!log.contains("by a fault of pgweir"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.bystander.finish().await;
        let kept = || async { self.proxy.rss_bytes() < self.rss_before + KEPT };
        harness::eventually("memory is given back", kept).await;
        let gone = || async { self.proxy.metrics().await.sum("pgweir_clients", &[]) < 0.5 };
        harness::eventually("no session is left", gone).await;
    }
}

/// What becomes of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It goes on.
    Serves,
    /// It ends.
    Ends,
}

/// Sends `bytes` in a fresh session and checks the errors and what becomes of the session.
async fn check(port: u16, name: &str, bytes: &[u8], expected: (&[&str], Then)) {
    eprintln!("{name}");
    let (sqlstates, then) = expected;
    let mut raw = Raw::session(port).await;
    raw.send(bytes).await;
    if then == Then::Ends {
        let answer = raw.until_end().await;
        assert_eq!(
            answer.sqlstates(),
            sqlstates,
            "{name}: {:?}",
            answer.errors(b'M')
        );
        return;
    }
    raw.send(&query("SELECT 'still here'")).await;
    let marker = b"\0\x01\0\0\0\x0astill here";
    let mut answer = raw
        .until(|(tag, body)| *tag == b'D' && body == marker)
        .await;
    assert!(!answer.ended, "{name}: {:?}", answer.errors(b'M'));
    answer.messages.extend(raw.until_ready().await.messages);
    assert_eq!(
        answer.sqlstates(),
        sqlstates,
        "{name}: {:?}",
        answer.errors(b'M')
    );
}

/// Sends a statement and checks that it is answered, by a result or by the server's own complaint
/// about its text, and that the session goes on.
async fn check_answered(port: u16, name: &str, bytes: &[u8]) {
    eprintln!("{name}");
    let mut raw = Raw::session(port).await;
    raw.send(bytes).await;
    let answer = raw.until_ready().await;
    let errors = answer.sqlstates();
    let is_known = |code: &String| ["42601", "54001"].contains(&code.as_str());
    assert!(
        !answer.ended && errors.len() <= 1 && errors.iter().all(is_known),
        "{name}: {:?}",
        answer.errors(b'M')
    );
    raw.send(&query("SELECT 1")).await;
    assert!(raw.until_ready().await.tags().ends_with("DCZ"), "{name}");
}

/// Sends `bytes`, of which the last message is not complete, and leaves.
async fn check_cut(port: u16, name: &str, bytes: &[u8]) {
    let mut raw = Raw::session(port).await;
    raw.send(bytes).await;
    raw.finish().await;
    let answer = raw.until_end().await;
    assert_eq!(answer.sqlstates(), Vec::<String>::new(), "{name}");
}

/// One well-formed message of every type a client may send.
fn every_message() -> Vec<Vec<u8>> {
    vec![
        query("SELECT 1"),
        parse("s", "SELECT 1"),
        bind("s"),
        message(b'D', b"Ss\0"),
        execute(),
        message(b'C', b"Ss\0"),
        message(b'F', b"\0\0\x04\xd2\0\0\0\0\0\0"),
        message(b'd', b"1\n"),
        message(b'f', b"no\0"),
    ]
}

#[tokio::test]
async fn impossible_lengths_and_unknown_types_end_the_session_with_08p01() {
    let bench = Bench::start("").await;
    let port = bench.proxy.port();
    for tag in b"QPBDECFSHXdcf" {
        for length in [0, 1, 3, 1 << 31, u32::MAX] {
            let name = format!("{} of {length}", *tag as char);
            let bytes = lying(*tag, length, b"");
            check(port, &name, &bytes, (&["08P01"], Then::Ends)).await;
        }
    }
    for tag in [b'\0', b'A', b'G', b'R', b'Z', b'p', b'v', b'\xff'] {
        let bytes = message(tag, b"x");
        check(
            port,
            &format!("type {tag}"),
            &bytes,
            (&["08P01"], Then::Ends),
        )
        .await;
    }
    let long = lying(b'Q', (1 << 30) + 5, b"");
    check(port, "over max_message", &long, (&["53400"], Then::Ends)).await;
    bench.finish().await;
}

#[tokio::test]
async fn messages_cut_at_every_byte_end_in_silence() {
    let bench = Bench::start("").await;
    for whole in every_message() {
        for cut in 1..whole.len() {
            let name = format!("{} cut at {cut}", whole[0] as char);
            check_cut(bench.proxy.port(), &name, &whole[..cut]).await;
        }
    }
    bench.finish().await;
}

#[tokio::test]
async fn bodies_shorter_than_their_fields_are_protocol_violations() {
    let bench = Bench::start("").await;
    let port = bench.proxy.port();
    for whole in every_message() {
        let tag = whole[0];
        // These two are no part of a batch.
        let batch = if matches!(tag, b'Q' | b'F') {
            Vec::new()
        } else {
            parse("s", "SELECT 1")
        };
        if matches!(tag, b'd' | b'f') {
            continue;
        }
        // A function's name is looked up before its arguments are read.
        let end = if tag == b'F' { 9 } else { whole.len() };
        for cut in 5..end {
            let name = format!("{} with {} bytes", tag as char, cut - 5);
            let mut bytes = batch.clone();
            bytes.extend(message(tag, &whole[5..cut]));
            bytes.extend(sync());
            check(port, &name, &bytes, (&["08P01"], Then::Serves)).await;
        }
    }
    bench.finish().await;
}

#[tokio::test]
async fn lying_counts_and_kinds_are_protocol_violations() {
    let bench = Bench::start("").await;
    let port = bench.proxy.port();
    let with = |lie: Vec<u8>| [parse("s", "SELECT 1"), lie, sync()].concat();
    for (name, lie) in [
        ("65535 types", message(b'P', b"\0SELECT 1\0\xff\xff")),
        ("one type of none", message(b'P', b"\0SELECT 1\0\0\x01")),
        ("65535 formats", message(b'B', b"\0s\0\xff\xff\0\0\0\0")),
        ("65535 parameters", message(b'B', b"\0s\0\0\0\xff\xff\0\0")),
        (
            "a value of 2 GiB",
            message(b'B', b"\0s\0\0\0\0\x01\x7f\xff\xff\xff\0\0"),
        ),
        (
            "a value of -2",
            message(b'B', b"\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        ),
        ("65535 results", message(b'B', b"\0s\0\0\0\0\0\xff\xff")),
        ("describe of X", message(b'D', b"Xs\0")),
        ("describe of nothing", message(b'D', b"\0s\0")),
        ("close of X", message(b'C', b"Xs\0")),
        ("rest behind execute", message(b'E', b"\0\0\0\0\0more")),
        ("sync with a body", message(b'S', b"more")),
    ] {
        check(port, name, &with(lie), (&["08P01"], Then::Serves)).await;
    }
    let unterminated = message(b'Q', b"SELECT 1");
    check(port, "no NUL", &unterminated, (&["08P01"], Then::Serves)).await;
    let inside = message(b'Q', b"SELECT 1\0, 2\0");
    check(port, "NUL inside", &inside, (&["08P01"], Then::Serves)).await;
    bench.finish().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn messages_in_the_wrong_state_leave_the_session_usable() {
    let bench = Bench::start("").await;
    let port = bench.proxy.port();
    let copy = |data: &[u8]| [message(b'd', data), message(b'c', b"")].concat();
    let script = |parts: &[Vec<u8>]| parts.concat();
    let long = vec![b'x'; 1 << 20];
    let stray = script(&[
        parse("t", "SELECT 1"),
        copy(b"1\n"),
        bind("t"),
        execute(),
        sync(),
    ]);
    let failing = "COPY (SELECT 1) FROM STDIN";
    let create = query("CREATE TEMP TABLE c (v int)");
    let into = [parse("", "COPY c FROM STDIN"), bind(""), execute()].concat();
    for (name, bytes, codes) in [
        ("COPY data while idle", copy(b"1\n"), &[][..]),
        ("1 MiB of COPY data while idle", copy(&long), &[]),
        (
            "8 MiB of COPY data while idle",
            copy(&vec![b'x'; 8 << 20]),
            &[],
        ),
        ("COPY data inside a batch", stray, &[]),
        (
            "a failed COPY with its data",
            script(&[query(failing), copy(&long)]),
            &["42601"],
        ),
        (
            "a COPY with its data",
            [create.clone(), query("COPY c FROM STDIN"), copy(b"1\n")].concat(),
            &[],
        ),
        (
            "a COPY in a batch with its data",
            [create, into, copy(b"1\n"), sync()].concat(),
            &[],
        ),
        ("10,000 times Sync", sync().repeat(10_000), &[]),
        ("10,000 times Flush", message(b'H', b"").repeat(10_000), &[]),
        (
            "execute of nothing",
            script(&[execute(), sync()]),
            &["34000"],
        ),
        (
            "bind of nothing",
            script(&[bind("none"), sync()]),
            &["26000"],
        ),
        (
            "describe of nothing",
            script(&[message(b'D', b"Snone\0"), sync()]),
            &["26000"],
        ),
        ("an empty query", query(""), &[]),
        (
            "bytes that are not UTF-8",
            message(b'Q', b"SELECT '\xff\xfe'\0"),
            &["22021"],
        ),
    ] {
        check(port, name, &bytes, (codes, Then::Serves)).await;
    }
    let terminate = script(&[parse("t", "SELECT 1"), message(b'X', b""), sync()]);
    check(
        port,
        "terminate inside a batch",
        &terminate,
        (&[], Then::Ends),
    )
    .await;
    bench.finish().await;
}

#[tokio::test]
async fn a_copy_that_fails_in_the_middle_of_a_long_message_does_not_stall() {
    let bench = Bench::start("").await;
    let mut raw = Raw::session(bench.proxy.port()).await;
    raw.send(&query("CREATE TEMP TABLE n (v int)")).await;
    raw.until_ready().await;
    raw.send(&query("COPY n FROM STDIN")).await;
    let asked = raw.until(|(tag, _)| *tag == b'G').await;
    assert!(!asked.ended);
    for _ in 0..8 {
        raw.send(&message(b'd', &b"no number\n".repeat(200_000)))
            .await;
    }
    raw.send(&message(b'c', b"")).await;
    let answer = raw.until_ready().await;
    assert_eq!(answer.sqlstates(), ["22P02"]);
    raw.send(&query("SELECT 1")).await;
    assert!(!raw.until_ready().await.ended);
    drop(raw);
    bench.finish().await;
}

#[tokio::test]
async fn enormous_and_deep_statements_are_answered() {
    let bench = Bench::start("").await;
    let port = bench.proxy.port();
    let nested = |depth| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
    let sum = |terms| format!("SELECT 1{}", "+1".repeat(terms));
    let text = |sql: String| query(&sql);
    for (name, bytes) in [
        ("64 MiB of spaces", text(" ".repeat(64 << 20))),
        // The server itself needs time that grows with the square of the depth.
        ("comments, 2,000 deep", text("/*".repeat(2_000))),
        (
            "a 1 MiB comment without end",
            text(format!("/*{}", " ".repeat(1 << 20))),
        ),
        ("parentheses, 1,000", text(nested(1_000))),
        ("parentheses, 60,000", text(nested(60_000))),
        ("parentheses, open", text("(".repeat(100_000))),
        (
            "CASE, 10,000",
            text(format!("SELECT {}", "CASE ".repeat(10_000))),
        ),
        (
            "NOT, 20,000",
            text(format!("SELECT {}true", "NOT ".repeat(20_000))),
        ),
        ("a sum of 60,000", text(sum(60_000))),
        ("a sum of 100,000", text(sum(100_000))),
        (
            "a 1 MiB literal",
            text(format!("SELECT length('{}')", "x".repeat(1 << 20))),
        ),
        ("10,000 statements", text("SELECT 1;".repeat(10_000))),
    ] {
        let begun = std::time::Instant::now();
        check_answered(port, name, &bytes).await;
        eprintln!(
            "{name}: {:?}, RSS {} KiB",
            begun.elapsed(),
            bench.proxy.rss_bytes() / 1024
        );
    }
    bench.finish().await;
}

#[tokio::test]
async fn ten_thousand_named_statements_are_held_within_bounds() {
    let bench = Bench::start("").await;
    let mut raw = Raw::session(bench.proxy.port()).await;
    let begun = std::time::Instant::now();
    for batch in 0..100 {
        let mut bytes = Vec::new();
        for index in 0..100 {
            let number = batch * 100 + index;
            bytes.extend(parse(&format!("s{number}"), &format!("SELECT {number}")));
        }
        bytes.extend(sync());
        raw.send(&bytes).await;
        let answer = raw.until_ready().await;
        assert_eq!(
            answer.tags(),
            "1".repeat(100) + "Z",
            "{:?}",
            answer.errors(b'M')
        );
    }
    eprintln!("10,000 statements: {:?}", begun.elapsed());
    for number in [0, 4_999, 9_999] {
        let bytes = [bind(&format!("s{number}")), execute(), sync()].concat();
        raw.send(&bytes).await;
        let answer = raw.until_ready().await;
        assert_eq!(answer.tags(), "2DCZ", "{:?}", answer.errors(b'M'));
        let row = &answer.messages[1].1;
        assert!(row.ends_with(number.to_string().as_bytes()), "{row:?}");
    }
    drop(raw);
    bench.finish().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_holds_little_memory() {
    let bench = Bench::start("").await;
    let mut raw = Raw::session(bench.proxy.port()).await;
    raw.send(&query(
        "SELECT repeat('x', 100000) FROM generate_series(1, 2000)",
    ))
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let growth = bench.proxy.rss_bytes().saturating_sub(bench.rss_before);
    assert!(growth < 16 << 20, "{growth}");
    drop(raw);
    bench.finish().await;
}
