//! Images as folders by NFS: which server serves them, what it is told, and who is connected to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use icbd_cache::View;
use icbd_export::{Declaration, FileServer, Ganesha, Knfsd, Protocol, ServerError, Share};
use icbd_image::{ImageName, Serial};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::disks::IsOver;
use crate::roles::cache::state::CacheServer;
use crate::settings::{NfsServer, NfsSettings};

/// Ids of exports: below are those that people give by hand.
const ID_FIRST: u16 = 1024;
const IDS: u16 = 64_000;

/// Folders, as they are served.
#[derive(Debug)]
pub(in super::super) struct Nfs {
    which: RwLock<NfsServer>,
    knfsd: Knfsd,
    ganesha: Ganesha,
    seen: Mutex<Seen>,
    /// Held by whoever has a server do something.
    serving: Mutex<IsOver>,
}

/// What the last look saw.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) server: Option<&'static str>,
    pub(super) portals: Vec<SocketAddr>,
    /// Who is connected, to whatever it serves.
    connected: Vec<IpAddr>,
    /// Below which path clients find the versions of an image.
    pub(super) paths: BTreeMap<ImageName, String>,
    /// Nothing is served, and nothing is to be.
    is_idle: bool,
    pub(super) trouble: Option<String>,
}

impl Nfs {
    pub(super) fn new(settings: &NfsSettings) -> Nfs {
        Nfs {
            which: RwLock::new(settings.which),
            knfsd: Knfsd::default(),
            ganesha: Ganesha::new(settings.ganesha_exports.clone(), settings.ganesha_pid_file.clone()),
            seen: Mutex::default(),
            serving: Mutex::default(),
        }
    }

    pub(in super::super) fn set(&self, which: NfsServer) {
        *self.which.write().unwrap_or_else(PoisonError::into_inner) = which;
        // What was served by another one is to be taken back.
        self.seen().is_idle = false;
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For people: why not all is served.
    pub(super) fn warning(&self) -> Option<String> {
        self.seen().trouble.as_ref().map(|trouble| format!("exports by NFS: {trouble}"))
    }

    /// Who is connected from the networks that may use an export.
    pub(super) fn connected(&self, clients: &[IpNet]) -> Vec<IpAddr> {
        let is_client = |address: &IpAddr| {
            let everybody = clients.iter().any(|net| net.prefix_len() == 0);
            everybody || clients.iter().any(|net| net.contains(address))
        };
        self.seen().connected.iter().copied().filter(is_client).collect()
    }

    /// Fails if there is no server that would serve something more.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        self.server()?.check()
    }

    fn all(&self) -> [&dyn FileServer; 2] {
        [&self.knfsd, &self.ganesha]
    }

    /// The server that is meant, or the one that runs.
    fn server(&self) -> Result<&dyn FileServer, ServerError> {
        match *self.which.read().unwrap_or_else(PoisonError::into_inner) {
            NfsServer::Knfsd => Ok(&self.knfsd),
            NfsServer::Ganesha => Ok(&self.ganesha),
            NfsServer::Off => Err(ServerError::Off { key: "export.nfs" }),
            NfsServer::Auto => {
                let mut not_running = None;
                for server in self.all() {
                    match server.check() {
                        Err(ServerError::NotInstalled { .. }) => {}
                        Err(error @ ServerError::NotRunning { .. }) => not_running = not_running.or(Some(error)),
                        // Whatever else is amiss is said when it is told something.
                        _ => return Ok(server),
                    }
                }
                Err(not_running.unwrap_or(ServerError::NotInstalled {
                    program: "a server of NFS",
                    package: "nfs-kernel-server, or nfs-ganesha and nfs-ganesha-vfs",
                }))
            }
        }
    }

    /// Has the server serve these, which lie in `mount`. Blocks.
    fn serve(&self, shares: &[Share], mount: &Path) -> Result<Seen, ServerError> {
        let is_over = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let picked = self.server();
        if let Err(ServerError::NotRunning { .. } | ServerError::NotInstalled { .. }) = picked {
            // It may be restarted just now, and goes on with what it served then.
            return picked.map(|_| Seen::default());
        }
        let name = picked.as_ref().ok().map(|server| server.name());
        // What another one was told before is taken back.
        for other in self.all().into_iter().filter(|other| Some(other.name()) != name) {
            let is_ours = |share: &Share| share.folder.starts_with(mount);
            if other.served().is_ok_and(|shares| shares.iter().any(is_ours)) {
                other.serve(&[])?;
            }
        }
        let server = picked?;
        let shares = if is_over.0 { &[] } else { shares };
        match server.served()?.iter().find(|share| !share.folder.starts_with(mount)) {
            None => {
                if server.serve(shares)? {
                    let images: Vec<String> = shares.iter().map(|share| share.image.to_string()).collect();
                    tracing::info!(server = server.name(), images = images.join(", "), "exported by NFS");
                }
            }
            Some(_) if shares.is_empty() => {}
            Some(share) => {
                let (what, folder) = (format!("another mount than {}", mount.display()), share.folder.display());
                let said = format!(
                    "its exports of icbd are {folder} and others of that cache server; if there is none any more, \
                     end them: remove the file that has them, and reload {}",
                    server.name()
                );
                return Err(ServerError::Refused { server: server.name(), what, said });
            }
        }
        if shares.is_empty() {
            return Ok(Seen { server: Some(server.name()), ..Seen::default() });
        }
        if let Some(raised) = server.raise_limits()? {
            tracing::info!("{raised}");
        }
        let paths = shares.iter().map(|share| (share.image.clone(), server.path(share))).collect();
        let (portals, connected) = (server.portals()?, server.clients()?);
        Ok(Seen { server: Some(server.name()), portals, connected, paths, ..Seen::default() })
    }

