//! Has the disk begin with what is received while more comes: else all of it is written when the last byte has come, and
//! everybody waits.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

/// What is written at a time.
const FLUSHED_BYTES: usize = 32 << 20;

#[derive(Debug)]
pub(crate) struct Flusher {
    directory: OwnedFd,
    bytes: usize,
    under_way: Option<JoinHandle<()>>,
}

impl Flusher {
    /// For what is written to the file system of `directory`.
    pub(crate) fn new(directory: OwnedFd) -> Flusher {
        Flusher { directory, bytes: 0, under_way: None }
    }

    /// So many more bytes were written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < FLUSHED_BYTES || self.under_way.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.bytes = 0;
        self.wait();
        let Ok(directory) = self.directory.try_clone() else { return };
        // An error shows again when the tree is sealed.
        let flush = move || {
            let _ = rustix::fs::syncfs(directory.as_fd());
        };
        self.under_way = std::thread::Builder::new().name("flush".to_owned()).spawn(flush).ok();
    }

    /// Nothing is under way afterwards.
    fn wait(&mut self) {
        if let Some(thread) = self.under_way.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.wait();
    }
}
