//! The mount of clones: made once there is one, and what goes on in it.

mod commands;
mod edit;
pub(super) mod personal;
pub(super) mod reset;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_cache::{Cache, CloneName};
use icbd_fs::{ClonesMounted, FsError, Handover};
use tokio::sync::{Mutex, MutexGuard, Notify};

use super::handover::{self, Kept};
pub(super) use commands::{change, list, warnings};
pub(super) use edit::{edit, written};

/// Where clones are mounted, or will be.
#[derive(Debug)]
pub(super) struct ClonesMount {
    path: PathBuf,
    is_by_systemd: bool,
    state: Mutex<State>,
    is_adopted: AtomicBool,
    /// Somebody unmounted it.
    pub(super) lost: Arc<Notify>,
}

#[derive(Debug)]
enum State {
    NotYet(Handover),
    Mounted(Arc<ClonesMounted>),
    /// It could not be made, or has ended.
    Over,
}

impl ClonesMount {
    pub(super) fn new(path: &Path, handover: Handover, is_by_systemd: bool) -> ClonesMount {
        let state = Mutex::new(State::NotYet(handover));
        ClonesMount {
            path: path.to_owned(),
            is_by_systemd,
            state,
            is_adopted: AtomicBool::default(),
            lost: Arc::default(),
        }
    }

    /// Where it is, or will be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was taken over from an earlier daemon.
    pub(super) fn is_adopted(&self) -> bool {
        self.is_adopted.load(Ordering::Acquire)
    }

    /// The file of a clone.
    pub(super) fn file(&self, name: &CloneName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Takes over what an earlier daemon mounted, or mounts if there are clones already.
    pub(super) async fn begin(&self, cache: &Arc<Cache>) -> Result<(), FsError> {
        let is_left = match &*self.state.lock().await {
            State::NotYet(handover) => handover.has_mount()?,
            _ => false,
        };
        if is_left || !cache.clones().all().is_empty() { self.ensure(cache).await } else { Ok(()) }
    }

    /// Has it be mounted.
    pub(super) async fn ensure(&self, cache: &Arc<Cache>) -> Result<(), FsError> {
        let mut state = self.state.lock().await;
        let handover = match std::mem::replace(&mut *state, State::Over) {
            State::Mounted(mounted) => {
                *state = State::Mounted(mounted);
                return Ok(());
            }
            State::NotYet(handover) => handover,
            State::Over => return Err(FsError::Renew("its mount is lost; it is made anew by a restart".to_owned())),
        };
        let mounted = self.mount(&mut state, cache, handover).await?;
        self.is_adopted.store(mounted.is_adopted(), Ordering::Release);
        let (watched, lost) = (mounted.clone(), self.lost.clone());
        *state = State::Mounted(mounted);
        tokio::spawn(async move {
            watched.wait().await;
            lost.notify_one();
        });
        Ok(())
    }

    async fn mount(
        &self,
        state: &mut MutexGuard<'_, State>,
        cache: &Arc<Cache>,
        handover: Handover,
    ) -> Result<Arc<ClonesMounted>, FsError> {
        // What is mounted there already is never looked at: nobody answers yet.
        let made = match handover.has_mount()? {
            true => Ok(()),
            false => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path),
        };
        // Whatever is in the way is looked at when it is mounted.
        if let Some(error) = made.err().filter(|error| error.kind() != std::io::ErrorKind::AlreadyExists) {
            **state = State::NotYet(handover);
            let doing = format!("make the directory {}", self.path.display());
            return Err(FsError::System { doing, error, remedy: "check the directory above it" });
        }
        let again = handover.try_clone()?;
        match icbd_fs::mount_clones(cache.clone(), self.path.clone(), handover).await {
            Ok(mounted) => Ok(Arc::new(mounted)),
            Err(FsError::Renew(why)) if self.is_by_systemd => {
                tracing::info!(why, "mounting clones anew");
                let new = handover::renew_in_systemd(Kept::Clones)?;
                icbd_fs::mount_clones(cache.clone(), self.path.clone(), new).await.map(Arc::new)
            }
            Err(error @ FsError::Renew(_)) => Err(error),
            Err(error) => {
                // What is in the way may be gone the next time.
                **state = State::NotYet(again);
                Err(error)
            }
        }
    }

    /// Ends it, and removes its directory.
    pub(super) async fn unmount(&self) -> Result<(), FsError> {
        let mut state = self.state.lock().await;
        if let State::Mounted(mounted) = std::mem::replace(&mut *state, State::Over) {
            mounted.unmount().await?;
            // Not if something was detached from it that is still used.
            let _ = std::fs::remove_dir(&self.path);
        }
        Ok(())
    }

    /// Leaves it to the next daemon.
    pub(super) async fn leave(&self) {
        if let State::Mounted(mounted) = &*self.state.lock().await {
            mounted.leave();
        }
    }
}
