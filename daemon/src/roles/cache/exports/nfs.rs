//! Images as folders by NFS: which server serves them, what it is told, and who is connected to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
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

    /// Where workstations mount the versions of an image: the folder, and where its server listens.
    pub(in super::super) fn folder(&self, image: &ImageName) -> Option<(String, Vec<SocketAddr>)> {
        let seen = self.seen();
        Some((seen.paths.get(image)?.clone(), seen.portals.clone()))
    }

    /// For people: why not all is served.
    pub(super) fn warning(&self) -> Option<String> {
        self.seen().trouble.as_ref().map(|trouble| format!("exports by NFS: {trouble}"))
    }

    /// Who is connected of those that may use an export.
    pub(super) fn connected(&self, declaration: &Declaration) -> Vec<IpAddr> {
        self.seen().connected.iter().copied().filter(|address| declaration.is_for(*address)).collect()
    }

    /// Fails if there is no server that would serve all of these. Blocks.
    pub(super) fn check(&self, shares: &[Share]) -> Result<(), ServerError> {
        self.server()?.check(shares)
    }

    /// Whether a server may serve an image, or will once it is started. Blocks.
    pub(super) fn has(&self, image: &ImageName, mount: &Path) -> bool {
        !self.none_serves(|share| share.image == *image && share.folder.starts_with(mount))
    }

    /// Whether it is known that nothing is served that lies in `mount`.
    fn is_clear(&self, mount: &Path) -> bool {
        self.none_serves(|share| share.folder.starts_with(mount))
    }

    /// Whether all servers say that they serve nothing of the kind.
    fn none_serves(&self, is_meant: impl Fn(&Share) -> bool + Copy) -> bool {
        self.all().iter().all(|server| server.served().is_ok_and(|shares| !shares.iter().any(is_meant)))
    }

    fn all(&self) -> [&dyn FileServer; 2] {
        [&self.knfsd, &self.ganesha]
    }

    /// The server that is meant, or the one that runs.
    fn server(&self) -> Result<&dyn FileServer, ServerError> {
        let which = *self.which.read().unwrap_or_else(PoisonError::into_inner);
        match which {
            NfsServer::Knfsd => Ok(&self.knfsd),
            NfsServer::Ganesha => Ok(&self.ganesha),
            NfsServer::Off => Err(ServerError::Off { key: "export.nfs" }),
            NfsServer::Auto => {
                let mut not_running = None;
                for server in self.all() {
                    match server.check(&[]) {
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

    /// Has the server serve what is wanted. Blocks.
    fn serve(&self, mut wanted: Wanted) -> Result<Seen, ServerError> {
        let is_over = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if is_over.0 {
            (wanted.shares, wanted.unknown) = Default::default();
        }
        let is_ours = |share: &Share| share.folder.starts_with(&wanted.mount);
        let has_ours = |server: &&dyn FileServer| server.served().is_ok_and(|shares| shares.iter().any(is_ours));
        let picked = self.server();
        if matches!(&picked, Err(error) if is_down(error)) {
            // It may be restarted just now: it begins with what it is told meanwhile.
            self.all().into_iter().filter(has_ours).try_for_each(|server| server.serve(&wanted.shares).map(drop))?;
            return picked.map(|_| Seen::default());
        }
        let name = picked.as_ref().ok().map(|server| server.name());
        let others = || self.all().into_iter().filter(|other| Some(other.name()) != name).filter(has_ours);
        if let (Ok(server), Some(_)) = (&picked, others().next()) {
            // Nobody loses what another one serves for one that does not.
            server.check(&wanted.shares)?;
        }
        others().try_for_each(|other| other.serve(&[]).map(drop))?;
        let server = picked?;
        let served = server.served()?;
        if let Some(share) = served.iter().find(|share| !is_ours(share)) {
            return if wanted.shares.is_empty() { Ok(Seen::default()) } else { Err(of_another_cache(server, share)) };
        }
        let mut shares = wanted.shares;
        shares.extend(served.into_iter().filter(|share| wanted.unknown.contains(&share.image)));
        if server.serve(&shares)? {
            let images: Vec<String> = shares.iter().map(|share| share.image.to_string()).collect();
            tracing::info!(server = server.name(), images = images.join(", "), "exported by NFS");
        }
        let seen = Seen { server: Some(server.name()), ..Seen::default() };
        if shares.is_empty() {
            return Ok(seen);
        }
        if let Some(raised) = server.raise_limits()? {
            tracing::info!("{raised}");
        }
        let paths = shares.iter().map(|share| (share.image.clone(), server.path(share))).collect();
        Ok(Seen { portals: server.portals()?, connected: server.clients()?, paths, ..seen })
    }

    /// Before the mount ends: has it served no more, which would hold it, unless somebody is connected. Blocks.
    pub(super) fn leave(&self, mount: &Path, declarations: &[Declaration]) {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        if self.seen().paths.is_empty() {
            return;
        }
        match self.server().and_then(|server| server.clients()) {
            Ok(mut connected) => {
                connected.retain(|address| declarations.iter().any(|declaration| declaration.is_for(*address)));
                if !connected.is_empty() {
                    let who: Vec<String> = connected.iter().map(IpAddr::to_string).collect();
                    let who = who.join(", ");
                    tracing::warn!(who, "workstations that read by NFS get errors until this cache server is back");
                    return;
                }
            }
            Err(error) if is_down(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "exports by NFS are left as they are, for nobody knows who is connected");
                return;
            }
        }
        if let Err(error) = self.serve(Wanted { mount: mount.to_owned(), ..Wanted::default() }) {
            tracing::debug!(%error, "nothing is taken back");
        }
    }
}

/// What is to be served.
#[derive(Debug, Default)]
struct Wanted {
    shares: Vec<Share>,
    /// What is declared of images of which nothing is known now: it stays as it is.
    unknown: BTreeSet<ImageName>,
    /// Where all of it lies.
    mount: PathBuf,
}

impl Wanted {
    fn of(server: &CacheServer, declarations: &[Declaration]) -> Wanted {
        let view = server.cache.view();
        let images = declarations.iter().map(|declaration| &declaration.image);
        Wanted {
            shares: shares(&view, &server.mount, declarations),
            unknown: images.filter(|image| view.image(image).is_none()).cloned().collect(),
            mount: server.mount.clone(),
        }
    }
}

/// Nobody is connected to such a server, and it can be told nothing but what it begins with.
fn is_down(error: &ServerError) -> bool {
    matches!(error, ServerError::NotRunning { .. } | ServerError::NotInstalled { .. })
}

fn of_another_cache(server: &dyn FileServer, share: &Share) -> ServerError {
    let said = format!(
        "it serves {} for another cache server; if there is none any more, remove the file that has its exports, and          restart {}",
        share.folder.display(),
        server.name()
    );
    ServerError::Refused { server: server.name(), what: "a second mount".to_owned(), said }
}

/// Has all be served that is declared.
pub(super) async fn look(server: &Arc<CacheServer>) {
    // Where nothing is mounted there is nothing to be served, and what cannot be read changes nothing.
    if server.is_adopted().is_none() || server.exports.all().is_err() {
        return;
    }
    let (nfs, declarations) = (&server.exports.nfs, server.exports.declared_by(Protocol::Nfs));
    let before = nfs.seen().clone();
    if declarations.is_empty() && before.is_idle {
        return;
    }
    let (working, is_needed) = (server.clone(), !declarations.is_empty());
    let served = tokio::task::spawn_blocking(move || {
        let wanted = Wanted::of(&working, &declarations);
        let unknown = wanted.unknown.first().map(|image| format!("no image {image} is known now"));
        let nfs = &working.exports.nfs;
        (nfs.serve(wanted), unknown, nfs.is_clear(&working.mount))
    });
    let now = match served.await {
        Err(panicked) => return tracing::error!(error = %panicked, "exports by NFS could not be looked at"),
        Ok((Ok(seen), trouble, _)) => Seen { is_idle: !is_needed, trouble, ..seen },
        // Whoever never exports anything by it needs no server.
        Ok((Err(_), _, true)) if !is_needed => Seen { is_idle: true, ..Seen::default() },
        Ok((Err(error), ..)) => {
            // What it serves it may serve still, and to the same.
            let connected = if is_down(&error) { Vec::new() } else { before.connected.clone() };
            Seen { trouble: Some(error.to_string()), is_idle: false, connected, ..before.clone() }
        }
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
pub(super) fn shares(view: &View, mount: &Path, declarations: &[Declaration]) -> Vec<Share> {
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
