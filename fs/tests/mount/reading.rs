//! What readers may rely on. Needs root and FUSE.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::lab::{DISK_BYTES, both_ways, disk, handle, noise, pread};
use bytes::Bytes;
use icbd_fs::OpenHandles;

/// A read is never short except at the end of the file, wherever it begins and ends.
#[test]
fn reads_are_never_short() {
    both_ways(|lab| {
        let file = File::open(lab.path("disk/1/disk.raw")).unwrap();
        let expected = disk(1);
        for (offset, len) in [(0, 1), (65535, 2), (100_000, 1 << 20), ((2 << 20) - 7, 1 << 20), (5 << 20, 1 << 20)] {
            assert_eq!(pread(&file, offset, len).unwrap(), expected[offset as usize..][..len]);
        }
        let mut tail = Vec::new();
        assert_eq!(std::os::unix::fs::FileExt::read_at(&file, &mut [0; 100], DISK_BYTES as u64).unwrap(), 0);
        (&file).read_to_end(&mut tail).unwrap();
        assert_eq!(tail, expected);
    });
}

/// A complete file is read past the daemon, where the kernel can; how a file is read never mixes, and no open fails.
#[test]
fn no_open_fails_while_files_become_complete() {
    both_ways(|lab| {
        let files: Vec<(String, Bytes)> = (0..24).map(|at| (format!("f{at}"), noise(at, 1 << 20).into())).collect();
        let files = Arc::new(files);
        let listed: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let opens = Arc::new(AtomicU64::new(0));
        for round in 1..=3 {
            lab.source.publish("stress", &listed);
            lab.refresh();
            let folder = lab.path(&format!("stress/{round}"));
            stop.store(false, Ordering::Relaxed);
            let threads: Vec<_> = (0..6u64)
                .map(|thread| {
                    let (files, stop, folder, opens) = (files.clone(), stop.clone(), folder.clone(), opens.clone());
                    std::thread::spawn(move || {
                        let mut at = thread * 7919;
                        let mut held = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                            let (name, bytes) = &files[(at >> 33) as usize % files.len()];
                            let file = File::open(folder.join(name)).expect("no open fails");
                            let offset = (at >> 20) % (bytes.len() as u64 - 5000);
                            assert_eq!(pread(&file, offset, 5000).unwrap(), bytes[offset as usize..][..5000]);
                            opens.fetch_add(1, Ordering::Relaxed);
                            if at >> 60 == 0 {
                                held.push(file);
                                held.truncate(3);
                            }
                        }
                    })
                })
                .collect();
            for (name, bytes) in files.iter() {
                assert_eq!(std::fs::read(folder.join(name)).unwrap(), *bytes);
                lab.flush();
            }
            let until = opens.load(Ordering::Relaxed) + 2000;
            while opens.load(Ordering::Relaxed) < until && !threads.iter().any(|thread| thread.is_finished()) {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            // The first who opens it decides how it is read.
            lab.until(|status| status.open == OpenHandles::default());
            let held = File::open(folder.join("f0")).unwrap();
            let status = lab.mounted().status();
            assert_eq!(status.open.passthrough > 0, status.passthrough, "{status:?}");
            drop(held);
        }
        eprintln!("{} opens", opens.load(Ordering::Relaxed));
    });
}

/// A file keeps its handle (NFS): it opens after the kernel forgot everything, and names and numbers stay.
#[test]
fn handles_survive_what_the_kernel_forgets() {
    both_ways(|lab| {
        let paths =
            ["", "disk", "disk/current", "disk/1", "disk/1/disk.raw", "tree/1/etc/deep", "tree/1/etc/deep/block-again"];
        let handles = paths.map(|path| handle::handle_of(&lab.path(path)));
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        for (path, handle) in paths.iter().zip(&handles) {
            let expected = std::fs::symlink_metadata(lab.path(path)).unwrap().ino();
            let file = handle::open_handle(&lab.mount(), handle).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(nix::sys::stat::fstat(file.as_fd()).unwrap().st_ino, expected, "{path}");
        }
    });
}

/// Hundreds of readers that wait for blocks in one image delay neither a resident read nor a lookup in another.
#[test]
fn stuck_readers_delay_nobody_else() {
    both_ways(|lab| {
        let read = |path: &str| std::fs::read(lab.path(path)).unwrap();
        assert_eq!(read("tree/1/big"), noise((3 << 20) + 1, 3 << 20));
        lab.flush();
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        std::fs::metadata(lab.path("disk/2/disk.raw")).unwrap();
        let closed = lab.gate.close();
        let readers: Vec<_> = (0..200u64)
            .map(|at| {
                let path = lab.path("disk/2/disk.raw");
                let offset = at * 27_000 % (DISK_BYTES as u64 - 100);
                let offset = if (2 << 20..3 << 20).contains(&offset) { offset + (1 << 20) } else { offset };
                std::thread::spawn(move || (offset, pread(&File::open(path).unwrap(), offset, 100).unwrap()))
            })
            .collect();
        lab.until(|status| status.waiting >= 40);
        let started = Instant::now();
        assert_eq!(read("tree/1/big").len(), 3 << 20);
        assert!(std::fs::metadata(lab.path("tree/1/etc/deep/er")).is_ok());
        assert!(std::fs::symlink_metadata(lab.path("tree/1/no-such-name")).is_err());
        assert!(std::fs::read_dir(lab.path("tree/1/many")).unwrap().count() == 300);
        let took = started.elapsed();
        eprintln!("{} wait; a resident read and lookups took {took:?}", lab.mounted().status().waiting);
        assert!(took < Duration::from_secs(2), "{took:?}");
        drop(closed);
        let expected = disk(2);
        for reader in readers {
            let (offset, bytes) = reader.join().unwrap();
            assert_eq!(bytes, expected[offset as usize..][..100]);
        }
        lab.until(|status| status.waiting == 0);
    });
}

/// What a program maps is what it would read.
#[test]
fn a_mapped_file_is_the_file() {
    both_ways(|lab| {
        let file = File::open(lab.path("disk/1/disk.raw")).unwrap();
        // SAFETY: the file cannot change: nothing can write to a version.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        assert_eq!(map[..], disk(1)[..]);
    });
}
