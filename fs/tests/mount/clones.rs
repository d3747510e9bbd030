//! Clones as a program finds them: ordinary files that can be written to, over a version that nobody can.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use icbd_cache::{CloneName, CloneUse, Clones, Layers};
use icbd_fs::{ClonesMounted, Handover, Unmounted};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::lab::{DISK_BYTES, Lab, disk};

const PIECE: u64 = 4096;

struct Mount<'a> {
    lab: &'a Lab,
    mounted: Option<ClonesMounted>,
}

impl<'a> Mount<'a> {
    fn new(lab: &'a Lab) -> Mount<'a> {
        let path = lab.folder.path().join("clones");
        fs::create_dir(&path).unwrap();
        let mount = icbd_fs::mount_clones(lab.cache.clone(), path, Handover::create().unwrap());
        let mounted = lab.runtime.block_on(mount).unwrap();
        Mount { lab, mounted: Some(mounted) }
    }

    fn clones(&self) -> &Clones {
        self.lab.cache.clones()
    }

    /// The file of a client's clone of `disk@1`.
    fn make(&self, client: &str) -> PathBuf {
        let view = self.lab.cache.view();
        let version: icbd_image::VersionId = "disk@1".parse().unwrap();
        let name = CloneName { version: version.clone(), client: client.parse().unwrap() };
        let serial = view.version(&version).unwrap().serial();
        self.lab.runtime.block_on(async {
            let version = self.lab.cache.version(serial).await.unwrap();
            let file = version.file(version.head().resolve(b"disk.raw").unwrap()).unwrap();
            self.clones().prepare(&name, &file, "disk.raw").await.unwrap();
        });
        self.lab.folder.path().join("clones").join(name.to_string())
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let unmounted = self.lab.runtime.block_on(mounted.unmount());
            if !std::thread::panicking() {
                assert_eq!(unmounted.unwrap(), Unmounted::Cleanly);
            }
        }
    }
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// What is written to a clone is read of it, byte by byte, whatever its place and length; the version stays as it is.
#[test]
fn a_clone_is_a_disk_of_its_own() {
    let lab = Lab::new(true);
    let mount = Mount::new(&lab);
    let path = mount.make("pc-1");
    let (file, other) = (open(&path), open(&mount.make("pc-2")));
    let mut model = disk(1).to_vec();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().mode() & 0o777), (DISK_BYTES as u64, 0o600));
    let mut dice = 7u64;
    for step in 0..300u64 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (offset, len) =
            ((dice >> 33) as usize % DISK_BYTES, 1 + (dice >> 20) as usize % [512, 9000, 300_000][step as usize % 3]);
        let end = (offset + len).min(DISK_BYTES);
        let bytes: Vec<u8> = (offset..end).map(|at| (at as u64 * 7 + step) as u8).collect();
        file.write_all_at(&bytes, offset as u64).unwrap();
        model[offset..end].copy_from_slice(&bytes);
        let (from, to) = (offset.saturating_sub(5000), (end + 5000).min(DISK_BYTES));
        let mut found = vec![0; to - from];
        file.read_exact_at(&mut found, from as u64).unwrap();
        assert!(found == model[from..to], "step {step}: {offset}..{end}");
    }
    file.sync_all().unwrap();
    assert!(fs::read(&path).unwrap() == model, "read anew it is another");
    let mut found = vec![0; DISK_BYTES];
    other.read_exact_at(&mut found, 0).unwrap();
    assert!(found == disk(1), "another clone changed");
    assert!(fs::read(lab.path("disk/1/disk.raw")).unwrap() == disk(1), "the version changed");
    let names = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["disk.1.pc-1", "disk.1.pc-2"]);
}

/// What is discarded reads as zeros and takes no room; what was not written takes none either.
#[test]
fn a_clone_takes_what_was_written() {
    let lab = Lab::new(true);
    let mount = Mount::new(&lab);
    let file = open(&mount.make("pc-1"));
    let taken = || {
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    };
    assert_eq!(taken(), 0);
    file.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
    // The kernel may believe an older size for a second.
    let clones = || lab.runtime.block_on(mount.clones().list()).unwrap()[0].written_bytes;
    file.sync_all().unwrap();
    assert_eq!(clones(), 1 << 20);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, (1 << 20) + 100, (1 << 20) - 100).unwrap();
    file.sync_all().unwrap();
    assert_eq!(clones(), PIECE);
    let mut found = vec![9; 1 << 20];
    file.read_exact_at(&mut found, 1 << 20).unwrap();
    assert!(found[..100].iter().all(|byte| *byte == 7) && found[100..].iter().all(|byte| *byte == 0));
    // Also where nothing had been written.
    fallocate(&file, punch, 0, PIECE as i64).unwrap();
    file.read_exact_at(&mut found[..PIECE as usize], 0).unwrap();
    assert!(found[..PIECE as usize].iter().all(|byte| *byte == 0));
}

/// A clone that is open is not reset; one that was is another file, and an old handle means nothing any more.
#[test]
fn a_clone_is_reset_only_when_nobody_has_it_open() {
    let lab = Lab::new(true);
    let mount = Mount::new(&lab);
    let path = mount.make("pc-1");
    let name = mount.clones().all()[0].name().clone();
    let file = open(&path);
    file.write_all_at(&[7; 8192], 0).unwrap();
    let number = file.metadata().unwrap().ino();
    let refused = lab.runtime.block_on(mount.clones().reset(&name, Layers::Session)).unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    drop(file);
    // The kernel tells of closed files a moment later.
    let clone = mount.clones().all().remove(0);
    let closed = async { tokio::time::timeout(Duration::from_secs(20), mount.clones().closed(&clone)).await };
    lab.runtime.block_on(closed).unwrap();
    lab.runtime.block_on(mount.clones().reset(&name, Layers::Session)).unwrap();
    let mut found = vec![0; 8192];
    let file = open(&path);
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == disk(1)[..8192], "something was left");
    assert_ne!(file.metadata().unwrap().ino(), number);
    assert!(mount.clones().enter(number).map(|used: CloneUse| used.number()).is_none());
}

/// Names, sizes and what is no disk cannot be changed; nobody but root looks in.
#[test]
fn a_clone_is_a_disk_and_nothing_else() {
    let lab = Lab::new(true);
    let mount = Mount::new(&lab);
    let path = mount.make("pc-1");
    let file = open(&path);
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap());
    assert_eq!(errno(file.set_len(1).unwrap_err()), Errno::EINVAL);
    assert_eq!(errno(file.write_at(&[1; 512], DISK_BYTES as u64).unwrap_err()), Errno::ENOSPC);
    assert_eq!(errno(fs::remove_file(&path).unwrap_err()), Errno::EROFS);
    assert_eq!(errno(File::create(path.with_file_name("new")).unwrap_err()), Errno::EROFS);
    assert_eq!(File::open(path.with_file_name("disk.1.pc-9")).unwrap_err().kind(), ErrorKind::NotFound);
    // Else the folder above would keep them out.
    fs::set_permissions(lab.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut list = std::process::Command::new("setpriv");
    list.args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls"]).arg(path.parent().unwrap());
    let listed = list.output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stderr).contains("denied"), "{listed:?}");
}
