//! What a mount is told at its start, with the reason of each number.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one mount.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// Where the tree is shown: an empty directory.
    pub path: PathBuf,
    /// Whether complete files may be read past the daemon, where the kernel can.
    pub passthrough: bool,
    /// Threads that read requests. They never wait for data, so few are enough.
    pub threads: usize,
    /// The kernel's readahead in KiB. What it reads past the end of a piece is fetched for nothing: a Debian boot
    /// costs 1.55 times the blocks it touches at 1024, 1.14 at the kernel's 128 and 1.12 at a block. Complete
    /// files that are passed through have their own file system's readahead.
    pub readahead_kib: u32,
}

impl MountSettings {
    /// The defaults, for a mount on `path`.
    pub fn new(path: impl Into<PathBuf>) -> MountSettings {
        MountSettings { path: path.into(), passthrough: true, threads: 3, readahead_kib: 64 }
    }
}

/// Cached reads and readahead count as background: with the kernel's default of 16, readers that
/// wait in one file stop all others.
pub(crate) const BACKGROUND_REQUESTS_MAX: u16 = 1024;
/// Three quarters of it, the kernel's own ratio.
pub(crate) const CONGESTION_THRESHOLD: u16 = 768;
/// Backing files lie on a plain file system; an overlay on top of the mount stays possible.
pub(crate) const STACK_DEPTH_MAX: u32 = 1;
/// Smaller files are always cached: registering them costs more than it saves.
pub(crate) const PASSTHROUGH_BYTES_MIN: u64 = 1 << 20;
/// How long the kernel may believe what cannot change.
pub(crate) const IMMUTABLE_TTL: Duration = Duration::from_secs(3600);
/// How long it may believe what a deploy or publish changes.
pub(crate) const CHANGING_TTL: Duration = Duration::from_secs(1);
/// How long `stat` of a version's directory waits for the version's head before it is shown with
/// provisional attributes: `ls` of an image must not hang for every version that is not here.
pub(crate) const HEAD_PATIENCE: Duration = Duration::from_millis(250);
