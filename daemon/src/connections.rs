//! One accept loop for TCP and Unix sockets: bounded, with time-outs, and with an end.
//!
//! `axum::serve` has no limit of connections, no time-out for headers and no bound for its shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::serve::Listener;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// How long a client may take over its request's headers, and how long an idle connection is kept.
const HEADER_READ_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's line and headers: five times the longest path.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// How long answers that are under way may take once the daemon is told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Serves `router` on `listener` until `stop`, with at most `connections_max` at once: more wait in the
/// kernel's queue. `introduce` is called with each connection; its result becomes a request extension, and
/// `None` closes the connection before it takes anybody's place.
pub(crate) async fn serve<L, P>(
    mut listener: L,
    router: Router,
    connections_max: usize,
    introduce: impl Fn(&L::Io, L::Addr) -> Option<P>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) where
    L: Listener,
    P: Clone + Send + Sync + 'static,
{
    let slots = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            (slot, listener.accept().await)
        };
        let (slot, (stream, address)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        let Some(peer) = introduce(&stream, address) else { continue };
        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
        connections.spawn(async move {
            let Some(tls) = tls else {
                connection(stream, router, peer, stop).await;
                return drop(slot);
            };
            match tokio::time::timeout(HEADER_READ_MAX, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router, peer, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS with a client"),
                Err(_) => tracing::debug!("a client began TLS and did not go on"),
            }
            drop(slot);
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_MAX, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections that are still busy");
        connections.shutdown().await;
    }
}

async fn connection<I, P>(stream: I, router: Router, peer: P, stop: CancellationToken)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + 'static,
{
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let answer = router.clone().call(request.map(Body::new));
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_MAX).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that hangs up in the middle is everyday.
        tracing::trace!(%error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Strangers held all connections by asking slowly: they were refused only once they had asked.
    #[tokio::test]
    async fn strangers_take_nobodys_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, is_known) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let known = is_known.clone();
        let admit = move |_: &TcpStream, _| known.load(Ordering::Relaxed).then_some(());
        let server = tokio::spawn(serve(listener, Router::new(), 1, admit, None, stop.clone()));
        for _ in 0..3 {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0, "the connection ends before anything was asked");
        }
        is_known.store(true, Ordering::Relaxed);
        let mut friend = TcpStream::connect(address).await.unwrap();
        friend.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        friend.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        stop.cancel();
        server.await.unwrap();
    }
}
