//! Who keeps the mounts' descriptors while no daemon runs: our own keeper, or systemd.

use icbd_fs::{FsError, Handover, Handovers, keeper};
use sd_notify::NotifyState;

/// The keeper, and what it kept.
#[derive(Debug)]
pub(super) enum Keeping {
    ByKeeper(Handovers),
    BySystemd(Handovers),
}

/// Which of the mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Images,
    Clones,
}

impl Keeping {
    /// Takes what the keeper, this process' parent, left open.
    pub(super) fn by_keeper(numbers: &[i32]) -> Result<Keeping, FsError> {
        keeper::settle()?;
        Handovers::from_inherited(numbers).map(Keeping::ByKeeper)
    }

    /// Takes what systemd kept; where that is nothing, makes new descriptors and gives them to it.
    pub(super) fn by_systemd() -> Result<Keeping, FsError> {
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let names = std::env::var("LISTEN_FDNAMES").ok().filter(|_| is_ours);
        let [images, clones] = names.map_or(Ok([None, None]), |names| Handovers::from_listen_names(&names))?;
        let or_new = |kept: Option<Handover>, which| kept.map_or_else(|| store_new(which), Ok);
        Ok(Keeping::BySystemd(Handovers {
            images: or_new(images, Kept::Images)?,
            clones: or_new(clones, Kept::Clones)?,
        }))
    }

    pub(super) fn handovers(self) -> Handovers {
        match self {
            Keeping::ByKeeper(handovers) | Keeping::BySystemd(handovers) => handovers,
        }
    }

    pub(super) fn is_by_systemd(&self) -> bool {
        matches!(self, Keeping::BySystemd(_))
    }
}

/// New descriptors in place of those whose mount is lost.
pub(super) fn renew_in_systemd(which: Kept) -> Result<Handover, FsError> {
    forget(which);
    store_new(which)
}

/// Has systemd give up what it keeps: the mounts have ended.
pub(super) fn forget_in_systemd() {
    forget(Kept::Images);
    forget(Kept::Clones);
}

impl Kept {
    fn names(self) -> [&'static str; 2] {
        Handovers::store_names()[self as usize]
    }
}

fn forget(which: Kept) {
    for name in which.names() {
        if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
            tracing::warn!(%error, name, "systemd could not be told to forget a descriptor");
        }
    }
}

fn store_new(which: Kept) -> Result<Handover, FsError> {
    let handover = Handover::create()?;
    for (name, descriptor) in which.names().into_iter().zip(handover.descriptors()) {
        // Without FDPOLL=0 systemd drops the descriptor at once: one that is not mounted yet polls as broken.
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[descriptor]) {
            tracing::warn!(%error, name, "systemd does not keep a descriptor; a restart will interrupt readers");
        }
    }
    Ok(handover)
}
