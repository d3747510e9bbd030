//! Machines that boot look for a router of IPv6, and iPXE waits a quarter of a minute for one that there is not, before it asks for
//! anything by IPv4. Where this server gives addresses they are told that it is none: by a router advertisement (RFC 4861) with a
//! lifetime of zero, no network and no other server, from which nobody configures anything.
//!
//! Not where there is a router: that one answers itself.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// What a packet of neighbour discovery has, so that everybody knows it crossed no router.
const HOPS: u32 = 255;
/// The longest that a router is silent, and again as much.
const ROUTER_SILENT_MAX: Duration = Duration::from_secs(2 * 1800);

/// A network on which nobody is to wait for a router that there is not.
#[derive(Debug)]
pub struct NoRouter {
    index: u32,
    router_seen: Option<Instant>,
}

impl NoRouter {
    /// On an interface, with the socket by which it hears and answers. Needs root. A router that there is, is asked to say so.
    pub fn on(interface: &str) -> io::Result<(NoRouter, UdpSocket)> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_unicast_hops_v6(HOPS)?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        socket.set_nonblocking(true)?;
        let of = NoRouter { index, router_seen: None };
        // The kernel adds the checksum.
        socket.send_to(&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &of.to(ALL_ROUTERS).into())?;
        Ok((of, UdpSocket::from(std::os::fd::OwnedFd::from(socket))))
    }

    /// What is to be sent, and to whom, because of what came.
    pub fn hear(&mut self, packet: &[u8], now: Instant) -> Option<([u8; 16], SocketAddrV6)> {
        let is_recent = |seen: Instant| now.duration_since(seen) < ROUTER_SILENT_MAX;
        match packet {
            [ADVERTISEMENT, ..] => {
                self.router_seen = Some(now);
                None
            }
            [SOLICITATION, ..] if !self.router_seen.is_some_and(is_recent) => {
                let mut answer = [0; 16];
                answer[0] = ADVERTISEMENT;
                Some((answer, self.to(ALL_NODES)))
            }
            _ => None,
        }
    }

    fn to(&self, group: Ipv6Addr) -> SocketAddrV6 {
        SocketAddrV6::new(group, 0, 0, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_unless_there_is_a_router() {
        let (mut network, now) = (NoRouter { index: 3, router_seen: None }, Instant::now());
        let asks = [SOLICITATION, 0, 1, 2, 0, 0, 0, 0];
        let (answer, to) = network.hear(&asks, now).unwrap();
        // A lifetime of zero, no flags, and nothing behind it.
        assert_eq!((answer[0], &answer[4..], to.scope_id()), (ADVERTISEMENT, &[0; 12][..], 3));
        for other in [&[][..], &[128, 0], &[136; 24]] {
            assert_eq!(network.hear(other, now), None);
        }
        assert_eq!(network.hear(&[ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8], now), None);
        assert_eq!(network.hear(&asks, now), None, "the router answers itself");
        assert!(network.hear(&asks, now + ROUTER_SILENT_MAX).is_some(), "it is gone");
    }
}
