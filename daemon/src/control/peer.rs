//! Who is at the other end of a Unix socket, as the kernel says.

use axum::extract::FromRequestParts;
use nix::unistd::{Uid, User};

/// A process that asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub uid: u32,
    /// The user's name, or the number where it has none.
    pub user: String,
    pub pid: i32,
}

impl Peer {
    /// The process that connected to `stream`.
    pub(crate) fn of(stream: &tokio::net::UnixStream) -> Peer {
        match stream.peer_cred() {
            Ok(credentials) => Peer::new(credentials.uid(), credentials.pid().unwrap_or(0)),
            Err(_) => Peer { uid: u32::MAX, user: "unknown".into(), pid: 0 },
        }
    }

    /// This process itself, for changes made without a daemon.
    pub(crate) fn this_process() -> Peer {
        Peer::new(nix::unistd::getuid().as_raw(), nix::unistd::getpid().as_raw())
    }

    fn new(uid: u32, pid: i32) -> Peer {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Peer { uid, user, pid }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Peer, http::StatusCode> {
        parts.extensions.get::<Peer>().cloned().ok_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}
