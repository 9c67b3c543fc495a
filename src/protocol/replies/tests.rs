use super::taken::CAPTURED_BYTES;
use super::*;
use crate::protocol::description::Comparison;
use crate::protocol::message::write_message;
use crate::protocol::outstanding::Around;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn error(code: &str, text: &str) -> Vec<u8> {
    message(
        b'E',
        format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes(),
    )
}

/// Feeds `bytes` in chunks and returns what the client gets.
fn relay(expected: Vec<Expected>, bytes: &[u8], chunk: usize) -> (Vec<u8>, ReplyScanner) {
    relay_with(ReplyScanner::default(), expected, bytes, chunk)
}

fn relay_with(
    mut scanner: ReplyScanner,
    expected: Vec<Expected>,
    bytes: &[u8],
    chunk: usize,
) -> (Vec<u8>, ReplyScanner) {
    let mut replies = OutstandingReplies::default();
    for reply in expected {
        replies.push(reply);
    }
    scanner.begin(Hold::Released);
    let (mut buffer, mut client) = (Vec::new(), Vec::new());
    for part in bytes.chunks(chunk) {
        buffer.extend_from_slice(part);
        let (mut at, mut spans) = (0, Vec::new());
        loop {
            let stop = scanner
                .scan(&buffer, &mut at, &mut replies, &mut spans)
                .unwrap();
            if stop == Stop::NeedMore {
                break;
            }
            scanner.reports.clear();
        }
        for span in spans {
            match span {
                Span::Range(range) => client.extend_from_slice(&buffer[range]),
                Span::Own(own) => client.extend_from_slice(&own),
            }
        }
        buffer.drain(..at);
    }
    assert!(replies.is_empty(), "{replies:?}");
    (client, scanner)
}

#[test]
fn any_chunking_gives_the_client_the_same_bytes() {
    let mut bytes = message(b'1', b"");
    bytes.extend(message(b'1', b""));
    bytes.extend(message(b'2', b""));
    bytes.extend(message(b'S', b"in_hot_standby\0on\0"));
    bytes.extend(message(b'T', b"\0\0"));
    bytes.extend(message(b'D', &[7; 300]));
    bytes.extend(message(b'C', b"SELECT 1\0"));
    bytes.extend(message(b'Z', b"I"));
    let expected = || {
        vec![
            Expected::Parsed(Disposition::Discard, Some(1)),
            Expected::Synthesize(message(b'3', b"").into()),
            Expected::Parsed(Disposition::Forward, Some(2)),
            Expected::Bound(None),
            Expected::Described,
            Expected::Executed,
            Expected::Synced,
        ]
    };
    let (whole, scanner) = relay(expected(), &bytes, bytes.len());
    assert_eq!(whole.first(), Some(&b'3'));
    assert_eq!(scanner.changes, [Verdict::Done]);
    assert!(memchr::memmem::find(&whole, b"in_hot_standby").is_none());
    for chunk in 1..40 {
        assert_eq!(
            relay(expected(), &bytes, chunk).0,
            whole,
            "chunks of {chunk}"
        );
    }
}

#[test]
fn what_stands_around_a_parse_is_seen_only_where_it_fails() {
    let expected = || {
        vec![
            Expected::Around(Around::Runs),
            Expected::Around(Around::Closes),
            Expected::Parsed(Disposition::Discard, Some(1)),
            Expected::Bound(None),
            Expected::Synced,
        ]
    };
    let set: Vec<u8> = [b'3', b'1', b'2', b'3', b'N', b'C', b'3']
        .iter()
        .flat_map(|tag| message(*tag, if *tag == b'C' { b"SET\0" } else { b"" }))
        .collect();
    let parsed = [message(b'N', b"SWARNING\0\0"), message(b'1', b"")].concat();
    let (bound, ready) = (message(b'2', b""), message(b'Z', b"I"));
    let all = [&set[..], &parsed, &bound, &ready].concat();
    let (client, scanner) = relay(expected(), &all, 7);
    assert_eq!(client, [&bound[..], &ready].concat());
    assert_eq!(scanner.outcome, Outcome::default());
    let refused = [&set[..5], &error("25P02", "aborted"), &ready].concat();
    let (client, scanner) = relay(expected(), &refused, 7);
    assert_eq!(client, refused[5..]);
    assert_eq!(scanner.unparsed, [1]);
}

