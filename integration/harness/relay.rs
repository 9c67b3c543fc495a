//! A relay between two sockets that changes nothing but when bytes arrive.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Chunks that may be on their way in one direction of one connection.
const UNDER_WAY: usize = 4096;

/// How bytes travel.
#[derive(Debug, Clone, Copy)]
pub enum Travel {
    /// One at a time, each in a write of its own.
    Bytewise,
    /// All as they come, so much later.
    Delayed(Duration),
}

/// Listens on a free port of 127.0.0.1 and relays every connection to the port `to`, both ways
/// alike. Lasts as long as the process. Returns the port.
pub fn relay(to: u16, travel: Travel) -> u16 {
    switched_relay(Arc::new(AtomicU16::new(to)), travel)
}

/// The same, to the port that `to` holds when a connection comes.
pub fn switched_relay(to: Arc<AtomicU16>, travel: Travel) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // Closing the client's socket tells it enough.
            let Ok(server) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))) else {
                continue;
            };
            carry(&client, &server, travel);
            carry(&server, &client, travel);
        }
    });
    port
}

/// Carries one direction.
fn carry(from: &TcpStream, to: &TcpStream, travel: Travel) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    to.set_nodelay(true).unwrap();
    match travel {
        Travel::Bytewise => thread::spawn(move || {
            let mut block = [0; 8192];
            while let Ok(length @ 1..) = from.read(&mut block) {
                let bytes = &block[..length];
                if !bytes.chunks(1).all(|byte| to.write_all(byte).is_ok()) {
                    break;
                }
            }
            close(&from, &to);
        }),
        Travel::Delayed(delay) => {
            let (sender, receiver) = sync_channel(UNDER_WAY);
            let ends = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || depart(from, &sender, delay));
            thread::spawn(move || {
                arrive(to, &receiver);
                close(&ends.0, &ends.1);
            })
        }
    };
}

fn depart(mut from: TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut block = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut block) {
        let chunk = (Instant::now() + delay, block[..length].to_vec());
        if sender.send(chunk).is_err() {
            return;
        }
    }
}

fn arrive(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (at, bytes) in receiver {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// One side has ended: the other sees the end behind the last byte, and nothing more is taken.
fn close(from: &TcpStream, to: &TcpStream) {
    // Either may be closed already.
    drop(from.shutdown(Shutdown::Read));
    drop(to.shutdown(Shutdown::Write));
}
