//! Telling the kernel what a deploy or publish has changed.
//!
//! Best effort: the kernel believes what can change for a second only. An invalidation can wait for a
//! lookup in the same directory, so it never runs on a FUSE thread but on this one.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use icbd_cache::{Cache, View};
use icbd_image::{FileIndex, ImageRecord, NodeId};
use tracing::debug;

use crate::FsError;
use crate::edge::session::Notify;
use crate::tree::{CURRENT, current_index};

/// The thread that compares views and tells the kernel.
#[derive(Debug)]
pub(crate) struct Invalidator {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// One thing the kernel should forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stale {
    /// A node's attributes and, of a directory, its list.
    Node(NodeId),
    Name {
        directory: NodeId,
        name: String,
    },
}

impl Invalidator {
    pub(crate) fn start(cache: Arc<Cache>, notify: Notify) -> Result<Invalidator, FsError> {
        // One wake-up may wait: whoever comes then is covered by it, the view is read afterwards.
        let (wake, woken) = sync_channel(1);
        let run = move || run(&cache, &notify, &woken);
        let thread = std::thread::Builder::new()
            .name("icbd-invalidate".into())
            .spawn(run)
            .map_err(FsError::system("start a thread", "raise the limit on processes"))?;
        Ok(Invalidator { wake, thread })
    }

    pub(crate) fn wake(&self) {
        match self.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// Waits for its end; only when the mount is gone, for until then it may wait for a lookup.
    pub(crate) fn join(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            debug!("the invalidating thread panicked");
        }
    }
}

fn run(cache: &Cache, notify: &Notify, woken: &Receiver<()>) {
    let mut shown = cache.view();
    while woken.recv().is_ok() {
        let now = cache.view();
        for stale in changes(&shown, &now) {
            if let Err(error) = notify.forget(&stale) {
                debug!(?stale, %error, "the kernel was not told of a change; it asks again within a second");
            }
        }
        shown = now;
    }
}

/// What differs for those who look.
fn changes(before: &View, now: &View) -> Vec<Stale> {
    let mut stale = Vec::new();
    let gone = before.images().iter().filter(|image| now.image(&image.name).is_none());
    stale.extend(gone.map(|image| name_in(NodeId::Mount, image.name.as_str())));
    if before.images().len() != now.images().len() || !stale.is_empty() {
        stale.push(Stale::Node(NodeId::Mount));
    }
    for image in now.images() {
        if let Some(old) = before.image(&image.name).filter(|old| *old != image) {
            stale.extend(image_changes(old, image));
        }
    }
    stale
}

fn image_changes(old: &ImageRecord, new: &ImageRecord) -> Vec<Stale> {
    let directory = NodeId::Object { serial: old.serial, index: FileIndex::ROOT };
    let mut stale = Vec::new();
    if old.deployed != new.deployed {
        stale.push(Stale::Node(NodeId::Object { serial: old.serial, index: current_index() }));
        stale.push(name_in(directory, CURRENT));
    }
    let gone = old.versions.iter().filter(|version| new.version(version.number()).is_none());
    stale.extend(gone.map(|version| name_in(directory, &version.number().to_string())));
    stale.push(Stale::Node(directory));
    stale
}

fn name_in(directory: NodeId, name: &str) -> Stale {
    Stale::Name { directory, name: name.to_owned() }
}
