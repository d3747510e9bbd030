//! Telling the kernel what a deploy or publish has changed, and which bytes it keeps are not to be trusted.
//!
//! The former is best effort: the kernel believes what can change for a second only. Bytes it would keep for ever. An
//! invalidation can wait for a lookup in the same directory or for a read of the same bytes, so it never runs on a
//! FUSE thread but on this one. It waits for reads that are under way: one that was answered from spoilt bytes before
//! they were found is forgotten, too.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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
    wake: Arc<SyncSender<()>>,
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
    /// What it keeps of a file.
    Bytes {
        file: NodeId,
        range: Range<u64>,
    },
}

impl Invalidator {
    pub(crate) fn start(cache: Arc<Cache>, notify: Notify) -> Result<Invalidator, FsError> {
        // One wake-up may wait: whoever comes then is covered by it, the view is read afterwards.
        let (wake, woken) = sync_channel(1);
        let wake = Arc::new(wake);
        // The cache must not keep this thread alive.
        let weak = Arc::downgrade(&wake);
        cache.on_spoilt(move || weak.upgrade().iter().for_each(|sender| wake_up(sender)));
        let run = move || run(&cache, &notify, &woken);
        let thread = std::thread::Builder::new()
            .name("icbd-invalidate".into())
            .spawn(run)
            .map_err(FsError::system("start a thread", "raise the limit on processes"))?;
        Ok(Invalidator { wake, thread })
    }

    pub(crate) fn wake(&self) {
        wake_up(&self.wake);
    }

    /// Waits for its end; only when the mount is gone, for until then it may wait for a lookup.
    pub(crate) fn join(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            debug!("the invalidating thread panicked");
        }
    }
}

fn wake_up(sender: &SyncSender<()>) {
    // Full: somebody did so already. Gone: there is nobody to tell.
    let _ = sender.try_send(());
}

fn run(cache: &Cache, notify: &Notify, woken: &Receiver<()>) {
    let mut shown = cache.view();
    while woken.recv().is_ok() {
        let now = cache.view();
        let spoilt = cache
            .take_spoilt()
            .into_iter()
            .map(|it| Stale::Bytes { file: NodeId::Object { serial: it.serial, index: it.file }, range: it.bytes });
        for stale in spoilt.chain(changes(&shown, &now)) {
            // An error is that the kernel knows no such thing, or that the mount has ended.
            if let Err(error) = notify.forget(&stale) {
                debug!(?stale, %error, "the kernel has nothing to forget");
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
