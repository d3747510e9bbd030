//! A tiny HTTP/1.1 client of the harness's own: one GET, one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longer than a boot script is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

pub fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    get_with(server, path, &[])
}

/// GETs `path`, sending `headers` as well.
pub fn get_with(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut stream = TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all((request + "\r\n").as_bytes())?;
    read_answer(&mut BufReader::new(stream))
}

/// Reads one answer; a body ends with its length, its last chunk or the connection.
pub(crate) fn read_answer(reader: &mut impl BufRead) -> Result<Answer> {
    let line = read_line(reader)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let Some(status) = status else { bail!("not an HTTP answer: {line:?}") };
    let mut answer = Answer { status, headers: read_headers(reader)?, body: Vec::new() };
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        answer.body = read_chunks(reader)?;
    } else if let Some(length) = answer.header("content-length") {
        answer.body = vec![0; length.parse()?];
        reader.read_exact(&mut answer.body).context("the body is shorter than its length")?;
    } else if status != 304 && status != 204 {
        reader.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

/// Header lines up to the empty one.
pub(crate) fn read_headers(reader: &mut impl BufRead) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        match line.split_once(':') {
            None if line.is_empty() => return Ok(headers),
            None => bail!("not a header line: {line:?}"),
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
        }
    }
}

/// One line without its end; the connection's end is an empty line.
pub(crate) fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let count = u64::from_str_radix(&line, 16).with_context(|| format!("not a chunk size: {line:?}"))?;
        reader.by_ref().take(count).read_to_end(&mut body)?;
        read_line(reader)?;
        if count == 0 {
            return Ok(body);
        }
    }
}
