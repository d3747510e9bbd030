//! One HTTP answer: what is taken for one of an icbd, and its body, bounded in bytes and silence.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION};
use icbd_wire::coding;
use reqwest::Response;
use tokio::time::timeout;

use crate::error::{SourceError, WrongContent};
use crate::settings::TimeOuts;

pub(super) const OCTETS: &str = "application/octet-stream";
pub(super) const JSON: &str = "application/json";

/// How much of an error's text is shown.
const SAYS_BYTES_MAX: usize = 500;

/// Room made for a body at first, whatever length it claims.
const ROOM_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Answer {
    response: Response,
    stall: Duration,
    received_bytes: Arc<AtomicU64>,
}

impl Answer {
    /// The same of what may be absent for a reason that is worth telling: that is [`SourceError::Refused`].
    pub(super) async fn accept_or_say(
        response: Response,
        content_type: &'static str,
        stall: Duration,
        received_bytes: Arc<AtomicU64>,
    ) -> Result<Answer, SourceError> {
        match response.status() {
            status @ StatusCode::NOT_FOUND => {
                let answer = Answer { response, stall, received_bytes };
                Err(SourceError::Refused { status: status.as_u16(), says: answer.says().await })
            }
            _ => Answer::accept(response, content_type, stall, received_bytes).await,
        }
    }

    /// Takes a response that is what was asked for, or "not modified".
    pub(super) async fn accept(
        response: Response,
        content_type: &'static str,
        stall: Duration,
        received_bytes: Arc<AtomicU64>,
    ) -> Result<Answer, SourceError> {
        let answer = Answer { response, stall, received_bytes };
        let found = answer.header(CONTENT_TYPE).unwrap_or_default();
        let found = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if found == "text/html" {
            return Err(SourceError::Foreign("answers HTML".to_owned()));
        }
        match answer.status() {
            StatusCode::OK if found == content_type => Ok(answer),
            StatusCode::OK => {
                Err(SourceError::Foreign(format!("answers content type {found:?} instead of {content_type:?}")))
            }
            StatusCode::NOT_MODIFIED => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(SourceError::Absent),
            status if status.is_redirection() => {
                let to = answer.header(LOCATION).unwrap_or("nowhere").to_owned();
                Err(SourceError::Foreign(format!("redirects to {to:?}, and redirects are not followed")))
            }
            status if status.is_client_error() => {
                Err(SourceError::Refused { status: status.as_u16(), says: answer.says().await })
            }
            status if status.is_server_error() => {
                Err(SourceError::Broken { status: status.as_u16(), says: answer.says().await })
            }
            status => Err(SourceError::Foreign(format!("answers with HTTP status {status}"))),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; `None` after the last.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        match timeout(self.stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => {
                let bytes = chunk.as_ref().map_or(0, Bytes::len);
                self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(chunk)
            }
            Ok(Err(error)) => Err(SourceError::Interrupted(cause(&error))),
            Err(_) => Err(SourceError::Timeout { what: "no byte came", after: self.stall }),
        }
    }

    /// The whole body, unpacked, if it has at most `bytes_max` bytes.
    pub(super) async fn whole(mut self, bytes_max: usize) -> Result<Bytes, SourceError> {
        let long = || SourceError::Malformed(format!("it has more than {bytes_max} bytes"));
        let claimed = self.response.content_length().unwrap_or(0);
        if claimed > bytes_max as u64 {
            return Err(long());
        }
        let mut body = BytesMut::with_capacity(claimed.min(ROOM_BYTES_MAX) as usize);
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > bytes_max {
                return Err(long());
            }
            body.extend_from_slice(&chunk);
        }
        if self.header(CONTENT_ENCODING) != Some(coding::CODING) {
            return Ok(body.freeze());
        }
        let plain = coding::unpack(&body, bytes_max).map(Bytes::from);
        plain.ok_or(SourceError::WrongContent(WrongContent::Packed { bytes_max }))
    }

    /// The beginning of an error's text, fit for a log.
    async fn says(mut self) -> String {
        let mut text = Vec::new();
        while text.len() < SAYS_BYTES_MAX
            && let Ok(Some(chunk)) = self.chunk().await
        {
            text.extend_from_slice(&chunk);
        }
        text.truncate(SAYS_BYTES_MAX);
        let text = String::from_utf8_lossy(&text);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Why there is no response.
pub(super) fn refused(error: reqwest::Error, time_outs: &TimeOuts) -> SourceError {
    if error.is_timeout() {
        return SourceError::Timeout { what: "no connection was made", after: time_outs.connect };
    }
    let says = tls_trouble(&error).unwrap_or_else(|| match cause(&error) {
        // How a handshake that nobody asked for looks to HTTP.
        says if says.starts_with("invalid HTTP") => format!("{says}: if it speaks TLS, write https://"),
        says => says,
    });
    SourceError::Unreachable(says)
}

/// Why no TLS came about, if that is it, and what to do.
fn tls_trouble(error: &(dyn Error + 'static)) -> Option<String> {
    let mut inner = Some(error);
    while let Some(error) = inner {
        match error.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(why)) => {
                let remedy = "trust.ca names the file of who vouches for it";
                return Some(format!("its certificate is not believed ({why}); {remedy}"));
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                let reasons = "either it is to be asked by http://, or its `allow` does not name this network";
                return Some(format!("what it says is not TLS: {reasons}"));
            }
            None | Some(_) => {}
        }
        // An I/O error hides what it is made of from `source`.
        inner = match error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
            Some(made_of) => Some(made_of),
            None => error.source(),
        };
    }
    None
}

/// The innermost reason; those around it only say that a request failed.
fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
