//! How a command ends: the exit codes that scripts rely on, and an error that carries one.
//!
//! An error without a [`Failure`] in its chain ends with code 1.

use std::fmt;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

/// The exit codes of `icbd`. Their meaning never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    Failed,
    Usage,
    Absent,
    Refused,
    /// What was promised by a time was not kept.
    Missed,
    Unreachable,
    Verification,
    Partly,
    Interrupted,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Absent => 3,
            Exit::Refused => 4,
            Exit::Missed => 5,
            Exit::Unreachable => 6,
            Exit::Verification => 7,
            Exit::Partly => 8,
            Exit::Interrupted => 130,
        }
    }

    /// The HTTP status with which the control plane reports such a failure.
    pub(crate) fn status(self) -> http::StatusCode {
        match self {
            Exit::Usage => http::StatusCode::BAD_REQUEST,
            Exit::Absent => http::StatusCode::NOT_FOUND,
            Exit::Refused => http::StatusCode::CONFLICT,
            Exit::Unreachable => http::StatusCode::BAD_GATEWAY,
            Exit::Failed | Exit::Missed | Exit::Verification | Exit::Partly | Exit::Interrupted => {
                http::StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// An error for people, with the exit code it means. Travels over the control socket as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub exit: Exit,
    /// What failed, on what, why, and what to do.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// What a disk refuses is no fault of the daemon's: the same with what to do about it, if `error` comes from that.
    pub(crate) fn of_disk(self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let kind = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind).next();
        let remedy = match kind {
            Some(ErrorKind::PermissionDenied) => "run it as root, or as the user who owns it",
            Some(ErrorKind::ReadOnlyFilesystem) => {
                "it is mounted read-only: see in the kernel's log whether the disk failed, and mount it for writing"
            }
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                "free some space there; of what icbd keeps, `icbd image prune` on a master and `icbd store evict` on a cache say what can go"
            }
            _ => return self,
        };
        match self.exit {
            Exit::Failed => Failure::new(Exit::Refused, format!("{}; {remedy}", self.message)),
            _ => self,
        }
    }

    /// What `error` means for the command: the failure in its chain, or plain failure.
    pub(crate) fn of(error: &anyhow::Error) -> Failure {
        let exit = error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |f| f.exit);
        Failure { exit, message: format!("{error:#}") }.of_disk(error.as_ref())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_code_is_found_below_any_context() {
        let error = Err::<(), _>(Failure::new(Exit::Absent, "no image")).context("cannot show").unwrap_err();
        assert_eq!(Failure::of(&error), Failure::new(Exit::Absent, "cannot show: no image"));
        assert_eq!(Failure::of(&anyhow::anyhow!("x")).exit.code(), 1);
    }
}
