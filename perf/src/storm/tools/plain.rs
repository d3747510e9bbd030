//! Plain NFS to the master: nothing is kept on the site, so every client crosses the line.

use std::path::Path;

use anyhow::Result;

use super::Ready;
use crate::network::{MASTER, Network, Side};
use crate::storm::depot::Depot;

const NFS_PORT: u16 = 2049;
const MOUNT_PORT: u16 = 20048;

/// NFS-Ganesha, version 3. It wants an rpcbind, which gets a /run of its own.
pub(super) fn nfs(depot: &Depot<'_>, network: &Network, work: &Path) -> Result<Ready> {
    let folder = depot.disk.parent().expect("the disk lies in a folder");
    let config = work.join("ganesha.conf");
    std::fs::write(
        &config,
        format!(
            "NFS_CORE_PARAM {{ NFS_Protocols = 3; NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; Enable_NLM = false;\n\
             Enable_RQUOTA = false; Bind_addr = {MASTER}; }}\n\
             NFSv4 {{ RecoveryBackend = fs; }}\n\
             EXPORT {{ Export_Id = 1; Path = {path}; Pseudo = /lab; Access_Type = RO; Squash = None; SecType = sys, none;\n\
             Protocols = 3; Transports = TCP; FSAL {{ Name = VFS; }} }}\n\
             LOG {{ Default_Log_Level = EVENT; }}\n",
            path = folder.display()
        ),
    )?;
    let script = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/rpcbind /run/ganesha /var/lib/nfs/ganesha && rpcbind -w && \
         exec ganesha.nfsd -F -f {config} -L {log} -p {pid} -N EVENT",
        config = config.display(),
        log = depot.lab.path("ganesha.log").display(),
        pid = work.join("pid").display(),
    );
    let mut server = network.command(Side::Master, "unshare");
    server.args(["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let server = depot.server(network, server, NFS_PORT)?;
    let disk = depot.disk.display();
    Ok(Ready::new(format!("nfs://{MASTER}:{NFS_PORT}{disk}?mountport={MOUNT_PORT}"), server))
}
