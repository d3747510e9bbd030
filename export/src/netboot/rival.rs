//! Whether another DHCP server answers on a network: who asks for an address is told by all that there are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Of BOOTP's fixed fields, before the options.
const FIXED_BYTES: usize = 236;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const VENDOR_CLASS: u8 = 60;
const END: u8 = 255;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;

/// Somebody who offers addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    pub server: Ipv4Addr,
    /// What it would give; none from who only says what to boot.
    pub address: Option<Ipv4Addr>,
}

/// Who offers addresses on an interface within some time. Blocks; needs root.
pub fn rivals(interface: &str, within: Duration) -> io::Result<Vec<Rival>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
    let socket = UdpSocket::from(socket);
    let question = std::process::id();
    socket.send_to(&discover(question), (Ipv4Addr::BROADCAST, SERVER_PORT))?;
    let (until, mut rivals) = (Instant::now() + within, Vec::new());
    let mut answer = [0; 1500];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(rivals);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut answer) {
            Ok(bytes) => rivals.extend(offer(&answer[..bytes], question).filter(|rival| !rivals.contains(rival))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(rivals);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The question of a workstation that boots by its network card, with an address of no maker.
fn discover(question: u32) -> Vec<u8> {
    let [a, b, c, d] = question.to_be_bytes();
    // A request, by Ethernet; the answer is to be broadcast, for this machine has another address.
    let mut packet = vec![1, 1, 6, 0, a, b, c, d, 0, 0, 0x80, 0];
    packet.resize(28, 0);
    packet.extend([0x02, 0x1c, a, b, c, d]);
    packet.resize(FIXED_BYTES, 0);
    packet.extend(MAGIC);
    packet.extend([MESSAGE_TYPE, 1, DISCOVER]);
    let class = b"PXEClient:Arch:00000:UNDI:002001";
    packet.extend([VENDOR_CLASS, class.len() as u8]);
    packet.extend(class);
    // 93: the architecture, as PXE wants it.
    packet.extend([93, 2, 0, 0, 94, 3, 1, 2, 1, END]);
    packet
}

/// What somebody answers to a question, if it is an offer of anything.
fn offer(packet: &[u8], question: u32) -> Option<Rival> {
    let is_answer = packet.first() == Some(&2) && packet.get(4..8)? == question.to_be_bytes();
    let mut options = packet.get(FIXED_BYTES..)?.strip_prefix(&MAGIC)?;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    let (mut is_offer, mut server) = (false, None);
    while let [code, rest @ ..] = options {
        let (value, after) = match code {
            // A byte of padding.
            0 => (&[][..], rest),
            &END => break,
            _ => {
                let (length, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*length))?
            }
        };
        match (*code, value) {
            (MESSAGE_TYPE, [OFFER]) => is_offer = true,
            (SERVER_ID, value) => server = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
            _ => {}
        }
        options = after;
    }
    let rival = Rival { server: server?, address: (!address.is_unspecified()).then_some(address) };
    (is_answer && is_offer).then_some(rival)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(question: u32, kind: u8, address: [u8; 4]) -> Vec<u8> {
        let mut packet = discover(question);
        packet[0] = 2;
        packet[16..20].copy_from_slice(&address);
        packet.truncate(FIXED_BYTES + MAGIC.len());
        packet.extend([0, MESSAGE_TYPE, 1, kind, SERVER_ID, 4, 10, 1, 2, 3, END]);
        packet
    }

    #[test]
    fn offers_are_read_and_nothing_else() {
        let rival = |address: Option<[u8; 4]>| Rival { server: [10, 1, 2, 3].into(), address: address.map(Into::into) };
        assert_eq!(offer(&answer(7, OFFER, [10, 1, 2, 50]), 7), Some(rival(Some([10, 1, 2, 50]))));
        assert_eq!(offer(&answer(7, OFFER, [0; 4]), 7), Some(rival(None)), "a server that only says what to boot");
        assert_eq!(offer(&answer(8, OFFER, [10, 1, 2, 50]), 7), None, "another's");
        assert_eq!(offer(&answer(7, 5, [10, 1, 2, 50]), 7), None, "no offer");
        assert_eq!(offer(&discover(7), 7), None, "the question itself");
        let whole = answer(7, OFFER, [10, 1, 2, 50]);
        for length in 0..whole.len() - 1 {
            // Cut anywhere it is nothing, or what it was.
            let cut = offer(&whole[..length], 7);
            assert!(cut.is_none(), "{length}: {cut:?}");
        }
    }
}
