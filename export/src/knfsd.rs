//! The kernel's own NFS server, told by `exportfs`, one export at a time, and by a file of icbd's own, from which it comes again
//! whenever it is started.
//!
//! What others export is read in `etab`, where `exportfs` keeps what is exported, and left alone: `exportfs -r` and `-a` are not used,
//! for the former ends whatever somebody exported by hand and the latter brings in what somebody has yet to. Each `exportfs -o`, `-u`
//! and `-f` has the kernel forget all that it knows of exports and close what it keeps open for NFS 3. Clients, also of others, do not
//! notice: `rpc.mountd` is asked again with their next requests. Until then the kernel holds a mount that it has served, for half an
//! hour, also one that was replaced: so it is told once more when the mount is another one, and by every process of icbd once. It
//! forgets at once, but lets go of the mount later by one second for each time that it was told more often than once a second.
//!
//! Handles hold the id of the export and the node id, and the same is found by them after a new mount and at another cache server.
//! Clients of either version read on, but for a file that one of NFS 4 had open on a mount that is no more; it reads again once it has
//! opened it again. Where an export is ended, they are told that the handle is stale.
//!
//! Clients of NFS 4 come in from the root by the folders above, of which they see what leads to exports. That takes `rpc.mountd` of
//! nfs-utils 2.5.4 (Debian 12) or later, for the mount itself is exported to nobody.
//!
//! As many reads as it has threads may wait for a master; after that nobody reads anything, whoever exports it. Eight, as it has them
//! by default, are soon busy: see [`Knfsd::raise_threads`].

mod exports;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::proc::{self, Mount, Sockets};
use crate::{FileServer, ServerError, Share, program};
use exports::{Export, Exported, Exports, escaped};

const NAME: &str = "the kernel's NFS server";
const UNIT: &str = "nfs-server.service";
const PACKAGE: &str = "nfs-kernel-server";
const PROGRAM: &str = "exportfs";
/// It answers at once, or something keeps it from everything else, too.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// As many misses may be waited for at a time before nobody is answered any more. Each costs as much memory as the largest read,
/// 1 MiB.
const THREADS_MIN: u32 = 64;

/// The NFS server in the kernel of this machine.
#[derive(Debug)]
pub struct Knfsd {
    /// icbd's own file.
    pub exports: PathBuf,
    /// Where `exportfs` notes what is exported.
    pub exported: PathBuf,
    /// Where the kernel tells of its server, and is told.
    pub control: PathBuf,
    pub program: PathBuf,
    /// The mounts on which the folders lay when the kernel was last made to forget others.
    told: Mutex<Option<BTreeSet<u64>>>,
}

/// A number of threads that was too small for a file system whose reads may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    pub before: u32,
    pub now: u32,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Raised { before, now } = self;
        write!(
            f,
            "{NAME} had {before} threads, which as many reads that wait for a master would have stopped; it has {now} now, \
             until it is started again: threads={now} below [nfsd] in /etc/nfs.conf has it begin so"
        )
    }
}

impl Default for Knfsd {
    /// Where Debian has it.
    fn default() -> Knfsd {
        Knfsd {
            exports: "/etc/exports.d/icbd.exports".into(),
            exported: "/var/lib/nfs/etab".into(),
            control: "/proc/fs/nfsd".into(),
            program: "/usr/sbin/exportfs".into(),
            told: Mutex::new(None),
        }
    }
}

impl Knfsd {
    /// Sees to it that it has enough threads for reads that wait. More than that are left as they are.
    pub fn raise_threads(&self) -> Result<Option<Raised>, ServerError> {
        let before = self.threads()?;
        if before >= THREADS_MIN {
            return Ok(None);
        }
        let path = self.control.join("threads");
        std::fs::write(&path, format!("{THREADS_MIN}\n")).map_err(failed("write", &path))?;
        Ok(Some(Raised { before, now: self.threads()? }))
    }

