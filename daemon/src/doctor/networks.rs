//! Networks on which workstations boot: the card, the relay, and who else gives addresses there.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use icbd_export::{BootNetwork, Dhcp, Dnsmasq, Loaders, Rival, check_signed, interfaces, rivals};

use super::{Finding, Verdict};
use crate::settings::CacheSettings;

/// Another DHCP server answers within this, or there is none.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// A whole lab that boots by less waits for the card.
const SPEED_MBIT: u64 = 1000;

pub(super) async fn look(settings: &CacheSettings) -> anyhow::Result<Vec<Finding>> {
    let wanted = &settings.netboot.networks;
    if wanted.is_empty() {
        return Ok(vec![Finding::note("network", "no [[network]] is named: no workstation boots by the network")]);
    }
    let mut findings = Vec::new();
    findings.extend(Dnsmasq::check().err().map(|error| Finding::error("network", Verdict::Wrong, error)));
    findings.extend(Loaders::default().check().err().map(|error| Finding::error("network", Verdict::Wrong, error)));
    let signed = if settings.netboot.secure_boot { check_signed() } else { Ok(()) };
    findings.extend(signed.err().map(|error| Finding::error("network", Verdict::Wrong, error)));
    let interfaces = interfaces()?;
    let networks = match BootNetwork::all(wanted, &interfaces, &settings.listen) {
        Ok(networks) => networks,
        Err(error) => {
            findings.push(Finding::error("network", Verdict::Wrong, error));
            return Ok(findings);
        }
    };
    let asked = networks.into_iter().map(|network| tokio::task::spawn_blocking(move || of(&network)));
    // All of them are asked at once.
    for asked in asked.collect::<Vec<_>>() {
        findings.extend(asked.await?);
    }
    Ok(findings)
}

fn of(network: &BootNetwork) -> Vec<Finding> {
    let mut findings = card(&network.interface);
    match network.is_relayed {
        true => findings.push(relay(network)),
        false => findings.extend(dhcp(network)),
    }
    findings
}

fn card(interface: &str) -> Vec<Finding> {
    let folder = Path::new("/sys/class/net").join(interface);
    // The kernel shows those of the namespace in which it was mounted.
    if !folder.exists() {
        return Vec::new();
    }
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned());
    if read("carrier").as_deref() != Some("1") {
        let remedy =
            format!("plug the cable in, or: ip link set {interface} up (a bridge has one once a member of it has)");
        return vec![Finding::wrong("network", format!("{interface} has no link"), remedy)];
    }
    let mut findings = Vec::new();
    // A virtual one has no speed.
    let speed = read("speed").and_then(|speed| speed.parse::<u64>().ok()).filter(|speed| *speed > 0);
    match speed {
        Some(speed) if speed < SPEED_MBIT => findings.push(Finding::warning(
            "network",
            format!("{interface} runs at {speed} Mbit/s: a class that boots at once shares that"),
            "look at cable and switch; `ethtool` says what both ends offer",
        )),
        Some(speed) => findings.push(Finding::ok("network", format!("{interface} runs at {speed} Mbit/s"))),
        None => {}
    }
    if read("duplex").as_deref() == Some("half") {
        let what = format!("{interface} runs in half duplex: it stalls under load");
        findings.push(Finding::warning("network", what, "have both ends negotiate by themselves"));
    }
    findings
}

fn relay(network: &BootNetwork) -> Finding {
    let BootNetwork { interface, subnet, address, .. } = network;
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    match has_route(&routes, subnet.addr()) {
        true => Finding::note(
            "relay",
            format!("{subnet} is behind a relay, which is not asked: it has to forward DHCP to {address}"),
        ),
        false => Finding::wrong(
            "relay",
            format!("there is no way to {subnet}, which is behind a relay: its workstations get no answer"),
            format!("ip route add {subnet} via ROUTER dev {interface}"),
        ),
    }
}

/// Whether the kernel's table has a way to an address.
fn has_route(table: &str, to: Ipv4Addr) -> bool {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(net), Some(mask)) = (fields.get(1).and_then(|f| word(f)), fields.get(7).and_then(|f| word(f))) else {
            return false;
        };
        to & mask == net
    })
}

