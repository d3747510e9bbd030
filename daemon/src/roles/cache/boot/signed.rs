//! What is booted without a script, by a boot loader that cannot ask for one.

use icbd_image::{ImageName, VersionRecord};

use super::ways::{Choice, INITRD, KERNEL, Way, choose, somebody_of};
use super::{not_exported, scripts};
use crate::failure::Failure;
use crate::roles::cache::state::CacheServer;
use icbd_export::Protocol;
use ipnet::Ipv4Net;

/// What is loaded of a version, and how it is called then.
pub(in super::super) const SIGNED_FILES: [(&str, &str); 2] = [(KERNEL, "vmlinuz"), (INITRD, "initrd.img")];

/// What workstations of a network boot of an image, and what their kernel is told. Only of a folder: it is the same for all.
pub(in super::super) async fn signed_entry(
    server: &CacheServer,
    image: &ImageName,
    network: Ipv4Net,
) -> Result<(VersionRecord, String), Failure> {
    let from = somebody_of(server, image, network).ok_or_else(|| not_exported(image, Protocol::Nfs))?;
    let Choice { record, way, .. } = choose(server, image, from, None).await?;
    if way != Way::KernelAndFolder {
        return Err(not_exported(image, Protocol::Nfs));
    }
    let root = scripts::folder(server, &record.statement.statement().version(), from)?;
    let http = scripts::http(server, from)?;
    let arguments = scripts::arguments(server, &record, &root, &http).await?;
    Ok((record, arguments))
}