    /// Before the mount ends: has it served no more, which would hold it, unless somebody is connected. Blocks.
    pub(super) fn leave(&self, mount: &Path) {
        if self.seen().paths.is_empty() {
            return;
        }
        let connected = self.server().and_then(|server| server.clients()).unwrap_or_default();
        if !connected.is_empty() {
            let who: Vec<String> = connected.iter().map(IpAddr::to_string).collect();
            tracing::warn!(
                who = who.join(", "),
                "workstations that read by NFS get errors until this cache server is back"
            );
            return;
        }
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        if let Err(error) = self.serve(&[], mount) {
            tracing::debug!(%error, "nothing is taken back");
        }
    }
}

/// Has all be served that is declared.
pub(super) async fn look(server: &Arc<CacheServer>) {
    // Where nothing is mounted there is nothing to be served, and what cannot be read changes nothing.
    if server.is_adopted().is_none() || server.exports.declared.is_err() {
        return;
    }
    let (nfs, declarations) = (&server.exports.nfs, server.exports.declared_by(Protocol::Nfs));
    let before = nfs.seen().clone();
    if declarations.is_empty() && before.is_idle {
        return;
    }
    let (working, is_needed) = (server.clone(), !declarations.is_empty());
    let served = tokio::task::spawn_blocking(move || {
        let shares = shares(&working.cache.view(), &working.mount, &declarations);
        working.exports.nfs.serve(&shares, &working.mount)
    });
    let now = match served.await {
        Err(panicked) => return tracing::error!(error = %panicked, "exports by NFS could not be looked at"),
        Ok(Ok(seen)) => Seen { is_idle: !is_needed, ..seen },
        // Whoever never exports anything by it needs no server.
        Ok(Err(_)) if !is_needed => Seen { is_idle: true, ..Seen::default() },
        // What it serves it may serve still.
        Ok(Err(error)) => Seen { trouble: Some(error.to_string()), ..before.clone() },
    };
    if now.trouble != before.trouble {
        match &now.trouble {
            Some(trouble) => tracing::warn!(trouble, "not all is exported by NFS"),
            None => tracing::info!("exports by NFS are looked after again"),
        }
    }
    *nfs.seen() = now;
}

/// What is to be served of what is declared.
fn shares(view: &View, mount: &Path, declarations: &[Declaration]) -> Vec<Share> {
    let ids = ids(view.images().iter().map(|image| image.serial));
    let share = |declaration: &Declaration| {
        let image = view.image(&declaration.image)?;
        let is_everybody = declaration.clients.iter().any(|net| net.prefix_len() == 0);
        let everybody = || vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        Some(Share {
            image: image.name.clone(),
            folder: mount.join(image.name.as_str()),
            id: *ids.get(&image.serial)?,
            clients: if is_everybody { everybody() } else { declaration.clients.clone() },
        })
    };
    declarations.iter().filter_map(share).collect()
}

/// The id of each image's export: the same wherever the same images are known, and as long as they are.
fn ids(images: impl Iterator<Item = Serial>) -> BTreeMap<Serial, NonZeroU16> {
    let (mut ids, mut taken) = (BTreeMap::new(), BTreeSet::new());
    // Two may fall together: the one that is older keeps its own.
    for serial in images.collect::<BTreeSet<Serial>>() {
        let first = (serial.get() % u64::from(IDS)) as u16;
        let free = (0..IDS).map(|step| ID_FIRST + ((u32::from(first) + u32::from(step)) % u32::from(IDS)) as u16);
        if let Some(id) = free.into_iter().find(|id| !taken.contains(id)).and_then(NonZeroU16::new) {
            taken.insert(id.get());
            ids.insert(serial, id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_have_ids_of_their_own() {
        let serial = |number: u64| Serial::new(number).unwrap();
        let numbers = [1, 2, u64::from(IDS) + 1, 2 * u64::from(IDS) + 1, 10 * u64::from(IDS) - 1, u64::from(IDS)];
        let all = ids(numbers.into_iter().map(serial));
        assert_eq!(all.len(), numbers.len());
        assert_eq!(all.values().collect::<BTreeSet<_>>().len(), numbers.len());
        let id = |number: u64| all[&serial(number)].get();
        assert_eq!((id(1), id(2), id(u64::from(IDS) + 1)), (ID_FIRST + 1, ID_FIRST + 2, ID_FIRST + 3));
        // Whoever knows of no newer image has the same ones for the older.
        let older = ids([2, 1].into_iter().map(serial));
        assert!(older.iter().all(|(serial, id)| all[serial] == *id));
    }
}
