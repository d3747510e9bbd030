//! Networks on which workstations boot: as an administrator names them, and as they are.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Interface;

/// What icbd does of DHCP on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dhcp {
    /// All of it: there is no other server.
    Full,
    /// Only what concerns booting, beside a server that gives addresses.
    #[default]
    Proxy,
    /// Nothing: another server says it, as `netboot snippet` shows.
    Off,
}

/// Addresses that are given to workstations: `10.1.2.100-10.1.2.199`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pool of addresses; write the first and the last, such as 10.1.2.100-10.1.2.199")]
pub struct PoolError(String);

/// A network as it is written in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNetwork {
    /// Where its requests arrive.
    pub interface: String,
    pub dhcp: Dhcp,
    /// One behind a relay, which is not the interface's own.
    pub subnet: Option<Ipv4Net>,
    /// With [`Dhcp::Full`].
    pub pool: Option<Pool>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
}

/// A network on which it is known who serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootNetwork {
    pub interface: String,
    /// The cache server's own.
    pub address: Ipv4Addr,
    /// Of its HTTP.
    pub port: u16,
    pub subnet: Ipv4Net,
    pub is_relayed: bool,
    pub dhcp: Dhcp,
    pub pool: Option<Pool>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
}

/// Why nobody boots on a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("there is no interface {interface}{hint}; `ip -brief address` shows those there are")]
    NoInterface { interface: String, hint: String },
    #[error("{interface} has no IPv4 address; give it one, such as: ip address add 10.1.2.1/24 dev {interface}")]
    NoAddress { interface: String },
    #[error("{interface} has several networks ({}); name one with `subnet`", join(.networks))]
    Several { interface: String, networks: Vec<Ipv4Net> },
    #[error(
        "workstations of {interface} do not reach icbd's HTTP: write `listen = [\"{address}:7071\"]` under [serve] in the \
         configuration, and restart the cache"
    )]
    NoHttp { interface: String, address: Ipv4Addr },
    #[error("{interface}: dhcp = \"full\" gives addresses: name them with `pool`, such as {example}")]
    NoPool { interface: String, example: Pool },
    #[error("{interface}: the pool {pool} does not lie in {subnet}")]
    PoolElsewhere { interface: String, pool: Pool, subnet: Ipv4Net },
    #[error("{interface}: the pool {pool} holds {address}, which is {whose}")]
    PoolTaken { interface: String, pool: Pool, address: Ipv4Addr, whose: &'static str },
    #[error("{interface}: the gateway {gateway} does not lie in {subnet}")]
    GatewayElsewhere { interface: String, gateway: Ipv4Addr, subnet: Ipv4Net },
    #[error("{interface}: `{key}` is for dhcp = \"full\" alone: another server says that here")]
    NotOurs { interface: String, key: &'static str },
    #[error("{interface} and {other} both serve {subnet}; name it once")]
    Twice { interface: String, other: String, subnet: Ipv4Net },
    #[error("{interface} is named twice; name it once, or each of its networks with `subnet`")]
    Again { interface: String },
}

fn join(networks: &[Ipv4Net]) -> String {
    networks.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(", ")
}

impl WantedNetwork {
    /// What is wrong with the first of these that is not right, wherever they are to be served.
    pub fn check_all(all: &[WantedNetwork]) -> Result<(), NetworkError> {
        for (nth, wanted) in all.iter().enumerate() {
            if all[..nth].iter().any(|other| (&other.interface, other.subnet) == (&wanted.interface, wanted.subnet)) {
                return Err(NetworkError::Again { interface: wanted.interface.clone() });
            }
            wanted.check(wanted.subnet.map(|subnet| subnet.trunc()), None)?;
        }
        Ok(())
    }

    /// `subnet` and `own`, the cache server's address, as far as they are known.
    fn check(&self, subnet: Option<Ipv4Net>, own: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let interface = || self.interface.clone();
        if self.dhcp != Dhcp::Full {
            let given =
                [("pool", self.pool.is_some()), ("gateway", self.gateway.is_some()), ("dns", !self.dns.is_empty())];
            let first = given.into_iter().find(|(_, is_given)| *is_given);
            return first.map_or(Ok(()), |(key, _)| Err(NetworkError::NotOurs { interface: interface(), key }));
        }
        let example = || Pool::within(subnet.unwrap_or(EXAMPLE));
        let pool = self.pool.ok_or_else(|| NetworkError::NoPool { interface: interface(), example: example() })?;
        let is_outside = |subnet: &Ipv4Net| !subnet.contains(&pool.first) || !subnet.contains(&pool.last);
        if let Some(subnet) = subnet.filter(is_outside) {
            return Err(NetworkError::PoolElsewhere { interface: interface(), pool, subnet });
        }
        let ours = own.map(|own| (own, "this server's own"));
        let others = self.gateway.map(|address| (address, "the gateway's"));
        let edges = subnet.map(|subnet| [(subnet.network(), "the network's"), (subnet.broadcast(), "for broadcasts")]);
        let mut taken = ours.into_iter().chain(others).chain(edges.into_iter().flatten());
        if let Some((address, whose)) = taken.find(|(address, _)| pool.contains(*address)) {
            return Err(NetworkError::PoolTaken { interface: interface(), pool, address, whose });
        }
        match (self.gateway, subnet) {
            (Some(gateway), Some(subnet)) if !subnet.contains(&gateway) => {
                Err(NetworkError::GatewayElsewhere { interface: interface(), gateway, subnet })
            }
            _ => Ok(()),
        }
    }
}

impl BootNetwork {
    /// All that are named, or what is wrong with the first that is not right. `listen`: where icbd's HTTP is.
    pub fn all(
        wanted: &[WantedNetwork],
        interfaces: &[Interface],
        listen: &[SocketAddr],
    ) -> Result<Vec<BootNetwork>, NetworkError> {
        let (all, first_error) = BootNetwork::some(wanted, interfaces, listen);
        first_error.map_or(Ok(all), Err)
    }

    /// Those that are right, and what is wrong with the first that is not.
    pub fn some(
        wanted: &[WantedNetwork],
        interfaces: &[Interface],
        listen: &[SocketAddr],
    ) -> (Vec<BootNetwork>, Option<NetworkError>) {
        let (mut all, mut first_error): (Vec<BootNetwork>, _) = (Vec::new(), None);
        for wanted in wanted {
            let found = BootNetwork::of(wanted, interfaces, listen).and_then(|network| {
                let other = all.iter().find(|other| overlap(&other.subnet, &network.subnet));
                other.map_or(Ok(network.clone()), |other| {
                    let (interface, other) = (network.interface.clone(), other.interface.clone());
                    Err(NetworkError::Twice { interface, other, subnet: network.subnet })
                })
            });
            match found {
                Ok(network) => all.push(network),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        (all, first_error)
    }

    fn of(
        wanted: &WantedNetwork,
        interfaces: &[Interface],
        listen: &[SocketAddr],
    ) -> Result<BootNetwork, NetworkError> {
        let interface = || wanted.interface.clone();
        let found = interfaces.iter().find(|known| known.name == wanted.interface).ok_or_else(|| {
            let known: Vec<&str> = interfaces.iter().map(|known| known.name.as_str()).collect();
            let hint = if known.is_empty() { String::new() } else { format!(" among {}", known.join(", ")) };
            NetworkError::NoInterface { interface: interface(), hint }
        })?;
        let own = |subnet: &Ipv4Net| found.addresses.iter().find(|address| address.trunc() == subnet.trunc());
        let (address, subnet, is_relayed) = match (&wanted.subnet, found.addresses.as_slice()) {
            (_, []) => return Err(NetworkError::NoAddress { interface: interface() }),
            (Some(subnet), [first, ..]) => {
                own(subnet).map_or((first.addr(), *subnet, true), |own| (own.addr(), *subnet, false))
            }
            (None, [only]) => (only.addr(), only.trunc(), false),
            (None, several) => {
                let networks = several.iter().map(Ipv4Net::trunc).collect();
                return Err(NetworkError::Several { interface: interface(), networks });
            }
        };
        let is_reached = |at: &&SocketAddr| at.ip().is_unspecified() || at.ip().to_canonical() == IpAddr::V4(address);
        let port = listen.iter().find(is_reached).map(SocketAddr::port);
        let port = port.ok_or_else(|| NetworkError::NoHttp { interface: interface(), address })?;
        let (WantedNetwork { dhcp, pool, gateway, dns, .. }, subnet) = (wanted.clone(), subnet.trunc());
        wanted.check(Some(subnet), Some(address))?;
        Ok(BootNetwork { interface: interface(), address, port, subnet, is_relayed, dhcp, pool, gateway, dns })
    }

    /// Where its workstations find icbd's HTTP.
    pub fn server(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }
}

/// Where it is not known which network is meant.
const EXAMPLE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 2, 0), 24);

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

impl Pool {
    fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Some addresses of a network, as an example.
    fn within(subnet: Ipv4Net) -> Pool {
        let (first, size) = (u32::from(subnet.network()), u32::from(subnet.broadcast()) - u32::from(subnet.network()));
        Pool {
            first: Ipv4Addr::from(first + size / 2),
            last: Ipv4Addr::from(first + size.saturating_sub(size / 8 + 1)),
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Pool, PoolError> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            let pool = Pool { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
            (pool.first <= pool.last).then_some(pool)
        };
        parse().ok_or_else(|| PoolError(text.to_owned()))
    }
}

impl Serialize for Pool {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pool, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_anywhere_is_said_before_it_is_tried() {
        let of = |subnet: &str, more: fn(&mut WantedNetwork)| {
            let mut network = WantedNetwork {
                subnet: subnet.parse().ok(),
                gateway: "10.1.2.254".parse().ok(),
                ..wanted("eth0", Dhcp::Full, Some("10.1.2.100-10.1.2.199"))
            };
            more(&mut network);
            WantedNetwork::check_all(&[network]).map_err(|error| error.to_string())
        };
        assert_eq!((of("", |_| ()), of("10.1.2.0/24", |_| ())), (Ok(()), Ok(())));
        for (said, says) in [
            (of("", |it| it.pool = None), "such as 10.1.2.127-10.1.2.223"),
            (of("", |it| it.dhcp = Dhcp::Proxy), "`pool` is for dhcp = \"full\" alone"),
            (of("", |it| it.gateway = "10.1.2.150".parse().ok()), "which is the gateway's"),
            (of("10.1.3.0/24", |_| ()), "does not lie in 10.1.3.0/24"),
            (of("10.1.2.0/25", |_| ()), "does not lie in 10.1.2.0/25"),
        ] {
            assert!(said.clone().unwrap_err().contains(says), "{said:?}");
        }
        let twice = [wanted("eth0", Dhcp::Off, None), wanted("eth0", Dhcp::Proxy, None)];
        assert!(WantedNetwork::check_all(&twice).unwrap_err().to_string().contains("named twice"));
    }

    fn wanted(interface: &str, dhcp: Dhcp, pool: Option<&str>) -> WantedNetwork {
        WantedNetwork {
            interface: interface.to_owned(),
            dhcp,
            subnet: None,
            pool: pool.map(|pool| pool.parse().unwrap()),
            gateway: None,
            dns: Vec::new(),
        }
    }

    fn lab() -> Vec<Interface> {
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        vec![
            interface("eth0", &["10.1.2.1/24"]),
            interface("eth1", &[]),
            interface("eth2", &["10.1.3.1/24", "10.1.4.1/24"]),
        ]
    }

    fn of(wanted: WantedNetwork) -> Result<BootNetwork, String> {
        let listen = ["127.0.0.1:7000".parse().unwrap(), "0.0.0.0:7071".parse().unwrap()];
        let all = BootNetwork::all(&[wanted], &lab(), &listen).map_err(|error| error.to_string())?;
        Ok(all[0].clone())
    }

    #[test]
    fn a_network_is_that_of_its_interface_or_behind_a_relay() {
        let network = of(wanted("eth0", Dhcp::Proxy, None)).unwrap();
        assert_eq!(
            (network.address.to_string(), network.subnet.to_string()),
            ("10.1.2.1".into(), "10.1.2.0/24".into())
        );
        assert!(!network.is_relayed && network.port == 7071);
        let behind = WantedNetwork {
            subnet: "10.9.0.0/24".parse().ok(),
            ..wanted("eth0", Dhcp::Full, Some("10.9.0.5-10.9.0.9"))
        };
        let network = of(behind).unwrap();
        assert!(network.is_relayed && network.subnet.to_string() == "10.9.0.0/24");
        let second = WantedNetwork { subnet: "10.1.4.0/24".parse().ok(), ..wanted("eth2", Dhcp::Proxy, None) };
        let network = of(second).unwrap();
        assert!(!network.is_relayed && network.address.to_string() == "10.1.4.1");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let gateway = |gateway: &str| WantedNetwork {
            gateway: gateway.parse().ok(),
            ..wanted("eth0", Dhcp::Full, Some("10.1.2.100-10.1.2.199"))
        };
        for (wanted, says) in [
            (wanted("eth9", Dhcp::Proxy, None), "there is no interface eth9 among eth0, eth1, eth2"),
            (wanted("eth1", Dhcp::Proxy, None), "eth1 has no IPv4 address"),
            (wanted("eth2", Dhcp::Proxy, None), "several networks (10.1.3.0/24, 10.1.4.0/24)"),
            (wanted("eth0", Dhcp::Full, None), "such as 10.1.2.127-10.1.2.223"),
            (wanted("eth0", Dhcp::Full, Some("10.1.3.100-10.1.3.199")), "does not lie in 10.1.2.0/24"),
            (wanted("eth0", Dhcp::Full, Some("10.1.2.1-10.1.2.9")), "holds 10.1.2.1, which is this server's own"),
            (wanted("eth0", Dhcp::Full, Some("10.1.2.250-10.1.2.255")), "which is for broadcasts"),
            (wanted("eth0", Dhcp::Proxy, Some("10.1.2.100-10.1.2.199")), "`pool` is for dhcp = \"full\" alone"),
            (gateway("10.1.2.150"), "which is the gateway's"),
            (gateway("10.1.3.1"), "the gateway 10.1.3.1 does not lie in"),
        ] {
            let said = of(wanted).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
        let all = |listen: &str| {
            let both = [wanted("eth0", Dhcp::Proxy, None), wanted("eth0", Dhcp::Off, None)];
            BootNetwork::all(&both, &lab(), &[listen.parse().unwrap()])
        };
        assert!(all("10.1.3.1:7071").unwrap_err().to_string().contains("`listen = [\"10.1.2.1:7071\"]`"));
        let twice = all("10.1.2.1:7071");
        assert!(twice.unwrap_err().to_string().contains("both serve 10.1.2.0/24"));
    }

    #[test]
    fn a_pool_is_two_addresses() {
        assert_eq!("10.1.2.100-10.1.2.199".parse::<Pool>().unwrap().to_string(), "10.1.2.100-10.1.2.199");
        for text in ["", "10.1.2.100", "10.1.2.9-10.1.2.5", "10.1.2.100-199", "a-b"] {
            assert!(text.parse::<Pool>().unwrap_err().to_string().contains("such as"), "{text}");
        }
    }
}
