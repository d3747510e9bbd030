//! `tgtd`, told by `tgtadm`, one target at a time: what others set up there is read and left alone.

mod show;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use icbd_image::Hash;
use ipnet::IpNet;

use crate::offer::IDENTITY_DIGITS;
use crate::{LUN, Offer, OfferName, Offered, Server, ServerError, Withdrawal, program};
use show::Target;

const NAME: &str = "tgtd";
const PACKAGE: &str = "tgt";
const UNIT: &str = "tgt.service";
const PROGRAM: &str = "tgtadm";
/// It answers at once, or something keeps it from everything else, too.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often, and after how long, a target is ended again whose last commands are not.
const ATTEMPTS: u32 = 50;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// Seconds between two probes of who is logged in, and how many may stay unanswered: a machine that was switched off has its
/// disk reset when it boots again, instead of finding what it wrote before. iPXE answers none, and connects again.
const PROBES: [(&str, &str); 2] = [("nop_interval", "5"), ("nop_count", "4")];
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
        command.args(["--lld", "iscsi", "--op", operation, "--mode", mode]).args(args);
        if let Some(socket) = &self.socket {
            command.env(SOCKET, socket);
        }
        let output = program::run(command, ANSWER_MAX).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ServerError::NotInstalled { program: PROGRAM, package: PACKAGE },
            _ => ServerError::Io { doing: "run", path: PROGRAM.into(), source },
        })?;
        let said = format!("it gave no answer within {} s", ANSWER_MAX.as_secs());
        output.ok_or(ServerError::NotRunning { server: NAME, unit: UNIT, said })
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

    fn end(&self, target: &Target, how: &[&str]) -> Result<(), ServerError> {
        let id = target.id.to_string();
        let what = format!("to end the target {}", target.name);
        self.tell(&what, "delete", "target", &[&["--tid", &*id], how].concat()).map(drop)
    }

    /// Closes all connections to a target.
    fn log_out(&self, target: &Target) -> Result<(), ServerError> {
        for (session, connection) in &target.connections {
            let [id, session, connection] = [target.id, *session, *connection].map(|number| number.to_string());
            // It may have gone by itself.
            let _ = self.ask("delete", "conn", &["--tid", &id, "--sid", &session, "--cid", &connection])?;
        }
        Ok(())
    }

    fn add_disk(&self, id: &str, offer: &Offer) -> Result<(), ServerError> {
        let what = format!("the disk {}", offer.disk.display());
        let (path, lun) = (text(&offer.disk)?, LUN.to_string());
        self.tell(&what, "new", "logicalunit", &["--tid", id, "--lun", &lun, "--backing-store", path])?;
        // What nobody wrote a file system takes back, where it can be written to.
        let (product, kind) = match offer.name.client {
            None => ("version", "readonly=1"),
            Some(_) => ("clone", "readonly=0,thin_provisioning=1"),
        };
        // The same on every cache server, so that a client finds its disk again at another one, and of no other disk.
        let identity = Hash::of(offer.name.to_string().as_bytes()).to_string();
        let identity = &identity[..IDENTITY_DIGITS];
        let params = format!("vendor_id=icbd,product_id={product},scsi_id={identity},scsi_sn={identity},{kind}");
        self.tell(&what, "update", "logicalunit", &["--tid", id, "--lun", &lun, "--params", &params]).map(drop)
    }

    fn bind(&self, id: &str, client: &IpNet) -> Result<(), ServerError> {
        let address = show::written(client);
        let bind = ["--tid", id, "--initiator-address", &address];
        self.tell(&format!("the clients {client}"), "bind", "target", &bind).map(drop)
    }

    /// Lets nobody in who calls itself otherwise.
    fn bind_name(&self, id: &str, initiator: &str) -> Result<(), ServerError> {
        let bind = ["--tid", id, "--initiator-name", initiator];
        self.tell(&format!("the client {initiator}"), "bind", "target", &bind).map(drop)
    }

    /// Lets them in no more; `allowed` is as tgtd shows it.
    fn unbind(&self, id: &str, allowed: &str) -> Result<(), ServerError> {
        let kind = if show::is_name(allowed) { "--initiator-name" } else { "--initiator-address" };
        self.tell(&format!("to shut {allowed} out"), "unbind", "target", &["--tid", id, kind, allowed]).map(drop)
    }
}

impl Server for Tgt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, _: &Offer) -> Result<(), ServerError> {
        self.targets().map(drop)
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
        for (setting, value) in PROBES {
            let set = ["--tid", id.as_str(), "--name", setting, "--value", value];
            self.tell(&format!("the target {name} to look for the dead"), "update", "target", &set)?;
        }
        self.add_disk(&id, offer)?;
        match offer.name.initiator() {
            // An address as well would let in whoever has it, by any name.
            Some(initiator) => self.bind_name(&id, &initiator),
            None => offer.clients.iter().try_for_each(|client| self.bind(&id, client)),
        }
    }

    fn allow(&self, name: &OfferName, clients: &[IpNet]) -> Result<(), ServerError> {
        let Some(target) = self.target(name)? else { return Ok(()) };
        let id = target.id.to_string();
        let wanted: Vec<String> = match name.initiator() {
            Some(initiator) => vec![initiator],
            None => clients.iter().map(show::written).collect(),
        };
        if let Some(initiator) = name.initiator().filter(|initiator| !target.allowed.contains(initiator)) {
            self.bind_name(&id, &initiator)?;
        }
        let new = clients.iter().filter(|client| !target.allowed.contains(&show::written(client)));
        new.filter(|_| name.client.is_none()).try_for_each(|client| self.bind(&id, client))?;
        target.allowed.iter().filter(|text| !wanted.contains(text)).try_for_each(|text| self.unbind(&id, text))
    }

    fn withdraw(&self, name: &OfferName, how: Withdrawal) -> Result<(), ServerError> {
        let Some(target) = self.target(name)? else { return Ok(()) };
        let id = target.id.to_string();
        if how == Withdrawal::Unused {
            // Without force it refuses while somebody is logged in.
            return self.end(&target, &[]);
        }
        // Nobody logs in again, and what is under way comes to its end: until then it refuses that, too.
        target.allowed.iter().try_for_each(|allowed| self.unbind(&id, allowed))?;
        for attempt in 0.. {
            // By its name again: numbers are given anew when it restarts.
            let Some(target) = self.target(name)? else { break };
            self.log_out(&target)?;
            match self.end(&target, &["--force"]) {
                Err(_) if attempt < ATTEMPTS => std::thread::sleep(BETWEEN_ATTEMPTS),
                ended => return ended,
            }
        }
        Ok(())
    }

    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError> {
        let said = self.tell("to list its portals", "show", "portal", &[])?;
        let portals = said.lines().filter_map(|line| line.trim().strip_prefix("Portal: "));
        // The number behind the comma is the portal group's.
        let address = |portal: &str| portal.rsplit_once(',').map_or(portal, |(address, _)| address).parse().ok();
        // One that is given by a name is not told.
        Ok(portals.filter_map(address).collect())
    }
}

fn text(path: &Path) -> Result<&str, ServerError> {
    let refused = |said: &str| ServerError::Refused {
        server: NAME,
        what: format!("the path {}", String::from_utf8_lossy(path.as_os_str().as_bytes())),
        said: said.to_owned(),
    };
    match path.to_str() {
        None => Err(refused("it is not UTF-8")),
        Some(text) if text.contains([',', '\n']) => Err(refused("tgtd would take it for several")),
        Some(text) => Ok(text),
    }
}
