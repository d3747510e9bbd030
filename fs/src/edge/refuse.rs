//! The handlers of everything that would change something: all say EROFS.
//!
//! A mount that is read-only is asked none of these; should it ever be, nothing happens and
//! nothing is logged as missing. Macros, because a trait's methods cannot be in two files.

/// Of what would change names, or is not there.
macro_rules! fixed_names {
    () => {
        fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn copy_file_range(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: u64,
            _: CopyFileRangeFlags,
            reply: ReplyWrite,
        ) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
            reply.error(errno(Refusal::Unsupported));
        }

        fn poll(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: PollNotifier,
            _: PollEvents,
            _: PollFlags,
            reply: ReplyPoll,
        ) {
            // ENOSYS makes files always ready, as on a disk.
            reply.error(errno(Refusal::Unsupported));
        }
    };
}

/// Of what would change what files hold.
macro_rules! fixed_content {
    () => {
        fn setattr(
            &self,
            _: &Request,
            _: INodeNo,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u64>,
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
            reply.error(errno(Refusal::ReadOnly));
        }

        fn write(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: &[u8],
            _: WriteFlags,
            _: OpenFlags,
            _: Option<LockOwner>,
            reply: ReplyWrite,
        ) {
            reply.error(errno(Refusal::ReadOnly));
        }

        fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
            reply.error(errno(Refusal::ReadOnly));
        }
    };
}

pub(super) use fixed_content;
pub(super) use fixed_names;
