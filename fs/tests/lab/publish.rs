//! A plain tree with everything that a version can hold, and its way into a source.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use bytes::Bytes;
use icbd_fetch::testing::MemorySource;
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, HeadBuilder, Kind, Metadata, PagesBuilder, Root, Timestamp};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::noise;

/// Files of all sizes around a block and 1 MiB, directories, links of both kinds, devices, odd
/// owners, modes, times and names, extended attributes.
pub(crate) fn plain_tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for (name, len) in
        [("empty", 0), ("one", 1), ("block", 65536), ("block+1", 65537), ("mib", 1 << 20), ("big", 3 << 20)]
    {
        fs::write(root.join(name), noise(len as u64 + 1, len)).unwrap();
    }
    let mut holes = vec![0; 2 << 20];
    holes[1 << 20..][..65536].fill(7);
    fs::write(root.join("holes"), holes).unwrap();
    for at in 0..300 {
        fs::write(root.join(format!("many/file-{at:03}-with-a-name-that-fills-the-buffer")), at.to_string()).unwrap();
    }
    fs::hard_link(root.join("block"), root.join("etc/deep/block-again")).unwrap();
    symlink("../big", root.join("etc/up")).unwrap();
    symlink("/nowhere", root.join("etc/dangling")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"etc/not-utf8-\xff\xfe")), "x").unwrap();
    let device = |name: &str, kind, major, minor| {
        mknod(&root.join(name), kind, Mode::from_bits_truncate(0o640), makedev(major, minor)).unwrap();
    };
    device("etc/null", SFlag::S_IFCHR, 1, 3);
    device("etc/loop", SFlag::S_IFBLK, 7, 300);
    xattr::set(root.join("one"), "user.note", b"\0binary\xff").unwrap();
    xattr::set(root.join("etc"), "trusted.folder", b"yes").unwrap();
    lchown(root.join("etc/up"), Some(7), Some(8)).unwrap();
    lchown(root.join("one"), Some(1234), Some(70000)).unwrap();
    for (name, mode) in [("one", 0o4755), ("etc/deep", 0o1777), ("mib", 0o400), ("etc/deep/er", 0o2750)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, seconds, nanoseconds) in
        [("one", 1, 1), ("big", -5, 999_999_999), ("etc/up", 1 << 33, 5), ("many", 0, 0)]
    {
        let time = TimeSpec::new(seconds, nanoseconds);
        utimensat(nix::fcntl::AT_FDCWD, &root.join(name), &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }
}

struct Published {
    builder: HeadBuilder,
    pages: HashMap<(FileIndex, u64), Bytes>,
    files: HashMap<FileIndex, Bytes>,
    links: HashMap<u64, FileIndex>,
}

/// Publishes the plain tree as the next version of `image`.
pub(crate) fn publish(source: &MemorySource, image: &str, plain: &Path) {
    let builder = HeadBuilder::new(metadata(&fs::symlink_metadata(plain).unwrap()));
    let (pages, files, links) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut it = Published { builder, pages, files, links };
    it.folder(plain, FileIndex::ROOT);
    source.publish_tree(image, it.builder.finish().unwrap(), it.pages, it.files);
}

pub(crate) fn root_of(source: &MemorySource, image: &str, number: usize) -> Root {
    source.current_listing().image(&image.parse().unwrap()).unwrap().versions[number - 1].root()
}

impl Published {
    fn folder(&mut self, folder: &Path, at: FileIndex) {
        self.xattrs(folder, at);
        let mut entries = fs::read_dir(folder).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            self.node(&entry.path(), at);
        }
    }

    fn node(&mut self, path: &Path, parent: FileIndex) {
        let stat = fs::symlink_metadata(path).unwrap();
        let name = path.file_name().unwrap().as_bytes();
        let (builder, metadata) = (&mut self.builder, metadata(&stat));
        let kind = stat.file_type();
        if let Some(first) = self.links.get(&stat.ino()) {
            return builder.link(parent, name, *first).unwrap();
        }
        let index = if kind.is_dir() {
            builder.directory(parent, name, metadata)
        } else if kind.is_symlink() {
            builder.symlink(parent, name, metadata, fs::read_link(path).unwrap().as_os_str().as_bytes())
        } else if kind.is_file() {
            builder.file(parent, name, metadata)
        } else {
            let kind = if kind.is_block_device() { Kind::BlockDevice } else { Kind::CharDevice };
            builder.device(parent, name, kind, metadata, kernel_rdev(stat.rdev()))
        };
        let index = index.unwrap();
        if kind.is_dir() {
            return self.folder(path, index);
        }
        self.links.insert(stat.ino(), index);
        if kind.is_file() {
            self.xattrs(path, index);
            self.content(index, fs::read(path).unwrap().into());
        }
    }

    fn content(&mut self, index: FileIndex, bytes: Bytes) {
        let mut hashes = PagesBuilder::new(bytes.len() as u64).unwrap();
        for block in bytes.chunks(BLOCK_BYTES as usize) {
            hashes.push(Hash::of(block), &mut |page, bytes| {
                self.pages.insert((index, page), Bytes::copy_from_slice(bytes));
            });
        }
        self.builder.set_hashes(index, hashes.finish());
        self.files.insert(index, bytes);
    }

    fn xattrs(&mut self, path: &Path, index: FileIndex) {
        for name in xattr::list(path).unwrap() {
            let value = xattr::get(path, &name).unwrap().unwrap();
            self.builder.set_xattr(index, name.as_bytes(), &value);
        }
    }
}

fn metadata(stat: &fs::Metadata) -> Metadata {
    let mtime = Timestamp { seconds: stat.mtime(), nanoseconds: stat.mtime_nsec() as u32 };
    Metadata { mode: (stat.mode() & 0o7777) as u16, uid: stat.uid(), gid: stat.gid(), mtime }
}

/// `new_encode_dev` of linux/kdev_t.h.
fn kernel_rdev(rdev: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(rdev) as u32, nix::sys::stat::minor(rdev) as u32);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
