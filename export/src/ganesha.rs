//! `ganesha.nfsd` of NFS-Ganesha 4, told by a file of icbd's own and SIGHUP; what others have it serve is read and left alone.
//!
//! Its administrator brings the file in with one line of `ganesha.conf`, and lets workstations of NFS 3 mount by the same paths as
//! those of NFS 4 (`Mount_Path_Pseudo`). Without `FD_LWMark_Percent = 0` it keeps the files open that somebody read by NFS 3, so that
//! their versions are in use for good; its 200 threads (`RPC_Ioq_ThrdMax`) are as many misses as may be waited for at a time:
//!
//! ```text
//! NFS_CORE_PARAM { Mount_Path_Pseudo = true; }
//! MDCACHE { FD_LWMark_Percent = 0; }
//! %include "/etc/ganesha/icbd.conf"
//! ```
//!
//! On SIGHUP it adds exports, removes those that are gone, and changes clients, while those of other exports go on. Anything else of
//! an export cannot be changed: it is taken away and made anew, and so is every export of a mount that is no more, for Ganesha holds
//! that open. Whoever asks in between is told that the handle is stale; afterwards handles are what they were (`exports.rs`).
//!
//! Ganesha passes over an export whose folder it does not find: a process that was started since is told once more.

mod exports;
mod process;
mod settings;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{FileServer, ServerError, Share};
use exports::Exports;
use process::{Identity, Process, Watch};
use settings::Settings;

const NAME: &str = "nfs-ganesha";
const UNIT: &str = "nfs-ganesha.service";
/// It reads its configuration within a moment, or something keeps it from everything else, too.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What it no longer serves it closes within this, unless somebody else has it serve that.
const CLOSING_MAX: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The Ganesha of this machine.
#[derive(Debug)]
pub struct Ganesha {
    /// icbd's own file.
    pub exports: PathBuf,
    /// Where the running one writes its process id.
    pub pid_file: PathBuf,
    /// What it reads unless its command line says otherwise.
    pub settings: PathBuf,
    pub program: PathBuf,
    told: Mutex<Option<Told>>,
}

/// What this object has had a running Ganesha read.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    by: Identity,
    /// The mounts on which the folders lie.
    mounts: BTreeSet<u64>,
    text: String,
}

impl Default for Ganesha {
    /// Where Debian has it.
    fn default() -> Ganesha {
        Ganesha::new("/etc/ganesha/icbd.conf".into(), "/var/run/ganesha/ganesha.pid".into())
    }
}

impl Ganesha {
    pub fn new(exports: PathBuf, pid_file: PathBuf) -> Ganesha {
        let (settings, program) = ("/etc/ganesha/ganesha.conf".into(), "/usr/bin/ganesha.nfsd".into());
        Ganesha { exports, pid_file, settings, program, told: Mutex::new(None) }
    }

    fn process(&self) -> Result<Process, ServerError> {
        match Process::find(&self.pid_file)? {
            Some(process) => Ok(process),
            None if !self.program.exists() => {
                Err(ServerError::NotInstalled { program: "ganesha.nfsd", package: "nfs-ganesha and nfs-ganesha-vfs" })
            }
            None => {
                let said = format!("{} names no process of it", self.pid_file.display());
                Err(ServerError::NotRunning { server: NAME, unit: UNIT, said })
            }
        }
    }

    fn settings_of(&self, process: &Process) -> Result<Settings, ServerError> {
        Settings::read(process.settings()?.as_deref().unwrap_or(&self.settings), &self.exports)
    }