#[test]
fn an_error_skips_the_rest_of_the_pipeline() {
    let mut bytes = error("22012", "division by zero");
    bytes.extend(message(b'Z', b"I"));
    let (client, scanner) = relay(
        vec![
            Expected::Parsed(Disposition::Forward, Some(4)),
            Expected::Bound(None),
            Expected::Synced,
        ],
        &bytes,
        9,
    );
    assert_eq!(client, bytes);
    assert_eq!(scanner.unparsed, [4]);
    assert!(scanner.outcome.has(Outcome::ERROR));
    assert_eq!(scanner.last_error, Some(SqlState(*b"22012")));
}

#[test]
fn an_error_before_any_result_is_held() {
    let mut bytes = message(b'T', b"\0\0");
    bytes.extend(error(
        "25006",
        "cannot execute INSERT in a read-only transaction",
    ));
    let mut replies = OutstandingReplies::default();
    replies.push(Expected::Query(Disposition::Forward));
    let mut scanner = ReplyScanner::default();
    scanner.begin(Hold::UntilResult);
    let (mut at, mut spans) = (0, Vec::new());
    let stop = scanner
        .scan(&bytes, &mut at, &mut replies, &mut spans)
        .unwrap();
    assert_eq!(
        stop,
        Stop::HeldError(SqlState(*b"25006"), ErrorKind::Ordinary)
    );
    assert!(!scanner.has_result());
    // Going on with another hold forwards it after all.
    scanner.hold = Hold::Released;
    let stop = scanner
        .scan(&bytes, &mut at, &mut replies, &mut spans)
        .unwrap();
    assert_eq!(stop, Stop::NeedMore);
    assert_eq!(spans, [Span::Range(0..bytes.len())]);
}

#[test]
fn what_nobody_asked_for_ends_the_connection() {
    for bytes in [
        message(b'D', b""),
        message(b'1', b""),
        message(b'Z', b"I"),
        message(b'?', b""),
    ] {
        let mut replies = OutstandingReplies::default();
        let mut scanner = ReplyScanner::default();
        let result = scanner.scan(&bytes, &mut 0, &mut replies, &mut Vec::new());
        assert!(result.is_err(), "{bytes:?}");
    }
    let mut replies = OutstandingReplies::default();
    replies.push(Expected::Synced);
    let lying = b"Z\0\0\0\x01I";
    assert!(
        ReplyScanner::default()
            .scan(lying, &mut 0, &mut replies, &mut Vec::new())
            .is_err()
    );
}

#[test]
fn a_query_of_our_own_stays_invisible() {
    let mut bytes = message(b'C', b"SET\0");
    bytes.extend(message(b'S', b"TimeZone\0UTC\0"));
    bytes.extend(message(b'Z', b"I"));
    bytes.extend(message(b'C', b"COMMIT\0"));
    bytes.extend(message(b'Z', b"I"));
    let (client, scanner) = relay(
        vec![
            Expected::Query(Disposition::Discard),
            Expected::Query(Disposition::Forward),
        ],
        &bytes,
        5,
    );
    assert_eq!(client.first(), Some(&b'C'));
    assert_eq!(client.len(), 18);
    assert!(scanner.outcome.has(Outcome::COMMITTED));
}

#[test]
fn only_the_own_notification_of_a_connection_under_another_name_is_renamed() {
    let from = |sender: i32| {
        let body = [&sender.to_be_bytes()[..], b"channel\0payload\0"].concat();
        message(b'A', &body)
    };
    for (alias, sender, expected) in [
        (None, 7, 7),
        (Alias::of(7, 7), 7, 7),
        (Alias::of(7, 1234), 7, 1234),
        (Alias::of(7, 1234), 8, 8),
        (Alias::of(7, 1234), 1234, 1234),
    ] {
        for chunk in [1, 5, 1000] {
            let bytes = [from(sender), message(b'Z', b"I")].concat();
            let scanner = ReplyScanner {
                alias,
                ..ReplyScanner::default()
            };
            let (client, _) = relay_with(scanner, vec![Expected::Synced], &bytes, chunk);
            let wanted = [from(expected), message(b'Z', b"I")].concat();
            assert_eq!(client, wanted, "{alias:?} {sender}");
        }
    }
}

