//! A bare HTTP client over one kept-alive connection: what a block costs without icbd's cache in between.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One connection, one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    pub(crate) fn open(host: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::with_capacity(128 * 1024, stream), host })
    }

    /// The body that `path` answers.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        let mut length = None;
        let mut status = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end();
            if status.is_empty() {
                status = header.to_owned();
            } else if header.is_empty() {
                break;
            } else if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let length = length.ok_or_else(|| io::Error::other(format!("{path}: {status}: no length")))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if !status.contains(" 200 ") {
            return Err(io::Error::other(format!("{path}: {status}: {}", String::from_utf8_lossy(&body))));
        }
        Ok(body)
    }
}
