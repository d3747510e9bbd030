//! Mounting and unmounting touch nothing that is not ours. Needs root and FUSE.

use std::fs;
use std::path::Path;

use super::lab::{Lab, both_ways};
use icbd_fs::{FsError, Handover, Unmounted};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn is_mounted(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4) == path.to_str()).count()
}

fn end(lab: &mut Lab) -> Result<Unmounted, FsError> {
    let mounted = lab.mounted.take().unwrap();
    lab.runtime.block_on(mounted.unmount())
}

/// A clean stop leaves no mount and an empty directory.
#[test]
fn unmounting_leaves_nothing() {
    both_ways(|lab| {
        fs::read(lab.path("tree/1/block")).unwrap();
        assert_eq!(is_mounted(&lab.mount()), 1);
        assert_eq!(end(lab).unwrap(), Unmounted::Cleanly);
        assert_eq!(is_mounted(&lab.mount()), 0);
        assert_eq!(fs::read_dir(lab.mount()).unwrap().count(), 0);
    });
}

/// A mount in use is detached, and its users read on until the daemon ends.
#[test]
fn a_busy_mount_is_detached_and_its_users_read_on() {
    both_ways(|lab| {
        let file = fs::File::open(lab.path("disk/1/disk.raw")).unwrap();
        assert_eq!(end(lab).unwrap(), Unmounted::Detached);
        assert_eq!(is_mounted(&lab.mount()), 0);
        assert_eq!(super::lab::pread(&file, 70_000, 5000).unwrap(), super::lab::disk(1)[70_000..75_000]);
    });
}

/// What somebody else mounted at the path, over ours or after ours was unmounted, stays.
#[test]
fn foreign_mounts_stay() {
    both_ways(|lab| {
        let path = lab.mount();
        let tmpfs = || mount(Some("other"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let away = || umount2(&path, MntFlags::empty()).unwrap();
        tmpfs();
        let refused = lab.try_mount(Handover::create().unwrap()).unwrap_err();
        assert!(matches!(&refused, FsError::Foreign { kind, .. } if kind == "tmpfs"), "{refused}");
        away();
        away();
        lab.runtime.block_on(lab.mounted().wait());
        tmpfs();
        let refused = end(lab).unwrap_err();
        assert!(matches!(refused, FsError::NotOurs(_)), "{refused}");
        assert_eq!(is_mounted(&lab.mount()), 1);
        away();
    });
}

/// A mount point that another icbd serves is refused; one that a killed daemon left dead is cleaned up.
#[test]
fn a_served_mount_point_is_refused_and_a_dead_one_taken() {
    both_ways(|lab| {
        let refused = lab.try_mount(Handover::create().unwrap()).unwrap_err();
        assert!(matches!(refused, FsError::Served(_)), "{refused}");
        end(lab).unwrap();
        // As a killed daemon without a keeper leaves it: mounted, but nobody has the descriptor.
        let handover = Handover::create().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&handover.descriptors()[0]);
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
        mount(Some("icbd"), &lab.mount(), Some("fuse.icbd"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        drop(handover);
        assert_eq!(fs::metadata(lab.mount()).unwrap_err().raw_os_error(), Some(nix::libc::ENOTCONN));
        lab.mounted = Some(lab.try_mount(Handover::create().unwrap()).unwrap());
        assert_eq!(is_mounted(&lab.mount()), 1);
        fs::metadata(lab.path("disk/1/notes")).unwrap();
    });
}
