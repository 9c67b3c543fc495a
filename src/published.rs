//! Values that one task publishes and many read without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

/// One value behind one pointer: readers never block, a writer replaces it whole.
#[derive(Debug)]
pub struct Published<T> {
    current: ArcSwap<T>,
    changed: Notify,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Self {
            current: ArcSwap::from_pointee(value),
            changed: Notify::new(),
        }
    }

    /// The current value, borrowed cheaply; do not hold it across an await.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// The current value, shared.
    pub fn load_full(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Replaces the value and wakes everybody who waits for a change.
    pub fn store(&self, value: Arc<T>) {
        self.current.store(value);
        self.changed.notify_waiters();
    }

    /// Resolves to the first published value that `accept` maps to `Some`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for<R>(&self, mut accept: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = accept(&self.load()) {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_sees_the_value_that_fits_and_no_other() {
        let value = Arc::new(Published::new(1));
        let waiter = {
            let value = Arc::clone(&value);
            tokio::spawn(async move { value.wait_for(|n| (*n >= 3).then_some(*n)).await })
        };
        for n in 2..=4 {
            value.store(Arc::new(n));
            tokio::task::yield_now().await;
        }
        assert_eq!(waiter.await.unwrap(), 3);
    }
}
