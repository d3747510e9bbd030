//! What `tgtadm --op show --mode target` prints.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Clients, OfferName, Offered, Session};

/// One target, whoever set it up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Target {
    pub(super) id: u32,
    pub(super) name: String,
    sessions: Vec<Session>,
    /// The numbers of sessions, and of each connection of theirs.
    pub(super) connections: Vec<(u32, u32)>,
    /// The path and whether it is read-only, of each disk.
    disks: Vec<(String, bool)>,
    /// As they are written there.
    pub(super) allowed: Vec<String>,
}

/// Where in a target's description a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Other,
    Sessions,
    Disks,
    Allowed,
}

impl Target {
    /// Who may use it, as tgtd was told.
    fn clients(&self, name: &OfferName) -> Clients {
        let (names, addresses): (Vec<&String>, Vec<_>) = self.allowed.iter().partition(|allowed| is_name(allowed));
        if !names.into_iter().eq(name.initiator().as_ref()) {
            return Clients::Others;
        }
        let mut clients: Option<Vec<IpNet>> = addresses.into_iter().map(|allowed| client(allowed)).collect();
        clients.iter_mut().for_each(|clients| clients.sort_unstable());
        clients.map_or(Clients::Others, Clients::These)
    }

    /// As an offer; `None` if it is not one of ours.
    pub(super) fn offered(self) -> Option<Offered> {
        let name: OfferName = self.name.parse().ok()?;
        let clients = self.clients(&name);
        let disk = self.disks.first();
        Some(Offered {
            name,
            disk: disk.map(|(path, _)| path.into()),
            is_read_only: disk.is_some_and(|(_, is_read_only)| *is_read_only),
            clients,
            sessions: self.sessions,
        })
    }
}

/// Whether a line of who may use it is the name that somebody calls itself.
pub(super) fn is_name(allowed: &str) -> bool {
    ["iqn.", "eui.", "naa."].iter().any(|start| allowed.starts_with(start))
}

/// A line of who may use it as a network; `None` if it is a name by which some initiator calls itself, or something else that
/// icbd did not write.
fn client(allowed: &str) -> Option<IpNet> {
    let net: Option<IpNet> = match allowed {
        "ALL" => Some(IpNet::default()),
        allowed => allowed.parse().ok().or_else(|| allowed.parse().ok().map(|address: IpAddr| address.into())),
    };
    net.filter(|net| written(net) == allowed)
}

/// A network as tgtd understands it: of a prefix of all bits, or of none, it lets nobody in.
pub(super) fn written(client: &IpNet) -> String {
    match client.prefix_len() {
        0 => "ALL".to_owned(),
        bits if bits == client.max_prefix_len() => client.addr().to_string(),
        _ => client.to_string(),
    }
}

