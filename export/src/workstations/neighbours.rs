//! Which network card an address belongs to, as the kernel has heard it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::Mac;

/// proc_net(5): of IPv4, the one table that is text.
const TABLE: &str = "/proc/net/arp";
/// `ATF_COM` and `ARPHRD_ETHER` of the kernel's headers: an answer came, from Ethernet.
const COMPLETE: u32 = 2;
const ETHERNET: u32 = 1;

/// Machines that this one has spoken to without a router in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours(Vec<(Ipv4Addr, Mac)>);

/// Those of now. Blocks for no longer than memory takes.
pub fn neighbours() -> io::Result<Neighbours> {
    Ok(Neighbours::parse(&std::fs::read_to_string(TABLE)?))
}

impl Neighbours {
    /// Those of the kernel's table: the lines that are understood; all else is no evidence of anything.
    pub fn parse(table: &str) -> Neighbours {
        let line = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
            let [address, kind, flags, mac, _mask, _device] = fields[..] else { return None };
            let is_known = number(kind)? == ETHERNET && number(flags)? & COMPLETE != 0;
            is_known.then_some((address.parse().ok()?, mac.parse().ok()?))
        };
        Neighbours(table.lines().filter_map(line).collect())
    }

    /// Who answers at an address: several, if it is there on several networks. Nobody, if it is behind a router.
    pub fn at(&self, address: IpAddr) -> Vec<Mac> {
        self.0.iter().filter(|(known, _)| IpAddr::V4(*known) == address).map(|(_, mac)| *mac).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_known_and_nobody_else() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.1.2.17        0x1         0x2         52:54:00:00:00:01     *        eth0\n\
                     10.1.2.17        0x1         0x6         52:54:00:00:00:02     *        eth1\n\
                     10.1.2.18        0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     10.1.2.19        0x20        0x2         52:54:00:00:00:03     *        ib0\n\
                     10.1.2.20        0x1         0x2\n";
        let neighbours = Neighbours::parse(table);
        let at = |address: &str| neighbours.at(address.parse().unwrap()).iter().map(Mac::to_string).collect::<Vec<_>>();
        assert_eq!(at("10.1.2.17"), ["52:54:00:00:00:01", "52:54:00:00:00:02"]);
        for address in ["10.1.2.18", "10.1.2.19", "10.1.2.20", "10.1.2.21", "fe80::1"] {
            assert!(at(address).is_empty(), "{address}");
        }
    }
}
