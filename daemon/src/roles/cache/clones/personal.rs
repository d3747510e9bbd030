//! What each session of a workstation's clone begins as: the version, and what a program of the administrator's made of it for
//! this workstation.
//!
//! The program writes to a clone that nobody is offered yet, and what it wrote is put below all that the workstation writes. What
//! a kill leaves half-made was written by nobody's session, so it is reset at the next boot like any other.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};

use icbd_cache::{CloneDisk, CloneName, Fate, Layers};
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

/// Has a clone in which nothing is written yet begin as `clone.hook` makes it, unless it does already.
pub(in super::super) async fn ensure(server: &Arc<CacheServer>, name: &CloneName) -> Result<(), Failure> {
    let clones = server.cache.clones();
    let (Some(hook), Some(clone)) = (hook(server), clones.get(name)) else { return Ok(()) };
    // What is to become a version is for all workstations.
    if clone.has_personal() || clone.fate() == Fate::Edited || !clones.is_untouched(&clone).await? {
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
    let Err(why) = make(server, &hook, &clone).await else { return Ok(()) };
    if let Err(error) = clones.reset(name, Layers::Session).await {
        tracing::warn!(clone = %name, %error, "what clone.hook left is reset at the next boot");
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
        Some(clone) if clone.fate() == Fate::Edited => None,
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
        // What it starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(says.try_clone().map_err(cannot)?)
        .stderr(says);
    let mut child = command.spawn().map_err(cannot)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    // The other ends of the pipe are the program's alone now.
    drop(command);
    let said = Receiver::from_owned_fd(said.into()).map_err(cannot)?;
    let end = async { tokio::join!(last_line(said), child.wait()) };
    match tokio::time::timeout(hook.timeout, end).await {
        Ok((_, Ok(status))) if status.success() => Ok(()),
        Ok((said, Ok(status))) => Err(failed(status, &said)),
        Ok((_, Err(error))) => Err(cannot(error)),
        Err(_) => {
            // It was not waited for yet, so the number is still its own.
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            Err(format!("did not end within clone.hook_timeout, {} s, and was killed", hook.timeout.as_secs()))
        }
    }
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
