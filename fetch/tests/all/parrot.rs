//! A server that says the same thing to everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that answers every request with the same bytes.
pub(crate) struct Parrot {
    pub(crate) url: String,
    pub(crate) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Parrot {
    /// Closes the connection after an answer, or keeps it open and silent.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>, closes: bool) -> Parrot {
        let answer = Bytes::from(answer.into());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                served.spawn(async move {
                    let mut request = [0; 4096];
                    while tcp.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                        if tcp.write_all(&answer).await.is_err() || closes {
                            return;
                        }
                    }
                });
            }
        });
        Parrot { url, connections, task }
    }
}

impl Drop for Parrot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) const OCTETS: &str = "Content-Type: application/octet-stream\r\n";
