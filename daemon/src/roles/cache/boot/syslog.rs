//! What workstations say by syslog while they boot: the last words of one that does not come up.
//!
//! Nothing follows from it, and of whoever does not boot nothing is kept.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use icbd_export::BootNetwork;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::roles::cache::state::CacheServer;

const PORT: u16 = 514;
/// Whoever has the port may let go of it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What is longer is cut.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Listens where workstations boot, until `stop`.
pub(in super::super) async fn listen(server: Arc<CacheServer>, stop: CancellationToken) {
    let of =
        |networks: &[BootNetwork]| -> BTreeSet<Ipv4Addr> { networks.iter().map(|network| network.address).collect() };
    let mut addresses = std::pin::pin!(server.netboot.whenever(of));
    let mut at = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            others = addresses.next() => match others {
                Some(others) => at = others,
                None => return,
            },
            () = hear_all(&server, &at) => return,
        }
    }
}

/// Never ends.
async fn hear_all(server: &CacheServer, at: &BTreeSet<Ipv4Addr>) {
    futures_util::future::join_all(at.iter().map(|address| hear(server, *address))).await;
    std::future::pending::<()>().await;
}

async fn hear(server: &CacheServer, at: Ipv4Addr) {
    let mut is_told = false;
    let socket = loop {
        match UdpSocket::bind((at, PORT)).await {
            Ok(socket) => break socket,
            Err(error) if !is_told => {
                tracing::info!(address = %at, port = PORT, %error, "what workstations say when they boot is not heard");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    let mut message = [0; MESSAGE_BYTES_MAX];
    loop {
        match socket.recv_from(&mut message).await {
            Ok((bytes, from)) => said(server, from, &message[..bytes]),
            Err(error) => tracing::debug!(%error, "a message by syslog is lost"),
        }
    }
}

fn said(server: &CacheServer, from: SocketAddr, message: &[u8]) {
    let text = String::from_utf8_lossy(message);
    for line in text.lines().map(without_priority).filter(|line| !line.is_empty()) {
        server.journal.hear(from.ip().to_canonical(), line);
    }
}

/// A message begins with a number in brackets, which people do not need.
fn without_priority(line: &str) -> &str {
    let line = line.trim_end_matches('\0').trim();
    let rest = line.strip_prefix('<').and_then(|line| line.split_once('>'));
    rest.filter(|(number, _)| number.len() <= 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_without_its_number() {
        assert_eq!(without_priority("<13>Nov 30 17:00:00 pc icbd: no card\0"), "Nov 30 17:00:00 pc icbd: no card");
        for whole in ["<a>b", "<1234>b", "plain", "<13"] {
            assert_eq!(without_priority(whole), whole);
        }
    }
}
