//! The kernel's own initiator, by any name, and the programs of libiscsi.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{Output, run_bounded, wait_for};

pub(crate) const PORTAL: &str = "127.0.0.1:3260";
const TOOL_DEADLINE: Duration = Duration::from_secs(60);

/// Programs that the kernel's initiator needs; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Initiator(Child);

/// A disk that somebody is logged in to; dropping it logs out.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    target: String,
}

impl Initiator {
    pub(crate) fn start() -> Result<Initiator> {
        script("modprobe -a iscsi_tcp sd_mod; mkdir -p /run/lock/iscsi /etc/iscsi/nodes")?;
        // It asks as often as it is told to, and gives up soon.
        let config = "node.startup = manual\nnode.session.initial_login_retry_max = 1\nnode.session.auth.authmethod = None\n\
                      node.conn[0].timeo.login_timeout = 15\nnode.session.timeo.replacement_timeout = 120\n";
        fs::write("/etc/iscsi/iscsid.conf", config)?;
        fs::write("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.2001-04.com.example:nobody\n")?;
        let log = fs::File::create("/tmp/iscsid.log")?;
        let mut command = Command::new("iscsid");
        command.args(["-f", "-d", "1"]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let initiator = Initiator(command.spawn().context("starting iscsid")?);
        wait_for("iscsid answers", || Ok(script("iscsiadm -m session || [ $? = 21 ]").is_ok().then_some(())))?;
        Ok(initiator)
    }

    /// Logs in by a name; fails if the target lets nobody of that name in.
    pub(crate) fn log_in(&self, name: &str, target: &str) -> Result<Disk> {
        let face = name.rsplit(':').next().context("a name")?;
        script(&format!(
            "iscsiadm -m iface -I {face} >/dev/null 2>&1 || iscsiadm -m iface -I {face} -o new; \
             iscsiadm -m iface -I {face} -o update -n iface.initiatorname -v {name}; \
             iscsiadm -m iface -I {face} -o update -n iface.transport_name -v tcp"
        ))?;
        let node = format!("iscsiadm -m node -T {target} -p {PORTAL} -I {face}");
        script(&format!("{node} -o new && {node} --login"))?;
        let mut disk = Disk { path: PathBuf::new(), target: target.to_owned() };
        disk.path = wait_for("the disk", || Ok(disk_of(target)?.filter(|path| is_device(path))))?;
        Ok(disk)
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Disk {
    pub(crate) fn log_out(self) -> Result<()> {
        let target = self.target.clone();
        drop(self);
        ensure!(disk_of(&target)?.is_none(), "somebody is still logged in to {target}");
        Ok(())
    }

    /// What the kernel says of it.
    pub(crate) fn told(&self, what: &str) -> Result<String> {
        let name = self.path.file_name().context("a name")?;
        Ok(fs::read_to_string(Path::new("/sys/block").join(name).join(what))?.trim().to_owned())
    }

    /// Past the initiator's memory.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        script(&format!("blockdev --flushbufs {}", self.path.display()))?;
        Ok(fs::read(&self.path)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let node = format!("iscsiadm -m node -T {}", self.target);
        let _ = script(&format!("{node} --logout; {node} -o delete"));
    }
}

/// Runs a program of libiscsi.
pub(crate) fn tool(program: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(args);
    run_bounded(command, TOOL_DEADLINE)
}

pub(crate) fn script(script: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    run_bounded(command, TOOL_DEADLINE)?.ok()
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// The device of a target that somebody is logged in to.
fn disk_of(target: &str) -> Result<Option<PathBuf>> {
    for session in list("/sys/class/iscsi_session".as_ref()) {
        if fs::read_to_string(session.join("targetname")).unwrap_or_default().trim() != target {
            continue;
        }
        let below = |folder: &Path, start: &str| -> Vec<PathBuf> {
            let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
            list(folder).into_iter().filter(named).collect()
        };
        let units = below(&session.join("device"), "target").into_iter().flat_map(|target| list(&target));
        let disks = units.flat_map(|unit| list(&unit.join("block")));
        let names: Vec<_> = disks.filter_map(|disk| Some(disk.file_name()?.to_owned())).collect();
        return Ok(Some(names.first().map_or_else(PathBuf::new, |name| Path::new("/dev").join(name))));
    }
    Ok(None)
}

pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
