//! The conformance suite of the disk: what every implementation does.

use std::io;
use std::path::Path;

use icbd_image::{FileHashes, FileIndex, Hash, HeadBuilder, Metadata, PagesBuilder};

use crate::disk::memory::MemoryDisk;
use crate::disk::{Barrier, Disk, DiskFile, FileState, Missing, RealDisk, Tree, Wait};

fn hashes(blocks: u64) -> FileHashes {
    let mut builder = PagesBuilder::new(blocks * 65536).unwrap();
    (0..blocks).for_each(|block| builder.push(Hash::of(&block.to_le_bytes()), &mut |_, _| {}));
    builder.finish()
}

fn tree() -> Tree {
    let mut head = HeadBuilder::new(Metadata::default());
    let etc = head.directory(FileIndex::ROOT, b"etc", Metadata::default()).unwrap();
    let deep = head.directory(etc, b"deep\xff", Metadata::default()).unwrap();
    for (directory, name) in [(FileIndex::ROOT, "disk"), (etc, "a"), (deep, "b")] {
        let file = head.file(directory, name.as_bytes(), Metadata::default()).unwrap();
        head.set_hashes(file, hashes(3));
    }
    head.file(etc, b"empty", Metadata::default()).unwrap();
    head.symlink(FileIndex::ROOT, b"link", Metadata::default(), b"/etc").unwrap();
    Tree::new(head.finish().unwrap())
}

