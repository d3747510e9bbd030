//! The FUSE edge: the only part that speaks fuser's types.
//!
//! A handler makes a future of the answer and hands it to [`Edge::drive`], which polls it once on the
//! FUSE thread. What is resident is answered right there; what has to wait moves to a task, and the
//! thread takes the next request. Nothing here can be written to.

mod answers;
pub(crate) mod backing;
pub(crate) mod clones;
mod convert;
mod deferred;
mod owed;
mod refuse;
pub(crate) mod session;

use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::*;

use crate::errno::Refusal;
use crate::modes::{Handle, Opened};
use crate::service::Service;
use crate::table::Mode;
pub(crate) use answers::Answers;
use convert::{GENERATION, errno, file_attributes, node_kind};
use owed::Owed;

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) service: Arc<Service>,
    pub(crate) answers: Answers,
    pub(crate) set_up: session::SetUp,
}

impl Edge {
    /// Polls `answer` once here; if it has to wait, it goes on as a task.
    fn drive(&self, answer: impl Future<Output = ()> + Send + 'static) {
        self.answers.drive(answer);
    }

    fn owe<R: owed::Refuse>(&self, reply: R) -> (Arc<Service>, Owed<R>) {
        (self.service.clone(), self.answers.owe(reply))
    }
}

impl Filesystem for Edge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.set_up.negotiate(config, self.service.modes.table());
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (service, reply) = self.owe(reply);
        let name = name.to_owned();
        self.drive(async move {
            let found = service.lookup(parent.0, name).await;
            reply.answer(found, |reply, shown| {
                let attributes = file_attributes(&shown.attributes);
                reply.entry_with_ttls(&shown.attributes_ttl, &shown.name_ttl, &attributes, GENERATION);
            });
        });
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (service, reply) = self.owe(reply);
        self.drive(async move {
            let found = service.attributes(node.0).await;
            reply.answer(found, |reply, shown| {
                reply.attr(&shown.attributes_ttl, &file_attributes(&shown.attributes));
            });
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let (service, reply) = self.owe(reply);
        self.drive(async move { reply.answer(service.target(node.0).await, |reply, target| reply.data(&target)) });
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(errno(Refusal::ReadOnly));
        }
        let (service, reply) = self.owe(reply);
        self.drive(async move {
            let opened = match service.open(node.0).await {
                Ok(opened) => opened,
                Err(refusal) => return reply.refuse(refusal),
            };
            if !reply.send(|reply| say_opened(reply, opened)) {
                service.release(node.0, opened.handle);
            }
        });
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
        let (service, reply) = self.owe(reply);
        self.drive(async move {
            let data = service.read(node.0, offset, size as usize).await;
            reply.answer(data, |reply, data| {
                reply.data(data.bytes());
                service.recycle(data);
            });
        });
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let (service, reply) = self.owe(reply);
        // Answered first: a release that is sent again after a crash must not have been counted.
        let handle = Handle::from_u64(handle.0);
        if reply.send(ReplyEmpty::ok)
            && let Some(handle) = handle
        {
            service.release(node.0, handle);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // ENOSYS tells the kernel to succeed and not to ask again: nothing is ever dirty.
        reply.error(errno(Refusal::Unsupported));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(errno(Refusal::Unsupported));
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let (service, reply) = self.owe(reply);
        self.drive(async move {
            reply.answer(service.open_directory(node.0).await, |reply, immutable| {
                let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                reply.opened(FileHandle(0), if immutable { keep } else { FopenFlags::empty() });
            });
        });
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectory) {
        let (service, mut reply) = self.owe(reply);
        self.drive(async move {
            let listed = service.list(node.0, cookie, |entry, shown| {
                let id = INodeNo(shown.attributes.id.to_u64());
                let kind = node_kind(shown.attributes.kind);
                entry.name.with(|name| reply.get().is_none_or(|reply| reply.add(id, entry.cookie, kind, name)))
            });
            let listed = listed.await;
            reply.answer(listed, |reply, ()| reply.ok());
        });
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectoryPlus) {
        let (service, mut reply) = self.owe(reply);
        self.drive(async move {
            let listed = service.list(node.0, cookie, |entry, shown| {
                let attributes = file_attributes(&shown.attributes);
                let ttl = shown.attributes_ttl.min(shown.name_ttl);
                let mut add = |name: &OsStr| {
                    let reply = reply.get()?;
                    Some(reply.add(attributes.ino, entry.cookie, name, &ttl, &attributes, GENERATION))
                };
                entry.name.with(|name| add(name).unwrap_or(true))
            });
            let listed = listed.await;
            reply.answer(listed, |reply, ()| reply.ok());
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        /// Bytes in a block of `df`.
        const UNIT: u64 = 4096;
        let totals = self.service.totals();
        let name_max = crate::tree::NAME_BYTES_MAX as u32;
        reply.statfs(totals.data_bytes.div_ceil(UNIT), 0, 0, totals.nodes, 0, UNIT as u32, name_max, UNIT as u32);
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (service, reply) = self.owe(reply);
        let name = name.to_owned();
        self.drive(async move {
            let value = service.xattr(node.0, &name).await;
            reply.answer(value, |reply, value| convert::say_xattr(reply, size, &value));
        });
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let (service, reply) = self.owe(reply);
        self.drive(async move {
            let names = service.xattr_names(node.0).await;
            reply.answer(names, |reply, names| convert::say_xattr(reply, size, &names));
        });
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks modes itself (default_permissions) and asks only about what is left.
        if mask.contains(AccessFlags::W_OK) {
            return reply.error(errno(Refusal::ReadOnly));
        }
        reply.ok();
    }

    fn lseek(&self, _: &Request, node: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (service, reply) = self.owe(reply);
        let (Ok(from), Some(seek)) = (u64::try_from(offset), convert::seek(whence)) else {
            return reply.refuse(Refusal::Invalid);
        };
        self.drive(async move {
            let found = service.seek(node.0, from, seek).await;
            reply.answer(found, |reply, found| reply.offset(found as i64));
        });
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
    refuse::fixed_content!();
}

fn say_opened(reply: ReplyOpen, opened: Opened) {
    let handle = FileHandle(opened.handle.to_u64());
    match opened.mode {
        // What is in the kernel's cache stays right for ever: a version never changes.
        Mode::Cached => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        Mode::Passthrough { backing } => backing::say_opened(reply, handle, backing),
    }
}
