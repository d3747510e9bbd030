//! Single-flight for things that are loaded once and then kept elsewhere: heads, hash pages, trees.
//!
//! The first who asks for a key must see to it that a task *of the cache* does the work and lands it;
//! all wait for the same result, and one who stops waiting cancels nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::CacheError;

/// Work that is under way, by what it is for.
#[derive(Debug)]
pub(crate) struct Flights<K, V>(Mutex<HashMap<K, Waiters<V>>>);

type Waiters<V> = Vec<oneshot::Sender<Result<V, CacheError>>>;

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    pub(crate) fn new() -> Flights<K, V> {
        Flights(Mutex::new(HashMap::new()))
    }

    /// Waits for `key`. `start` is called if nobody works on it yet: it must spawn a task that calls
    /// [`Flights::land`], whatever happens.
    pub(crate) async fn join(&self, key: K, start: impl FnOnce()) -> Result<V, CacheError> {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut flights = self.0.lock().expect("no panic under this lock");
            let waiters = flights.entry(key).or_default();
            waiters.push(sender);
            waiters.len() == 1
        };
        if first {
            start();
        }
        // Dropped without an answer: the task was ended with the cache.
        receiver.await.unwrap_or(Err(CacheError::Closed))
    }

    pub(crate) fn land(&self, key: &K, result: Result<V, CacheError>) {
        let waiters = self.0.lock().expect("no panic under this lock").remove(key);
        for waiter in waiters.into_iter().flatten() {
            let _ = waiter.send(result.clone());
        }
    }
}
