//! Accepts clients and hands each to the worker with the fewest.
//!
//! Invariants:
//! * The accept loop never waits for a client or a worker, only for the next connection.
//! * Every accepted socket holds a [`Seat`]; at most `limits.max_clients` admitted ones and
//!   `OVERFLOW_CLIENTS` others exist at once, over all listeners that share [`Seats`].
//! * A seat is given back when it is dropped, however the client ends.
//!
//! Must not read from or write to a client.

mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::handshake::Admission;
use crate::config::ListenAddress;
use crate::limits::{
    ACCEPT_BACKOFF, CLIENT_KEEPALIVE_IDLE, CLIENT_KEEPALIVE_INTERVAL, CLIENT_KEEPALIVE_PROBES,
    LISTEN_BACKLOG, OVERFLOW_CLIENTS,
};
use crate::wire::socket::Unregistered;

/// How many clients there are and may be; shared by all listeners.
#[derive(Debug)]
pub struct Seats {
    max_clients: AtomicUsize,
    admitted: AtomicUsize,
    overflow: AtomicUsize,
}

impl Seats {
    /// Room for `max_clients` clients, none taken.
    pub fn new(max_clients: usize) -> Arc<Self> {
        Arc::new(Self {
            max_clients: AtomicUsize::new(max_clients),
            admitted: AtomicUsize::new(0),
            overflow: AtomicUsize::new(0),
        })
    }

    /// Changes the bound; clients above a lower one stay.
    pub fn set_max_clients(&self, max_clients: usize) {
        self.max_clients.store(max_clients, Ordering::Relaxed);
    }

    /// How many clients are admitted at the moment, from accept on.
    pub fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Takes a seat at a worker with `live` clients; `None` when even the overflow is full.
    fn take(self: &Arc<Self>, live: &Arc<AtomicUsize>) -> Option<Seat> {
        let bound = self.max_clients.load(Ordering::Relaxed);
        let admission = if take_one(&self.admitted, bound) {
            Admission::Admitted
        } else if take_one(&self.overflow, OVERFLOW_CLIENTS) {
            Admission::Full
        } else {
            return None;
        };
        live.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            seats: Arc::clone(self),
            live: Arc::clone(live),
            admission,
        })
    }

    fn counter(&self, admission: Admission) -> &AtomicUsize {
        match admission {
            Admission::Admitted => &self.admitted,
            Admission::Full => &self.overflow,
        }
    }
}

/// Adds one unless that would pass `bound`.
fn take_one(counter: &AtomicUsize, bound: usize) -> bool {
    let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        (count < bound).then_some(count + 1)
    });
    taken.is_ok()
}

/// One client's place; given back on drop.
#[must_use]
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    live: Arc<AtomicUsize>,
    admission: Admission,
}

impl Seat {
    /// Whether the client counts towards `limits.max_clients`.
    pub const fn admission(&self) -> Admission {
        self.admission
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        let counter = self.seats.counter(self.admission);
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted socket on its way to a worker.
#[derive(Debug)]
pub struct Incoming {
    /// To be registered on the worker.
    pub stream: Unregistered,
    /// The client's address.
    pub peer: ClientAddress,
    /// When it was accepted: the handshake's deadline counts from here.
    pub accepted_at: Instant,
    /// Keep it as long as the client lives.
    pub seat: Seat,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// At the other end of a TCP connection.
    Tcp(SocketAddr),
    /// On this machine, at a Unix socket.
    Local,
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Local => f.write_str("[local]"),
        }
    }
}

/// How a listener reaches one worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    sender: mpsc::Sender<Incoming>,
    live: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// A handle with the worker's end; at most `capacity` sockets wait to be taken.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Incoming>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let live = Arc::new(AtomicUsize::new(0));
        (Self { sender, live }, receiver)
    }

    /// How many clients the worker has, waiting ones included.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    address: ListenAddress,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removed after the socket is closed.
        _files: unix::SocketFiles,
    },
}

/// An accepted socket.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Bound {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, peer))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl Listener {
    /// Binds and listens. Port 0 takes a free one; an IPv6 address takes IPv6 only; a Unix socket
    /// that a dead server has left is replaced, and removed when the listener ends.
    ///
    /// # Errors
    /// When the address cannot be had, or outside a runtime with I/O.
    pub fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket = bind_tcp(*address)?;
                let address = ListenAddress::Tcp(socket.local_addr()?);
                let socket = Bound::Tcp(socket);
                Ok(Self { socket, address })
            }
            ListenAddress::Unix { directory, port } => {
                let (listener, files) = unix::bind(directory, *port)?;
                Ok(Self {
                    socket: Bound::Unix {
                        listener,
                        _files: files,
                    },
                    address: address.clone(),
                })
            }
        }
    }

    /// The address that is listened on, with the real port.
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Accepts until `shutdown` says `true` or its sender is gone; then the socket is closed.
    pub async fn run(
        self,
        workers: Vec<WorkerHandle>,
        seats: Arc<Seats>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return,
                accepted = self.next_client() => accepted,
            };
            hand_over(accepted, &workers, &seats);
        }
    }

    /// The next client; rests after an error, which is most often the lack of file descriptors.
    ///
    /// # Cancel safety
    /// No client is lost when the future is dropped.
    async fn next_client(&self) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "could not accept a client");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Gives a client to the worker with the fewest clients that has room for it; closes it when none
