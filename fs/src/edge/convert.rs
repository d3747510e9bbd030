//! Our values as fuser's.

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, ReplyXattr};
use nix::libc;

use crate::errno::Refusal;
use crate::service::Seek;
use crate::tree::{Attributes, NodeKind};

/// Node ids are never given twice, so they need no generations.
pub(super) const GENERATION: Generation = Generation(0);
/// What programs should read at once: a block.
const READ_BYTES: u32 = icbd_image::BLOCK_BYTES as u32;

pub(super) fn errno(refusal: Refusal) -> Errno {
    Errno::from_i32(refusal.errno() as i32)
}

pub(super) fn node_kind(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// There is one time in a manifest, and it is shown as all of them.
pub(super) fn file_attributes(it: &Attributes) -> FileAttr {
    let time = it.mtime.into();
    FileAttr {
        ino: INodeNo(it.id.to_u64()),
        size: it.size,
        blocks: it.sectors,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: node_kind(it.kind),
        perm: it.mode,
        nlink: it.links,
        uid: it.uid,
        gid: it.gid,
        rdev: it.rdev,
        blksize: READ_BYTES,
        flags: 0,
    }
}

/// `size` 0 asks how large the value is.
pub(super) fn say_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(errno(Refusal::Range)),
    }
}

pub(super) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}
