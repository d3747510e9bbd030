//! What workstations boot that enforce Secure Boot: GRUB's menu, and the kernels in it, as files that TFTP serves.
//!
//! Nobody asks for a script on that way, so clones are not booted by it: who gets one is decided when it asks.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use icbd_export::{BootNetwork, GRUB_MENU, SignedEntry, grub_menu};
use icbd_image::VersionRecord;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::INTERVAL;
use crate::failure::{Exit, Failure};
use crate::netboot::NetbootState;
use crate::roles::cache::boot::{SIGNED_FILES, signed_entry};
use crate::roles::cache::state::CacheServer;
use crate::roles::every::Every;

/// Where kernels are, below what is served by TFTP.
const KERNELS: &str = "kernels";
const CHUNK_BYTES: usize = 1024 * 1024;

/// Has what can be booted so be there, until `stop`.
pub(in super::super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let mut every = Every::new(INTERVAL, stop);
    let mut said = None;
    loop {
        let Some(outcome) = every.turn(turn(&server)).await else { break };
        let why = outcome.err().map(|failure| failure.message);
        if let Some(why) = why.as_ref().filter(|why| Some(*why) != said.as_ref()) {
            tracing::warn!(why, "what is booted with Secure Boot enforced is not as it should be");
        }
        said = why;
    }
}

async fn turn(server: &CacheServer) -> Result<(), Failure> {
    let (settings, seen) = (server.netboot.settings(), server.netboot.seen.borrow().clone());
    if !settings.secure_boot || seen.state != NetbootState::Serving {
        return Ok(());
    }
    let folder = server.netboot.dnsmasq.loaders();
    let (mut entries, mut first_failure) = (Vec::new(), None);
    for network in servers(&seen.networks) {
        for image in server.images() {
            // Why one cannot be booted its menu says, or `icbd client explain`.
            let Ok((record, cmdline)) = signed_entry(server, &image.name, network.subnet).await else { continue };
            let (serial, version) = (record.serial().to_string(), record.statement.statement().version());
            let at = format!("{KERNELS}/{serial}");
            // One that cannot be had now keeps nobody from the others.
            if let Err(failure) = load(server, &record, &folder.join(&at)).await {
                first_failure = first_failure.or(Some(failure));
                continue;
            }
            entries.push(SignedEntry {
                server: network.server(),
                image: image.name.to_string(),
                title: version.to_string(),
                folder: at,
                cmdline,
            });
        }
    }
    let default = settings.default.map(|image| image.to_string());
    let default = default.filter(|default| entries.iter().any(|entry| entry.image == *default));
    let menu = grub_menu(&entries, default.as_deref(), settings.menu_timeout.as_secs());
    let path = folder.join(GRUB_MENU);
    if tokio::fs::read(&path).await.ok().as_deref() != Some(menu.as_bytes()) {
        let unfinished = path.with_added_extension("new");
        let write = async {
            tokio::fs::write(&unfinished, menu).await?;
            everybody(&unfinished, 0o644).await?;
            tokio::fs::rename(&unfinished, &path).await
        };
        write.await.map_err(|error| failed("write", &path, &error))?;
    }
    forget(server, &folder.join(KERNELS)).await;
    first_failure.map_or(Ok(()), Err)
}

/// Removes kernels of versions that are gone. Whoever loads another one just now goes on.
async fn forget(server: &CacheServer, kernels: &Path) {
    let known: BTreeSet<String> = {
        let view = server.cache.view();
        let records = view.images().iter().flat_map(|image| &image.versions);
        records.map(|record| record.serial().to_string()).collect()
    };
    let Ok(mut there) = tokio::fs::read_dir(kernels).await else { return };
    while let Ok(Some(entry)) = there.next_entry().await {
        if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
            let _ = tokio::fs::remove_dir_all(entry.path()).await;
        }
    }
}

/// One network for each address under which workstations see this server: GRUB knows no more.
fn servers(networks: &[BootNetwork]) -> Vec<&BootNetwork> {
    let mut seen = BTreeSet::new();
    networks.iter().filter(|network| seen.insert(network.address)).collect()
}

/// Has a version's kernel and initramfs be in a folder.
async fn load(server: &CacheServer, record: &VersionRecord, folder: &Path) -> Result<(), Failure> {
    let version = server.cache.version(record.serial()).await.map_err(Failure::from)?;
    for (path, name) in SIGNED_FILES {
        let to = folder.join(name);
        if tokio::fs::try_exists(&to).await.unwrap_or(false) {
            continue;
        }
        let index = version.head().follow(path.as_bytes());
        let index = index.ok_or_else(|| Failure::new(Exit::Failed, format!("{} has no {path}", version.id())))?;
        let file = version.file(index).map_err(Failure::from)?;
        make_folder(folder).await?;
        let unfinished = to.with_added_extension("new");
        let failed = |error: std::io::Error| failed("write", &to, &error);
        let mut copy = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
        let mut at = 0;
        while at < file.size() {
            let bytes = file.read(at, CHUNK_BYTES).await.map_err(Failure::from)?;
            at += bytes.len() as u64;
            copy.write_all(&bytes).await.map_err(failed)?;
        }
        copy.flush().await.map_err(failed)?;
        everybody(&unfinished, 0o644).await.map_err(failed)?;
        tokio::fs::rename(&unfinished, &to).await.map_err(failed)?;
    }
    Ok(())
}

/// A folder of what is served, and that above it: never the root, which goes when network boot is ended.
async fn make_folder(folder: &Path) -> Result<(), Failure> {
    let above = folder.parent().filter(|above| above.ends_with(KERNELS));
    for folder in above.into_iter().chain([folder]) {
        let made = match tokio::fs::create_dir(folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => everybody(folder, 0o755).await,
        };
        made.map_err(|error| failed("make", folder, &error))?;
    }
    Ok(())
}

/// Who serves it is nobody.
async fn everybody(path: &Path, mode: u32) -> std::io::Result<()> {
    tokio::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).await
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {doing} {}: {error}", path.display()))
}
