//! Orders for what a boot reads: guessed before the first one, known after it.

use super::orders::{blocks, of, standing};
use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{OrderState, What};

/// A version that never booted here: kernel and initrd, small ones first, the disk's ends, and its file system's metadata.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_a_boot_begins_with_what_every_boot_begins_with() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let disk_blocks = 400u64;
    let mut disk = Vec::from(blocks(disk_blocks));
    // One partition from 4 MiB on, with an ext4 that keeps its inodes 8 MiB into it.
    disk[..512].fill(0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&8192u32.to_le_bytes());
    disk[458..462].copy_from_slice(&40_000u32.to_le_bytes());
    let start = 4 << 20;
    disk[start..start + 8192].fill(0);
    let mut put = |at: usize, value: &[u8]| disk[start + at..start + at + value.len()].copy_from_slice(value);
    put(1024 + 4, &5000u32.to_le_bytes());
    put(1024 + 24, &2u32.to_le_bytes());
    put(1024 + 32, &32_768u32.to_le_bytes());
    put(1024 + 40, &512u32.to_le_bytes());
    put(1024 + 56, &0xef53u16.to_le_bytes());
    put(1024 + 88, &256u16.to_le_bytes());
    for (at, block) in [(0, 40u32), (4, 41), (8, 2048)] {
        put(4096 + at, &block.to_le_bytes());
    }
    let files =
        [("disk.raw", disk.into()), ("initrd.img", blocks(3)), ("notes", blocks(2)), ("vmlinuz", content(&[9]))];
    let record = rig.publish(&files).await;
    let (id, status) = rig.order(of(&record, What::Boot)).await;
    assert!(status.note.unwrap().starts_with("no boot recorded yet: kernel, initrd"));
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    let version = rig.version(&record).await;
    for (name, is_here) in [("vmlinuz", true), ("initrd.img", true), ("notes", false)] {
        assert_eq!(rig.file(&record, name).await.is_complete(), is_here, "{name}");
    }
    let disk = rig.file(&record, "disk.raw").await;
    // 1 MiB at each end, the superblock, and at 4 MiB + 2048 * 4096 two blocks of inodes.
    for (blocks, is_here) in
        [(0..16, true), (384..400, true), (64..66, true), (192..194, true), (20..60, false), (200..380, false)]
    {
        assert!(blocks.clone().all(|block| disk.is_readable(block..block + 1) == is_here), "{blocks:?}");
    }
    assert!(status.total_bytes < 60 * BLOCK as u64 && !version.is_complete());
    rig.cache.close().await;
}

/// What boots of a version read is fetched of the next one before its first boot, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_order_fetches_what_boots_read() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", blocks(90))]).await;
    let (id, status) = rig.order(standing(What::Boot)).await;
    assert!(status.note.is_some(), "{status:?}");
    rig.cache.prefetch_cancel(id).await.unwrap();
    for (first, count) in [(40, 12), (3, 2), (70, 6)] {
        rig.file(&v1, "disk.raw").await.read(first * BLOCK as u64, count * BLOCK).await.unwrap();
    }
    rig.cache.close().await;
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
    rig.online().await;
    let new = content(&(1001..=1090).collect::<Vec<u64>>());
    let v2 = rig.publish(&[("disk.raw", new)]).await;
    rig.asked();
    let (id, status) = rig.order(of(&v2, What::Boot)).await;
    assert_eq!((status.note, status.total_bytes), (None, 20 * BLOCK as u64));
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    let mut asked: Vec<u64> =
        rig.asked().into_iter().flat_map(|(first, count)| first..first + u64::from(count)).collect();
    asked.sort_unstable();
    assert_eq!(asked, (3..5).chain(40..52).chain(70..76).collect::<Vec<u64>>());
    rig.cache.close().await;
}
