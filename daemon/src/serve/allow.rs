//! Who may connect: this machine, and the networks that were named.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ipnet::IpNet;

/// The networks that may read. Machine images hold secrets: nobody else may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allow(Arc<RwLock<Vec<IpNet>>>);

impl Allow {
    pub(crate) fn new(networks: &[IpNet]) -> Allow {
        Allow(Arc::new(RwLock::new(networks.to_vec())))
    }

    /// From now on these. Who is connected already stays so.
    pub(crate) fn set(&self, networks: &[IpNet]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks.to_vec();
    }

    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        // A socket that listens on `::` shows IPv4 clients as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        address.is_loopback() || self.networks().iter().any(|network| network.contains(&address))
    }

    /// Whether everybody of a network is admitted.
    pub(crate) fn covers(&self, network: &IpNet) -> bool {
        let is_loopback = network.network().is_loopback() && network.broadcast().is_loopback();
        is_loopback || self.networks().iter().any(|allowed| allowed.contains(network))
    }

    /// Whether nobody but this machine is admitted.
    pub(crate) fn is_local(&self) -> bool {
        self.networks().is_empty()
    }

    fn networks(&self) -> RwLockReadGuard<'_, Vec<IpNet>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_networks_and_this_machine_are_admitted() {
        let allow = Allow::new(&["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let check = |text: &str, expected| assert_eq!(allow.admits(text.parse().unwrap()), expected, "{text}");
        check("127.0.0.1", true);
        check("::1", true);
        check("10.1.255.1", true);
        check("::ffff:10.1.2.3", true);
        check("fd12::1", true);
        check("10.2.0.1", false);
        check("2001:db8::1", false);
        let covers = |text: &str| allow.covers(&text.parse().unwrap());
        assert!(covers("10.1.2.0/24") && covers("127.0.0.0/8") && covers("::1/128") && covers("10.1.0.0/16"));
        assert!(!covers("10.0.0.0/8") && !covers("10.2.0.0/24") && !covers("0.0.0.0/0") && !covers("::/0"));
        assert!(!Allow::default().admits("192.0.2.1".parse().unwrap()) && Allow::default().is_local());
    }
}