    /// How many it has; fails if it has none.
    fn threads(&self) -> Result<u32, ServerError> {
        let path = self.control.join("threads");
        let said = match std::fs::read_to_string(&path) {
            Err(_) if !self.program.exists() => {
                return Err(ServerError::NotInstalled { program: PROGRAM, package: PACKAGE });
            }
            Err(error) => return Err(not_running(format!("{}: {error}", path.display()))),
            Ok(said) => said,
        };
        match said.trim().parse() {
            Ok(0) => Err(not_running("it has no threads".to_owned())),
            Ok(threads) => Ok(threads),
            Err(_) => Err(ServerError::Strange { server: NAME, said }),
        }
    }

    fn tell_all(&self, shares: &[Share], told: &mut Option<BTreeSet<u64>>) -> Result<bool, ServerError> {
        let wanted = Exports::of(shares)?;
        let there = Exports::read(&self.exports)?;
        if there.is_none() && shares.is_empty() {
            return Ok(false);
        }
        let ours: Vec<Export> = there.iter().flat_map(Exports::all).collect();
        let all: Vec<Export> = wanted.all().collect();
        let exported = self.exported()?;
        let is_wanted = |export: &&Export| all.iter().any(|wanted| wanted.name() == export.name());
        let unwanted = ours.iter().filter(|export| !is_wanted(export));
        let (changed, gone): (Vec<&Export>, Vec<&Export>) =
            unwanted.partition(|export| all.iter().any(|wanted| wanted.folder == export.folder));
        // First, and whatever else fails: somebody may no longer be let in.
        self.withdraw(&gone, &exported)?;
        check(&all, &ours, &exported)?;
        let is_there = there.as_ref() == Some(&wanted);
        let is_known = there.is_some() || self.program.exists();
        if !is_there && is_known {
            wanted.write(&self.exports)?;
        }
        match self.threads() {
            // When it is started it reads the file.
            Err(_) if shares.is_empty() => return Ok(!is_there && is_known),
            threads => {
                if threads.is_err() {
                    self.withdraw(&changed, &exported)?;
                }
                threads?
            }
        };
        let mounts = mounts_of(&mount_table()?, &all)?;
        let lacking: Vec<&Export> =
            all.iter().filter(|export| !exported.iter().any(|there| export.is(there))).collect();
        for export in &lacking {
            self.export(export)?;
        }
        // Whoever is of the new clients as of the old ones goes on.
        self.withdraw(&changed, &exported)?;
        // Whoever exports something has the kernel forget all of its mounts already.
        let is_moved = !shares.is_empty() && told.as_ref() != Some(&mounts);
        if is_moved && lacking.is_empty() {
            self.run(&["-f".as_ref()], "to forget what was mounted before")?;
        }
        *told = Some(mounts);
        Ok(!is_there || is_moved || !lacking.is_empty())
    }

