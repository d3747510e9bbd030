//! Single-flight for things that are loaded once and then kept elsewhere: heads, hash pages, trees.
//!
//! The first who asks for a key must see to it that a task *of the cache* does the work and lands it;
//! all wait for the same result, and one who stops waiting cancels nothing. A task that ends without
//! landing, because the cache stops or by a panic, lets nobody wait for ever.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::CacheError;

/// Work that is under way, by what it is for.
pub(crate) struct Flights<K, V>(Arc<Mutex<HashMap<K, Waiters<V>>>>);

type Waiters<V> = Vec<oneshot::Sender<Result<V, CacheError>>>;

/// The duty to answer those who wait. Dropped without an answer it tells them that the cache is stopping.
pub(crate) struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, Waiters<V>>>>,
    /// `None` once it has landed.
    key: Option<K>,
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    pub(crate) fn new() -> Flights<K, V> {
        Flights(Arc::default())
    }

    /// Waits for `key`. `start` is called if nobody works on it yet: it must spawn a task that lands.
    pub(crate) async fn join(&self, key: K, start: impl FnOnce(Landing<K, V>)) -> Result<V, CacheError> {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut flights = self.0.lock().expect("no panic under this lock");
            let waiters = flights.entry(key.clone()).or_default();
            waiters.push(sender);
            waiters.len() == 1
        };
        if first {
            start(Landing { flights: self.0.clone(), key: Some(key) });
        }
        receiver.await.unwrap_or(Err(CacheError::Closed))
    }
}

impl<K: Eq + Hash, V: Clone> Landing<K, V> {
    pub(crate) fn land(mut self, result: Result<V, CacheError>) {
        for waiter in self.take() {
            // Who went away does not want to know.
            let _ = waiter.send(result.clone());
        }
    }
}

impl<K: Eq + Hash, V> Landing<K, V> {
    fn take(&mut self) -> Waiters<V> {
        let Some(key) = self.key.take() else { return Vec::new() };
        self.flights.lock().expect("no panic under this lock").remove(&key).unwrap_or_default()
    }
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that is dropped with the cache leaves nobody waiting, and the next one can land.
    #[tokio::test]
    async fn who_waits_for_a_flight_that_ends_without_landing_is_told() {
        let flights: Flights<u8, u8> = Flights::new();
        assert!(matches!(flights.join(1, drop).await, Err(CacheError::Closed)));
        assert_eq!(flights.join(1, |landing| landing.land(Ok(7))).await.unwrap(), 7);
        let (first, second) = tokio::join!(flights.join(2, |landing| { drop(landing) }), flights.join(2, drop));
        assert!(first.is_err() && second.is_err());
    }
}
