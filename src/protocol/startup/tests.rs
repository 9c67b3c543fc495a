use proptest::prelude::*;

use super::*;

/// A startup message of `version` (major, minor) with these parameters.
fn packet(version: (u16, u16), parameters: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&version.0.to_be_bytes());
    body.extend_from_slice(&version.1.to_be_bytes());
    for (name, value) in parameters {
        write_string(&mut body, name);
        write_string(&mut body, value);
    }
    body.push(0);
    body
}

fn parameter(name: &str, value: &str) -> Parameter {
    Parameter {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn started(parameters: &[(&[u8], &[u8])]) -> Result<StartupMessage, StartupFault> {
    match parse(&packet((3, 0), parameters))? {
        FirstPacket::Startup(startup) => Ok(startup),
        other @ (FirstPacket::SslRequest
        | FirstPacket::GssEncryptionRequest
        | FirstPacket::Cancel(_)) => panic!("not a startup message: {other:?}"),
    }
}

#[test]
fn the_length_field_is_bounded_on_both_sides() {
    for (length, expected) in [
        (0_u32, Err(StartupFault::Length)),
        (4, Err(StartupFault::Length)),
        (7, Err(StartupFault::Length)),
        (8, Ok(4)),
        (10_004, Ok(10_000)),
        (10_005, Err(StartupFault::Length)),
        (u32::from_be_bytes(*b"GET "), Err(StartupFault::Length)),
        (u32::MAX, Err(StartupFault::Length)),
    ] {
        assert_eq!(body_length(length.to_be_bytes()), expected, "{length}");
    }
}

#[test]
fn requests_are_told_apart_by_their_code() {
    assert_eq!(
        parse(&80_877_103_u32.to_be_bytes()),
        Ok(FirstPacket::SslRequest)
    );
    assert_eq!(
        parse(&80_877_104_u32.to_be_bytes()),
        Ok(FirstPacket::GssEncryptionRequest)
    );
    assert_eq!(
        parse(&80_877_105_u32.to_be_bytes()),
        Err(StartupFault::Version {
            major: 1234,
            minor: 5681
        })
    );
    assert_eq!(parse(b"\0\x03\0"), Err(StartupFault::Layout));
}

#[test]
fn a_cancel_key_has_4_to_256_bytes() {
    for (key_bytes, accepted) in [
        (0, false),
        (3, false),
        (4, true),
        (32, true),
        (256, true),
        (257, false),
    ] {
        let mut body = 80_877_102_u32.to_be_bytes().to_vec();
        body.extend_from_slice(&77_i32.to_be_bytes());
        body.extend(std::iter::repeat_n(9, key_bytes));
        let expected = if accepted {
            Ok(FirstPacket::Cancel(CancelRequest {
                process_id: 77,
                key: vec![9; key_bytes].into(),
            }))
        } else {
            Err(StartupFault::CancelLength)
        };
        assert_eq!(parse(&body), expected, "{key_bytes}");
    }
}

#[test]
fn only_major_version_3_is_spoken() {
    for (version, accepted) in [
        ((3, 0), true),
        ((3, 2), true),
        ((3, 9999), true),
        ((2, 0), false),
        ((4, 0), false),
    ] {
        let parsed = parse(&packet(version, &[(b"user", b"app")]));
        if accepted {
            assert!(matches!(parsed, Ok(FirstPacket::Startup(s)) if s.minor == version.1));
        } else {
            let (major, minor) = version;
            assert_eq!(parsed, Err(StartupFault::Version { major, minor }));
        }
    }
}

#[test]
fn parameters_keep_their_order_and_the_database_defaults_to_the_user() {
    let startup = started(&[
        (b"client_encoding", b"UTF8"),
        (b"user", b"app"),
        (b"replication", b"off"),
        (b"application_name", b"caf\xe9"),
        (b"PgWeir.Consistency", b"latest"),
        (b"_pq_.grease", b"1"),
    ])
    .unwrap();
    assert_eq!(
        (startup.user.as_str(), startup.database.as_str()),
        ("app", "app")
    );
    assert_eq!(
        startup.parameters,
        [
            parameter("client_encoding", "UTF8"),
            parameter("application_name", "caf\u{fffd}")
        ]
    );
    assert_eq!(
        startup.settings,
        [parameter("pgweir.consistency", "latest")]
    );
    assert_eq!(
        startup.unrecognized_options,
        [Box::from(&b"_pq_.grease"[..])]
    );
}

#[test]
fn faulty_startup_messages_are_named() {
    assert_eq!(started(&[(b"database", b"d")]), Err(StartupFault::NoUser));
    assert_eq!(started(&[(b"user", b"")]), Err(StartupFault::NoUser));
    assert_eq!(
        started(&[(b"user", b"a"), (b"DateStyle", b"\xff")]),
        Err(StartupFault::Encoding {
            parameter: "DateStyle".to_owned()
        })
    );
    let whole = packet((3, 0), &[(b"user", b"app"), (b"database", b"d")]);
    for end in 4..whole.len() {
        assert_eq!(
            parse(whole.get(..end).unwrap()),
            Err(StartupFault::Layout),
            "{end}"
        );
    }
    let mut longer = whole;
    longer.push(0);
    assert_eq!(parse(&longer), Err(StartupFault::Layout));
}

#[test]
fn replication_is_a_boolean_or_a_database() {
    let cases = [
        (
            &["false", "f", "FALSE", "no", "n", "off", "of", "0"][..],
            Replication::None,
        ),
        (
            &["true", "T", "tr", "yes", "y", "on", "ON", "1"],
            Replication::Physical,
        ),
        (&["database"], Replication::Database),
    ];
    for (values, expected) in cases {
        for value in values {
            let message = started(&[(b"user", b"a"), (b"replication", value.as_bytes())]).unwrap();
            assert_eq!(message.replication, expected, "{value}");
            assert!(message.parameters.is_empty());
        }
    }
    for value in ["", "o", "falsee", "Database", "databas", "2"] {
        assert_eq!(
            started(&[(b"user", b"a"), (b"replication", value.as_bytes())]),
            Err(StartupFault::Replication {
                value: value.to_owned()
            }),
            "{value}"
        );
    }
}

#[test]
fn own_settings_are_taken_out_of_options_and_the_rest_stays_as_written() {
    for (options, settings, rest) in [
        ("", &[][..], ""),
        (
            "-c pgweir.consistency=latest",
            &[("pgweir.consistency", "latest")][..],
            "",
        ),
        (
            "-cpgweir.a=1 --PGWEIR.max-staleness=250ms",
            &[("pgweir.a", "1"), ("pgweir.max_staleness", "250ms")],
            "",
        ),
        (
            "-c geqo=off  -c pgweir.key=user\\ 42 --jit=off",
            &[("pgweir.key", "user 42")],
            "-c geqo=off --jit=off",
        ),
        (
            "-c search_path=a\\ b\\\\c -d 5",
            &[],
            "-c search_path=a\\ b\\\\c -d 5",
        ),
        ("-c pgweir.key=a=b", &[("pgweir.key", "a=b")], ""),
        ("-c pgweir_x.y=1 -c", &[], "-c pgweir_x.y=1 -c"),
        ("--pgwei\u{e9}r=1 \\", &[], "--pgwei\u{e9}r=1 \\"),
    ] {
        let expected = SeparatedOptions {
            settings: settings
                .iter()
                .map(|(name, value)| parameter(name, value))
                .collect(),
            rest: rest.to_owned(),
        };
        assert_eq!(separate_options(options), Ok(expected), "{options}");
    }
    assert_eq!(
        separate_options("-c pgweir.consistency"),
        Err(StartupFault::SettingWithoutValue {
            name: "pgweir.consistency".to_owned()
        })
    );
}

#[test]
fn the_last_options_count() {
    let startup = started(&[
        (b"user", b"a"),
        (b"options", b"-c a.b=1"),
        (b"options", b"-c a.b=2"),
    ])
    .unwrap();
    assert_eq!(startup.parameters, [parameter("options", "-c a.b=2")]);
}

#[test]
fn a_newer_minor_version_and_unknown_options_are_negotiated() {
    for (minor, options, expected) in [
        (0, &[][..], &b""[..]),
        (2, &[], b""),
        (
            0,
            &[&b"_pq_.x"[..]][..],
            b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0",
        ),
        (9999, &[], b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"),
    ] {
        let mut parameters: Vec<(&[u8], &[u8])> = vec![(b"user", b"a")];
        parameters.extend(options.iter().map(|name| (*name, &b"1"[..])));
        let Ok(FirstPacket::Startup(startup)) = parse(&packet((3, minor), &parameters)) else {
            panic!("not a startup message");
        };
        let mut out = Vec::new();
        write_negotiation(&mut out, &startup);
        assert_eq!(out, expected, "{minor}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&body);
        let mut with_version = vec![0, 3, 0, 0];
        with_version.extend_from_slice(&body);
        let _ = parse(&with_version);
    }

    #[test]
    fn no_options_make_the_splitter_panic_or_pass_an_own_setting(options in "[-c =\\\\ pgweir.x\u{e9}]{0,40}") {
        if let Ok(separated) = separate_options(&options) {
            let again = separate_options(&separated.rest).unwrap();
            prop_assert!(again.settings.is_empty(), "{:?}", separated);
        }
    }
}
