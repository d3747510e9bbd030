//! What programs see in a mount, compared with a plain copy. Needs root and FUSE.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::lab::{Lab, both_ways, disk, pread};
use nix::unistd::Whence;

/// Everything `stat` tells but the device, inode number, allocation and the times no manifest has.
#[derive(Debug, PartialEq)]
struct Seen {
    path: PathBuf,
    mode: u32,
    links: u64,
    owner: (u32, u32),
    rdev: u64,
    size: u64,
    mtime: (i64, i64),
    target: Option<PathBuf>,
    xattrs: Vec<(String, Vec<u8>)>,
    content: Option<Vec<u8>>,
}

fn see(root: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        if kind.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let names = if kind.is_symlink() || kind.is_char_device() || kind.is_block_device() {
            Vec::new()
        } else {
            xattr::list(&path).unwrap().map(|name| name.into_string().unwrap()).collect()
        };
        let published = names.into_iter().filter(|name| !name.starts_with("user.icbd."));
        let mut xattrs: Vec<_> =
            published.map(|name| (name.clone(), xattr::get(&path, &name).unwrap().unwrap())).collect();
        xattrs.sort();
        seen.push(Seen {
            path: path.strip_prefix(root).unwrap().to_owned(),
            mode: stat.mode(),
            links: stat.nlink(),
            owner: (stat.uid(), stat.gid()),
            rdev: stat.rdev(),
            size: if kind.is_dir() { 0 } else { stat.size() },
            mtime: (stat.mtime(), stat.mtime_nsec()),
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            xattrs,
            content: kind.is_file().then(|| fs::read(&path).unwrap()),
        });
    }
    seen.sort_by(|a, b| a.path.cmp(&b.path));
    seen
}

/// A version looks as it was published: content, names, types, modes, owners, times, links, devices and extended attributes.
#[test]
fn a_version_looks_as_it_was_published() {
    both_ways(|lab| {
        let (plain, shown) = (see(&lab.plain), see(&lab.path("tree/1")));
        assert_eq!(plain.len(), shown.len());
        for (plain, shown) in plain.iter().zip(&shown) {
            assert!(
                plain == shown,
                "{:?}",
                (
                    &plain.path,
                    plain.mode,
                    shown.mode,
                    &plain.xattrs,
                    &shown.xattrs,
                    plain.mtime,
                    shown.mtime,
                    plain.links,
                    shown.links,
                    plain.rdev,
                    shown.rdev
                )
            );
        }
    });
}

/// Names of one file have one inode number, which no other file has.
#[test]
fn hard_links_are_one_file() {
    both_ways(|lab| {
        let ino = |path: &str| fs::symlink_metadata(lab.path(path)).unwrap().ino();
        assert_eq!(ino("tree/1/block"), ino("tree/1/etc/deep/block-again"));
        let all = ["", "disk", "disk/current", "disk/1/", "disk/2/", "disk/1/notes", "disk/2/notes", "tree/1/one"];
        let numbers: std::collections::HashSet<u64> = all.iter().map(|path| ino(path)).collect();
        assert_eq!(numbers.len(), all.len());
    });
}

/// `current` leads to the deployed version, and within about a second of a deploy to the new one.
#[test]
fn current_follows_the_deployed_version() {
    both_ways(|lab| {
        assert_eq!(fs::read_link(lab.path("disk/current")).unwrap(), Path::new("1"));
        assert!(fs::symlink_metadata(lab.path("tree/current")).is_err());
        let open = fs::File::open(lab.path("disk/current/disk.raw")).unwrap();
        super::lab::deploy(&lab.source, "disk", 2);
        lab.refresh();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while fs::read_link(lab.path("disk/current")).unwrap() != Path::new("2") {
            assert!(std::time::Instant::now() < until, "`current` did not change");
            std::thread::yield_now();
        }
        // Who has the old version open keeps it.
        assert_eq!(pread(&open, 0, 4096).unwrap(), disk(1)[..4096]);
    });
}

