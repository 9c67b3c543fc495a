//! Texts in which a backslash, or a byte that looks like one, makes the server see other statements than
//! the bytes show: what they do to the session is found and kept from others all the same.

use super::harness::wire::{self, Wire};
use super::harness::{Proxy, shared_cluster};

/// What others could notice; on the primary.
const PROBE: &str = "SELECT current_setting('TimeZone') = 'Asia/Tokyo', \
    to_regclass('pg_temp.hidden') IS NOT NULL, EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' \
    AND objid = 77 AND pid = pg_backend_pid()) /*pgweir_route='primary'*/";

/// Each before and in which words: the settings of the session, and the text whose first literal ends
/// later than it seems.
fn hidden() -> Vec<(Vec<&'static str>, Vec<u8>)> {
    let old = vec![
        "SET standard_conforming_strings TO off",
        "SET escape_string_warning TO off",
    ];
    let effects = [
        "SET TimeZone TO $$Asia/Tokyo$$",
        "CREATE TEMP TABLE hidden (a int)",
        "SELECT pg_advisory_lock(77)",
    ];
    let mut all = Vec::new();
    for effect in effects {
        all.push((
            old.clone(),
            format!("SELECT 'a\\''; {effect} --'").into_bytes(),
        ));
    }
    for (set, character) in [
        ("SET client_encoding TO 'SJIS'", b"\x83\x5c"),
        ("SET client_encoding TO 'GBK'", b"\x81\x5c"),
        ("SET client_encoding TO 'BIG5'", b"\xa5\x5c"),
    ] {
        let text = [
            b"SELECT length(E'",
            &character[..],
            b"'), set_config($$TimeZone$$, $$Asia/Tokyo$$, false) --'",
        ];
        all.push((vec![set], text.concat()));
    }
    all
}

/// What the client sees in a block that it leaves open; `None` where no connection is left for it.
fn probe(client: &mut Wire) -> Option<Vec<Option<String>>> {
    client.run("BEGIN");
    let answer = client.query(PROBE);
    let row = answer.iter().find(|message| message.tag == b'D');
    let refused = answer.iter().find_map(wire::Message::sqlstate);
    assert!(
        row.is_some() || refused.as_deref() == Some("53300"),
        "{answer:?}"
    );
    row.map(wire::Message::values)
}

/// Two others use every connection that is left.
#[tokio::test]
async fn what_is_hidden_by_a_backslash_stays_with_its_session() {
    let pool = "clusters: { main: { pool: { size: 2, checkout_timeout: 300ms } } }";
    let proxy = Proxy::start(shared_cluster().await, pool).await;
    let clean = vec![Some("f".to_owned()); 3];
    for (settings, text) in hidden() {
        let shown = String::from_utf8_lossy(&text).into_owned();
        for simple in [true, false] {
            if !simple && shown.contains(';') {
                continue;
            }
            let mut hiding = Wire::connect(proxy.port());
            for set in &settings {
                hiding.run(set);
            }
            let messages = if simple {
                wire::message(b'Q', &[&text, b"\0"])
            } else {
                let parse = wire::message(b'P', &[b"\0", &text, b"\0\0\0"]);
                [
                    parse,
                    wire::bind("", &[]),
                    wire::execute("", 0),
                    wire::sync(),
                ]
                .concat()
            };
            hiding.send(&messages);
            let answer = hiding.until_ready();
            assert!(
                answer.iter().all(|message| message.tag != b'E'),
                "{shown}: {answer:?}"
            );
            let mut others = [Wire::connect(proxy.port()), Wire::connect(proxy.port())];
            for other in &mut others {
                let seen = probe(other);
                assert!(seen.is_none_or(|seen| seen == clean), "{shown}");
            }
            for mut other in others {
                other.run("ROLLBACK");
            }
            assert!(
                probe(&mut hiding).is_some_and(|seen| seen != clean),
                "{shown}"
            );
            hiding.run("ROLLBACK");
            hiding.run("DISCARD ALL");
        }
    }
}

/// What no UTF-8 text can say is not repeated elsewhere: the session keeps its connection.
#[tokio::test]
async fn settings_in_other_encodings_keep_their_values() {
    let proxy = Proxy::start(shared_cluster().await, "").await;
    for set in [
        "SELECT set_config('app.tenant', chr(233), false)",
        "DO $$ BEGIN PERFORM set_config('app.tenant', chr(233), false); END $$",
    ] {
        let mut client = Wire::connect(proxy.port());
        client.run("SET client_encoding TO 'LATIN1'");
        client.run(set);
        for _ in 0..20 {
            let read = "SELECT ascii(current_setting('app.tenant'))";
            assert_eq!(client.value(read), "233", "{set}");
        }
    }
    let mut client = Wire::connect(proxy.port());
    client.run("SET app.tenant TO 'before'");
    client.run("SET client_encoding TO 'LATIN1'");
    client.run("SET app.tenant TO '\u{e9}'");
    for _ in 0..20 {
        let read = "SELECT length(current_setting('app.tenant'))";
        assert_eq!(client.value(read), "2");
    }
}
