//! LIO, the iSCSI server of the kernel, told by configfs one target at a time: what others set up there is read and left alone.
//!
//! A disk gets there in three layers, each with a name of its own. A loop device is the file: LIO opens files for writing only, and a
//! version lies on a mount where nobody can. A *backstore* is the loop device, and a target shows that to initiators. What is to
//! be made is a list of [`Step`]s, the backstore and the disk's path first and what lets somebody in last; what is to be removed goes
//! the other way. Each step says of itself whether it is done, so whatever was killed between two is known for what it is,
//! and goes on there.
//!
//! Nothing here opens what is served, or waits for who reads it, but in a program of its own: a daemon that is killed meanwhile could
//! not end before the next one answers.
//!
//! LIO knows initiators by their names. A clone is for its client's name alone; a version is for everybody or not at all, and
//! nobody can write to it. It says of nobody who came without being named from where: an address is told where there is but one.
//!
//! A loop device reads one piece after the other: a read that waits for a master keeps the others of the same disk waiting.

mod backing;
mod sessions;
mod step;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use icbd_image::Hash;
use ipnet::IpNet;
use socket2::{Domain, Socket, Type};

use crate::offer::IDENTITY_DIGITS;
use crate::{Clients, LUN, Offer, OfferName, Offered, Server, ServerError, Withdrawal};
use backing::Backing;
pub use step::Step;

const NAME: &str = "LIO";
/// Among other backstores: each "HBA" is a folder for what somebody made, and this number is nobody else's.
const HBA: &str = "core/iblock_2026";
/// What others call it, if they do not make several.
const GROUP: &str = "tpgt_1";
const PORT: u16 = 3260;
/// As much as LIO notes of a path.
const PATH_BYTES_MAX: usize = 500;

/// The LIO of this machine.
#[derive(Debug, Clone)]
pub struct Lio {
    /// Where it is told.
    pub root: PathBuf,
}

impl Default for Lio {
    fn default() -> Lio {
        Lio { root: "/sys/kernel/config/target".into() }
    }
}

impl Lio {
    /// Whether this machine's kernel has it, loaded.
    pub fn is_there(&self) -> bool {
        self.root.is_dir()
    }

    /// All that it takes to serve something, in order, whatever of it is done.
    pub fn to_offer(&self, name: &OfferName, disk: &Path) -> Result<Vec<Step>, ServerError> {
        let (backstore, target) = (self.backstore(name), self.target(name));
        let (group, backing) = (target.join(GROUP), self.backing(name, disk));
        let folder = |path: &Path| Step::Folder(path.to_owned());
        let set = |path: PathBuf, value: &str| Step::Attribute(path, value.as_bytes().to_owned());
        let mut steps = vec![folder(&self.root.join("iscsi")), folder(&self.root.join(HBA)), folder(&backstore)];
        steps.push(Step::Attribute(backstore.join("udev_path"), disk.as_os_str().as_bytes().to_owned()));
        steps.extend(backing.steps());
        // The same on every cache server, so that a client finds its disk again at another one, and of no other disk.
        let identity = Hash::of(name.to_string().as_bytes()).to_string();
        let product = if name.client.is_none() { "version" } else { "clone" };
        for (attribute, value) in
            [("vpd_unit_serial", &identity[..IDENTITY_DIGITS]), ("vendor_id", "icbd"), ("product_id", product)]
        {
            steps.push(set(backstore.join("wwn").join(attribute), value));
        }
        if name.client.is_some() {
            // What nobody wrote a file system takes back.
            steps.push(set(backstore.join("attrib/emulate_tpu"), "1"));
        }
        let lun = group.join("lun").join(lun());
        steps.extend([&target, &group, &lun].map(|path| folder(path)));
        steps.push(Step::Link { at: lun.join("disk"), to: backstore });
        // Without a password, but see who is let in.
        steps.push(set(group.join("attrib/authentication"), "0"));
        match name.initiator() {
            Some(initiator) => {
                let acl = group.join("acls").join(initiator);
                let mapped = acl.join(self::lun());
                steps.push(set(group.join("attrib/generate_node_acls"), "0"));
                steps.push(set(group.join("attrib/demo_mode_discovery"), "0"));
                steps.extend([folder(&acl), folder(&mapped)]);
                steps.push(Step::Link { at: mapped.join("disk"), to: lun });
            }
            None => {
                steps.push(set(group.join("attrib/demo_mode_write_protect"), "1"));
                steps.push(set(group.join("attrib/generate_node_acls"), "1"));
            }
        }
        steps.extend(self.wanted_portals()?.into_iter().map(|portal| Step::Folder(portal_of(&group, portal))));
        steps.push(set(group.join("enable"), "1"));
        Ok(steps)
    }