    fn exported(&self) -> Result<Vec<Exported>, ServerError> {
        match std::fs::read(&self.exported) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            etab => Ok(Exported::all(&etab.map_err(failed("read", &self.exported))?)),
        }
    }

    fn export(&self, export: &Export) -> Result<(), ServerError> {
        let (options, name) = (OsString::from(export.options()), export.name());
        let add = ["-o".as_ref(), options.as_os_str(), &name];
        self.run(&add, export)?;
        let is_exported = || Ok(self.exported()?.iter().any(|there| export.is(there)));
        if is_exported()? {
            return Ok(());
        }
        // Options that somebody gave it stay unless one of ours is their opposite.
        self.run(&["-u".as_ref(), &name], export)?;
        self.run(&add, export)?;
        match is_exported()? {
            true => Ok(()),
            false => Err(refused(export.to_string(), &format!("it is not in {}", self.exported.display()))),
        }
    }

    /// Ends what is exported of these. What clients of NFS 4 have open on a mount of which nothing is exported any more is closed: it
    /// would keep that busy for as long as they live.
    fn withdraw(&self, gone: &[&Export], exported: &[Exported]) -> Result<(), ServerError> {
        if gone.is_empty() {
            return Ok(());
        }
        for export in gone.iter().filter(|export| exported.iter().any(|there| export.is_same_place(there))) {
            self.run(&["-u".as_ref(), &export.name()], export)?;
        }
        if self.threads().is_err() {
            return Ok(());
        }
        let (table, left) = (mount_table()?, self.exported()?);
        let mounts = gone.iter().filter_map(|export| Mount::over(&table, &export.folder)).filter(|mount| mount.is_fuse);
        let points: BTreeSet<&Path> = mounts.map(|mount| mount.point.as_path()).collect();
        let unused = points.into_iter().filter(|point| !left.iter().any(|there| there.folder.starts_with(point)));
        for point in unused {
            // Kernels before 6.9 do that for locks alone.
            let path = self.control.join("unlock_filesystem");
            let line = format!("{}\n", escaped(point.as_os_str()));
            std::fs::write(&path, line).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    fn run(&self, args: &[&OsStr], what: impl fmt::Display) -> Result<(), ServerError> {
        let mut command = Command::new(&self.program);
        command.args(args);
        let output = program::run(command, ANSWER_MAX).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ServerError::NotInstalled { program: PROGRAM, package: PACKAGE },
            _ => failed("run", &self.program)(source),
        })?;
        let late = || refused(what.to_string(), &format!("{PROGRAM} did not end within {} s", ANSWER_MAX.as_secs()));
        let output = output.ok_or_else(late)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(refused(what.to_string(), String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    fn sockets(&self) -> Result<Sockets, ServerError> {
        let table = |path: &str| std::fs::read(path).map_err(failed("read", path.as_ref()));
        // A kernel without IPv6 has no table of it.
        Ok(Sockets::of([
            &table("/proc/thread-self/net/tcp")?,
            &table("/proc/thread-self/net/tcp6").unwrap_or_default(),
        ]))
    }

    /// The ports of TCP at which it listens.
    fn ports(&self) -> Result<Vec<u16>, ServerError> {
        let path = self.control.join("portlist");
        let list = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        Ok(list.lines().filter_map(|line| line.strip_prefix("tcp ")?.trim().parse().ok()).collect())
    }

    /// Those of NFS 4 whose lease goes on, whether they are connected at the moment or not.
    fn lessees(&self) -> Result<Vec<IpAddr>, ServerError> {
        let path = self.control.join("clients");
        // Kernels before 5.3 do not tell.
        let Ok(entries) = std::fs::read_dir(&path) else { return Ok(Vec::new()) };
        // One that ends meanwhile is none.
        let infos = entries.map_while(Result::ok).filter_map(|entry| std::fs::read(entry.path().join("info")).ok());
        Ok(infos.filter_map(|info| lessee_in(&String::from_utf8_lossy(&info))).collect())
    }
}

impl FileServer for Knfsd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn path(&self, share: &Share) -> String {
        share.folder.display().to_string()
    }

    fn check(&self, shares: &[Share]) -> Result<(), ServerError> {
        self.threads()?;
        let there = Exports::read(&self.exports)?;
        let ours: Vec<Export> = there.iter().flat_map(Exports::all).collect();
        check(&Exports::of(shares)?.all().collect::<Vec<_>>(), &ours, &self.exported()?)
    }

    fn raise_limits(&self) -> Result<Option<String>, ServerError> {
        Ok(self.raise_threads()?.map(|raised| raised.to_string()))
    }

    fn serve(&self, shares: &[Share]) -> Result<bool, ServerError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell_all(shares, &mut told)
    }

    fn served(&self) -> Result<Vec<Share>, ServerError> {
        Ok(Exports::read(&self.exports)?.map(Exports::shares).unwrap_or_default())
    }

    fn clients(&self) -> Result<Vec<IpAddr>, ServerError> {
        self.threads()?;
        let ports = self.ports()?;
        let mut clients = self.sockets()?.clients(|local| ports.contains(&local));
        clients.extend(self.lessees()?);
        Ok(clients.into_iter().collect())
    }

    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError> {
        self.threads()?;
        let ports = self.ports()?;
        Ok(self.sockets()?.portals(|local| ports.contains(&local)))
    }
}

