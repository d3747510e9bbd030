//! Subvolumes of btrfs: made, snapshotted, deleted and asked about (`linux/btrfs.h`).
//!
//! Every request names a directory by descriptor and a name in it, so that nothing above is looked up twice.
#![allow(unsafe_code)]
// JUSTIFICATION: no dependency of ours has safe wrappers of these ioctls.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Updater, ioctl, opcode};

/// `BTRFS_IOCTL_MAGIC`.
const BTRFS: u8 = 0x94;
/// `BTRFS_SUBVOL_RDONLY`, in requests and in what is read of a subvolume.
const READ_ONLY: u64 = 1 << 1;
/// The inode number of every subvolume's own directory, `BTRFS_FIRST_FREE_OBJECTID`.
pub(crate) const ROOT_INODE: u64 = 256;
/// `BTRFS_SUBVOL_SYNC_COUNT`.
const COUNT: u32 = 2;
/// The longest name of a subvolume, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Subvolumes inside one that one call tells of.
const NESTED_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct InfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transids: [u64; 4],
    times: [u64; 8],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct NestedArgs {
    min_treeid: u64,
    /// Of each the tree's id and the inode number of the directory it is in.
    found: [(u64, u64); NESTED_MAX],
    count: u8,
    align: [u8; 7],
}

/// `struct btrfs_ioctl_subvol_wait`.
#[repr(C)]
struct WaitArgs {
    subvolid: u64,
    mode: u32,
    count: u32,
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
struct NameArgs {
    dirid: u64,
    treeid: u64,
    name: [u8; 256],
    path: [u8; 3824],
}

const _: () = {
    assert!(size_of::<VolumeArgs>() == 4096 && size_of::<SnapshotArgs>() == 4096);
    assert!(size_of::<InfoArgs>() == 504 && size_of::<NestedArgs>() == 4096 && size_of::<NameArgs>() == 4096);
};

/// Makes an empty subvolume; durable when it returns.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut args = VolumeArgs { fd: 0, name: padded(name)? };
    // SAFETY: the type is the one that this request takes.
    unsafe { ioctl(parent, Updater::<{ opcode::write::<VolumeArgs>(BTRFS, 14) }, _>::new(&mut args)) }
}

/// Makes a snapshot of the subvolume `source`; atomic and durable when it returns.
pub(crate) fn snapshot(parent: BorrowedFd<'_>, name: &[u8], source: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let flags = if read_only { READ_ONLY } else { 0 };
    let fd = source.as_raw_fd().into();
    let mut args = SnapshotArgs { fd, transid: 0, flags, unused: [0; 4], name: padded(name)? };
    // SAFETY: the type is the one that this request takes; `source` is open for the time of the call.
    unsafe { ioctl(parent, Updater::<{ opcode::write::<SnapshotArgs>(BTRFS, 23) }, _>::new(&mut args)) }
}

/// Deletes a subvolume; who has it open goes on reading, and its space comes back later.
pub(crate) fn destroy(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut args = VolumeArgs { fd: 0, name: padded(name)? };
    // SAFETY: the type is the one that this request takes.
    unsafe { ioctl(parent, Updater::<{ opcode::write::<VolumeArgs>(BTRFS, 15) }, _>::new(&mut args)) }
}

/// Has what is deleted freed now: the kernel's cleaner would else come by within half a minute.
pub(crate) fn clean_deleted(directory: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: this request takes no argument.
    unsafe { ioctl(directory, rustix::ioctl::NoArg::<{ opcode::none(BTRFS, 8) }>::new()) }
}

/// How many subvolumes are deleted whose space is not free yet; `NOTTY` before Linux 6.13.
pub(crate) fn count_deleted(directory: BorrowedFd<'_>) -> Result<u32> {
    let mut args = WaitArgs { subvolid: 0, mode: COUNT, count: 0 };
    // SAFETY: the type is the one that this request takes and fills.
    unsafe { ioctl(directory, Updater::<{ opcode::write::<WaitArgs>(BTRFS, 65) }, _>::new(&mut args)) }?;
    Ok(args.count)
}

/// Whether the subvolume is read-only.
pub(crate) fn is_read_only(subvolume: BorrowedFd<'_>) -> Result<bool> {
    let mut flags = 0_u64;
    // SAFETY: the type is the one that this request fills.
    unsafe { ioctl(subvolume, Updater::<{ opcode::read::<u64>(BTRFS, 25) }, _>::new(&mut flags)) }?;
    Ok(flags & READ_ONLY != 0)
}

/// By what id it is known, and by what the one it was received from; `None` when it was not received, or not to its end.
pub(crate) fn uuids(subvolume: BorrowedFd<'_>) -> Result<([u8; 16], Option<[u8; 16]>)> {
    let mut info = InfoArgs {
        treeid: 0,
        name: [0; 256],
        parent_id: 0,
        dirid: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        parent_uuid: [0; 16],
        received_uuid: [0; 16],
        transids: [0; 4],
        times: [0; 8],
        reserved: [0; 8],
    };
    // SAFETY: the type is the one that this request fills.
    unsafe { ioctl(subvolume, Updater::<{ opcode::read::<InfoArgs>(BTRFS, 60) }, _>::new(&mut info)) }?;
    Ok((info.uuid, Some(info.received_uuid).filter(|uuid| *uuid != [0; 16])))
}

/// The path of one subvolume inside this one, relative to it, if there is any.
pub(crate) fn nested(subvolume: BorrowedFd<'_>) -> Result<Option<PathBuf>> {
    let mut args = NestedArgs { min_treeid: 0, found: [(0, 0); NESTED_MAX], count: 0, align: [0; 7] };
    // SAFETY: the type is the one that this request takes and fills.
    match unsafe { ioctl(subvolume, Updater::<{ opcode::read_write::<NestedArgs>(BTRFS, 61) }, _>::new(&mut args)) } {
        // More than fit: the first of them will do.
        Ok(()) | Err(Errno::OVERFLOW) => {}
        Err(error) => return Err(error),
    }
    if args.count == 0 {
        return Ok(None);
    }
    let (treeid, dirid) = args.found[0];
    let mut name = NameArgs { dirid, treeid, name: [0; 256], path: [0; 3824] };
    // SAFETY: the type is the one that this request takes and fills.
    unsafe { ioctl(subvolume, Updater::<{ opcode::read_write::<NameArgs>(BTRFS, 62) }, _>::new(&mut name)) }?;
    // The path ends with a slash, or is empty.
    let path = [text(&name.path), text(&name.name)].concat();
    Ok(Some(OsString::from_vec(path).into()))
}

/// What stands before the first zero byte.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// `name`, ended by zeros.
fn padded<const BYTES: usize>(name: &[u8]) -> Result<[u8; BYTES]> {
    let mut padded = [0; BYTES];
    match padded.get_mut(..name.len()) {
        Some(start) if name.len() <= NAME_BYTES_MAX => start.copy_from_slice(name),
        _ => return Err(Errno::NAMETOOLONG),
    }
    Ok(padded)
}