    /// All that it takes to remove what there is of something, in order. Who uses it is logged out.
    pub fn to_withdraw(&self, name: &OfferName) -> Result<Vec<Step>, ServerError> {
        let (target, backstore) = (self.target(name), self.backstore(name));
        let mut steps = Vec::new();
        for group in entries(&target)?.into_iter().filter(|path| path.join("enable").exists()) {
            steps.extend(entries(&group.join("np"))?.into_iter().map(Step::Gone));
            steps.push(Step::Off(group.join("enable")));
            for acl in entries(&group.join("acls"))? {
                steps.extend(without_acl(&acl)?);
            }
            for lun in entries(&group.join("lun"))? {
                steps.extend(without_lun(&lun)?);
            }
            steps.push(Step::Gone(group));
        }
        if target.is_dir() {
            steps.push(Step::Gone(target));
        }
        if backstore.is_dir() {
            if let Some(disk) = self.disk(name) {
                steps.push(Step::Free(self.backing(name, &disk)));
            }
            steps.push(Step::Gone(backstore));
            steps.push(Step::GoneIfEmpty(self.root.join(HBA)));
        }
        Ok(steps)
    }

    fn backstore(&self, name: &OfferName) -> PathBuf {
        self.root.join(HBA).join(name.to_string())
    }

    fn target(&self, name: &OfferName) -> PathBuf {
        self.root.join("iscsi").join(name.to_string())
    }

    fn backing(&self, name: &OfferName, disk: &Path) -> Backing {
        let (hba, backstore) = (self.root.join(HBA), self.backstore(name));
        Backing { hba, backstore, disk: disk.to_owned(), is_read_only: name.client.is_none() }
    }

    /// The disk of what is made of an offer.
    fn disk(&self, name: &OfferName) -> Option<PathBuf> {
        let path = std::fs::read(self.backstore(name).join("udev_path")).ok()?;
        let path = path.strip_suffix(b"\n").unwrap_or(&path);
        (!path.is_empty()).then(|| Path::new(std::ffi::OsStr::from_bytes(path)).to_owned())
    }

