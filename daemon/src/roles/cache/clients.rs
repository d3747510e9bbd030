//! What the control socket of a cache server answers about workstations.

mod explain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use icbd_cache::{CloneStatus, Fate};
use icbd_export::{
    Claims, Fault, Faults, Mac, Neighbours, Offered, Problem, Protocol, Session, Workstation, read_sheet, who,
};
use icbd_image::{ClientName, ImageRef, Timestamp};

use super::boot;
use super::state::CacheServer;
use crate::audit::Change;
use crate::clients::{
    BootEntry, BootsSpec, ClientClone, ClientReport, ClientSpec, ClientsReport, ImportReport, ImportSpec, LeftReport,
    RunReport, UnmetReport, WakeSpec, counts, faults_of,
};
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::near;
pub(super) use explain::explain;

/// The columns of a list, for who writes others.
const COLUMNS: [&str; 5] = ["name", "mac", "uuid", "lab", "boots"];

/// Has a list be the list, with both ends of it in the audit log; or says what it would change.
pub(super) async fn import(server: Arc<CacheServer>, peer: Peer, spec: ImportSpec) -> anyhow::Result<ImportReport> {
    let list = read_sheet(&spec.sheet).map_err(|faults| wrong(&spec.file, &faults))?;
    let first = matches!(server.workstations.list(), Ok(None));
    let difference = server.workstations.difference(&list).map_err(failed)?;
    let left = left(&server, &list);
    let wishes = list.iter().filter_map(|workstation| Some((&workstation.name, workstation.boots.as_ref()?)));
    let unmet = wishes.filter_map(|(client, boots)| unmet(&server, client, boots)).collect();
    if spec.dry_run {
        return Ok(ImportReport { dry_run: true, first, difference, left, unmet });
    }
    let what = format!("{spec}: {}", counts(&difference));
    let change = Change { what: &what, why: &spec.why };
    let working = server.clone();
    let replace = async move {
        let replaced = tokio::task::spawn_blocking(move || working.workstations.replace(list)).await?;
        Ok(replaced.map_err(failed)?)
    };
    let difference = server.audit.both_ends(&peer, change, replace).await?;
    Ok(ImportReport { dry_run: false, first, difference, left, unmet })
}

/// Why a workstation cannot boot what the list says, if so.
fn unmet(server: &CacheServer, client: &ClientName, boots: &ImageRef) -> Option<UnmetReport> {
    let why = boot::unmet(server, boots)?;
    Some(UnmetReport { client: client.clone(), boots: boots.clone(), why })
}

fn wrong(file: &str, faults: &Faults) -> Failure {
    let line = |fault: &Fault| match &fault.what {
        Problem::UnknownColumn(name) => format!("{fault}{}", near::hint(&name.to_lowercase(), COLUMNS)),
        _ => fault.to_string(),
    };
    let lines: Vec<String> = faults.shown.iter().map(line).collect();
    Failure::new(Exit::Usage, faults_of(file, &lines, faults.more))
}

fn failed(error: Arc<icbd_export::KeptError>) -> Failure {
    Failure::new(Exit::Failed, error.to_string()).of_disk(&*error)
}

/// Clones of workstations that are not on a list.
fn left(server: &CacheServer, list: &[Workstation]) -> Vec<LeftReport> {
    let names: BTreeSet<&ClientName> = list.iter().map(|workstation| &workstation.name).collect();
    let clones = server.cache.clones().all();
    let strangers = clones.iter().map(|clone| clone.name()).filter(|name| !names.contains(&name.client));
    strangers.map(|name| LeftReport { client: name.client.clone(), version: name.version.clone() }).collect()
}

/// The list as it is now, if one was ever imported.
pub(super) fn listed(server: &CacheServer) -> Result<Option<Arc<[Workstation]>>, Failure> {
    server.workstations.list().map_err(failed)
}

/// For the status: that the list cannot be read.
pub(super) fn warnings(server: &CacheServer) -> Option<String> {
    let error = server.workstations.list().err()?;
    Some(format!("workstations: {error}; until then nobody gets a clone"))
}

