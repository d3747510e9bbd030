//! How `mount.icbd` ends: the exit codes of mount(8), with a message for people.

use std::fmt;

/// The codes of mount(8) that are ours to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Incorrect invocation or permissions.
    Usage = 1,
    /// The system refused something that has nothing to do with icbd.
    System = 2,
    Interrupted = 8,
    /// The mount failed.
    Mount = 32,
}

/// What failed, on what, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// The system refused `doing`.
    pub(crate) fn system<E: fmt::Display>(doing: &str) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(Exit::System, format!("cannot {doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
