//! What each session of a workstation's clone begins as: the version, and what a program of the administrator's made of it for
//! this workstation.
//!
//! The program writes to a clone that is noted to be unfinished, which nobody is offered, and what it wrote is put below all that
//! the workstation writes. What a failure leaves half-made is removed, and what a kill leaves is reset before anybody gets it, or nobody
//! does.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use icbd_cache::{CloneDisk, CloneName};
use icbd_image::VersionId;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use super::reset::{self, Asks};
use crate::clients::{CloneOutlook, PersonalOutlook};
use crate::failure::{Exit, Failure};
use crate::roles::cache::clients;
use crate::roles::cache::state::CacheServer;
use crate::settings::CloneHook;

/// So much of what the program said last is kept.
const SAID_BYTES_MAX: usize = 4096;
/// It is told to end first, and has so long to unmount what it mounted.
const GRACE: Duration = Duration::from_secs(5);
/// What it said is there when it ends, unless something that it started goes on talking.
const SAID_MAX: Duration = Duration::from_secs(1);

/// A program and what it started, which do not outlive who waits for them.
struct Group(Option<Pid>);

impl Group {
    fn tell(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // Its leader was not waited for yet, so the number is still its own.
            let _ = killpg(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.tell(Signal::SIGKILL);
    }
}

/// Has a clone in which nothing is written yet begin as `clone.hook` makes it, unless it does already.
pub(in super::super) async fn ensure(server: &Arc<CacheServer>, name: &CloneName) -> Result<(), Failure> {
    let clones = server.cache.clones();
    let (Some(hook), Some(clone)) = (hook(server), clones.get(name)) else { return Ok(()) };
    // One that is kept goes on as it was; what is to become a version is for all workstations.
    if clone.has_personal() || clone.is_kept() || !clones.is_untouched(&clone).await? {
        return Ok(());
    }
    let _held_back = match reset::free(server, name, Asks::Boot).await {
        Ok(held_back) => held_back,
        // Somebody runs, or nobody can know. Neither is a reason to be without a disk.
        Err(refused) => {
            tracing::warn!(clone = %name, why = refused.message, "a workstation boots without what clone.hook makes");
            return Ok(());
        }
    };
    clones.begin_personal(name).await?;
    let Err(why) = make(server, &hook, &clone).await else { return Ok(()) };
    // A program that was killed has its files closed a moment later.
    let _ = reset::closed(server, &clone).await;
    if let Err(error) = clones.remove(name).await {
        tracing::warn!(clone = %name, %error, "what clone.hook left cannot be removed yet: until then nobody gets it");
    }
    let (client, program) = (&name.client, hook.program.display());
    let message = format!("{client} gets no disk, for clone.hook {program} {why}; mend it, and boot {client} again");
    Err(Failure::new(Exit::Failed, message))
}

fn hook(server: &CacheServer) -> Option<CloneHook> {
    server.clone_hook.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What becomes of a clone beside `outlook`.
pub(in super::super) fn outlook(
    server: &CacheServer,
    name: &CloneName,
    outlook: &CloneOutlook,
) -> Option<PersonalOutlook> {
    let is_empty = matches!(outlook, CloneOutlook::Made | CloneOutlook::Untouched | CloneOutlook::Reset { .. });
    match server.cache.clones().get(name) {
        Some(clone) if clone.has_personal() => Some(PersonalOutlook::Made),
        Some(clone) if clone.is_kept() => None,
        _ => (is_empty && hook(server).is_some()).then_some(PersonalOutlook::ToMake),
    }
}

async fn make(server: &Arc<CacheServer>, hook: &CloneHook, clone: &CloneDisk) -> Result<(), String> {
    run(server, hook, clone.name()).await?;
    let left = "ended, and left the disk open in some program that it started";
    reset::closed(server, clone).await.map_err(|_| left.to_owned())?;
    let made = server.cache.clones().make_personal(clone.name()).await;
    made.map_err(|error| format!("ended well, but what it wrote cannot be kept: {error}"))
}

async fn run(server: &CacheServer, hook: &CloneHook, name: &CloneName) -> Result<(), String> {
    let CloneName { version: VersionId { image, number }, client } = name;
    let list = clients::listed(server).map_err(|failure| format!("was not run: {}", failure.message))?;
    let workstation = list.as_ref().and_then(|list| list.iter().find(|known| known.name == *client));
    let mac = workstation.and_then(|known| known.macs.first()).map(ToString::to_string).unwrap_or_default();
    let uuid = workstation.and_then(|known| known.uuid).map(|uuid| uuid.to_string()).unwrap_or_default();
    let cannot = |error: std::io::Error| format!("cannot be run: {error}");
    let (said, says) = std::io::pipe().map_err(cannot)?;
    let mut command = Command::new(&hook.program);
    command
        .env("ICBD_DISK", server.clones.file(name))
        .env("ICBD_CLIENT", client.as_str())
        .env("ICBD_IMAGE", image.as_str())
        .env("ICBD_VERSION", number.to_string())
        .env("ICBD_MAC", mac)
        .env("ICBD_UUID", uuid)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(says.try_clone().map_err(cannot)?)
        .stderr(says);
    let mut child = command.spawn().map_err(cannot)?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    // The other ends of the pipe are the program's alone now.
    drop(command);
    let said = tokio::spawn(last_line(Receiver::from_owned_fd(said.into()).map_err(cannot)?));
    let Ok(ended) = tokio::time::timeout(hook.timeout, child.wait()).await else {
        group.tell(Signal::SIGTERM);
        tokio::time::sleep(GRACE).await;
        group.tell(Signal::SIGKILL);
        let _ = child.wait().await;
        group.0 = None;
        return Err(format!("did not end within clone.hook_timeout, {} s, and was killed", hook.timeout.as_secs()));
    };
    group.0 = None;
    let status = ended.map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    let said = tokio::time::timeout(SAID_MAX, said).await;
    Err(failed(status, &said.ok().and_then(Result::ok).unwrap_or_default()))
}

fn failed(status: ExitStatus, said: &str) -> String {
    let said = if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {said}") };
    format!("failed ({status}); {said}")
}

/// The last line of what a program says until it ends.
async fn last_line(mut from: Receiver) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; SAID_BYTES_MAX]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(SAID_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(&kept);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}