    /// What there is of icbd's, whole or not.
    fn names(&self) -> Result<BTreeSet<OfferName>, ServerError> {
        if !self.is_there() {
            return Err(ServerError::NotLoaded { server: NAME, path: self.root.clone() });
        }
        let all = [entries(&self.root.join("iscsi"))?, entries(&self.root.join(HBA))?].concat();
        Ok(all.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Where LIO listens for targets that `is_meant`.
    fn portals_of(&self, is_meant: impl Fn(&Path) -> bool) -> Result<BTreeSet<SocketAddr>, ServerError> {
        let mut portals = BTreeSet::new();
        for target in entries(&self.root.join("iscsi"))?.into_iter().filter(|target| is_meant(target)) {
            for group in entries(&target)? {
                let all = entries(&group.join("np"))?;
                portals.extend(all.iter().filter_map(|path| path.file_name()?.to_str()?.parse::<SocketAddr>().ok()));
            }
        }
        Ok(portals)
    }

    /// Where targets of others listen, for nobody can listen elsewhere then; else at all addresses of IPv4, as others would want to.
    fn wanted_portals(&self) -> Result<BTreeSet<SocketAddr>, ServerError> {
        let mut portals = self.portals_of(|target| !is_ours(target))?;
        portals.retain(|portal| portal.port() == PORT);
        if portals.is_empty() {
            portals.insert(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
        }
        Ok(portals)
    }

    /// That some initiators are let in who should not be.
    fn strangers(&self, name: &OfferName) -> Result<Vec<PathBuf>, ServerError> {
        let mut acls = entries(&self.target(name).join(GROUP).join("acls"))?;
        acls.retain(|acl| acl.file_name().and_then(|acl| acl.to_str()) != name.initiator().as_deref());
        Ok(acls)
    }

    fn seen(&self, name: OfferName) -> Result<Offered, ServerError> {
        let (disk, is_read_only) = (self.disk(&name), self.backing(&name, Path::new("")).is_read_only_now());
        let is_whole = match &disk {
            Some(disk) => self.strangers(&name)?.is_empty() && self.to_offer(&name, disk)?.iter().all(Step::is_done),
            None => false,
        };
        let clients = match (is_whole, &name.client) {
            (false, _) => Clients::Others,
            (true, Some(_)) => Clients::These(Vec::new()),
            (true, None) => Clients::These(vec![IpNet::default()]),
        };
        let sessions = sessions::of(&self.root, &self.target(&name))?;
        Ok(Offered { name, disk, clients, is_read_only, sessions })
    }

    fn check_clients(&self, name: &OfferName, clients: &[IpNet]) -> Result<(), ServerError> {
        if name.client.is_some() || clients.iter().any(|client| client.prefix_len() == 0) {
            return Ok(());
        }
        let clients: Vec<String> = clients.iter().map(IpNet::to_string).collect();
        Err(ServerError::Networks { server: NAME, what: name.version.to_string(), clients: clients.join(", ") })
    }

    /// That it listens, or can.
    fn check_portals(&self) -> Result<(), ServerError> {
        let there = self.portals_of(|_| true)?;
        let mut wanted = self.wanted_portals()?;
        wanted.retain(|portal| !there.contains(portal));
        wanted.into_iter().try_for_each(|portal| {
            can_listen(portal).map_err(|error| {
                let said = format!("{error}; if tgtd listens there, end that: systemctl stop tgt");
                refused(format!("to listen at {portal}"), said)
            })
        })
    }
}

impl Server for Lio {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, offer: &Offer) -> Result<(), ServerError> {
        self.names()?;
        self.check_clients(&offer.name, &offer.clients)?;
        let path = offer.disk.as_os_str().as_bytes();
        if path.len() > PATH_BYTES_MAX || path.contains(&b'\n') {
            let said = format!("it can note {PATH_BYTES_MAX} bytes, on one line");
            return Err(refused(format!("the path {}", offer.disk.display()), said));
        }
        self.check_portals()
    }

    fn offered(&self) -> Result<Vec<Offered>, ServerError> {
        self.names()?.into_iter().map(|name| self.seen(name)).collect()
    }

    fn offer(&self, offer: &Offer) -> Result<(), ServerError> {
        self.check(offer)?;
        self.to_offer(&offer.name, &offer.disk)?.iter().try_for_each(Step::take)
    }

    fn allow(&self, name: &OfferName, clients: &[IpNet]) -> Result<(), ServerError> {
        let Some(disk) = self.disk(name) else { return Ok(()) };
        if let Err(error) = self.check_clients(name, clients) {
            // Better nobody new than somebody who is not meant.
            let portals = entries(&self.target(name).join(GROUP).join("np"))?;
            portals.into_iter().map(Step::Gone).try_for_each(|step| step.take())?;
            return Err(error);
        }
        for acl in self.strangers(name)? {
            without_acl(&acl)?.iter().try_for_each(Step::take)?;
        }
        self.to_offer(name, &disk)?.iter().try_for_each(Step::take)
    }

    fn withdraw(&self, name: &OfferName, how: Withdrawal) -> Result<(), ServerError> {
        if how == Withdrawal::Unused {
            // Nobody new, who could come between the look and the end.
            let portals = entries(&self.target(name).join(GROUP).join("np"))?;
            portals.iter().cloned().map(Step::Gone).try_for_each(|step| step.take())?;
            let sessions = sessions::of(&self.root, &self.target(name))?;
            if !sessions.is_empty() {
                portals.into_iter().map(Step::Folder).try_for_each(|step| step.take())?;
                let who: Vec<String> = sessions.into_iter().map(|session| session.initiator).collect();
                return Err(refused(format!("to end the target {name}"), format!("in use by {}", who.join(", "))));
            }
        }
        self.to_withdraw(name)?.iter().try_for_each(Step::take)
    }

    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError> {
        let ours = self.portals_of(is_ours)?;
        let portals = if ours.is_empty() { self.wanted_portals()? } else { ours };
        Ok(portals.into_iter().collect())
    }
}

fn is_ours(target: &Path) -> bool {
    target.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<OfferName>().is_ok())
}

fn lun() -> String {
    format!("lun_{LUN}")
}

fn portal_of(group: &Path, portal: SocketAddr) -> PathBuf {
    group.join("np").join(portal.to_string())
}

/// What lets an initiator in, which logs it out.
fn without_acl(acl: &Path) -> Result<Vec<Step>, ServerError> {
    let mut steps = Vec::new();
    for mapped in entries(acl)?.into_iter().filter(|path| is_lun(path)) {
        steps.extend(without_lun(&mapped)?);
    }
    steps.push(Step::Gone(acl.to_owned()));
    Ok(steps)
}

fn without_lun(lun: &Path) -> Result<Vec<Step>, ServerError> {
    let links = entries(lun)?.into_iter().filter(|path| path.is_symlink()).map(Step::Unlinked);
    Ok(links.chain([Step::Gone(lun.to_owned())]).collect())
}

fn is_lun(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"lun_"))
}

/// What is in a folder, in order; nothing, if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ServerError> {
    let failed = |source| ServerError::Io { doing: "list", path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Whether nobody else listens there.
fn can_listen(portal: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(portal), Type::STREAM, None)?;
    // What was closed a moment ago is not in the way.
    socket.set_reuse_address(true)?;
    socket.bind(&portal.into())
}

fn refused(what: String, said: String) -> ServerError {
    ServerError::Refused { server: NAME, what, said }
}
