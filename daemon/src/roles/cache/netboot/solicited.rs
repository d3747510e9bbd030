//! Machines on networks that have their addresses from here are told at once that there is no router of IPv6.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::{join_all, pending};
use icbd_export::{BootNetwork, Dhcp, NoRouter};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::INTERVAL;
use crate::roles::cache::state::CacheServer;

/// More is no packet of those that matter.
const PACKET_BYTES_MAX: usize = 1500;

/// Answers where it is to, until `stop`.
pub(in super::super) async fn answer(server: Arc<CacheServer>, stop: CancellationToken) {
    let is_meant = |network: &&BootNetwork| network.dhcp == Dhcp::Full && !network.is_relayed;
    let of = move |networks: &[BootNetwork]| -> BTreeSet<String> {
        networks.iter().filter(is_meant).map(|network| network.interface.clone()).collect()
    };
    let mut interfaces = std::pin::pin!(server.netboot.whenever(of));
    let mut on = BTreeSet::<String>::new();
    loop {
        let all = async {
            join_all(on.iter().map(|interface| answer_on(interface))).await;
            // There is none.
            pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            others = interfaces.next() => match others {
                Some(others) => on = others,
                None => return,
            },
            () = all => return,
        }
    }
}

/// Never ends: an interface may have no address of its own yet, or be made anew.
async fn answer_on(interface: &str) {
    loop {
        answer_while_there(interface).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Ends when it cannot.
async fn answer_while_there(interface: &str) {
    let opened = NoRouter::on(interface).and_then(|(network, socket)| Ok((network, UdpSocket::from_std(socket)?)));
    let (mut network, socket) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(interface, %error, "machines wait there for a router of IPv6 before they boot");
            return;
        }
    };
    let mut packet = [0; PACKET_BYTES_MAX];
    loop {
        match socket.recv(&mut packet).await {
            Ok(bytes) => {
                if let Some((answer, to)) = network.hear(&packet[..bytes], Instant::now())
                    && let Err(error) = socket.send_to(&answer, to).await
                {
                    tracing::debug!(interface, %error, "a machine waits for a router of IPv6");
                }
            }
            Err(error) => {
                tracing::debug!(interface, %error, "its packets of IPv6 cannot be heard");
                return;
            }
        }
    }
}