/// All targets; `None` if it is not what `tgtadm` prints.
pub(super) fn parse(text: &str) -> Option<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    let (mut part, mut read_only, mut nexus) = (Part::Other, false, 0);
    for line in text.lines() {
        if let Some(target) = line.strip_prefix("Target ") {
            let (id, name) = target.split_once(": ")?;
            let id = id.parse().ok()?;
            // What clients call themselves is printed as it is: it may look like anything.
            if targets.iter().any(|target| target.id == id) {
                return None;
            }
            targets.push(Target { id, name: name.trim().to_owned(), ..Target::default() });
            part = Part::Other;
            continue;
        }
        let target = targets.last_mut()?;
        let (line, depth) = (line.trim(), line.len() - line.trim_start().len());
        if depth == 4 {
            part = match line {
                "I_T nexus information:" => Part::Sessions,
                "LUN information:" => Part::Disks,
                "ACL information:" => Part::Allowed,
                _ => Part::Other,
            };
            continue;
        }
        match (part, line.split_once(": ")) {
            (Part::Sessions, Some(("I_T nexus", number))) => nexus = number.parse().ok()?,
            (Part::Sessions, Some(("Connection", number))) => target.connections.push((nexus, number.parse().ok()?)),
            (Part::Sessions, Some(("Initiator", initiator))) => {
                let initiator = initiator.split(" alias: ").next().unwrap_or(initiator).to_owned();
                target.sessions.push(Session { initiator, addresses: Vec::new() });
            }
            (Part::Sessions, Some(("IP Address", address))) => {
                let address = address.trim().split('%').next();
                let address: Option<IpAddr> = address.and_then(|address| address.parse().ok());
                target.sessions.last_mut()?.addresses.extend(address);
            }
            (Part::Disks, Some(("Readonly", is))) => read_only = is == "Yes",
            // The controller has none.
            (Part::Disks, Some(("Backing store path", path))) if path != "None" => {
                target.disks.push((path.to_owned(), read_only));
            }
            (Part::Allowed, _) => target.allowed.push(line.to_owned()),
            _ => {}
        }
    }
    Some(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tgt 1.0.85 prints it: one of somebody else's, one of ours with a session, one that was not put together to its end.
    const SHOWN: &str = "\
Target 1: iqn.2001-04.com.example:storage.disk1
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            Readonly: No
            Backing store type: null
            Backing store path: None
        LUN: 1
            Type: disk
            Readonly: No
            Backing store type: rdwr
            Backing store path: /srv/disk1
    Account information:
    ACL information:
        ALL
Target 2: iqn.2026-01.net.icbd:win11-lab.7
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 3
            Initiator: iqn.2008-11.org.linux-kvm:pc-17 alias: none
            Connection: 0
                IP Address: 10.1.2.17
    LUN information:
        LUN: 0
            Type: controller
            Readonly: No
            Backing store path: None
        LUN: 1
            Type: disk
            Readonly: Yes
            Backing store type: rdwr
            Backing store path: /icbd/win11-lab/7/disk.raw
    Account information:
    ACL information:
        10.1.2.0/24
        10.1.3.9
Target 4: iqn.2026-01.net.icbd:debian-lab.3.pc-9
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            Backing store path: None
    Account information:
    ACL information:
";

    #[test]
    fn targets_are_read_as_they_are_shown() {
        let targets = parse(SHOWN).unwrap();
        assert_eq!(targets.iter().map(|target| target.id).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(targets[1].connections, [(3, 0)]);
        let ours: Vec<Offered> = targets.into_iter().filter_map(Target::offered).collect();
        let [win11, debian] = &ours[..] else { panic!("{ours:?}") };
        assert_eq!(win11.disk.as_deref(), Some("/icbd/win11-lab/7/disk.raw".as_ref()));
        assert!(win11.is_read_only);
        let clients: Vec<IpNet> = ["10.1.2.0/24", "10.1.3.9/32"].map(|net| net.parse().unwrap()).into();
        assert_eq!(win11.clients, Clients::These(clients));
        let [session] = &win11.sessions[..] else { panic!("{win11:?}") };
        assert_eq!(session.initiator, "iqn.2008-11.org.linux-kvm:pc-17");
        assert_eq!(session.addresses, ["10.1.2.17".parse::<IpAddr>().unwrap()]);
        assert_eq!((&debian.disk, &debian.clients, debian.is_read_only), (&None, &Clients::Others, false));
    }

    #[test]
    fn nothing_else_is_taken_for_targets() {
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("tgtadm: no such thing\n"), None);
        assert_eq!(parse("Target x: iqn.2026-01.net.icbd:a.1\n"), None);
        assert_eq!(parse("Target 1: iqn.2026-01.net.icbd:a.1\nTarget 1: iqn.2026-01.net.icbd:a.2\n"), None);
        for (net, text) in
            [("0.0.0.0/0", "ALL"), ("10.1.2.7/32", "10.1.2.7"), ("10.1.2.0/24", "10.1.2.0/24"), ("::1/128", "::1")]
        {
            assert_eq!((&*written(&net.parse().unwrap()), client(text)), (text, Some(net.parse().unwrap())));
        }
        assert!(["iqn.2008-11.org.linux-kvm:pc", "10.1.2.7/32", "0.0.0.0/0"].iter().all(|text| client(text).is_none()));
    }
}
