//! Bytes that were spoilt on the cache's disk and are mended while programs have the file open. Needs root and FUSE.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use icbd_fs::OpenHandles;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::lab::{Lab, both_ways, disk, pread};

/// Spoils a block of `disk@1` on the cache's disk, and has readers of the mount see that.
fn spoil(lab: &Lab, open: &File, offset: u64) {
    let backing = lab.folder.path().join("store/filling/disk/1/disk.raw");
    File::options().write(true).open(backing).unwrap().write_all_at(b"spoilt", offset).unwrap();
    posix_fadvise(open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    assert_eq!(pread(open, offset, 6).unwrap(), b"spoilt");
}

fn verify(lab: &Lab) -> usize {
    lab.runtime.block_on(lab.cache.verify(&"disk@1".parse().unwrap(), |_| {})).unwrap().bad.len()
}

fn wait_mended(open: &File, offset: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    while pread(open, offset, 6).unwrap() != disk(1)[offset as usize..][..6] {
        assert!(Instant::now() < until, "the handle goes on to read what was spoilt");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What was spoilt on the cache's disk, and found, is read right again by those who have the file open.
#[test]
fn open_files_see_what_was_mended() {
    both_ways(|lab| {
        let path = lab.path("disk/1/disk.raw");
        assert_eq!(std::fs::read(&path).unwrap(), disk(1));
        lab.flush();
        lab.until(|status| status.open == OpenHandles::default());
        // The first time past the daemon, where it can; a disk that spoilt something is not trusted with that again.
        for (at, offset) in [70_000, 5 << 20].into_iter().enumerate() {
            let open = File::open(&path).unwrap();
            let before = lab.mounted().status();
            assert_eq!(before.open.passthrough, u64::from(before.passthrough && at == 0), "{before:?}");
            spoil(lab, &open, offset);
            assert_eq!(verify(lab), 1);
            wait_mended(&open, offset);
            let mut all = vec![0; disk(1).len()];
            open.read_exact_at(&mut all, 0).unwrap();
            assert_eq!(all, disk(1));
            lab.flush();
            assert_eq!(verify(lab), 0);
            // Telling the kernel has not upset the count of handles.
            lab.until(|status| status.open == before.open);
            drop(open);
            lab.until(|status| status.open == OpenHandles::default());
        }
    });
}

/// Nobody waits for ever when bytes are mended that somebody is reading, and nobody keeps the spoilt ones.
#[test]
fn bytes_are_mended_under_readers() {
    both_ways(|lab| {
        let path = lab.path("disk/1/disk.raw");
        assert_eq!(std::fs::read(&path).unwrap(), disk(1));
        lab.flush();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let open = File::open(&path).unwrap();
                        posix_fadvise(&open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                        pread(&open, 60_000, 1 << 20).unwrap();
                    }
                });
            }
            let open = File::open(&path).unwrap();
            for round in 0..10u64 {
                let backing = lab.folder.path().join("store/filling/disk/1/disk.raw");
                let offset = 65_536 + round * 70_000;
                File::options().write(true).open(backing).unwrap().write_all_at(b"spoilt", offset).unwrap();
                assert_eq!(verify(lab), 1);
                wait_mended(&open, offset);
                lab.flush();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        lab.until(|status| status.open == OpenHandles::default());
        assert_eq!(std::fs::read(&path).unwrap(), disk(1));
    });
}
