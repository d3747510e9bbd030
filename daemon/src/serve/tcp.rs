//! The listening TCP sockets.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Allow;
use super::peers::{PER_PEER_MAX, Peers, Place};
use crate::connections;
use crate::failure::{Exit, Failure};

/// Connections on one address; more wait. Each holds at most about 3 MiB that its client has not taken yet.
const CONNECTIONS_MAX: usize = 512;
/// A client that takes nothing for so long is gone. A suspended machine may come back sooner.
const SEND_STALL_MAX: Duration = Duration::from_secs(300);

/// Sockets that listen, and where: port 0 takes a free one. Warns if `allow` admits nobody who could reach them.
pub(crate) async fn listen(addresses: &[SocketAddr], allow: &Allow) -> anyhow::Result<Vec<(TcpListener, SocketAddr)>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = bind(*address).await?;
        let address = listener.local_addr()?;
        listeners.push((listener, address));
    }
    if allow.is_local() && listeners.iter().any(|(_, address)| !address.ip().is_loopback()) {
        // A cache may serve workstations alone, to which something is exported.
        tracing::info!("no other node may connect: name the networks that may with --allow or `allow`");
    }
    Ok(listeners)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let (exit, remedy) = match error.kind() {
            std::io::ErrorKind::AddrInUse => (
                Exit::Refused,
                format!(
                    "another program listens there (`ss -ltnp sport = :{}` shows which); stop it or pass another --listen",
                    address.port()
                ),
            ),
            std::io::ErrorKind::AddrNotAvailable => {
                (Exit::Failed, "this machine has no such address; `ip address` lists those it has".to_owned())
            }
            std::io::ErrorKind::PermissionDenied => {
                (Exit::Failed, "ports below 1024 are root's; choose a higher one".to_owned())
            }
            _ => (Exit::Failed, "pass another --listen".to_owned()),
        };
        Failure::new(exit, format!("cannot listen on {address}: {error}; {remedy}"))
    })
}

/// Serves `router` to those whom `allow` admits, until `stop`. Each request carries its client's [`Place`] as an
/// extension.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    allow: Allow,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    let listener = listener.tap_io(|stream| prepare(stream));
    let peers = Peers::default();
    let admit = |stream: &TcpStream, client: SocketAddr| {
        // Before it asked: others must not be able to hold connections by asking slowly. Lost if it cannot be sent.
        let refuse = |answer| _ = send(stream.as_raw_fd(), answer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        if !allow.admits(client.ip()) {
            tracing::info!(%client, "refused: its network is not in `allow`, and nothing is exported to it");
            refuse(STRANGER);
            return None;
        }
        let place = peers.enter(client.ip());
        if place.is_none() {
            tracing::info!(%client, connections = PER_PEER_MAX, "refused: it has its share of connections already");
            refuse(TOO_MANY);
        }
        place.map(Arc::<Place>::new)
    };
    connections::serve(listener, router, CONNECTIONS_MAX, admit, tls, stop).await;
}

/// What those are told who hold so many connections that others would go without.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\r\nyour address has its share of connections already; close some\n";

/// What those are told who may not connect.
const STRANGER: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
    your network may not read here; ask the administrator of this master\n";

fn prepare(stream: &TcpStream) {
    // With Nagle's algorithm on, an answer of two packets waits 40 ms for the client's acknowledgement.
    let nodelay = stream.set_nodelay(true);
    let stall = setsockopt(stream, sockopt::TcpUserTimeout, &(SEND_STALL_MAX.as_millis() as u32));
    if let (Err(error), _) | (Ok(()), Err(error)) = (nodelay, stall.map_err(std::io::Error::from)) {
        tracing::debug!(%error, "a connection was closed before it began");
    }
}