fn conforms(disk: &dyn Disk) {
    let missing = disk.open(Path::new("x/y"), Missing::Fail).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let file = disk.open(Path::new("x/y"), Missing::Create).unwrap();
    file.write(100, &[b"hel", b"lo"]).unwrap();
    let mut out = [7; 10];
    assert_eq!(file.read(98, &mut out, Wait::Yes).unwrap(), 7);
    assert_eq!(&out[..7], b"\0\0hello");
    assert_eq!(file.read(1000, &mut out, Wait::Yes).unwrap(), 0);
    match file.read(100, &mut out[..5], Wait::No) {
        Ok(read) => assert_eq!((read, &out[..5]), (5, b"hello".as_slice())),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    file.set_size(8192).unwrap();
    file.write(4096, &[&[1; 4096]]).unwrap();
    file.punch(4096, 4096).unwrap();
    assert_eq!(file.state().unwrap(), FileState { bytes: 8192, is_named: true });
    assert_eq!(file.read(4096, &mut out, Wait::Yes).unwrap(), 10);
    assert_eq!(out, [0; 10]);
    assert!(file.allocated().unwrap() < 8192);
    long_writes_conform(&*file);
    file.sync().unwrap();
    disk.sync(Barrier::Names(Path::new("x"))).unwrap();
    assert_eq!(disk.sync(Barrier::Names(Path::new("nowhere"))).unwrap_err().kind(), io::ErrorKind::NotFound);

    let anew = disk.open(Path::new("x/y"), Missing::Replace).unwrap();
    assert_eq!(anew.state().unwrap(), FileState { bytes: 0, is_named: true });
    assert_eq!(file.state().unwrap(), FileState { bytes: 8192, is_named: false });

    disk.open(Path::new("x/new"), Missing::Create).unwrap().write(0, &[b"new"]).unwrap();
    disk.rename(Path::new("x/new"), Path::new("x/y")).unwrap();
    assert_eq!(disk.open(Path::new("x/y"), Missing::Fail).unwrap().state().unwrap().bytes, 3);
    assert_eq!(disk.names(Path::new("x")).unwrap(), ["y"]);
    assert!(disk.rename(Path::new("x/new"), Path::new("x/z")).is_err());

    let (tree, root) = (tree(), Path::new("filling/lab/1"));
    disk.make_tree(root, &tree).unwrap();
    let paths: Vec<_> = tree.files().map(|(index, size)| (root.join(tree.path(index)), size)).collect();
    assert_eq!(paths.len(), 3);
    for (path, size) in &paths {
        assert_eq!(disk.open(path, Missing::Fail).unwrap().state().unwrap().bytes, *size);
    }
    assert_eq!(disk.open(&root.join("link"), Missing::Fail).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.xattr(root, "user.icbd.test").unwrap(), None);
    disk.set_xattr(root, "user.icbd.test", b"\0value").unwrap();
    assert_eq!(disk.xattr(root, "user.icbd.test").unwrap().unwrap(), b"\0value");
    assert_eq!(disk.xattr(Path::new("nowhere"), "user.x").unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.open(&paths[0].0, Missing::Fail).unwrap().write(65536, &[b"shared"]).unwrap();
    match disk.reflink(&paths[0].0, &paths[1].0) {
        Ok(()) => {
            let mut out = [0; 6];
            disk.open(&paths[1].0, Missing::Fail).unwrap().read(65536, &mut out, Wait::Yes).unwrap();
            assert_eq!(&out, b"shared");
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
    }
    let space = disk.space().unwrap();
    assert!(0 < space.free_bytes && space.free_bytes <= space.size_bytes);
    disk.sync(Barrier::Everything).unwrap();
    disk.remove(root).unwrap();
    disk.remove(root).unwrap();
    assert!(disk.open(&paths[0].0, Missing::Fail).is_err());
}

/// However much comes at once, in whatever pieces, over what is there already or past the end.
fn long_writes_conform(file: &dyn DiskFile) {
    let bytes: Vec<u8> = (0..(2 << 20) + 8192u32).map(|at| (at / 3 % 251) as u8).collect();
    for (offset, len) in
        [(4096, bytes.len()), (0, 300 << 10), (8192, (1 << 20) + 4096), (100, 1 << 20), (4096, 999_999)]
    {
        let (first, rest) = bytes[..len].split_at(70_001);
        file.write(offset, &[first, &[], rest]).unwrap();
        let mut out = vec![7; len];
        assert_eq!(file.read(offset, &mut out, Wait::Yes).unwrap(), len);
        assert!(out == bytes[..len], "{len} bytes from {offset} on");
    }
    let mut before = [7; 100];
    file.read(0, &mut before, Wait::Yes).unwrap();
    assert!(before == bytes[..100]);
    file.set_size(8192).unwrap();
}

#[test]
fn the_disk_in_memory_conforms() {
    conforms(&MemoryDisk::new(1));
}

#[test]
fn a_disk_after_a_crash_conforms() {
    let disk = MemoryDisk::new(1);
    disk.open(Path::new("old"), Missing::Create).unwrap().write(0, &[b"x"]).unwrap();
    conforms(&disk.crash());
}

#[test]
fn the_real_disk_conforms_and_follows_no_symbolic_link() {
    let store = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(store.path()).unwrap();
    conforms(&disk);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), store.path().join("way-out")).unwrap();
    for path in ["way-out/secret", "../secret", "way-out/new"] {
        assert!(disk.open(Path::new(path), Missing::Create).is_err(), "{path}");
    }
    assert!(!outside.path().join("new").exists());
}

/// A file is made anew whatever is in its place or above it, and nothing outside is touched; a directory with
/// something in it is moved aside.
#[test]
fn a_file_is_made_in_the_place_of_anything() {
    let (store, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = RealDisk::open(store.path()).unwrap();
    let kept = outside.path().join("kept");
    std::fs::write(&kept, "k").unwrap();
    let at = |name: &str| store.path().join(name);
    std::fs::create_dir_all(at("a/empty")).unwrap();
    std::fs::create_dir_all(at("a/full/x")).unwrap();
    std::fs::write(at("a/file"), "f").unwrap();
    std::os::unix::fs::symlink(&kept, at("a/link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), at("way-out")).unwrap();
    for name in ["a/empty", "a/full", "a/file", "a/link", "a/file/below", "way-out/kept", "none/at/all"] {
        let made = disk.open(Path::new(name), Missing::Replace).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(made.state().unwrap(), FileState { bytes: 0, is_named: true }, "{name}");
        assert!(std::fs::symlink_metadata(at(name)).unwrap().is_file(), "{name}");
    }
    let names = std::fs::read_dir(store.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> = names.filter(|path| path.join("x").exists()).collect();
    assert_eq!(aside.len(), 1, "what somebody put there is kept: {aside:?}");
    assert_eq!(std::fs::read(&kept).unwrap(), b"k");
}