#[test]
fn rows_without_a_body_are_not_kept_without_end() {
    let mut bytes = message(b'D', b"").repeat(CAPTURED_BYTES);
    bytes.extend(message(b'Z', b"I"));
    let (client, scanner) = relay(vec![Expected::Inspection], &bytes, bytes.len());
    assert!(client.is_empty());
    assert!(scanner.captured.len() * 5 <= CAPTURED_BYTES);
    assert!(scanner.outcome.has(Outcome::OWN_QUERY_FAILED));
}

fn columns(name: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[0; 19]);
    message(b'T', &body)
}

#[test]
fn a_description_is_learned_once_and_compared_later_in_any_chunking() {
    let parameters = message(b't', &[0, 0]);
    let learned = [message(b'1', b""), parameters.clone(), columns("id")].concat();
    let again = |name: &str| [message(b'1', b""), parameters.clone(), columns(name)].concat();
    for chunk in [1, 2, 3, 7, 1000] {
        let known = Described::default();
        for (disposition, seen) in [
            (Disposition::Discard, vec![]),
            (
                Disposition::Forward,
                [parameters.clone(), columns("id")].concat(),
            ),
        ] {
            let expected = vec![
                Expected::Parsed(Disposition::Discard, Some(1)),
                Expected::Learned(disposition, Described::clone(&known)),
            ];
            assert_eq!(relay(expected, &learned, chunk).0, seen, "{chunk}");
        }
        assert!(known.get().is_some());
        for (name, same) in [("id", Comparison::Same), ("v", Comparison::Other)] {
            let expected = || {
                vec![
                    Expected::Parsed(Disposition::Discard, Some(1)),
                    Expected::Compared(Described::clone(&known)),
                ]
            };
            let (client, scanner) = relay(expected(), &again(name), chunk);
            assert_eq!((client, scanner.comparison), (vec![], None));
            let mut replies = OutstandingReplies::default();
            for one in expected() {
                replies.push(one);
            }
            let (mut at, bytes) = (0, again(name));
            let stop = ReplyScanner::default().scan(&bytes, &mut at, &mut replies, &mut vec![]);
            assert_eq!((stop, at), (Ok(Stop::Compared(same)), bytes.len()));
            let checked = vec![Expected::Checked(Described::clone(&known))];
            let answer = [again(name), message(b'Z', b"I")].concat();
            let (client, scanner) = relay(checked, &answer, chunk);
            let found = usize::from(same == Comparison::Other);
            assert_eq!((client.len(), scanner.outdated.len()), (0, found));
        }
    }
}

#[test]
fn a_statement_that_is_not_used_any_more_has_the_servers_error() {
    let expected = || vec![Expected::Outdated, Expected::Executed, Expected::Synced];
    let ready = message(b'Z', b"E");
    let answer = [error("26000", "no such statement"), ready.clone()].concat();
    let (client, scanner) = relay(expected(), &answer, 3);
    let text = String::from_utf8_lossy(&client).into_owned();
    assert!(text.contains("C0A000\0Mcached plan must not"), "{text}");
    assert!(
        !text.contains("26000") && client.ends_with(&ready),
        "{text}"
    );
    assert!(scanner.outcome.has(Outcome::ERROR));
    let other = [error("25P02", "the block has failed"), ready].concat();
    assert_eq!(relay(expected(), &other, 3).0, other);
    let stand_in = error("22P02", "\u{ab}pgweir: result type has changed\u{bb}");
    for expected in [
        vec![Expected::Query(Disposition::Forward)],
        vec![Expected::Bound(None), Expected::Synced],
    ] {
        let answer = [stand_in.clone(), message(b'Z', b"I")].concat();
        let (client, _) = relay(expected, &answer, 5);
        let text = String::from_utf8_lossy(&client).into_owned();
        assert!(text.contains("C0A000"), "{text}");
    }
}

