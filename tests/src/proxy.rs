//! A proxy between a cache server and its master that can do what networks and broken servers do.
//!
//! One request a connection, one thread a connection, all joined when the proxy is dropped.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::http::{Answer, get_with, read_headers, read_line};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the master answers.
    None,
    /// The connection is closed without an answer.
    Refuse,
    /// No answer, until the fault is another.
    Stall,
    /// The headers and half of the body, then the connection is closed.
    Cut,
    /// The headers and half of the body, then nothing until the fault is another.
    StallInBody,
    /// One byte in the middle of the body is another.
    Corrupt,
    /// A body with a byte too many.
    TooLong,
    /// A web page with status 200.
    Html,
    /// Status 503.
    Unavailable,
    /// Status 500.
    Broken,
    /// The master's answer, so much later.
    Delay(Duration),
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    fault: Fault,
    /// Only requests whose path contains this suffer.
    filter: String,
    requests: Vec<String>,
    /// Bodies that are answered instead of the master's, by path.
    replaced: BTreeMap<String, Vec<u8>>,
    /// Of requests that stall now.
    stalled: usize,
    is_over: bool,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding the proxy")?;
        let address = listener.local_addr()?;
        let state = State {
            upstream,
            fault: Fault::None,
            filter: String::new(),
            requests: Vec::new(),
            replaced: BTreeMap::new(),
            stalled: 0,
            is_over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Ok(Proxy { address, shared, acceptor: Some(acceptor) })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests whose path contains `filter` suffer `fault`, those that stall included.
    pub fn set(&self, fault: Fault, filter: &str) {
        self.shared.update(|state| {
            state.fault = fault;
            state.filter = filter.to_owned();
        });
    }

    /// From now on another server is behind it.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.update(|state| state.upstream = upstream);
    }

    /// From now on a request for exactly `path` is answered with `body`.
    pub fn replace(&self, path: &str, body: Vec<u8>) {
        self.shared.update(|state| drop(state.replaced.insert(path.to_owned(), body)));
    }

    /// The paths of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// Waits until `count` requests stall.
    pub fn wait_stalled(&self, count: usize) {
        let state = self.shared.lock();
        drop(self.shared.changed.wait_while(state, |state| state.stalled < count));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.update(|state| state.is_over = true);
        // The acceptor looks at the flag after each connection.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with this lock")
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until requests for `path` no longer suffer `fault`.
    fn stall(&self, path: &str, fault: Fault) {
        self.update(|state| state.stalled += 1);
        let stalls = |state: &mut State| !state.is_over && state.fault == fault && path.contains(&state.filter);
        drop(self.changed.wait_while(self.lock(), stalls));
        self.update(|state| state.stalled -= 1);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut workers: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if shared.lock().is_over {
            break;
        }
        if let Ok(stream) = stream {
            let shared = shared.clone();
            // A client that hangs up is none of our troubles.
            workers.push(std::thread::spawn(move || drop(serve(stream, &shared))));
        }
        workers.retain(|worker| !worker.is_finished());
    }
    workers.into_iter().for_each(|worker| drop(worker.join()));
}

fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    // A client may open a connection it never uses.
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let line = read_line(&mut reader)?;
    let path = line.split(' ').nth(1).context("not a request line")?.to_owned();
    let headers = read_headers(&mut reader)?;
    let (upstream, fault, replaced) = {
        let mut state = shared.lock();
        state.requests.push(path.clone());
        let suffers = path.contains(&state.filter);
        let replaced = state.replaced.get(&path).cloned();
        (state.upstream, if suffers { state.fault } else { Fault::None }, replaced)
    };
    if let Some(body) = replaced {
        let kind = if path == "/v1/images" { "application/json" } else { "application/octet-stream" };
        return reply(&stream, "200 OK", &format!("{kind}\r\nETag: \"replaced\""), &body);
    }
    match fault {
        Fault::Refuse => return Ok(stream.shutdown(Shutdown::Both)?),
        Fault::Stall => shared.stall(&path, fault),
        Fault::Html => return reply(&stream, "200 OK", "text/html", b"<html><body>Please log in</body></html>"),
        Fault::Broken => return reply(&stream, "500 Internal Server Error", "text/plain", b""),
        Fault::Unavailable => return reply(&stream, "503 Service Unavailable", "text/plain", b"overloaded"),
        Fault::Delay(time) => std::thread::sleep(time),
        _ => {}
    }
    let passed: Vec<(&str, &str)> = headers
        .iter()
        .filter(|(name, _)| !["host", "connection"].contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut answer = get_with(upstream, &path, &passed)?;
    let half = answer.body.len() / 2;
    match fault {
        Fault::Corrupt if half > 0 => answer.body[half] ^= 0x40,
        Fault::TooLong => answer.body.push(0),
        _ => {}
    }
    let sent = if matches!(fault, Fault::Cut | Fault::StallInBody) { half } else { answer.body.len() };
    send(&stream, &answer, sent)?;
    if fault == Fault::StallInBody {
        shared.stall(&path, fault);
    }
    Ok(stream.shutdown(Shutdown::Both)?)
}

fn reply(stream: &TcpStream, status: &str, kind: &str, body: &[u8]) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(body)?)
}

/// Sends the first `sent` bytes of the body, with the length of all of it.
fn send(stream: &TcpStream, answer: &Answer, sent: usize) -> Result<()> {
    let mut head = format!("HTTP/1.1 {} Proxied\r\n", answer.status);
    for (name, value) in &answer.headers {
        if !["connection", "content-length", "transfer-encoding", "keep-alive"].contains(&name.as_str()) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", answer.body.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(&answer.body[..sent])?)
}
