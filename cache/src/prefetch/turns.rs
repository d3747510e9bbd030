//! The turns that orders have at the moment, side by side in one task.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;

use super::Orders;
use super::fill::Flying;
use super::order::OrderId;
use super::queue::Task;
use crate::CacheError;

/// What came of a turn; `None`: another order goes first.
type Outcome = Option<Result<(), CacheError>>;

/// The turns under way, at most one for an order.
pub(super) struct Turns<'a> {
    orders: &'a Orders,
    /// Of the order that takes all of the line: who follows it waits for what it still has under way.
    flying: &'a Mutex<Flying>,
    tasks: BTreeMap<OrderId, (Task, AbortHandle)>,
    running: FuturesUnordered<BoxFuture<'a, (Task, Outcome)>>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(orders: &'a Orders, flying: &'a Mutex<Flying>) -> Turns<'a> {
        Turns { orders, flying, tasks: BTreeMap::new(), running: FuturesUnordered::new() }
    }

    /// From now on these and no others: who is not among them is displaced.
    pub(super) fn set(&mut self, tasks: &[Task]) {
        let is_displaced = |turn: &(Task, AbortHandle)| !tasks.contains(&turn.0);
        for (_, (_, abort)) in self.tasks.extract_if(.., |_, turn| is_displaced(turn)) {
            abort.abort();
        }
        for task in tasks {
            self.tasks.entry(task.id).or_insert_with(|| {
                let (abort, registration) = AbortHandle::new_pair();
                let (orders, flying, task) = (self.orders, self.flying, *task);
                let turn = Abortable::new(orders.turn(task, flying), registration);
                self.running.push(Box::pin(async move { (task, turn.await.ok()) }));
                (task, abort)
            });
        }
    }

    pub(super) fn tasks(&self) -> Vec<Task> {
        self.tasks.values().map(|(task, _)| *task).collect()
    }

    /// The next turn that ended by itself, and how; none is forgotten when the caller is interrupted.
    pub(super) async fn ended(&mut self) -> (Task, Result<(), CacheError>) {
        loop {
            match self.running.next().await {
                Some((task, Some(outcome))) => {
                    self.tasks.remove(&task.id);
                    return (task, outcome);
                }
                Some((_, None)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
