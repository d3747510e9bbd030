//! The kernel's requests for which no safe call exists: subvolumes of btrfs, and where a file's bytes lie.

pub(crate) mod extents;
pub(crate) mod subvolume;