/// Holes of a sparse file are found without reading it, by the manifest.
#[test]
fn holes_are_found_by_the_manifest() {
    both_ways(|lab| {
        let file = fs::File::open(lab.path("tree/1/holes")).unwrap();
        let seek = |offset, whence| nix::unistd::lseek(file.as_fd(), offset, whence);
        assert_eq!(seek(0, Whence::SeekData), Ok(1 << 20));
        assert_eq!(seek(1 << 20, Whence::SeekHole), Ok((1 << 20) + 65536));
        assert_eq!(seek(5, Whence::SeekHole), Ok(5));
        assert_eq!(seek((1 << 20) + 65536, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
        assert_eq!(seek(2 << 20, Whence::SeekHole), Err(nix::errno::Errno::ENXIO));
        assert!(lab.source.take_asked().iter().all(|asked| !matches!(asked, icbd_fetch::testing::Asked::Blocks(_))));
    });
}

/// Extended attributes tell version, root and how much of a file or version is here.
#[test]
fn attributes_tell_what_is_here() {
    both_ways(|lab| {
        let get = |path: &str, name: &str| {
            xattr::get(lab.path(path), name).unwrap().map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(get("disk/1", "user.icbd.version").unwrap(), "disk@1");
        assert_eq!(
            get("disk/1/disk.raw", "user.icbd.root").unwrap(),
            super::lab::publish::root_of(&lab.source, "disk", 1).to_string()
        );
        assert_eq!(get("tree/1/big", "user.icbd.resident").unwrap(), "0/3145728");
        assert_eq!(get("tree/1/big", "user.icbd.complete").unwrap(), "0");
        fs::read(lab.path("tree/1/big")).unwrap();
        lab.flush();
        assert_eq!(get("tree/1/big", "user.icbd.resident").unwrap(), "3145728/3145728");
        assert_eq!(get("tree/1/big", "user.icbd.complete").unwrap(), "1");
        assert_eq!(get("disk/1/disk.raw", "user.nothing"), None);
        assert_eq!(get("disk", "user.icbd.version"), None);
        // Sizes are told, too small buffers refused.
        let path = std::ffi::CString::new(lab.path("disk/1").to_str().unwrap()).unwrap();
        assert_eq!(xattr_call(&path, c"user.icbd.version", 0), Ok(6));
        assert_eq!(xattr_call(&path, c"user.icbd.version", 5), Err(nix::errno::Errno::ERANGE));
        assert_eq!(xattr_call(&path, c"user.icbd.version", 6), Ok(6));
    });
}

fn xattr_call(path: &std::ffi::CStr, name: &std::ffi::CStr, size: usize) -> nix::Result<usize> {
    let mut value = [0u8; 64];
    // SAFETY: both names end with a zero byte, the buffer is longer than `size`.
    #[allow(unsafe_code)]
    let got = unsafe { nix::libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), size) };
    nix::errno::Errno::result(got).map(|got| got as usize)
}

/// Sizes of the whole view, not of the disk below, are what `df` shows.
#[test]
fn statfs_tells_what_is_offered() {
    both_ways(|lab| {
        let stat = nix::sys::statvfs::statvfs(&lab.mount()).unwrap();
        let listing = lab.source.current_listing();
        let bytes: u64 = listing.images.iter().flat_map(|image| &image.versions).map(|it| it.data_bytes).sum();
        assert_eq!(stat.blocks() as u64 * stat.fragment_size() as u64, bytes.next_multiple_of(4096));
        assert_eq!((stat.blocks_available(), stat.name_max()), (0, 255));
    });
}

/// A directory read from any position it ever gave goes on with the next name.
#[test]
fn listings_go_on_from_any_position() {
    both_ways(|lab: &mut Lab| {
        for below in ["", "disk", "tree/1", "tree/1/many"] {
            let all = list(&lab.path(below), None);
            assert!(all.len() > 3);
            for at in [1, 2, all.len() / 2, all.len() - 1] {
                assert_eq!(list(&lab.path(below), Some(all[at].1)), all[at + 1..], "{below} at {at}");
            }
        }
    });
}

/// Names and positions of a directory, from `position` on.
fn list(path: &Path, position: Option<i64>) -> Vec<(Vec<u8>, i64)> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut found = Vec::new();
    // SAFETY: opendir gives a valid stream or null (checked); it is used by this thread only, and
    // an entry only until the next readdir.
    #[allow(unsafe_code)]
    unsafe {
        let stream = nix::libc::opendir(path.as_ptr());
        assert!(!stream.is_null());
        if let Some(position) = position {
            nix::libc::seekdir(stream, position);
        }
        loop {
            let entry = nix::libc::readdir(stream);
            if entry.is_null() {
                break;
            }
            let name = std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes().to_vec();
            found.push((name, (*entry).d_off));
        }
        nix::libc::closedir(stream);
    }
    found
}