/// Whether something of others is in the way.
fn check(wanted: &[Export], ours: &[Export], exported: &[Exported]) -> Result<(), ServerError> {
    let theirs = exported.iter().filter(|there| !ours.iter().any(|export| export.is_same_place(there)));
    for there in theirs {
        // One that is what icbd would make is icbd's: its file may have been removed by hand.
        let same = wanted.iter().find(|export| export.is_same_place(there) && !export.is(there));
        if let Some(export) = same {
            let name = export.name();
            let name = name.to_string_lossy();
            let said = format!("somebody exports it with other options; end that: {PROGRAM} -u '{name}'");
            return Err(refused(export.to_string(), &said));
        }
        if let Some(export) = wanted.iter().find(|export| export.has_id_of(there)) {
            let said = format!("{} is exported with the same fsid; give it another one", there.folder.display());
            return Err(refused(export.to_string(), &said));
        }
    }
    Ok(())
}

fn mount_table() -> Result<Vec<Mount>, ServerError> {
    let path = Path::new("/proc/thread-self/mountinfo");
    Ok(proc::mounts_in(&std::fs::read(path).map_err(failed("read", path))?))
}

/// The ids of the mounts of FUSE on which folders lie; fails with the first folder that lies on none.
fn mounts_of(table: &[Mount], exports: &[Export]) -> Result<BTreeSet<u64>, ServerError> {
    let mount_of = |export: &Export| {
        let mount = Mount::over(table, &export.folder).filter(|mount| mount.is_fuse);
        let what = || format!("the folder {}", export.folder.display());
        mount.map(|mount| mount.id).ok_or_else(|| refused(what(), "nothing is mounted there"))
    };
    exports.iter().map(mount_of).collect()
}

/// A client as `clients/N/info` tells of it, if it is there.
fn lessee_in(info: &str) -> Option<IpAddr> {
    let value = |key| info.lines().find_map(|line: &str| line.strip_prefix(key)).map(str::trim);
    // Kernels before 5.16 do not say it. One that has been silent for long is "courtesy".
    if value("status:").is_some_and(|status| status != "confirmed") {
        return None;
    }
    let address: SocketAddr = value("address:")?.trim_matches('"').parse().ok()?;
    Some(address.ip().to_canonical())
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Io { doing, path: path.clone(), source }
}

fn not_running(said: String) -> ServerError {
    ServerError::NotRunning { server: NAME, unit: UNIT, said }
}

fn refused(what: String, said: &str) -> ServerError {
    ServerError::Refused { server: NAME, what, said: said.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_version_4_are_known() {
        let info = |address: &str, status: &str| {
            format!(
                "clientid: 0x1\naddress: \"{address}\"\n{status}seconds from last renew: 1\nname: \"Linux NFSv4.2 pc-7\"\n"
            )
        };
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(lessee_in(&info("10.1.2.7:812", "status: confirmed\n")), address("10.1.2.7"));
        assert_eq!(lessee_in(&info("[fd00::7]:812", "")), address("fd00::7"));
        assert_eq!(lessee_in(&info("10.1.2.7:812", "status: courtesy\n")), None);
        assert_eq!(lessee_in(""), None);
    }

    #[test]
    fn who_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let told = Mutex::new(None);
        let knfsd = Knfsd {
            exports: path("exports"),
            exported: path("etab"),
            control: path("nfsd"),
            program: path("exportfs"),
            told,
        };
        let share = Share {
            image: "lab".parse().unwrap(),
            folder: "/icbd/lab".into(),
            id: std::num::NonZeroU16::MIN,
            clients: vec!["10.1.2.0/24".parse().unwrap()],
        };
        let served = knfsd.serve(std::slice::from_ref(&share));
        assert!(matches!(served, Err(ServerError::NotInstalled { .. })), "{served:?}");
        assert!(!knfsd.exports.exists());
        assert!(!knfsd.serve(&[]).unwrap());
        // Where it is but does not run, it finds the file when it is started.
        std::fs::write(&knfsd.program, "").unwrap();
        let served = knfsd.serve(std::slice::from_ref(&share));
        assert!(matches!(served, Err(ServerError::NotRunning { .. })), "{served:?}");
        assert_eq!(knfsd.served().unwrap(), [share]);
        std::fs::create_dir(&knfsd.control).unwrap();
        std::fs::write(knfsd.control.join("threads"), "0\n").unwrap();
        assert!(matches!(knfsd.raise_threads(), Err(ServerError::NotRunning { .. })));
        assert!(knfsd.serve(&[]).unwrap() && !knfsd.serve(&[]).unwrap() && !knfsd.exports.exists());
    }
}
