//! Threads that derive keys from passwords, so that the threads that relay never do.
//!
//! Invariants:
//! * Few hashes run at once and not endlessly many wait; who finds no room is told at once.
//! * The threads have a lower priority than those that relay: what a crowd of logins makes them
//!   compute costs running sessions little.
//! * What nobody waits for any more is not begun.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::limits::{HASHES_WAITING, HASHING_NICENESS, HASHING_THREADS};

type Job = Box<dyn FnOnce() + Send>;

/// The threads; they end when the last clone of this is dropped.
#[derive(Debug, Clone)]
pub struct Hashing {
    jobs: SyncSender<Job>,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashingError {
    /// Too many wait already.
    #[error("too many passwords are being hashed")]
    Saturated,
    /// The work has panicked.
    #[error("hashing a password has failed")]
    Lost,
}

impl Hashing {
    /// Starts the threads: for each four cores one, at least one and at most
    /// [`HASHING_THREADS`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (jobs, waiting) = sync_channel(HASHES_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for place in 0..(cores / 4).clamp(1, HASHING_THREADS) {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new()
                .name(format!("hashing-{place}"))
                .spawn(move || work(&waiting))?;
        }
        Ok(Self { jobs })
    }

    /// The result of `work`, from one of the threads.
    ///
    /// # Errors
    /// When too many wait already, or `work` panics.
    ///
    /// # Cancel safety
    /// When the future is dropped, work that has not begun is not done.
    pub async fn run<T, F>(&self, work: F) -> Result<T, HashingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let job = move || {
            if !sender.is_closed() {
                // Whoever asked may have gone meanwhile.
                drop(sender.send(work()));
            }
        };
        let sent = self.jobs.try_send(Box::new(job));
        sent.map_err(|_| HashingError::Saturated)?;
        result.await.map_err(|_| HashingError::Lost)
    }
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    // Without a lower priority the work is still done, and still on few threads.
    if let Err(error) = rustix::process::setpriority_process(None, HASHING_NICENESS) {
        tracing::debug!(%error, "could not lower the priority of a hashing thread");
    }
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(job) = next else { return };
        // A panic has been reported where it happened, and costs one login.
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Keeps every thread busy until the sender is dropped.
    fn occupy(hashing: &Hashing) -> Vec<std::sync::mpsc::Sender<()>> {
        let started = Arc::new(AtomicUsize::new(0));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / 4).clamp(1, HASHING_THREADS);
        let occupied = (0..threads).map(|_| {
            let (release, released) = std::sync::mpsc::channel();
            let started = Arc::clone(&started);
            let job = move || {
                started.fetch_add(1, Ordering::SeqCst);
                let _ = released.recv();
            };
            hashing.jobs.try_send(Box::new(job)).unwrap();
            release
        });
        let occupied = occupied.collect();
        while started.load(Ordering::SeqCst) < threads {
            thread::yield_now();
        }
        occupied
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_what_waits_is_done() {
        let hashing = Hashing::start().unwrap();
        let busy = occupy(&hashing);
        let asked = Arc::new(AtomicUsize::new(0));
        let mut waiting = tokio::task::JoinSet::new();
        for at in 0..HASHES_WAITING {
            let (hashing, asked) = (hashing.clone(), Arc::clone(&asked));
            waiting.spawn(async move {
                asked.fetch_add(1, Ordering::SeqCst);
                hashing.run(move || at).await
            });
        }
        while asked.load(Ordering::SeqCst) < HASHES_WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(hashing.run(|| 0).await, Err(HashingError::Saturated));
        drop(busy);
        let done: Vec<_> = waiting.join_all().await;
        assert!(done.iter().all(Result::is_ok));
        assert_eq!(hashing.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun() {
        let hashing = Hashing::start().unwrap();
        let busy = occupy(&hashing);
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let mut abandoned = Box::pin(hashing.run(move || counted.fetch_add(1, Ordering::SeqCst)));
        let begun_waiting = std::future::poll_fn(|context| {
            std::task::Poll::Ready(abandoned.as_mut().poll(context).is_pending())
        });
        assert!(begun_waiting.await);
        drop(abandoned);
        drop(busy);
        assert_eq!(hashing.run(|| 1).await, Ok(1));
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_costs_one_result() {
        let hashing = Hashing::start().unwrap();
        let lost = hashing.run(|| panic!("on purpose")).await;
        assert_eq!(lost, Err::<(), _>(HashingError::Lost));
        assert_eq!(hashing.run(|| 1).await, Ok(1));
    }
}
