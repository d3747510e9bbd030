//! How many connections each address has: one client must not hold those of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one address. A cache uses at most about 40 to a source; a lab behind one router has the rest.
pub(super) const PER_PEER_MAX: usize = 128;

/// The addresses that are connected now.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place among those of its address, free again when it is dropped. Requests carry it as an extension.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    /// A place for a connection from `address`; `None` if it has [`PER_PEER_MAX`] already.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= PER_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Who holds it; an IPv4 address is none of IPv6.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_the_places_of_others() {
        let peers = Peers::default();
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut places: Vec<Place> = (0..PER_PEER_MAX).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(one).is_none() && peers.enter("::ffff:10.0.0.1".parse().unwrap()).is_none());
        let _elsewhere = peers.enter(other).unwrap();
        places.pop();
        assert!(peers.enter(one).is_some(), "a place that was left is free");
        places.clear();
        assert_eq!(peers.lock().len(), 1, "who is gone is forgotten");
    }
}
