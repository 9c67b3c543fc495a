//! Whole handshakes as tables: what the client sends, what it hears, how it ends.

use super::*;

struct Case {
    method: &'static str,
    input: Vec<u8>,
    ended: &'static str,
    start: Vec<u8>,
    refusal: Vec<u8>,
}

/// A script with its exact answer and, after it, perhaps a refusal (SQLSTATE, message).
fn case(
    method: &'static str,
    input: &[&[u8]],
    ended: &'static str,
    start: &[&[u8]],
    message: &str,
) -> Case {
    let refusal = if message.is_empty() {
        Vec::new()
    } else {
        fatal(ended, message)
    };
    Case {
        method,
        input: input.concat(),
        ended,
        start: start.concat(),
        refusal,
    }
}

fn encryption_cases() -> Vec<Case> {
    let app = startup(V3, &["user", "app"]);
    let unsupported =
        |code| format!("unsupported frontend protocol 1234.{code}: server supports 3.0 to 3.2");
    let (ssl, gssenc) = (unsupported(5679), unsupported(5680));
    vec![
        case("trust", &[&app, b"Q"], "app@app on 0 then Q", &[OK], ""),
        case("trust", &[SSL, &app], "app@app on 0 then ", &[b"N", OK], ""),
        case(
            "trust",
            &[GSSENC, SSL, &app],
            "app@app on 0 then ",
            &[b"NN", OK],
            "",
        ),
        case("trust", &[SSL, SSL], "0A000", &[b"N"], &ssl),
        case("trust", &[SSL, GSSENC, GSSENC], "0A000", &[b"NN"], &gssenc),
        case("trust", &[CANCEL], "cancel 7", &[], ""),
        case("trust", &[SSL, CANCEL], "cancel 7", &[b"N"], ""),
    ]
}

fn junk_cases() -> Vec<Case> {
    let length = "invalid length of startup packet";
    let refused = |input: &[u8]| case("trust", &[input], "08P01", &[], length);
    let closed = |input: &[u8]| case("trust", &[input], "closed", &[], "");
    vec![
        refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        // TLS where there is none: no answer would be understood.
        case("trust", &[b"\x16\x03\x01\x02\0\x01"], "tls", &[], ""),
        case(
            "trust",
            &[SSL, b"\x16\x03\x01\x02\0\x01"],
            "08P01",
            &[b"N"],
            length,
        ),
        refused(b"\0\0\0\x07abc"),
        refused(b"\xff\xff\xff\xff"),
        closed(b""),
        closed(b"\0\0\0"),
        closed(b"\0\0\0\x20\0\x03\0\0user"),
    ]
}

fn password_cases() -> Vec<Case> {
    let app = startup(V3, &["user", "app"]);
    let nobody = startup(V3, &["user", "nobody"]);
    let failed = |user: &str| format!("password authentication failed for user \"{user}\"");
    let refused = |input: &[u8], message: &str| {
        case("password", &[&app, input], "08P01", &[CLEARTEXT], message)
    };
    let wrong = |start: &[u8], text: &[u8], user: &str| {
        let input = [start, &answer(text)];
        case("password", &input, "28P01", &[CLEARTEXT], &failed(user))
    };
    let right = answer(b"secret\0");
    vec![
        case(
            "password",
            &[&app, &right],
            "app@app on 0 then ",
            &[CLEARTEXT, OK],
            "",
        ),
        wrong(&app, b"secreT\0", "app"),
        wrong(&app, b"\0", "app"),
        wrong(&nobody, b"secret\0", "nobody"),
        case("password", &[&app], "closed", &[CLEARTEXT], ""),
        case(
            "trust",
            &[&nobody],
            "28000",
            &[],
            "role \"nobody\" does not exist",
        ),
        refused(&answer(b"secret"), "invalid message format"),
        refused(&answer(b"secret\0\0"), "invalid password packet size"),
        refused(b"Q\0\0\0\x05\0", "expected password response"),
        refused(b"p\0\x01\0\x04aaaa", "invalid message length"),
        refused(b"p\0\0\0\x03", "invalid message length"),
        refused(b"p\xff\xff\xff\xff", "invalid message length"),
    ]
}