/// has.
fn hand_over(accepted: Accepted, workers: &[WorkerHandle], seats: &Arc<Seats>) {
    let accepted_at = Instant::now();
    let (stream, peer) = match accepted {
        Accepted::Tcp(stream, peer) => (configure(stream), ClientAddress::Tcp(peer)),
        Accepted::Unix(stream) => {
            let stream = stream.into_std().map(Unregistered::Unix);
            (stream, ClientAddress::Local)
        }
    };
    let stream = match stream {
        Ok(stream) => stream,
        // The client went away in the meantime.
        Err(error) => return tracing::debug!(%error, %peer, "lost a client while accepting it"),
    };
    let with_room = workers.iter().filter(|worker| worker.sender.capacity() > 0);
    let Some(worker) = with_room.min_by_key(|worker| worker.live()) else {
        return tracing::warn!(%peer, "closed a client: no worker takes new clients");
    };
    let Some(seat) = seats.take(&worker.live) else {
        return tracing::debug!(%peer, "closed a client above the limit of clients");
    };
    let incoming = Incoming {
        stream,
        peer,
        accepted_at,
        seat,
    };
    if worker.sender.try_send(incoming).is_err() {
        tracing::warn!(%peer, "closed a client: its worker takes no new clients");
    }
}

/// Sets what every client's TCP socket has, and takes it off this runtime.
fn configure(stream: TcpStream) -> io::Result<Unregistered> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(CLIENT_KEEPALIVE_IDLE)
        .with_interval(CLIENT_KEEPALIVE_INTERVAL)
        .with_retries(CLIENT_KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.into_std().map(Unregistered::Tcp)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn bound() -> (Listener, SocketAddr) {
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener::bind(&any).unwrap();
        let ListenAddress::Tcp(address) = *listener.address() else {
            panic!("bound to something else");
        };
        (listener, address)
    }

    struct Bench {
        address: SocketAddr,
        handles: Vec<WorkerHandle>,
        inboxes: Vec<mpsc::Receiver<Incoming>>,
        seats: Arc<Seats>,
        stop: watch::Sender<bool>,
        running: tokio::task::JoinHandle<()>,
    }

    fn start(workers: usize, max_clients: usize) -> Bench {
        let (listener, address) = bound();
        let (handles, inboxes): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| WorkerHandle::channel(100)).unzip();
        let seats = Seats::new(max_clients);
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(listener.run(handles.clone(), Arc::clone(&seats), stopped));
        Bench {
            address,
            handles,
            inboxes,
            seats,
            stop,
            running,
        }
    }

    async fn taken(inbox: &mut mpsc::Receiver<Incoming>) -> Incoming {
        timeout(DEADLINE, inbox.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn clients_are_spread_by_how_many_each_worker_has() {
        let mut bench = start(2, 10);
        let mut kept = Vec::new();
        for _ in 0..4 {
            kept.push(TcpStream::connect(bench.address).unwrap());
        }
        let mut first = vec![
            taken(&mut bench.inboxes[0]).await,
            taken(&mut bench.inboxes[0]).await,
        ];
        let _second = [
            taken(&mut bench.inboxes[1]).await,
            taken(&mut bench.inboxes[1]).await,
        ];
        let delays = |client: &Incoming| match &client.stream {
            Unregistered::Tcp(stream) => !stream.nodelay().unwrap(),
            Unregistered::Unix(_) => true,
        };
        assert!(!first.iter().any(delays));
        first.clear();
        assert_eq!((bench.handles[0].live(), bench.handles[1].live()), (0, 2));
        kept.push(TcpStream::connect(bench.address).unwrap());
        let next = taken(&mut bench.inboxes[0]).await;
        assert_eq!(next.seat.admission(), Admission::Admitted);
        assert_eq!(bench.seats.admitted(), 3);
    }

    #[tokio::test]
    async fn clients_above_the_limit_are_marked_and_a_freed_seat_is_used_again() {
        let mut bench = start(1, 1);
        let _clients: Vec<_> = (0..2).map(|_| TcpStream::connect(bench.address)).collect();
        let admitted = taken(&mut bench.inboxes[0]).await;
        let overflow = taken(&mut bench.inboxes[0]).await;
        assert_eq!(admitted.seat.admission(), Admission::Admitted);
        assert_eq!(overflow.seat.admission(), Admission::Full);
        drop((admitted, overflow));
        let _client = TcpStream::connect(bench.address).unwrap();
        let again = taken(&mut bench.inboxes[0]).await;
        assert_eq!(again.seat.admission(), Admission::Admitted);
    }

    #[tokio::test]
    async fn clients_beyond_the_overflow_are_closed_and_accepting_goes_on() {
        let mut bench = start(1, 0);
        let mut clients = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..OVERFLOW_CLIENTS {
            clients.push(TcpStream::connect(bench.address).unwrap());
            kept.push(taken(&mut bench.inboxes[0]).await);
        }
        let closed = tokio::net::TcpStream::connect(bench.address).await.unwrap();
        timeout(DEADLINE, closed.readable()).await.unwrap().unwrap();
        assert_eq!(closed.try_read(&mut [0; 8]).unwrap_or(0), 0);
        kept.clear();
        clients.push(TcpStream::connect(bench.address).unwrap());
        taken(&mut bench.inboxes[0]).await;
    }

    #[tokio::test]
    async fn a_full_worker_is_passed_over_and_shutdown_closes_the_socket() {
        let mut bench = start(1, 10);
        bench.stop.send(true).unwrap();
        timeout(DEADLINE, &mut bench.running)
            .await
            .unwrap()
            .unwrap();
        assert!(TcpStream::connect(bench.address).is_err());

        let (full, mut _full_inbox) = WorkerHandle::channel(1);
        let (free, mut free_inbox) = WorkerHandle::channel(2);
        let (listener, address) = bound();
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(listener.run(vec![full, free.clone()], Seats::new(10), stopped));
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address)).collect();
        let _second = taken(&mut free_inbox).await;
        let _third = taken(&mut free_inbox).await;
        assert_eq!(free.live(), 2);
    }
}
