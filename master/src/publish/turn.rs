//! Publishes take turns: each syncs a whole file system, and two at once would only wait for each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::MasterError;
use crate::repository::guard;

/// How soon one that waits sees that it is not wanted any more: a flag cannot be waited for.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Whose turn it is to publish.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// A turn, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'t>(&'t Turns);

impl Turns {
    /// Waits for a turn, unless `cancel` is set; `on_wait` is called once if there is something to wait for.
    pub(crate) fn take(&self, cancel: &AtomicBool, on_wait: impl FnOnce()) -> Result<Turn<'_>, MasterError> {
        let mut taken = guard(&self.taken);
        if *taken {
            drop(taken);
            on_wait();
            taken = guard(&self.taken);
        }
        while *taken {
            if cancel.load(Ordering::Relaxed) {
                return Err(MasterError::Cancelled);
            }
            taken = self.freed.wait_timeout(taken, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *guard(&self.0.taken) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publish that waited for another one could not be cancelled: it held its client, and a stopping daemon.
    #[test]
    fn one_that_waits_can_be_cancelled() {
        let (turns, cancel) = (Turns::default(), AtomicBool::new(false));
        let first = turns.take(&cancel, || panic!("nobody has the turn")).unwrap();
        let refused = turns.take(&cancel, || cancel.store(true, Ordering::Relaxed));
        assert!(matches!(refused, Err(MasterError::Cancelled)));
        drop(first);
        assert!(turns.take(&AtomicBool::new(false), || panic!("the turn was given back")).is_ok());
    }

    #[test]
    fn turns_follow_each_other() {
        let (turns, cancel) = (Turns::default(), AtomicBool::new(false));
        let first = Mutex::new(Some(turns.take(&cancel, || {}).unwrap()));
        let second = turns.take(&cancel, || drop(guard(&first).take())).unwrap();
        drop(second);
    }
}
