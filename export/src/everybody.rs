//! Everybody as two halves, for servers that take a prefix of 0 bits for another one.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What stands for a network: itself, or the halves of all there are.
pub(crate) fn halved(net: &IpNet) -> Vec<IpNet> {
    match net.prefix_len() {
        0 => net.subnets(1).into_iter().flatten().collect(),
        _ => vec![*net],
    }
}

/// Networks whose halves were written, in order.
pub(crate) fn joined(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    for whole in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
        let halves = halved(&whole);
        if halves.iter().all(|half| nets.contains(half)) {
            nets.retain(|net| !halves.contains(net));
            nets.push(whole);
        }
    }
    nets.sort_unstable();
    nets
}