fn dhcp(network: &BootNetwork) -> Option<Finding> {
    match rivals(&network.interface, ANSWER_MAX) {
        Ok(found) => Some(judge(network, &found)),
        Err(error) => {
            let what = format!("cannot ask on {} who gives addresses: {error}", network.interface);
            Some(Finding::warning("dhcp", what, "run it as root, and while no DHCP client holds the port"))
        }
    }
}

fn judge(network: &BootNetwork, found: &[Rival]) -> Finding {
    let (interface, own) = (&network.interface, network.address);
    let gives: Vec<String> = found
        .iter()
        .filter(|other| other.server != own && other.address.is_some())
        .map(|other| other.server.to_string())
        .collect();
    let boots: Vec<String> = found
        .iter()
        .filter(|other| other.server != own && other.address.is_none())
        .map(|other| other.server.to_string())
        .collect();
    match (network.dhcp, gives.is_empty(), boots.is_empty()) {
        (Dhcp::Full, false, _) => Finding::wrong(
            "dhcp",
            format!("{} gives addresses on {interface}, too", gives.join(" and ")),
            "end that one, or write dhcp = \"proxy\" for this [[network]]",
        ),
        (Dhcp::Proxy | Dhcp::Off, true, _) => Finding::wrong(
            "dhcp",
            format!("nobody gives addresses on {interface}, and icbd is not to"),
            "start the DHCP server there, or write dhcp = \"full\" with a pool for this [[network]]",
        ),
        (Dhcp::Full | Dhcp::Proxy, _, false) => Finding::warning(
            "dhcp",
            format!(
                "{} says on {interface}, too, what to boot: workstations take whoever is first",
                boots.join(" and ")
            ),
            "end that server of network boot",
        ),
        (Dhcp::Full, true, true) => Finding::ok("dhcp", format!("nobody else gives addresses on {interface}")),
        (Dhcp::Proxy | Dhcp::Off, false, _) => {
            Finding::ok("dhcp", format!("{} gives addresses on {interface}", gives.join(" and ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(dhcp: Dhcp) -> BootNetwork {
        BootNetwork {
            interface: "eth1".into(),
            address: [10, 1, 2, 1].into(),
            port: 7071,
            subnet: "10.1.2.0/24".parse().unwrap(),
            is_relayed: false,
            dhcp,
            pool: None,
            gateway: None,
            dns: Vec::new(),
        }
    }

    #[test]
    fn each_kind_of_network_wants_another_rival() {
        let from = |last, gives: bool| Rival {
            server: [10, 1, 2, last].into(),
            address: gives.then(|| [10, 1, 2, 50].into()),
        };
        let (own, other, boots) = (from(1, true), from(9, true), from(8, false));
        for (dhcp, found, expected) in [
            (Dhcp::Full, vec![], Verdict::Ok),
            (Dhcp::Full, vec![own], Verdict::Ok),
            (Dhcp::Full, vec![own, other], Verdict::Wrong),
            (Dhcp::Full, vec![boots], Verdict::Warning),
            (Dhcp::Proxy, vec![other], Verdict::Ok),
            (Dhcp::Proxy, vec![other, from(1, false)], Verdict::Ok),
            (Dhcp::Proxy, vec![other, boots], Verdict::Warning),
            (Dhcp::Proxy, vec![], Verdict::Wrong),
            (Dhcp::Off, vec![other, boots], Verdict::Ok),
            (Dhcp::Off, vec![], Verdict::Wrong),
        ] {
            let finding = judge(&network(dhcp), &found);
            assert_eq!(finding.verdict, expected, "{dhcp:?} {found:?}: {finding:?}");
        }
    }

    #[test]
    fn a_route_is_found_by_its_mask() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth1\t0002010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(has_route(table, [10, 1, 2, 7].into()) && !has_route(table, [10, 1, 3, 7].into()));
        let default = "head\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(has_route(default, [10, 1, 3, 7].into()));
    }
}
