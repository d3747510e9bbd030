//! What dnsmasq says of workstations that boot, read from its log.

use std::net::Ipv4Addr;

use crate::Mac;

/// How far a workstation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It has an address, or was told what to boot.
    Address { mac: Mac, address: Ipv4Addr },
    /// It has loaded a file.
    Loader { address: Ipv4Addr, file: String },
}

impl Heard {
    /// What a line says; most say nothing of that kind.
    pub fn of(line: &str) -> Option<Heard> {
        let (program, rest) = line.split_once(": ")?;
        match program.split('[').next()? {
            "dnsmasq-dhcp" => address(rest),
            "dnsmasq-tftp" => loader(rest),
            _ => None,
        }
    }
}

/// `1234 DHCPACK(lan) 10.1.2.7 52:54:00:00:00:07 name`, or `1234 PXE(lan) 10.1.2.7 52:54:00:00:00:07 proxy`.
fn address(line: &str) -> Option<Heard> {
    let mut words = line.split_whitespace().skip_while(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let what = words.next()?;
    if !["DHCPACK(", "PXE("].iter().any(|start| what.starts_with(start)) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for word in words.take(2) {
        address = address.or(word.parse().ok());
        mac = mac.or(word.parse().ok());
    }
    Some(Heard::Address { mac: mac?, address: address? })
}

/// `sent /run/icbd/tftp/undionly.kpxe to 10.1.2.7`.
fn loader(line: &str) -> Option<Heard> {
    let (path, address) = line.strip_prefix("sent ")?.rsplit_once(" to ")?;
    let file = path.rsplit('/').next()?.to_owned();
    Some(Heard::Loader { address: address.trim().parse().ok()?, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_dnsmasq_are_understood() {
        let address = || Heard::Address { mac: "52:54:00:00:00:07".parse().unwrap(), address: [10, 1, 2, 7].into() };
        for line in [
            "dnsmasq-dhcp[23466]: 3723232 DHCPACK(lan) 10.1.2.7 52:54:00:00:00:07 pc-7",
            "dnsmasq-dhcp: DHCPACK(lan) 10.1.2.7 52:54:00:00:00:07",
            "dnsmasq-dhcp: 99 PXE(lan) 10.1.2.7 52:54:00:00:00:07 undionly.kpxe",
        ] {
            assert_eq!(Heard::of(line), Some(address()), "{line}");
        }
        let loader = Heard::Loader { address: [10, 1, 2, 7].into(), file: "undionly.kpxe".to_owned() };
        assert_eq!(Heard::of("dnsmasq-tftp: sent /run/a b/tftp/undionly.kpxe to 10.1.2.7"), Some(loader));
        for line in [
            "dnsmasq-dhcp: 99 PXE(lan) 52:54:00:00:00:07 proxy",
            "dnsmasq-dhcp: 1 DHCPDISCOVER(lan) 52:54:00:00:00:07",
            "dnsmasq-tftp: error 8 User aborted the transfer received from 10.1.2.7",
            "dnsmasq: started, version 2.90 DNS disabled",
            "",
        ] {
            assert_eq!(Heard::of(line), None, "{line}");
        }
    }
}
