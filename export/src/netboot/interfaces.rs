//! The network interfaces of this machine, with their addresses.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A network interface; without an address where none was given to it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Each with the length of its network's prefix.
    pub addresses: Vec<Ipv4Net>,
}

/// All there are.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for found in nix::ifaddrs::getifaddrs()? {
        let at = match interfaces.iter().position(|known| known.name == found.interface_name) {
            Some(at) => at,
            None => {
                interfaces.push(Interface { name: found.interface_name.clone(), addresses: Vec::new() });
                interfaces.len() - 1
            }
        };
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| -> Option<Ipv4Addr> {
            Some(address?.as_sockaddr_in()?.ip())
        };
        if let (Some(address), Some(mask)) = (ip(found.address), ip(found.netmask)) {
            interfaces[at].addresses.extend(Ipv4Net::with_netmask(address, mask));
        }
    }
    Ok(interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback() {
        let all = interfaces().unwrap();
        let loopback = all.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(loopback.addresses.contains(&"127.0.0.1/8".parse().unwrap()), "{loopback:?}");
    }
}
