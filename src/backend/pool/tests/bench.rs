//! A scripted node and pools in front of it.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::backend::pool::*;
use crate::config::{ProcessEnvironment, Secret};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const A: NodeId = NodeId(0);

/// What the node says to everybody who logs in: in, one report, key, ready; `PID!` is filled in.
pub(super) const GREETING: &[u8] =
    b"R\0\0\0\x08\0\0\0\0S\0\0\0\x0dzone\0UTC\0K\0\0\0\x0cPID!key!Z\0\0\0\x05I";
pub(super) const SHUTDOWN: &[u8] = b"E\0\0\0\x26SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0";

/// A node that lets everybody in, whose ends of the connections the test holds.
pub(super) struct FakeNode {
    pub(super) port: u16,
    /// By process id, which counts from 1.
    pub(super) peers: Arc<Mutex<HashMap<i32, Arc<TcpStream>>>>,
    /// Log-ins that may go on.
    pub(super) gate: Arc<Semaphore>,
    /// Log-ins that have begun.
    pub(super) begun: Arc<AtomicUsize>,
}

impl FakeNode {
    /// A node that lets the first `admitted` log-ins through.
    pub(super) async fn start(admitted: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Self {
            port: listener.local_addr().unwrap().port(),
            peers: Arc::default(),
            gate: Arc::new(Semaphore::new(admitted)),
            begun: Arc::default(),
        };
        let shared = (
            Arc::clone(&node.peers),
            Arc::clone(&node.gate),
            Arc::clone(&node.begun),
        );
        tokio::spawn(async move {
            for pid in 1.. {
                let (peer, _) = listener.accept().await.unwrap();
                tokio::spawn(let_in(peer, pid, shared.clone()));
            }
        });
        node
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn peer(&self, lease: &Lease) -> Arc<TcpStream> {
        Arc::clone(&self.peers.lock().unwrap()[&lease.process_id])
    }

    /// Waits until the connection is closed from our side, with or without a Terminate.
    pub(super) async fn closed(peer: &TcpStream) -> Vec<u8> {
        let mut got = Vec::new();
        let reading = async {
            loop {
                peer.readable().await.unwrap();
                let mut bytes = [0; 64];
                match peer.try_read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) => got.extend_from_slice(&bytes[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the connection is closed");
        got
    }
}

pub(super) type Parts = (
    Arc<Mutex<HashMap<i32, Arc<TcpStream>>>>,
    Arc<Semaphore>,
    Arc<AtomicUsize>,
);

pub(super) async fn let_in(mut peer: TcpStream, pid: i32, (peers, gate, begun): Parts) {
    let Ok(length) = peer.read_u32().await else {
        return;
    };
    let mut packet = vec![0; length as usize - 4];
    if peer.read_exact(&mut packet).await.is_err() {
        return;
    }
    begun.fetch_add(1, Ordering::SeqCst);
    gate.acquire().await.unwrap().forget();
    let mut greeting = GREETING.to_vec();
    let at = greeting.windows(4).position(|four| four == b"PID!");
    greeting[at.unwrap()..][..4].copy_from_slice(&pid.to_be_bytes());
    let peer = Arc::new(peer);
    // Known before the log-in is over, so that a test finds the peer of what it was given.
    peers.lock().unwrap().insert(pid, Arc::clone(&peer));
    peer.writable().await.unwrap();
    let _ = peer.try_write(&greeting);
}

#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) waits: Mutex<Vec<Duration>>,
    pub(super) counts: Mutex<HashMap<NodeId, PoolCounts>>,
    pub(super) evictions: Mutex<Vec<EvictionCause>>,
}

impl PoolObserver for Recorded {
    fn waited(&self, _: NodeId, wait: Duration) {
        self.waits.lock().unwrap().push(wait);
    }

    fn evicted(&self, _: NodeId, cause: EvictionCause) {
        self.evictions.lock().unwrap().push(cause);
    }

    fn counted(&self, node: NodeId, counts: PoolCounts) {
        self.counts.lock().unwrap().insert(node, counts);
    }
}

/// Pools with one node and what a test does to them.
pub(super) struct Bench {
    pub(super) pools: Arc<Pools>,
    pub(super) node: FakeNode,
    pub(super) observed: Arc<Recorded>,
}

impl Bench {
    pub(super) async fn new(size: usize) -> Self {
        Self::with(size, "20s", usize::MAX >> 4).await
    }

    pub(super) async fn with(size: usize, checkout_timeout: &str, admitted: usize) -> Self {
        let node = FakeNode::start(admitted).await;
        let text = format!(
            "clusters: {{ main: {{ nodes: [{{ host: 127.0.0.1, port: {} }}], pool: {{ size: {size}, \
             mode: transaction, idle_timeout: 10m, max_lifetime: 1h, checkout_timeout: \
             {checkout_timeout} }}, monitor: {{ user: m, password: m, database: postgres }}, \
             server_tls: {{ mode: disable }} }} }}\n\
             users: [{{ name: app, password: secret }}]\n",
            node.port
        );
        let config = crate::config::parse(&text, "test", &ProcessEnvironment).unwrap();
        let observed = Arc::new(Recorded::default());
        let told = Arc::clone(&observed) as Arc<dyn PoolObserver>;
        Self {
            pools: Arc::new(Pools::new(
                Arc::clone(&config.clusters[0]),
                told,
                Hashing::start().unwrap(),
            )),
            node,
            observed,
        }
    }

    pub(super) async fn checkout(&self, application: &str) -> Result<Lease, CheckoutError> {
        checkout(&self.pools, application, preferring(None, 0)).await
    }

    pub(super) async fn lease(&self) -> Lease {
        self.checkout("x").await.unwrap()
    }

    pub(super) fn spawn(
        &self,
        application: &'static str,
    ) -> JoinHandle<Result<Lease, CheckoutError>> {
        let pools = Arc::clone(&self.pools);
        tokio::spawn(async move { checkout(&pools, application, preferring(None, 0)).await })
    }

    /// Spawns a checkout and waits until it is in the queue.
    pub(super) async fn queue(
        &self,
        application: &'static str,
    ) -> JoinHandle<Result<Lease, CheckoutError>> {
        let before = self.counts().waiting;
        let waiter = self.spawn(application);
        until(|| self.counts().waiting > before).await;
        waiter
    }

    pub(super) fn counts(&self) -> PoolCounts {
        self.pools.counts(A)
    }
}

pub(super) fn key(application: &str) -> PoolKey {
    let startup = [("application_name".to_owned(), application.to_owned())];
    PoolKey {
        node: A,
        database: "db".into(),
        user: "app".into(),
        startup: Arc::new(StartupParameters::new(startup)),
    }
}

pub(super) fn preferring(last: Option<ConnectionId>, worker: u16) -> Preference {
    let worker = WorkerId(worker);
    Preference {
        home: None,
        last,
        worker,
        names: WantedNames::default(),
    }
}

pub(super) async fn checkout(
    pools: &Pools,
    application: &str,
    preference: Preference,
) -> Result<Lease, CheckoutError> {
    let login = NodeLogin::with_password(Secret::new("secret"));
    let key = key(application);
    pools
        .checkout(&key, &login, &preference, Instant::now())
        .await
}

pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the condition becomes true");
}

pub(super) async fn done(
    waiter: JoinHandle<Result<Lease, CheckoutError>>,
) -> Result<Lease, CheckoutError> {
    tokio::time::timeout(PATIENCE, waiter)
        .await
        .expect("the checkout ends")
        .unwrap()
}

pub(super) fn give_back(lease: Lease) {
    lease.give_back(Instant::now());
}

pub(super) fn counts(idle: usize, active: usize, connecting: usize, waiting: usize) -> PoolCounts {
    PoolCounts {
        idle,
        active,
        connecting,
        waiting,
    }
}
