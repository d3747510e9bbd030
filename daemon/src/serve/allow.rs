//! Who may connect: this machine, and the networks that were named.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ipnet::IpNet;

/// The networks that may read. Machine images hold secrets: nobody else may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allow {
    nodes: Nets,
    workstations: Nets,
}

type Nets = Arc<RwLock<Vec<IpNet>>>;

impl Allow {
    pub(crate) fn new(networks: &[IpNet]) -> Allow {
        Allow { nodes: Arc::new(RwLock::new(networks.to_vec())), workstations: Nets::default() }
    }

    /// From now on these. Who is connected already stays so.
    pub(crate) fn set(&self, networks: &[IpNet]) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = networks.to_vec();
    }

    /// From now on these may connect, too, for what is meant for workstations.
    pub(crate) fn set_workstations(&self, networks: Vec<IpNet>) {
        *self.workstations.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        // A socket that listens on `::` shows IPv4 clients as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        let holds = |network: &IpNet| network.prefix_len() == 0 || network.contains(&address);
        self.is_node(address) || read(&self.workstations).iter().any(holds)
    }

    /// Whether it may read everything that nodes read of each other.
    pub(crate) fn is_node(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || read(&self.nodes).iter().any(|network| network.contains(&address))
    }

    /// Whether nobody but this machine is admitted.
    pub(crate) fn is_local(&self) -> bool {
        read(&self.nodes).is_empty()
    }
}

fn read(networks: &Nets) -> RwLockReadGuard<'_, Vec<IpNet>> {
    networks.read().unwrap_or_else(PoisonError::into_inner)
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
        allow.set_workstations(vec!["10.2.0.0/24".parse().unwrap()]);
        let (workstation, node) = ("10.2.0.7".parse().unwrap(), "::ffff:10.1.2.3".parse().unwrap());
        assert!(allow.admits(workstation) && !allow.is_node(workstation) && allow.is_node(node));
        assert!(!allow.admits("10.2.1.7".parse().unwrap()));
        allow.set_workstations(vec![IpNet::default()]);
        assert!(allow.admits("2001:db8::1".parse().unwrap()) && !allow.is_node("2001:db8::1".parse().unwrap()));
        assert!(!Allow::default().admits("192.0.2.1".parse().unwrap()) && Allow::default().is_local());
    }
}
