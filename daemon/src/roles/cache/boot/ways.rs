//! How a workstation gets a version: from a disk as if it were its own, or by a kernel that knows where the rest is.

use std::net::IpAddr;

use icbd_export::{Declaration, Protocol};
use icbd_image::{ClientName, Head, ImageName, VersionRecord};
use ipnet::{IpNet, Ipv4Net};

use super::{booted, check_is_for, not_bootable};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::roles::cache::state::CacheServer;

/// The folder of a version in which its boot package is.
pub(in super::super) const PACKAGE: &str = "icbd";
pub(super) const KERNEL: &str = "icbd/vmlinuz";
pub(super) const INITRD: &str = "icbd/initrd.img";
/// More for the kernel's command line, if there is such a file.
pub(super) const CMDLINE: &str = "icbd/cmdline";

/// What a workstation is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// iPXE boots from the disk, with whatever boot loader is on it.
    Disk,
    /// iPXE loads the kernel of the boot package, which logs in to the disk.
    KernelAndDisk,
    /// The same with a folder.
    KernelAndFolder,
}

/// What a workstation boots of an image, and by which export.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) record: VersionRecord,
    pub(super) declaration: Declaration,
    pub(super) way: Way,
}

/// What whoever asks from there boots of an image.
pub(super) async fn choose(
    server: &CacheServer,
    image: &ImageName,
    from: IpAddr,
    client: Option<&ClientName>,
) -> Result<Choice, Failure> {
    find_image(&server.images(), image)?;
    let declarations = declarations(server, image)?;
    let first = declarations.first().ok_or_else(|| not_bootable(image))?;
    // Why not, where nothing is for who asks.
    let declarations: Vec<&Declaration> = declarations.iter().filter(|declaration| declaration.is_for(from)).collect();
    if declarations.is_empty() {
        check_is_for(first, from)?;
    }
    let record = booted(server, image, client)?;
    let version = server.cache.version_once(record.serial()).await.map_err(Failure::from)?;
    let has_package = has_package(version.head());
    let (declaration, way) = way(&declarations, has_package).ok_or_else(|| {
        let message = format!(
            "{} is exported by NFS, and has no kernel to boot ({KERNEL} and {INITRD} in it); `icbd image boot-package {image}` \
             makes the next version with one",
            version.id()
        );
        Failure::new(Exit::Refused, message)
    })?;
    Ok(Choice { declaration: declaration.clone(), way, record })
}

/// What an image is exported by that a workstation boots from.
fn declarations(server: &CacheServer, image: &ImageName) -> Result<Vec<Declaration>, Failure> {
    let mut declarations = server.exports.all()?;
    declarations.retain(|declaration| declaration.image == *image && declaration.protocol != Protocol::Http);
    Ok(declarations)
}

/// A disk of one's own before a folder, a folder before a disk that nobody can write to: what is read of a folder is
/// kept by the workstation as files.
fn way<'a>(declarations: &[&'a Declaration], has_package: bool) -> Option<(&'a Declaration, Way)> {
    let by = |protocol| declarations.iter().copied().find(move |declaration| declaration.protocol == protocol);
    let of_disk = |declaration| (declaration, if has_package { Way::KernelAndDisk } else { Way::Disk });
    let folder = by(Protocol::Nfs).filter(|_| has_package).map(|declaration| (declaration, Way::KernelAndFolder));
    let disk = by(Protocol::Iscsi);
    disk.filter(|disk| disk.clone).map(of_disk).or(folder).or(disk.map(of_disk))
}

fn has_package(head: &Head) -> bool {
    [KERNEL, INITRD].iter().all(|path| head.follow(path.as_bytes()).is_some())
}

/// Somebody of a network to whom an image is exported as a folder.
pub(super) fn somebody_of(server: &CacheServer, image: &ImageName, network: Ipv4Net) -> Option<IpAddr> {
    let declarations = declarations(server, image).ok()?;
    let folders = declarations.iter().filter(|declaration| declaration.protocol == Protocol::Nfs);
    folders.flat_map(|declaration| &declaration.clients).find_map(|clients| somebody_in(clients, network))
}

fn somebody_in(clients: &IpNet, network: Ipv4Net) -> Option<IpAddr> {
    let IpNet::V4(clients) = clients else { return None };
    let common = match (clients.contains(&network), network.contains(clients)) {
        (true, _) => network,
        (_, true) => *clients,
        _ => return None,
    };
    common.hosts().next().map(IpAddr::V4)
}

/// Whether somebody to whom a version is exported as a folder has that as its root.
pub(in super::super) async fn is_booted_as_folder(
    server: &CacheServer,
    record: &VersionRecord,
    folder: &Declaration,
) -> Result<bool, Failure> {
    let version = server.cache.version_once(record.serial()).await.map_err(Failure::from)?;
    let somebody = folder.clients.first().and_then(|clients| clients.hosts().next());
    let declarations = declarations(server, &folder.image)?;
    let is_for = |declaration: &&Declaration| somebody.is_some_and(|somebody| declaration.is_for(somebody));
    let declarations: Vec<&Declaration> = declarations.iter().filter(is_for).collect();
    Ok(way(&declarations, has_package(version.head())).is_some_and(|(_, way)| way == Way::KernelAndFolder))
}

/// Whether whoever asks from there boots an image by any of its exports: the boot package is for those.
pub(in super::super) fn is_for_somebody(server: &CacheServer, image: &ImageName, from: IpAddr) -> bool {
    let declarations = declarations(server, image).unwrap_or_default();
    declarations.iter().any(|declaration| declaration.is_for(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_for_a_part_of_a_network_is_for_somebody_of_it() {
        let of = |clients: &str| somebody_in(&clients.parse().unwrap(), "10.1.2.0/24".parse().unwrap());
        let found = ["10.1.2.128/25", "10.1.2.7/32", "10.0.0.0/8", "0.0.0.0/0", "10.1.3.0/24", "fd00::/8"].map(of);
        let said = found.map(|found| found.map_or("nobody".to_owned(), |address| address.to_string()));
        assert_eq!(said, ["10.1.2.129", "10.1.2.7", "10.1.2.1", "10.1.2.1", "nobody", "nobody"]);
    }

    #[test]
    fn who_writes_gets_a_disk_and_others_a_folder() {
        let declaration = |protocol, clone| {
            let clients = vec!["10.1.2.0/24".parse().unwrap()];
            Declaration { image: "lab".parse().unwrap(), protocol, clients, disk: None, clone }
        };
        let (nfs, disk, clone) = (
            declaration(Protocol::Nfs, false),
            declaration(Protocol::Iscsi, false),
            declaration(Protocol::Iscsi, true),
        );
        let of = |declarations: &[&Declaration], has_package| way(declarations, has_package).map(|(_, way)| way);
        assert_eq!(of(&[&nfs, &clone], true), Some(Way::KernelAndDisk));
        assert_eq!(of(&[&nfs, &clone], false), Some(Way::Disk));
        assert_eq!(of(&[&nfs, &disk], true), Some(Way::KernelAndFolder));
        assert_eq!(of(&[&nfs, &disk], false), Some(Way::Disk));
        assert_eq!(of(&[&disk], true), Some(Way::KernelAndDisk));
        assert_eq!(of(&[&nfs], false), None);
    }
}
