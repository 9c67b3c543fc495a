//! Valid sessions with random changes.
//!
//! `PGWEIR_MUTATIONS` sets how many, `PGWEIR_SEED` where to begin; a failure is found again with
//! the same two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::Bench;
use super::harness;
use super::harness::raw::{Raw, bind, execute, message, parse, query, startup, sync};

const SESSIONS: u64 = 5_000;
const AT_ONCE: usize = 16;

/// A small generator (`SplitMix64`) whose run a seed repeats.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// What clients send after their startup packet.
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
fn sessions() -> Vec<Vec<u8>> {
    let end = || message(b'X', b"");
    let described = || message(b'D', b"P\0");
    vec![
        [query("SELECT 1"), query("SELECT 1; SELECT 2"), end()].concat(),
        [
            query("BEGIN"),
            query("SELECT 1"),
            query("SAVEPOINT a"),
            query("SELECT 1/0"),
            query("ROLLBACK TO a"),
            query("COMMIT"),
            end(),
        ]
        .concat(),
        [
            parse("", "SELECT 1"),
            bind(""),
            described(),
            execute(),
            sync(),
            end(),
        ]
        .concat(),
        [
            parse("a", "SELECT $1::int"),
            message(b'D', b"Sa\0"),
            sync(),
            message(b'B', b"\0a\0\0\0\0\x01\0\0\0\x0242\0\0"),
            execute(),
            message(b'H', b""),
            message(b'C', b"Sa\0"),
            sync(),
            end(),
        ]
        .concat(),
        [
            query("CREATE TEMP TABLE c (v int)"),
            query("COPY c FROM STDIN"),
            message(b'd', b"1\n2\n"),
            message(b'c', b""),
            query("COPY c TO STDOUT"),
            end(),
        ]
        .concat(),
        [
            query("COPY (SELECT 1) TO STDOUT"),
            query("SET pgweir.consistency = 'eventual'"),
            query("SHOW pgweir.last_route"),
            query("SET search_path = pg_catalog"),
            query("PREPARE x AS SELECT 1"),
            query("EXECUTE x"),
            query("DISCARD ALL"),
            end(),
        ]
        .concat(),
        [
            parse("", "BEGIN READ ONLY"),
            bind(""),
            execute(),
            parse("", "SELECT now()"),
            bind(""),
            execute(),
            parse("", "COMMIT"),
            bind(""),
            execute(),
            sync(),
            message(b'F', b"\0\0\x04\xd2\0\0\0\0\0\0"),
            end(),
        ]
        .concat(),
    ]
}

/// Changes a few places of `bytes`.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let junk: Vec<u8> = (0..random.below(32)).map(|_| random.byte()).collect();
                bytes.splice(at..at, junk);
            }
            5 => bytes.truncate(at),
            _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        }
    }
}

/// One session; it must end after its client has finished, whatever it sent.
async fn session(port: u16, seed: u64, recorded: &[Vec<u8>]) {
    let mut random = Random(seed);
    let start = startup(&[
        ("user", "app"),
        ("database", "app"),
        ("application_name", "m"),
    ]);
    let script = &recorded[random.below(recorded.len())];
    let mut bytes = if random.below(8) == 0 {
        let mut bytes = [start, script.clone()].concat();
        mutate(&mut bytes, &mut random);
        bytes
    } else {
        let mut changed = script.clone();
        mutate(&mut changed, &mut random);
        [start, changed].concat()
    };
    let mut raw = Raw::connect(port).await;
    if random.below(3) == 0 {
        let rest = bytes.split_off(random.below(bytes.len() + 1));
        raw.send(&bytes).await;
        tokio::task::yield_now().await;
        bytes = rest;
    }
    raw.send(&bytes).await;
    raw.finish().await;
    let mut codes = raw.until_end().await.sqlstates();
    codes.retain(|code| code == "XX000");
    assert!(codes.is_empty(), "seed {seed}: {codes:?}");
}

#[tokio::test]
async fn mutated_sessions_end_and_harm_nobody() {
    let bench = Bench::start("limits: { startup_timeout: 5s }").await;
    let sessions = Arc::new(sessions());
    let first = harness::full_size("PGWEIR_SEED").unwrap_or(1);
    let end = first + harness::full_size("PGWEIR_MUTATIONS").unwrap_or(SESSIONS);
    let next = Arc::new(AtomicU64::new(first));
    let port = bench.proxy.port();
    let begun = std::time::Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (sessions, next) = (Arc::clone(&sessions), Arc::clone(&next));
        clients.spawn(async move {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                session(port, seed, &sessions).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    eprintln!(
        "{} sessions in {:?}, RSS {} KiB before and {} KiB after",
        end - first,
        begun.elapsed(),
        bench.rss_before / 1024,
        bench.proxy.rss_bytes() / 1024
    );
    bench.finish().await;
}
