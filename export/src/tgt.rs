//! `tgtd`, told by `tgtadm`, one target at a time: what others set up there is read and left alone.

mod show;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ipnet::IpNet;

use crate::{LUN, Offer, OfferName, Offered, Server, ServerError, Withdrawal};
use show::Target;

const NAME: &str = "tgtd";
const PACKAGE: &str = "tgt";
const UNIT: &str = "tgt.service";
const PROGRAM: &str = "tgtadm";
/// How often, and after how long, a target is ended again whose last commands are not.
const ATTEMPTS: u32 = 50;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// What `tgtadm` says when nobody listens ends with it, and the reason.
const NOBODY: &str = "to tgt daemon, ";
/// Where both look for tgtd's control socket.
const SOCKET: &str = "TGT_IPC_SOCKET";

/// The tgtd of this machine.
#[derive(Debug, Clone, Default)]
pub struct Tgt {
    /// Its control socket, if that is not where `TGT_IPC_SOCKET` says, or in the usual place.
    pub socket: Option<OsString>,
}

impl Tgt {
    fn ask(&self, operation: &str, mode: &str, args: &[&str]) -> Result<Output, ServerError> {
        let mut command = Command::new(PROGRAM);
        command.args(["--lld", "iscsi", "--op", operation, "--mode", mode]).args(args).stdin(Stdio::null());
        if let Some(socket) = &self.socket {
            command.env(SOCKET, socket);
        }
        command.output().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ServerError::NotInstalled { program: PROGRAM, package: PACKAGE },
            _ => ServerError::Io { doing: "run", path: PROGRAM.into(), source },
        })
    }

    fn tell(&self, what: &str, operation: &str, mode: &str, args: &[&str]) -> Result<String, ServerError> {
        let output = self.ask(operation, mode, args)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(match said.split_once(NOBODY) {
            Some((_, why)) => ServerError::NotRunning { server: NAME, unit: UNIT, said: why.to_owned() },
            None => ServerError::Refused { server: NAME, what: what.to_owned(), said },
        })
    }

    fn targets(&self) -> Result<Vec<Target>, ServerError> {
        let said = self.tell("to list its targets", "show", "target", &[])?;
        show::parse(&said).ok_or(ServerError::Strange { server: NAME, said })
    }

    fn target(&self, name: &OfferName) -> Result<Option<Target>, ServerError> {
        let name = name.to_string();
        Ok(self.targets()?.into_iter().find(|target| target.name == name))
    }

    /// Closes all connections to a target.
    fn log_out(&self, name: &OfferName) -> Result<(), ServerError> {
        let Some(target) = self.target(name)? else { return Ok(()) };
        for (session, connection) in target.connections {
            let [id, session, connection] = [target.id, session, connection].map(|number| number.to_string());
            // It may have gone by itself.
            let _ = self.ask("delete", "conn", &["--tid", &id, "--sid", &session, "--cid", &connection])?;
        }
        Ok(())
    }

    fn add_disk(&self, id: &str, offer: &Offer) -> Result<(), ServerError> {
        let what = format!("the disk {}", offer.disk.display());
        let (path, lun) = (text(&offer.disk)?, LUN.to_string());
        self.tell(&what, "new", "logicalunit", &["--tid", id, "--lun", &lun, "--backing-store", path])?;
        let is_read_only = if offer.name.client.is_none() { 1 } else { 0 };
        // The same on every cache server, so that a client finds its disk again at another one.
        let version = &offer.name.version;
        let params = format!(
            "vendor_id=icbd,product_id={:.16},product_rev={},scsi_sn={:.36},readonly={is_read_only}",
            version.image,
            version.number,
            offer.name.to_string().rsplit(':').next().unwrap_or_default(),
        );
        self.tell(&what, "update", "logicalunit", &["--tid", id, "--lun", &lun, "--params", &params]).map(drop)
    }

    fn bind(&self, id: &str, client: &IpNet) -> Result<(), ServerError> {
        let address = client.to_string();
        let bind = ["--tid", id, "--initiator-address", &address];
        self.tell(&format!("the clients {client}"), "bind", "target", &bind).map(drop)
    }

    fn unbind(&self, id: &str, client: &IpNet) -> Result<(), ServerError> {
        let address = client.to_string();
        let unbind = ["--tid", id, "--initiator-address", &address];
        self.tell(&format!("the clients {client}"), "unbind", "target", &unbind).map(drop)
    }
}

impl Server for Tgt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offered(&self) -> Result<Vec<Offered>, ServerError> {
        Ok(self.targets()?.into_iter().filter_map(Target::offered).collect())
    }

    /// The clients last: until then nobody may use it.
    fn offer(&self, offer: &Offer) -> Result<(), ServerError> {
        let taken: Vec<u32> = self.targets()?.iter().map(|target| target.id).collect();
        let id = (1..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX).to_string();
        let name = offer.name.to_string();
        self.tell(&format!("the target {name}"), "new", "target", &["--tid", &id, "--targetname", &name])?;
        self.add_disk(&id, offer)?;
        offer.clients.iter().try_for_each(|client| self.bind(&id, client))
    }

    fn allow(&self, name: &OfferName, clients: &[IpNet]) -> Result<(), ServerError> {
        let Some(target) = self.target(name)? else { return Ok(()) };
        let id = target.id.to_string();
        let (known, others) = (target.clients(), clients.iter());
        others.filter(|client| !known.contains(client)).try_for_each(|client| self.bind(&id, client))?;
        known.iter().filter(|client| !clients.contains(client)).try_for_each(|client| self.unbind(&id, client))
    }

    fn withdraw(&self, name: &OfferName, how: Withdrawal) -> Result<(), ServerError> {
        let Some(target) = self.target(name)? else { return Ok(()) };
        let id = target.id.to_string();
        let end = |force: &[&str]| {
            // Without force it refuses while somebody is logged in.
            self.tell(&format!("to end the target {name}"), "delete", "target", &[&["--tid", &*id], force].concat())
        };
        if how == Withdrawal::Unused {
            return end(&[]).map(drop);
        }
        // Nobody logs in again, and what is under way comes to its end: until then it refuses that, too.
        target.clients().iter().try_for_each(|client| self.unbind(&id, client))?;
        for attempt in 0.. {
            self.log_out(name)?;
            match end(&["--force"]) {
                Err(_) if attempt < ATTEMPTS => std::thread::sleep(BETWEEN_ATTEMPTS),
                ended => return ended.map(drop),
            }
        }
        Ok(())
    }

    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError> {
        let said = self.tell("to list its portals", "show", "portal", &[])?;
        let portals = said.lines().filter_map(|line| line.trim().strip_prefix("Portal: "));
        // The number behind the comma is the portal group's.
        let address = |portal: &str| portal.rsplit_once(',').map_or(portal, |(address, _)| address).parse().ok();
        portals.map(address).collect::<Option<_>>().ok_or(ServerError::Strange { server: NAME, said })
    }
}

fn text(path: &Path) -> Result<&str, ServerError> {
    path.to_str().ok_or_else(|| ServerError::Refused {
        server: NAME,
        what: format!("the path {}", String::from_utf8_lossy(path.as_os_str().as_bytes())),
        said: "it is not UTF-8".to_owned(),
    })
}
