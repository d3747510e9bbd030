//! An answer that waits: it costs no task, and wakes no thread, until there is something to do.
//!
//! The first poll is made on the FUSE thread with a waker that knows the answer. Whoever wakes it, mostly
//! the task that fetched the block, makes it a task of its own runtime, where the next turn is the answer's; a
//! task made at once would be polled in vain on one more thread, while somebody waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use tokio::runtime::Handle as Runtime;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer between its first poll and its first wake.
struct Deferred {
    stage: Mutex<Stage>,
    runtime: Runtime,
    tasks: TaskTracker,
}

enum Stage {
    /// On the FUSE thread; `woken` before that poll returned.
    Polled { woken: bool },
    /// Counted by the token as if it were a task already.
    Waiting(Answer, TaskTrackerToken),
    /// A task, or answered.
    Over,
}

/// Polls `answer` once here; if it has to wait, it goes on as one of `tasks` when it is woken.
pub(super) fn drive(answer: impl Future<Output = ()> + Send + 'static, runtime: &Runtime, tasks: &TaskTracker) {
    let _runtime = runtime.enter();
    let stage = Mutex::new(Stage::Polled { woken: false });
    let deferred = Arc::new(Deferred { stage, runtime: runtime.clone(), tasks: tasks.clone() });
    let mut answer: Answer = Box::pin(answer);
    if answer.as_mut().poll(&mut Context::from_waker(&Waker::from(deferred.clone()))).is_pending() {
        deferred.wait(answer);
    }
}

impl Deferred {
    fn wait(&self, answer: Answer) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Polled { woken: true } = *stage {
            *stage = Stage::Over;
            self.spawn(answer);
        } else {
            *stage = Stage::Waiting(answer, self.tasks.token());
        }
    }

    fn spawn(&self, answer: Answer) {
        let here = Runtime::try_current();
        self.tasks.spawn_on(answer, here.as_ref().unwrap_or(&self.runtime));
    }
}

impl Wake for Deferred {
    fn wake(self: Arc<Self>) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Polled { .. } => *stage = Stage::Polled { woken: true },
            Stage::Waiting(answer, token) => {
                drop(stage);
                self.spawn(answer);
                drop(token);
            }
            Stage::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[test]
    fn an_answer_that_is_ready_is_given_at_once_and_one_that_waits_when_it_is_woken() {
        let (runtime, tasks) = (runtime(), TaskTracker::new());
        let (give, given) = std::sync::mpsc::channel();
        let say = give.clone();
        drive(async move { say.send("ready").unwrap() }, runtime.handle(), &tasks);
        assert_eq!((given.try_recv(), tasks.len()), (Ok("ready"), 0));
        let (wake, woken) = oneshot::channel();
        drive(async move { give.send(woken.await.unwrap()).unwrap() }, runtime.handle(), &tasks);
        assert_eq!((given.try_recv().is_err(), tasks.len()), (true, 1));
        wake.send("woken").unwrap();
        assert_eq!(given.recv(), Ok("woken"));
        tasks.close();
        runtime.block_on(tasks.wait());
    }

    #[test]
    fn a_wake_during_the_first_poll_is_not_lost() {
        let (runtime, tasks) = (runtime(), TaskTracker::new());
        let (give, given) = std::sync::mpsc::channel();
        let answer = async move {
            tokio::task::yield_now().await;
            let mut polls = 0;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                polls += 1;
                if polls < 3 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            })
            .await;
            give.send(()).unwrap();
        };
        drive(answer, runtime.handle(), &tasks);
        given.recv().unwrap();
    }
}
