//! A relay in front of a node that ends a connection at a chosen place in the node's answer, as an
//! administrator's command does: with an `ErrorResponse` FATAL 57P01, and no word behind it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::wire::message;

/// Where a connection ends.
#[derive(Debug, Clone, Copy)]
pub enum Cue {
    /// Behind the `ReadyForQuery` of an answer with a row that contains these bytes, in the same write.
    Behind(&'static str),
    /// In place of what stands behind a row that contains these bytes.
    Amid(&'static str),
    /// In place of the answer to the Close of a statement, on connections of the role `app`.
    Close,
}

/// What the node says last.
pub fn farewell() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0";
    message(b'E', &[fields])
}

/// Listens on a free port of 127.0.0.1 and relays every connection to the port `to`. Lasts as long as
/// the process. Returns the port, and the number of connections that were ended.
pub fn ending_relay(to: u16, cue: Cue) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // Closing the client's socket tells it enough.
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let counts = (Arc::clone(&count), Arc::clone(&count));
            thread::spawn(move || ask(client, forth, cue, &counts.0));
            thread::spawn(move || answer(server, back, cue, &counts.1));
        }
    });
    (port, ended)
}

/// Carries what is asked.
fn ask(mut client: TcpStream, mut server: TcpStream, cue: Cue, ended: &AtomicUsize) {
    // The first packet has no type.
    let mut pending = Vec::new();
    let mut is_first = true;
    let mut is_app = false;
    let mut block = [0; 8192];
    while let Ok(length @ 1..) = client.read(&mut block) {
        pending.extend_from_slice(&block[..length]);
        while let Some(length) = whole(&pending, usize::from(!is_first)) {
            let packet: Vec<u8> = pending.drain(..length).collect();
            let user = b"user\0app\0";
            is_app |= is_first && packet.windows(user.len()).any(|bytes| bytes == user);
            let closes = !is_first && packet.starts_with(b"C") && packet.get(5) == Some(&b'S');
            is_first = false;
            if closes && is_app && matches!(cue, Cue::Close) {
                ended.fetch_add(1, Ordering::SeqCst);
                drop(client.write_all(&farewell()));
                end(&client, &server);
                return;
            }
            if server.write_all(&packet).is_err() {
                break;
            }
        }
    }
    end(&client, &server);
}

/// Carries what is answered.
fn answer(mut server: TcpStream, mut client: TcpStream, cue: Cue, ended: &AtomicUsize) {
    let mut pending = Vec::new();
    // Rows are held back until their answer is whole, so that it is one write.
    let mut held = Vec::new();
    let mut is_due = false;
    let mut block = [0; 8192];
    while let Ok(length @ 1..) = server.read(&mut block) {
        pending.extend_from_slice(&block[..length]);
        while let Some(length) = whole(&pending, 1) {
            let packet: Vec<u8> = pending.drain(..length).collect();
            let (Cue::Behind(mark) | Cue::Amid(mark)) = cue else {
                held.extend(packet);
                continue;
            };
            let has_mark = packet
                .windows(mark.len())
                .any(|bytes| bytes == mark.as_bytes());
            is_due |= packet.starts_with(b"D") && has_mark;
            let is_here = matches!(cue, Cue::Amid(_)) || packet.starts_with(b"Z");
            held.extend(packet);
            if is_due && is_here {
                ended.fetch_add(1, Ordering::SeqCst);
                held.extend(farewell());
                drop(client.write_all(&held));
                end(&client, &server);
                return;
            }
        }
        if !is_due && client.write_all(&std::mem::take(&mut held)).is_err() {
            break;
        }
    }
    end(&client, &server);
}

/// The length of the first packet, if it is whole; its own length stands behind `tag` bytes.
fn whole(pending: &[u8], tag: usize) -> Option<usize> {
    let field = pending.get(tag..tag + 4)?;
    let length = tag + usize::try_from(u32::from_be_bytes(field.try_into().unwrap())).unwrap();
    (pending.len() >= length).then_some(length)
}

/// Nothing more is carried either way; what was written arrives.
fn end(client: &TcpStream, server: &TcpStream) {
    // Either may be closed already.
    drop(client.shutdown(Shutdown::Write));
    drop(server.shutdown(Shutdown::Both));
}
