//! The FUSE edge of clones: every read and write is asked for, and the kernel keeps nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::*;
use nix::fcntl::FallocateFlags;

use super::convert::{GENERATION, errno};
use super::{Answers, refuse, session};
use crate::clones::{CloneAttributes, ClonesService, ROOT};
use crate::errno::Refusal;

/// After a reset a name means another file.
const NAME_TTL: Duration = Duration::ZERO;
/// A size never changes; how much is allocated may be a moment old.
const ATTRIBUTES_TTL: Duration = Duration::from_secs(1);
const OWNER_ONLY_FILE: u16 = 0o600;
const OWNER_ONLY_DIRECTORY: u16 = 0o700;
const HANDLE: FileHandle = FileHandle(1);

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct ClonesEdge {
    pub(crate) service: Arc<ClonesService>,
    pub(crate) answers: Answers,
    pub(crate) set_up: session::SetUp,
}

impl ClonesEdge {
    fn attributes(&self, node: u64) -> Result<FileAttr, Refusal> {
        if node == ROOT { Ok(directory()) } else { self.service.attributes(node).map(|found| file(&found)) }
    }
}

impl Filesystem for ClonesEdge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.set_up.negotiate_clones(config, self.service.handles.table());
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.service.lookup(parent.0, name);
        self.answers.owe(reply).answer(found, |reply, found| {
            reply.entry_with_ttls(&ATTRIBUTES_TTL, &NAME_TTL, &file(&found), GENERATION);
        });
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.attributes(node.0);
        self.answers.owe(reply).answer(found, |reply, found| reply.attr(&ATTRIBUTES_TTL, &found));
    }

    /// Times and owners are nobody's concern here, and a disk's size is what it is.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let is_same = |found: &FileAttr| size.is_none_or(|size| size == found.size);
        let found = self.attributes(node.0);
        let found = found.and_then(|found| if is_same(&found) { Ok(found) } else { Err(Refusal::Invalid) });
        self.answers.owe(reply).answer(found, |reply, found| reply.attr(&ATTRIBUTES_TTL, &found));
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let (opened, reply) = (self.service.open(node.0), self.answers.owe(reply));
        // Nothing is kept by the kernel: the daemon's file is in memory once already.
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        if let Err(refusal) = opened {
            return reply.refuse(refusal);
        }
        if !reply.send(|reply| reply.opened(HANDLE, flags)) {
            self.service.handles.released(node.0);
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (service, reply) = (self.service.clone(), self.answers.owe(reply));
        self.answers.drive(async move {
            let data = service.read(node.0, offset, size as usize).await;
            reply.answer(data, |reply, data| reply.data(data.bytes()));
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (reply, len) = (self.answers.owe(reply), data.len() as u32);
        match self.service.write_now(node.0, offset, data) {
            Ok(None) => drop(reply.send(|reply| reply.written(len))),
            Err(refusal) => reply.refuse(refusal),
            Ok(Some(disk)) => {
                let data = Bytes::copy_from_slice(data);
                self.answers.drive(async move {
                    let written = ClonesService::write(disk, offset, data).await;
                    reply.answer(written, |reply, ()| reply.written(len));
                });
            }
        }
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let (service, reply) = (self.service.clone(), self.answers.owe(reply));
        self.answers.drive(async move {
            reply.answer(service.flush(node.0).await, |reply, ()| reply.ok());
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (service, reply) = (self.service.clone(), self.answers.owe(reply));
        let mode = FallocateFlags::from_bits_truncate(mode);
        if !mode.intersects(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE) {
            return reply.refuse(Refusal::NotSupported);
        }
        self.answers.drive(async move {
            reply.answer(service.discard(node.0, offset, length).await, |reply, ()| reply.ok());
        });
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // Answered first: a release that is sent again after a crash must not have been counted.
        if self.answers.owe(reply).send(ReplyEmpty::ok) {
            self.service.handles.released(node.0);
        }
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, after: u64, mut reply: ReplyDirectory) {
        let listed = self
            .service
            .list(node.0, after, |number, place, name| reply.add(INodeNo(number), place, FileType::RegularFile, name));
        self.answers.owe(reply).answer(listed, |reply, ()| reply.ok());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // What was written outlives who wrote it; to have it durable is fsync's part.
        reply.error(errno(Refusal::Unsupported));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(errno(Refusal::Invalid));
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno(Refusal::NoIoctl));
    }

    refuse::fixed_names!();
}

fn file(found: &CloneAttributes) -> FileAttr {
    /// Of `st_blocks`.
    const UNIT: u64 = 512;
    /// What is written at once.
    const PIECE: u32 = 4096;
    FileAttr {
        ino: INodeNo(found.number),
        size: found.size,
        blocks: found.allocated / UNIT,
        atime: found.made,
        mtime: found.made,
        ctime: found.made,
        crtime: found.made,
        kind: FileType::RegularFile,
        perm: OWNER_ONLY_FILE,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PIECE,
        flags: 0,
    }
}

fn directory() -> FileAttr {
    let nothing = CloneAttributes { number: ROOT, size: 0, allocated: 0, made: SystemTime::UNIX_EPOCH };
    FileAttr { kind: FileType::Directory, perm: OWNER_ONLY_DIRECTORY, nlink: 2, ..file(&nothing) }
}
