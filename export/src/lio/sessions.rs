//! Who is logged in to a target of LIO.
//!
//! It tells the address of whoever it lets in by a name that was set up, and of others only the name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::{PORT, entries};
use crate::proc::Sockets;
use crate::{ServerError, Session};

/// Those of one target, of all below `root`.
pub(super) fn of(root: &Path, target: &Path) -> Result<Vec<Session>, ServerError> {
    let (mut sessions, unnamed) = all_of(target)?;
    if unnamed.is_empty() {
        return Ok(sessions);
    }
    let mut known = BTreeSet::new();
    for target in entries(&root.join("iscsi"))? {
        known.extend(all_of(&target)?.0.into_iter().flat_map(|session| session.addresses));
    }
    // Whoever is connected and nobody else: of several it is not known who is who.
    let mut connected = connected();
    connected.retain(|address| !known.contains(address));
    let addresses: Vec<IpAddr> = if connected.len() == 1 { connected.into_iter().collect() } else { Vec::new() };
    let session = |initiator| Session { initiator, addresses: addresses.clone() };
    sessions.extend(unnamed.into_iter().map(session));
    Ok(sessions)
}

/// Those that were set up by name, and the names of others.
fn all_of(target: &Path) -> Result<(Vec<Session>, Vec<String>), ServerError> {
    let (mut named, mut unnamed) = (Vec::new(), Vec::new());
    // What ends meanwhile has no sessions.
    let read = |path: &Path| std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    for group in entries(target)? {
        for acl in entries(&group.join("acls"))? {
            named.extend(read(&acl.join("info")).ok().and_then(|info| session_in(&info)));
        }
        unnamed.extend(names_in(&read(&group.join("dynamic_sessions")).unwrap_or_default()));
    }
    Ok((named, unnamed))
}

/// As `acls/NAME/info` tells of it, if there is one.
fn session_in(info: &str) -> Option<Session> {
    let initiator = info.lines().find_map(|line| line.strip_prefix("InitiatorName: "))?.trim().to_owned();
    let addresses = info.lines().filter_map(|line| line.trim().strip_prefix("Address "));
    let address = |text: &str| text.split_whitespace().next()?.parse::<IpAddr>().ok();
    let addresses = addresses.filter_map(address).map(|address| address.to_canonical()).collect();
    Some(Session { initiator, addresses })
}

/// What `dynamic_sessions` tells, each name with an end of line and of text.
fn names_in(text: &str) -> Vec<String> {
    text.split(['\n', '\0']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Who has a connection to the port of iSCSI here.
fn connected() -> BTreeSet<IpAddr> {
    // A kernel without IPv6 has no table of it.
    let table = |path: &str| std::fs::read(path).unwrap_or_default();
    let sockets = Sockets::of([&table("/proc/thread-self/net/tcp"), &table("/proc/thread-self/net/tcp6")]);
    sockets.clients(|port| port == PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_as_they_are_shown() {
        let info = "InitiatorName: iqn.2026-01.net.icbd:pc-17\nInitiatorAlias: pc\nLIO Session ID: 3   ISID: 0x00 02 3d 01 00 00  \
                    TSIH: 3  SessionType: Normal\nSession State: TARG_SESS_STATE_LOGGED_IN\n\
                    ----------------------[iSCSI Connections]-------------------------\n\
                    CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN\n   Address 10.1.2.17 TCP  StatSN: 0x1b2f6ec1\n";
        let session =
            Session { initiator: "iqn.2026-01.net.icbd:pc-17".into(), addresses: vec!["10.1.2.17".parse().unwrap()] };
        assert_eq!(session_in(info), Some(session));
        assert_eq!(session_in("No active iSCSI Session for Initiator Endpoint: iqn.2026-01.net.icbd:pc-17\n"), None);
        assert_eq!(names_in("iqn.x:a\n\0iqn.x:b\n\0"), ["iqn.x:a", "iqn.x:b"]);
        assert!(names_in("").is_empty());
    }
}
