//! Who keeps the mount's descriptors while no daemon runs: our own keeper, or systemd.

use icbd_fs::{FsError, Handover, keeper};
use sd_notify::NotifyState;

/// The keeper, and what it kept.
#[derive(Debug)]
pub(super) enum Keeping {
    ByKeeper(Handover),
    BySystemd(Handover),
}

impl Keeping {
    /// Takes what the keeper, this process' parent, left open.
    pub(super) fn by_keeper(fuse: i32, table: i32) -> Result<Keeping, FsError> {
        keeper::settle()?;
        Handover::from_inherited(fuse, table).map(Keeping::ByKeeper)
    }

    /// Takes what systemd kept; where that is nothing, makes new descriptors and gives them to it.
    pub(super) fn by_systemd() -> Result<Keeping, FsError> {
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let names = std::env::var("LISTEN_FDNAMES").ok().filter(|_| is_ours);
        let kept = names.map(|names| Handover::from_listen_names(&names)).transpose()?.flatten();
        match kept {
            Some(handover) => Ok(Keeping::BySystemd(handover)),
            None => store_new(),
        }
    }

    pub(super) fn handover(self) -> Handover {
        match self {
            Keeping::ByKeeper(handover) | Keeping::BySystemd(handover) => handover,
        }
    }

    pub(super) fn is_by_systemd(&self) -> bool {
        matches!(self, Keeping::BySystemd(_))
    }

    /// New descriptors in place of those whose mount is lost.
    pub(super) fn renew_in_systemd() -> Result<Keeping, FsError> {
        forget_in_systemd();
        store_new()
    }
}

/// Has systemd give up what it keeps: the mount has ended.
pub(super) fn forget_in_systemd() {
    for name in [Handover::FUSE_NAME, Handover::TABLE_NAME] {
        if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
            tracing::warn!(%error, name, "systemd could not be told to forget a descriptor");
        }
    }
}

fn store_new() -> Result<Keeping, FsError> {
    let handover = Handover::create()?;
    for (name, descriptor) in handover.descriptors() {
        // Without FDPOLL=0 systemd drops the descriptor at once: one that is not mounted yet polls as broken.
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[descriptor]) {
            tracing::warn!(%error, name, "systemd does not keep a descriptor; a restart will interrupt readers");
        }
    }
    Ok(Keeping::BySystemd(handover))
}