/// All workstations.
pub(super) async fn list(server: Arc<CacheServer>) -> anyhow::Result<ClientsReport> {
    let listed = listed(&server)?;
    let seen = Seen::of(&server).await?;
    let workstations = listed.as_deref().unwrap_or_default();
    let mut clients: Vec<ClientReport> = workstations.iter().map(|workstation| seen.report(workstation)).collect();
    let known: BTreeSet<&ClientName> = workstations.iter().map(|workstation| &workstation.name).collect();
    let strangers: BTreeSet<&ClientName> = seen.clones.keys().filter(|name| !known.contains(name)).collect();
    clients.extend(strangers.into_iter().map(|name| seen.stranger(name)));
    Ok(ClientsReport { imported: listed.is_some(), clients })
}

/// One of them.
pub(super) async fn show(server: Arc<CacheServer>, spec: ClientSpec) -> anyhow::Result<ClientReport> {
    let listed = listed(&server)?;
    let seen = Seen::of(&server).await?;
    find(&seen, listed.as_deref(), &named(listed.as_deref(), &spec.client)?)
}

/// What a workstation is called that somebody knows by its name, MAC or UUID.
fn named(listed: Option<&[Workstation]>, claims: &Claims) -> Result<ClientName, Failure> {
    match (&claims.name, listed) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(list)) => {
            let found = who(list, claims)
                .map_err(|stranger| Failure::new(Exit::Absent, format!("{stranger}; `icbd client list` shows it")));
            found.map(|workstation| workstation.name.clone())
        }
        (None, None) => Err(Failure::new(Exit::Absent, unknown(claims))),
    }
}

/// That there is no list on which somebody could be.
fn unknown(who: &impl std::fmt::Display) -> String {
    format!("nothing is known of {who}: no list of workstations is imported; `icbd client import FILE.csv` does")
}

/// When they booted what, the newest first.
pub(super) async fn boots(server: Arc<CacheServer>, spec: BootsSpec) -> anyhow::Result<Vec<BootEntry>> {
    let mut boots = server.journal.all();
    if let Some(claims) = spec.client {
        let name = match claims.mac {
            Some(_) => None,
            None => Some(named(listed(&server)?.as_deref(), &claims)?),
        };
        boots.retain(|boot| {
            claims.mac.is_some_and(|mac| boot.mac == Some(mac)) || name.is_some() && boot.client == name
        });
    }
    Ok(boots)
}

/// Tells workstations to switch on; whether they heard it nobody says.
pub(super) async fn wake(server: Arc<CacheServer>, spec: WakeSpec) -> anyhow::Result<Vec<ClientName>> {
    let listed = listed(&server)?.unwrap_or_default();
    let mut all = Vec::new();
    for claims in &spec.clients {
        let name = named(Some(&listed), claims)?;
        let of_name = listed.iter().find(|workstation| workstation.name == name);
        let workstation = of_name.ok_or_else(|| absent(Some(&listed), &name))?;
        if workstation.macs.is_empty() {
            let message = format!("no MAC of {name} is on the list of workstations, so nothing can be sent to it");
            return Err(Failure::new(Exit::Refused, message).into());
        }
        all.push(workstation.clone());
    }
    let networks = server.netboot.broadcasts();
    let names = all.iter().map(|workstation| workstation.name.clone()).collect();
    let sent = tokio::task::spawn_blocking(move || {
        all.iter().flat_map(|workstation| &workstation.macs).try_for_each(|mac| mac.wake(&networks))
    });
    sent.await?.map_err(|error| Failure::new(Exit::Failed, format!("nobody could be woken: {error}")))?;
    Ok(names)
}

/// A workstation that is on the list or has clones.
fn find(seen: &Seen, listed: Option<&[Workstation]>, name: &ClientName) -> anyhow::Result<ClientReport> {
    let workstations = listed.unwrap_or_default();
    if let Some(workstation) = workstations.iter().find(|workstation| workstation.name == *name) {
        return Ok(seen.report(workstation));
    }
    if seen.clones.contains_key(name) {
        return Ok(seen.stranger(name));
    }
    Err(absent(listed, name).into())
}

/// That nobody is called so.
pub(super) fn absent(listed: Option<&[Workstation]>, name: &ClientName) -> Failure {
    let message = match listed {
        None => unknown(name),
        Some(list) => {
            let hint = near::hint(name.as_str(), list.iter().map(|workstation| workstation.name.as_str()));
            format!(
                "{name} is not on the list of workstations{hint}; `icbd client list` shows it, `icbd client import` changes it"
            )
        }
    };
    Failure::new(Exit::Absent, message)
}

