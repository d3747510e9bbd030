//! The commands' side of the control plane.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::events::Event;
use crate::failure::{Exit, Failure};

/// A daemon answers from memory; one that takes longer is in trouble, and saying so beats waiting.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The listing of 100,000 versions fits ten times.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// A line of an operation's progress; its result is the longest.
const LINE_BYTES_MAX: usize = 16 << 20;

/// A connection to a daemon's control socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    requests: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

/// How an operation's lines ended.
#[derive(Debug)]
pub(crate) enum Heard {
    Done(serde_json::Value),
    /// The user pressed Ctrl-C first.
    Interrupted,
}

impl Client {
    /// Connects to the first of `sockets` where a daemon answers; `None` if there is none.
    pub(crate) async fn find(sockets: &[PathBuf]) -> anyhow::Result<Option<Client>> {
        for socket in sockets {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Client::over(socket, stream).await.map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    let message =
                        format!("you may not use {}; become root or a member of the group icbd", socket.display());
                    return Err(Failure::new(Exit::Refused, message).into());
                }
                // Nobody listens here: not there, or left behind by a dead daemon.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Like [`Client::find`], where a daemon is needed.
    pub(crate) async fn connect(sockets: &[PathBuf]) -> anyhow::Result<Client> {
        Client::find(sockets).await?.ok_or_else(|| {
            let tried: Vec<String> = sockets.iter().map(|socket| socket.display().to_string()).collect();
            let message = format!(
                "no icbd daemon answers at {}; start one with `icbd master` or `icbd cache`, or name its socket \
                with --socket",
                tried.join(" or ")
            );
            Failure::new(Exit::Unreachable, message).into()
        })
    }

    async fn over(socket: &Path, stream: UnixStream) -> anyhow::Result<Client> {
        let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection, and is aborted with the client.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Client { socket: socket.to_owned(), requests, driver })
    }

    /// Where the daemon was found.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// One question, one answer.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, &()).await
    }

    /// Sends `body` and reads the whole answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let bytes = Limited::new(response, ANSWER_BYTES_MAX).collect().await;
            Ok::<_, anyhow::Error>(bytes.map_err(anyhow::Error::from_boxed)?.to_bytes())
        };
        let bytes = match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(bytes) => bytes?,
            Err(_) => return Err(self.silent().into()),
        };
        serde_json::from_slice(&bytes).with_context(|| format!("{} gave an unknown answer", self.socket.display()))
    }

    /// Starts an operation and hands its progress to `hear`, until it ends or the user presses Ctrl-C.
    pub(crate) async fn run(
        &mut self,
        path: &str,
        body: &impl Serialize,
        mut hear: impl FnMut(Event),
    ) -> anyhow::Result<Heard> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let response = tokio::time::timeout(ANSWER_MAX, self.send(Method::POST, path, body)).await;
        let Ok(response) = response else { return Err(self.silent().into()) };
        let mut response = response?;
        let mut unread = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = response.frame() => frame,
                _ = interrupt.recv() => return Ok(Heard::Interrupted),
            };
            let Some(Ok(frame)) = frame else {
                let message =
                    "the daemon ended before the operation did; see its log, and `icbd status` once it is back";
                return Err(Failure::new(Exit::Unreachable, message).into());
            };
            let Ok(bytes) = frame.into_data() else { continue };
            unread.extend_from_slice(&bytes);
            anyhow::ensure!(unread.len() <= LINE_BYTES_MAX, "the daemon sent an endless line");
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                match serde_json::from_slice(&line)? {
                    Event::Done { result } => return Ok(Heard::Done(result)),
                    Event::Failed(failure) => return Err(failure.into()),
                    event => hear(event),
                }
            }
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<hyper::body::Incoming> {
        let body = if method == Method::GET { Bytes::new() } else { serde_json::to_vec(body)?.into() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "icbd")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = self.requests.send_request(request).await;
        let response = response.with_context(|| format!("the daemon at {} broke off", self.socket.display()))?;
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let bytes = Limited::new(body, LINE_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let failure = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let message = format!("the daemon at {} answered {status}", self.socket.display());
            Failure::new(Exit::Failed, message)
        });
        Err(failure.into())
    }

    fn silent(&self) -> Failure {
        let message = format!(
            "the daemon at {} did not answer within {} s; its log says why, and `icbd support-bundle` collects what \
            is known",
            self.socket.display(),
            ANSWER_MAX.as_secs()
        );
        Failure::new(Exit::Unreachable, message)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