fn sasl_cases() -> Vec<Case> {
    let app = startup(V3, &["user", "app"]);
    let refused = |body: &[u8], message: &str| {
        let asked = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
        case(
            "scram-sha-256",
            &[&app, &answer(body)],
            "08P01",
            &[asked],
            message,
        )
    };
    let mechanism = "client selected an invalid SASL authentication mechanism";
    let mut all = vec![refused(b"PLAIN\0\0\0\0\0", mechanism)];
    for lying in [
        &b"\xff\xff\xff\xff"[..],
        b"\x80\0\0\0",
        b"\x7f\xff\xff\xffn,,n=,r=a",
        b"\0\0\0\x03n,,n=,r=a",
        b"\0\0",
    ] {
        let body = [b"SCRAM-SHA-256\0", lying].concat();
        all.push(refused(&body, "invalid message format"));
    }
    for bad in [
        &b"n,,n=,r="[..],
        b"n,,n=,r=a\0",
        b"n,,n=,r=\xc3\xa9",
        b"p=tls-unique,,n=,r=a",
        b"n,a=x,n=,r=a",
        b"",
        b"\xff,,n=,r=a",
    ] {
        let length = u32::try_from(bad.len()).unwrap().to_be_bytes();
        let body = [b"SCRAM-SHA-256\0", &length[..], bad].concat();
        all.push(refused(&body, "malformed SCRAM message"));
    }
    all
}

fn parameter_cases() -> Vec<Case> {
    let with = |parameters: &[&str]| startup(V3, &[&["user", "app"], parameters].concat());
    vec![
        case(
            "trust",
            &[&with(&["database", "other"])],
            "app@other on 1 then ",
            &[OK],
            "",
        ),
        case(
            "trust",
            &[&with(&["database", "shop", "options", "-c a.b=1"])],
            "app@shop on 0 then ",
            &[OK],
            "",
        ),
        case(
            "trust",
            &[&with(&["database", "pgweir"])],
            "3D000",
            &[],
            "database \"pgweir\" does not exist",
        ),
        case(
            "trust",
            &[&with(&["replication", "databases"])],
            "22023",
            &[],
            "invalid value for parameter \"replication\": \"databases\"",
        ),
        case(
            "trust",
            &[&startup(V3, &["database", "d"])],
            "28000",
            &[],
            "no PostgreSQL user name specified in startup packet",
        ),
        case(
            "trust",
            &[&startup(0x0002_0000, &["user", "app"])],
            "0A000",
            &[],
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2",
        ),
        case(
            "trust",
            &[&startup(0x0003_270f, &["user", "app"])],
            "app@app on 0 then ",
            &[b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0", OK],
            "",
        ),
        case(
            "trust",
            &[&startup(0x0003_0002, &["user", "app"])],
            "app@app on 0 then ",
            &[OK],
            "",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn scripts_end_as_written_however_their_bytes_are_cut() {
    let tables = [
        encryption_cases(),
        junk_cases(),
        password_cases(),
        sasl_cases(),
        parameter_cases(),
    ];
    for case in tables.into_iter().flatten() {
        for chunk in [1, 3, 7, 100_000] {
            let (ended, heard) = play(case.method, Admission::Admitted, &case.input, chunk).await;
            let shown = String::from_utf8_lossy(&heard);
            assert_eq!(
                ended,
                case.ended,
                "{:?} heard {shown:?}",
                case.input.escape_ascii().to_string()
            );
            assert!(
                is_heard(&heard, &case.start, &case.refusal),
                "{:?} heard {shown:?}",
                case.input.escape_ascii().to_string()
            );
        }
    }
}