    fn tell_all(&self, shares: &[Share], told: &mut Option<Told>) -> Result<bool, ServerError> {
        let wanted = Exports::of(shares)?;
        let there = Exports::read(&self.exports)?;
        if there.is_none() && shares.is_empty() {
            return Ok(false);
        }
        let is_there = there.as_ref() == Some(&wanted);
        let there = there.unwrap_or_default();
        let process = match self.process().and_then(|process| self.included_by(process)) {
            Ok(process) => process,
            // Without the file it would not start, and when it starts it reads it.
            Err(error) => {
                let is_changed = !is_there && self.exports.parent().is_some_and(Path::exists);
                if is_changed {
                    wanted.write(&self.exports)?;
                }
                return if shares.is_empty() { Ok(is_changed) } else { Err(error) };
            }
        };
        let mounts = process.mounts(shares.iter().map(|share| share.folder.as_path()))?;
        let now = Told { by: process.identity(), mounts, text: wanted.text() };
        if is_there && told.as_ref() == Some(&now) {
            return Ok(false);
        }
        let before = told.take().filter(|told| told.by == now.by);
        let is_stale = match &before {
            Some(before) => !before.mounts.is_subset(&now.mounts),
            None => process.open_mounts()?.has_gone,
        };
        let kept = if is_stale { Exports::default() } else { there.kept_for(&wanted) };
        if kept != there {
            self.tell(&process, &kept)?;
        }
        self.tell(&process, &wanted)?;
        if before.is_none() {
            // What is in the file may never have been told: an export that is not what it was is dropped the first time.
            self.tell(&process, &wanted)?;
        }
        self.settle(&process, before.as_ref(), &now)?;
        *told = Some(now);
        Ok(true)
    }

    fn included_by(&self, process: Process) -> Result<Process, ServerError> {
        self.settings_of(&process)?.check(&self.exports)?;
        Ok(process)
    }

    /// Has the file read, with this in it.
    fn tell(&self, process: &Process, exports: &Exports) -> Result<(), ServerError> {
        if Exports::read(&self.exports)?.as_ref() != Some(exports) {
            exports.write(&self.exports)?;
        }
        let watch = Watch::new(&self.exports)?;
        process.reload()?;
        match watch.is_read(ANSWER_MAX)? {
            true => Ok(()),
            false => Err(self.refused("it has not read them; its log says why")),
        }
    }

    /// Waits until it has the mounts open that it should, and gives it a moment to close those that it serves no more: it does so after
    /// it has read the file. Somebody else's exports may be on them, too.
    fn settle(&self, process: &Process, before: Option<&Told>, now: &Told) -> Result<(), ServerError> {
        let left: Vec<&u64> = before.iter().flat_map(|before| before.mounts.difference(&now.mounts)).collect();
        let started = Instant::now();
        while started.elapsed() < ANSWER_MAX {
            let open = process.open_mounts()?.there;
            let is_closed = left.iter().all(|mount| !open.contains(mount)) || started.elapsed() > CLOSING_MAX;
            if now.mounts.is_subset(&open) && is_closed {
                return Ok(());
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        match process.has_vfs()? {
            true => Err(self.refused("it serves none of them; its log says why")),
            false => Err(ServerError::NotInstalled { program: "Ganesha's FSAL VFS", package: "nfs-ganesha-vfs" }),
        }
    }

    fn refused(&self, said: &str) -> ServerError {
        refused(format!("the exports in {}", self.exports.display()), said)
    }
}

impl FileServer for Ganesha {
    fn name(&self) -> &'static str {
        NAME
    }

    fn path(&self, share: &Share) -> String {
        exports::path(&share.image)
    }

    fn check(&self, shares: &[Share]) -> Result<(), ServerError> {
        let (process, there) = (self.process()?, Exports::read(&self.exports)?);
        Exports::of(shares)?;
        // A Ganesha that was told to bring it in would not start without it.
        if there.is_none() {
            Exports::default().write(&self.exports)?;
        }
        self.included_by(process).map(drop)
    }

    fn serve(&self, shares: &[Share]) -> Result<bool, ServerError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell_all(shares, &mut told)
    }

    fn served(&self) -> Result<Vec<Share>, ServerError> {
        // Whoever reads the file meanwhile would be taken for Ganesha.
        let _told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        Exports::read(&self.exports)?.unwrap_or_default().shares(&self.exports)
    }

    fn clients(&self) -> Result<Vec<IpAddr>, ServerError> {
        let process = self.process()?;
        let port = self.settings_of(&process)?.port();
        process.clients(port)
    }

    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError> {
        let process = self.process()?;
        let port = self.settings_of(&process)?.port();
        process.portals(port)
    }
}

fn refused(what: String, said: &str) -> ServerError {
    ServerError::Refused { server: NAME, what, said: said.to_owned() }
}