/// Who uses what, and has written what.
struct Seen {
    offered: Vec<Offered>,
    neighbours: Neighbours,
    clones: BTreeMap<ClientName, Vec<ClientClone>>,
}

impl Seen {
    async fn of(server: &CacheServer) -> anyhow::Result<Seen> {
        server.exports.settle().await;
        let (offered, mut clones) = (server.exports.offered(), BTreeMap::<ClientName, Vec<ClientClone>>::new());
        for CloneStatus { name, fate, written_bytes, made, .. } in
            server.cache.clones().list().await.map_err(Failure::from)?
        {
            let since = Timestamp::from(made);
            let clone = ClientClone { version: name.version, written_bytes, kept: fate != Fate::Reset, since };
            clones.entry(name.client).or_default().push(clone);
        }
        // Where that cannot be read, nobody is known by an address.
        let neighbours = icbd_export::neighbours().unwrap_or_default();
        Ok(Seen { offered, neighbours, clones })
    }

    fn report(&self, workstation: &Workstation) -> ClientReport {
        let Workstation { name, macs, uuid, lab, boots } = workstation.clone();
        let clones = self.clones.get(&name).cloned().unwrap_or_default();
        ClientReport { runs: self.runs(&name, &macs), listed: true, name, macs, uuid, lab, boots, clones }
    }

    fn stranger(&self, name: &ClientName) -> ClientReport {
        let clones = self.clones.get(name).cloned().unwrap_or_default();
        let runs = self.runs(name, &[]);
        ClientReport {
            name: name.clone(),
            listed: false,
            macs: Vec::new(),
            uuid: None,
            lab: None,
            boots: None,
            runs,
            clones,
        }
    }

    /// What a workstation uses: its own disks, and others by the addresses at which its network cards answer.
    fn runs(&self, name: &ClientName, macs: &[Mac]) -> Vec<RunReport> {
        let is_at = |session: &Session| {
            let answering = session.addresses.iter().flat_map(|address| self.neighbours.at(*address));
            answering.into_iter().any(|mac| macs.contains(&mac))
        };
        let mut runs = Vec::new();
        for offered in &self.offered {
            let sessions = offered.sessions.iter().filter(|session| match &offered.name.client {
                Some(client) => client == name,
                None => is_at(session),
            });
            let addresses: Vec<_> = sessions.flat_map(|session| session.addresses.clone()).collect();
            if !addresses.is_empty() {
                let (version, clone) = (offered.version().clone(), offered.name.client.is_some());
                runs.push(RunReport { version, protocol: Protocol::Iscsi, addresses, clone });
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icbd_export::Clients;

    /// A disk of its own is known by its name, one that all share by who answers at the address it is used from.
    #[test]
    fn what_is_used_is_known_by_name_or_address() {
        let session =
            |address: &str| Session { initiator: "iqn.x".to_owned(), addresses: vec![address.parse().unwrap()] };
        let offered = |name: &str, sessions: &[&str]| Offered {
            name: format!("iqn.2026-01.net.icbd:{name}").parse().unwrap(),
            disk: None,
            clients: Clients::Others,
            is_read_only: false,
            sessions: sessions.iter().map(|address| session(address)).collect(),
        };
        let seen = Seen {
            offered: vec![
                offered("lab.1.pc-1", &["10.0.0.9"]),
                offered("tree.3", &["10.0.0.1", "10.0.0.2"]),
                offered("tree.4", &[]),
            ],
            neighbours: Neighbours::parse(
                "10.0.0.1 0x1 0x2 52:54:00:00:00:01 * a\n10.0.0.2 0x1 0x2 52:54:00:00:00:02 * a",
            ),
            clones: BTreeMap::new(),
        };
        let runs = |name: &str, mac: &str| {
            let runs = seen.runs(&name.parse().unwrap(), &[mac.parse().unwrap()]);
            runs.iter().map(|run| format!("{} {} {:?}", run.version, run.clone, run.addresses)).collect::<Vec<_>>()
        };
        assert_eq!(runs("pc-1", "52:54:00:00:00:01"), ["lab@1 true [10.0.0.9]", "tree@3 false [10.0.0.1]"]);
        assert_eq!(runs("pc-2", "52:54:00:00:00:02"), ["tree@3 false [10.0.0.2]"]);
        assert_eq!(runs("pc-3", "52:54:00:00:00:03"), [""; 0]);
    }
}