#[test]
fn what_a_statement_with_other_columns_returns_is_replaced_by_an_error() {
    let known = Described::default();
    let parameters = message(b't', &[0, 0]);
    let expected = || {
        vec![
            Expected::Executed,
            Expected::Guarded(7, Described::clone(&known)),
            Expected::Bound(None),
            Expected::Described,
            Expected::Synthesize([b'3', 0, 0, 0, 4].into()),
            Expected::Executed,
            Expected::Synced,
            Expected::Query(Disposition::Forward),
        ]
    };
    let ready = message(b'Z', b"I");
    let done = message(b'C', b"SELECT 1\0");
    let row = message(b'D', &[0, 0]);
    let answer = |name: &str| {
        let before = [done.clone(), parameters.clone(), columns(name)].concat();
        let bound = [message(b'2', b""), columns(name)].concat();
        let after = [row.clone(), done.clone(), ready.clone()].concat();
        [before, bound, after.clone(), after].concat()
    };
    let with_close = |name| {
        let close = [b'3', 0, 0, 0, 4].to_vec();
        let before = [done.clone(), message(b'2', b""), columns(name), close].concat();
        let after = [row.clone(), done.clone(), ready.clone()].concat();
        [before, after.clone(), after].concat()
    };
    let failed = [
        [
            done.clone(),
            parameters.clone(),
            columns("v"),
            message(b'2', b""),
        ]
        .concat(),
        error("22012", "division by zero"),
        [ready.clone(), row.clone(), done.clone(), ready.clone()].concat(),
    ];
    for chunk in [1, 2, 3, 7, 1000] {
        let (client, scanner) = relay(expected(), &answer("id"), chunk);
        assert_eq!(client, with_close("id"), "{chunk}");
        assert!(scanner.unlike.is_empty());
        for answer in [answer("v"), failed.concat()] {
            let (client, scanner) = relay(expected(), &answer, chunk);
            let error = errors::outdated_error(errors::SEVERITY).to_vec();
            let rest = [ready.clone(), row.clone(), done.clone(), ready.clone()].concat();
            assert_eq!(client, [done.clone(), error, rest].concat(), "{chunk}");
            assert_eq!(scanner.unlike, [7]);
            assert!(scanner.outcome.has(Outcome::ERROR));
        }
    }
}

#[test]
fn other_columns_are_held_back_like_an_error_where_another_node_may_run_the_segment() {
    let known = Described::default();
    let none = [message(b't', &[0, 0]), message(b'n', b"")].concat();
    let expected = || Expected::Guarded(7, Described::clone(&known));
    relay(vec![expected()], &none, 1);
    let bytes = [message(b't', &[0, 0]), columns("v")].concat();
    for then in [Hold::Discarding, Hold::Released] {
        let mut replies = OutstandingReplies::default();
        replies.push(expected());
        replies.push(Expected::Synced);
        let mut scanner = ReplyScanner::default();
        scanner.begin(Hold::UntilResult);
        let (mut at, mut spans) = (0, vec![]);
        let mut scan =
            |scanner: &mut ReplyScanner| scanner.scan(&bytes, &mut at, &mut replies, &mut spans);
        let held = Stop::HeldError(OLDER_CATALOG, ErrorKind::Ordinary);
        assert_eq!(scan(&mut scanner), Ok(held));
        assert!(scanner.unlike.is_empty());
        scanner.hold = then;
        assert_eq!(scan(&mut scanner), Ok(Stop::NeedMore));
        assert_eq!(scanner.unlike, [7]);
        assert_eq!(spans.len(), usize::from(then == Hold::Released));
    }
}

#[test]
fn who_waits_for_nothing_more_is_not_told_that_the_node_ends() {
    let answer = message(tag::READY_FOR_QUERY, b"I");
    let end = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0");
    let bytes = [answer.clone(), end].concat();
    for (behind, expected) in [
        (Behind::Kept, (answer.len(), Stop::Behind)),
        (Behind::Passed, (bytes.len(), Stop::NeedMore)),
    ] {
        let mut scanner = ReplyScanner {
            behind,
            ..ReplyScanner::default()
        };
        let mut replies = OutstandingReplies::default();
        replies.push(Expected::Synced);
        let (mut at, mut spans) = (0, Vec::new());
        let stop = scanner.scan(&bytes, &mut at, &mut replies, &mut spans);
        assert_eq!((at, stop.unwrap()), expected);
        assert_eq!(
            scanner.outcome.has(Outcome::FATAL),
            behind == Behind::Passed
        );
        assert_eq!(spans, [Span::Range(0..at)]);
    }
}
