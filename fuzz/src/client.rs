//! What a client sends.

use std::cell::RefCell;
use std::sync::Arc;

use pgweir::backend::fuzzing::packet;
use pgweir::backend::startup::StartupParameters;
use pgweir::config::Policies;
use pgweir::frontend::session::fuzzing::Planner;
use pgweir::protocol::frame::{FrameHeader, HEADER_BYTES};
use pgweir::protocol::frontend::{
    Bind, Named, Parse, query_text, tag, write_bind, write_named_statement, write_parse,
};
use pgweir::protocol::segment::{InvalidSegment, Segment, SegmentEnd, find_segment};
use pgweir::protocol::startup::{
    FirstPacket, LENGTH_BYTES, StartupMessage, body_length, parse, separate_options,
    write_negotiation,
};

use crate::configuration::smallest;
use crate::shop::SHOP;
use crate::{cuts, take};

/// The first packet: a startup message, a request for encryption, or a cancel request.
pub fn startup(data: &[u8]) {
    let Some((field, body)) = data.split_first_chunk::<LENGTH_BYTES>() else {
        return;
    };
    if let Ok(length) = body_length(*field) {
        assert!((4..=10_000).contains(&length));
    }
    // Whatever the length says: the parser must stand any body.
    match parse(body) {
        Ok(FirstPacket::Startup(message)) => {
            negotiation(&message);
            to_the_node(&message);
        }
        Ok(FirstPacket::Cancel(request)) => assert!((4..=256).contains(&request.key.len())),
        Ok(FirstPacket::SslRequest | FirstPacket::GssEncryptionRequest) | Err(_) => {}
    }
}

fn negotiation(message: &StartupMessage) {
    let mut out = Vec::new();
    write_negotiation(&mut out, message);
    if let Some(header) = FrameHeader::parse(&out, u32::MAX).unwrap() {
        assert_eq!((header.tag, header.total()), (b'v', out.len()));
    }
}

/// The node must understand the same as we do, and see nothing of our own settings.
fn to_the_node(message: &StartupMessage) {
    for parameter in &message.parameters {
        assert!(!parameter.name.to_ascii_lowercase().starts_with("pgweir."));
        if parameter.name == "options" {
            let again = separate_options(&parameter.value).unwrap();
            assert!(again.settings.is_empty(), "{:?}", again.settings);
            assert_eq!(again.rest, parameter.value);
        }
    }
    let pairs = message.parameters.iter();
    let parameters =
        StartupParameters::new(pairs.map(|pair| (pair.name.clone(), pair.value.clone())))
            .speaking(message.replication);
    let Ok(sent) = packet(&message.user, &message.database, &parameters) else {
        return;
    };
    let Ok(FirstPacket::Startup(understood)) = parse(&sent[LENGTH_BYTES..]) else {
        panic!("a node would not understand {sent:?}");
    };
    assert_eq!(understood.user, message.user);
    assert_eq!(understood.database, message.database);
    assert!(understood.settings.is_empty());
    let pairs = understood.parameters.into_iter();
    let parameters_again = StartupParameters::new(pairs.map(|pair| (pair.name, pair.value)))
        .speaking(understood.replication);
    assert_eq!(parameters_again, parameters);
}

type Found = (Vec<(usize, SegmentEnd)>, Option<InvalidSegment>, usize);

/// All segments of a stream that arrives in parts which end at `ends`.
fn segments(stream: &[u8], ends: &[usize], hold_bytes: usize) -> Found {
    let (mut found, mut start, mut walked) = (Vec::new(), 0, 0);
    for end in ends {
        loop {
            let bytes = &stream[start..*end];
            match find_segment(bytes, &mut walked, 1 << 20, hold_bytes) {
                Ok(Segment::Whole(length, how)) => {
                    assert!(0 < length && length <= bytes.len() && walked == 0);
                    found.push((length, how));
                    start += length;
                }
                Ok(Segment::Partial) => {
                    assert!(bytes.len() < hold_bytes && walked <= bytes.len());
                    break;
                }
                Ok(Segment::TooLong(whole)) => {
                    assert!(bytes.len() >= hold_bytes && whole == walked && whole <= bytes.len());
                    break;
                }
                Err(invalid) => return (found, Some(invalid), start),
            }
        }
    }
    (found, None, start)
}

/// Segments of the client's stream: the same however the stream is cut.
pub fn segment(mut data: &[u8]) {
    let (seed, hold) = (take(&mut data), take(&mut data));
    let whole = segments(data, &[data.len()], usize::MAX);
    let parts = segments(data, &cuts(data.len(), seed), usize::MAX);
    assert_eq!(whole, parts);
    segments(data, &cuts(data.len(), seed), usize::from(hold));
}

thread_local! {
    static PLANNER: RefCell<(Planner, Planner)> = {
        let policies: Arc<Policies> = Arc::clone(&smallest().clusters[0].policies);
        let knowing = Planner::new(Arc::clone(&policies), Some(Arc::clone(&SHOP)));
        RefCell::new((knowing, Planner::new(policies, None)))
    };
}

/// The bodies of the client's messages, and what a session plans for them.
pub fn messages(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = FrameHeader::parse(rest, 1 << 20) {
        let Some((message, after)) = rest.split_at_checked(header.total()) else {
            break;
        };
        body(header.tag, &message[HEADER_BYTES..]);
        rest = after;
    }
    PLANNER.with_borrow_mut(|(knowing, ignorant)| {
        // What can be planned does not depend on the catalog.
        assert_eq!(knowing.plan(data), ignorant.plan(data));
    });
}

fn body(kind: u8, body: &[u8]) {
    let mut out = Vec::new();
    match kind {
        tag::PARSE => {
            let Ok(parse) = Parse::read(body) else { return };
            write_parse(&mut out, parse.name, parse.sql, parse.types);
        }
        tag::BIND => {
            let Ok(bind) = Bind::read(body) else { return };
            write_bind(&mut out, bind, bind.statement);
        }
        tag::DESCRIBE | tag::CLOSE => match Named::read(body) {
            Ok(Named::Statement(name)) => {
                write_named_statement(&mut out, kind, name);
                let again = Named::read(&out[HEADER_BYTES..]);
                assert_eq!(again, Ok(Named::Statement(name)));
                return;
            }
            Ok(Named::Portal(_) | Named::Unknown) | Err(_) => return,
        },
        tag::QUERY => {
            if let Ok(text) = query_text(body) {
                assert_eq!(text.len() + 1, body.len());
            }
            return;
        }
        _ => return,
    }
    // A message that is written anew differs in nothing but the name.
    assert_eq!(&out[HEADER_BYTES..], body);
    let header = FrameHeader::parse(&out, u32::MAX).unwrap().unwrap();
    assert_eq!((header.tag, header.total()), (kind, out.len()));
}
