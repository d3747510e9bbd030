//! Connecting to the kernel: a fresh INIT, or taking over a connection that is live.
//!
//! fuser begins every session with the kernel's INIT, which a live connection does not send again.
//! So an adopted session begins on a socket pair, with the INIT that the first daemon got, and its
//! descriptor is replaced by the real one when fuser is content. Then the kernel is asked to send
//! again what the earlier daemon had taken but not answered.
//!
//! JUSTIFICATION for unsafe: dup3 onto a descriptor that fuser owns.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fuser::{Config, Filesystem, INodeNo, InitFlags, KernelConfig, Notifier, Session, SessionACL};
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use tracing::{debug, info, warn};

use crate::FsError;
use crate::invalidate::Stale;
use crate::settings::{BACKGROUND_REQUESTS_MAX, CONGESTION_THRESHOLD, STACK_DEPTH_MAX};
use crate::table::{Negotiated, Table};

/// What `init` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetUp {
    /// Answer the kernel and remember what was agreed.
    Fresh { passthrough: bool },
    /// Repeat what the table says.
    Adopted,
}

/// Tells the kernel what to forget.
#[derive(Debug)]
pub(crate) struct Notify(Notifier);

impl Notify {
    pub(crate) fn of<F: Served>(session: &Session<F>) -> Notify {
        Notify(session.notifier())
    }

    pub(crate) fn forget(&self, stale: &Stale) -> io::Result<()> {
        match stale {
            Stale::Node(node) => self.0.inval_inode(INodeNo(node.to_u64()), 0, 0),
            Stale::Bytes { file, range } => {
                let len = range.end.saturating_sub(range.start);
                self.0.inval_inode(INodeNo(file.to_u64()), range.start as i64, len as i64)
            }
            Stale::Name { directory, name } => self.0.inval_entry(INodeNo(directory.to_u64()), OsStr::new(name)),
        }
    }
}

/// What can be served: a `fuser::Filesystem`, by a name that the rest of the crate may say.
pub(crate) trait Served: Filesystem + Send + Sync + 'static {}

impl<F: Filesystem + Send + Sync + 'static> Served for F {}

/// A session that is connected and not served yet.
pub(crate) type FuseSession<F> = Session<F>;

/// Starts the threads that read requests. They end with the mount; `ended` is called by the last.
pub(crate) fn serve<F: Served>(session: FuseSession<F>, ended: impl FnOnce() + Send + 'static) -> Result<(), FsError> {
    let serve = move || {
        if let Err(error) = session.run() {
            warn!(%error, "the connection to the kernel failed");
        }
        ended();
    };
    let thread = std::thread::Builder::new().name("icbd-fuse".into()).spawn(serve);
    thread.map(drop).map_err(FsError::system("start the FUSE threads", "raise the limit on processes"))
}

/// What clones ask for when the kernel has it.
const WANTED_BY_CLONES: [InitFlags; 3] =
    [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_HAS_RESEND];

/// What the images ask for when the kernel has it. No FUSE_CACHE_SYMLINKS: `current` changes.
const WANTED: [InitFlags; 6] = [
    // Handles for NFS that outlive the kernel's memory of a node.
    InitFlags::FUSE_EXPORT_SUPPORT,
    // Or one lookup that waits blocks its whole directory.
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_HAS_RESEND,
];

impl SetUp {
    pub(super) fn negotiate(self, config: &mut KernelConfig, table: &Table) {
        self.agree(&WANTED, config, table);
    }

    pub(super) fn negotiate_clones(self, config: &mut KernelConfig, table: &Table) {
        self.agree(&WANTED_BY_CLONES, config, table);
    }

    fn agree(self, wanted: &[InitFlags], config: &mut KernelConfig, table: &Table) {
        for flag in wanted.iter().copied() {
            if config.add_capabilities(flag).is_err() {
                debug!(?flag, "this kernel lacks a FUSE feature");
            }
        }
        // Both values are within what fuser takes.
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
        let passthrough = match self {
            SetUp::Fresh { passthrough } => passthrough,
            SetUp::Adopted => table.negotiated().passthrough,
        };
        let passthrough = passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH_MAX).is_ok();
        if let SetUp::Fresh { .. } = self {
            let version = config.kernel_abi();
            // Asking for too much tells the limit.
            let readahead_bytes_max = config.set_max_readahead(u32::MAX).unwrap_or_else(|limit| limit);
            table.set_negotiated(&Negotiated {
                major: version.0,
                minor: version.1,
                capabilities: config.capabilities().bits(),
                readahead_bytes_max,
                passthrough,
            });
            info!(passthrough, protocol = %version, "the kernel is connected");
        }
    }
}

/// Begins on a connection whose INIT is still to come.
pub(crate) fn begin<F: Served>(edge: F, fuse: OwnedFd, threads: usize) -> io::Result<Session<F>> {
    Session::from_fd(edge, fuse, SessionACL::All, config(threads))
}

/// Takes over a connection; everything that is unanswered comes again once requests are read.
pub(crate) fn adopt<F: Served>(
    edge: F,
    fuse: &OwnedFd,
    threads: usize,
    negotiated: &Negotiated,
) -> io::Result<Session<F>> {
    let (ours, fusers) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    send(ours.as_raw_fd(), &forged_init(negotiated), MsgFlags::empty())?;
    let session = Session::from_fd(edge, fusers, SessionACL::All, config(threads))?;
    let number = session.as_fd().as_raw_fd();
    // SAFETY: the session owns `number` and goes on owning it; what it means is replaced atomically,
    // and no thread of the session reads yet. The number that dup3 returns is that same one.
    std::mem::forget(unsafe { nix::unistd::dup3_raw(fuse, number, OFlag::O_CLOEXEC) }?);
    nix::unistd::write(fuse, &resend())?;
    Ok(session)
}

/// No `clone_fd`: at a kill the kernel fails what waits on a cloned descriptor.
fn config(threads: usize) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    config.clone_fd = false;
    config
}

/// `fuse_in_header` and `fuse_init_in` of linux/fuse.h.
fn forged_init(negotiated: &Negotiated) -> Vec<u8> {
    const OPCODE_INIT: u32 = 26;
    const BYTES: usize = 40 + 64;
    /// The kernel numbers its requests evenly from 2 on; any number will do.
    const UNIQUE: u64 = 2;
    let flags = negotiated.capabilities | InitFlags::FUSE_INIT_EXT.bits();
    let mut message = Vec::with_capacity(BYTES);
    message.extend_from_slice(&(BYTES as u32).to_ne_bytes());
    message.extend_from_slice(&OPCODE_INIT.to_ne_bytes());
    message.extend_from_slice(&UNIQUE.to_ne_bytes());
    message.resize(40, 0);
    for field in
        [negotiated.major, negotiated.minor, negotiated.readahead_bytes_max, flags as u32, (flags >> 32) as u32]
    {
        message.extend_from_slice(&field.to_ne_bytes());
    }
    message.resize(BYTES, 0);
    message
}

/// A `fuse_out_header` that is a notification (unique 0) of kind FUSE_NOTIFY_RESEND, Linux 6.9.
fn resend() -> [u8; 16] {
    const FUSE_NOTIFY_RESEND: i32 = 7;
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&FUSE_NOTIFY_RESEND.to_ne_bytes());
    message
}
