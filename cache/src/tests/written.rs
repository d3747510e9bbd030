//! Reading what was written to a clone, while others may write.

use std::sync::Arc;

use bytes::Bytes;

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{CacheError, CloneDisk, CloneName, CloneUse, Fate, WrittenPart};

const DISK: &str = "disk.raw";

async fn open(rig: &Rig, below: &[u8]) -> CloneUse {
    let version = rig.publish(&[(DISK, Bytes::copy_from_slice(below))]).await;
    let file = rig.file(&version, DISK).await;
    let name = CloneName { version: version.statement.statement().version(), client: "pc-1".parse().unwrap() };
    let disk = rig.cache.clones().prepare(&name, &file, DISK).await.unwrap();
    rig.cache.clones().enter(disk.number()).unwrap()
}

async fn all(disk: &Arc<CloneDisk>, bytes_max: usize) -> Result<Vec<WrittenPart>, CacheError> {
    let mut written = disk.written().await?;
    let mut parts = Vec::new();
    while let Some(part) = written.next(bytes_max)? {
        parts.push(part);
    }
    let bytes: u64 = parts.iter().map(|part| part.range.end - part.range.start).sum();
    assert_eq!(bytes, written.bytes(), "what was announced is not what came");
    Ok(parts)
}

/// What was written, and nothing else, makes of the version what the disk is, whatever the size of the pieces.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_makes_the_disk_of_the_version() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    // It does not end with a whole piece.
    let below = content(&[1, 2, 3, 4])[..4 * BLOCK - 1000].to_vec();
    let disk = open(&rig, &below).await;
    assert_eq!(all(&disk, 1 << 20).await.unwrap(), []);
    let end = below.len() as u64;
    for (offset, len) in [(0, 512), (4096, 4096), (70_000, 9000), (end - 100, 100), (150_000, 512)] {
        disk.write(offset, Bytes::from(vec![7; len])).await.unwrap();
    }
    disk.write(8192, Bytes::from(vec![0; 4096])).await.unwrap();
    disk.discard(200_000..230_000).await.unwrap();
    let now = disk.read(0, below.len()).await.unwrap();
    for bytes_max in [1, 4096, 10_000, 1 << 20] {
        let (mut made, mut at) = (below.clone(), 0);
        for WrittenPart { range, bytes } in all(&disk, bytes_max).await.unwrap() {
            assert!(range.start >= at && range.start < range.end && range.end <= end, "{range:?} after {at}");
            at = range.end;
            let place = &mut made[range.start as usize..range.end as usize];
            match bytes {
                Some(bytes) => place.copy_from_slice(&bytes),
                None => place.fill(0),
            }
        }
        assert!(made == now, "other bytes with pieces of {bytes_max}");
    }
    let zeros = all(&disk, 1 << 20).await.unwrap().into_iter().filter(|part| part.bytes.is_none());
    assert!(zeros.map(|part| part.range.end - part.range.start).sum::<u64>() > 24_000, "zeros are sent as bytes");
}

/// Who writes to a clone while what it wrote is read has the reading end: what comes to an end is the disk as it was at one
/// moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_the_disk_at_one_moment() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let disk = open(&rig, &content(&[1, 2, 3])).await;
    for piece in 0..8u64 {
        disk.write(piece * 8192, Bytes::from(vec![7; 4096])).await.unwrap();
    }
    // Before the first part, after some, and after the last: in a place that was read already, too.
    for parts_before in 0..=8 {
        let mut written = disk.written().await.unwrap();
        for _ in 0..parts_before {
            written.next(4096).unwrap().unwrap();
        }
        disk.write(0, Bytes::from(vec![8; 4096])).await.unwrap();
        let refused = written.next(4096).unwrap_err();
        assert!(refused.to_string().contains("began to write to lab.1.pc-1"), "{refused}");
    }
    let mut written = disk.written().await.unwrap();
    disk.discard(0..4096).await.unwrap();
    written.next(4096).unwrap_err();
    // Also if everybody has gone meanwhile: what is read stays open.
    let mut written = disk.written().await.unwrap();
    written.next(4096).unwrap().unwrap();
    let (number, name) = (disk.number(), disk.name().clone());
    drop(disk);
    rig.cache.clones().closed(&rig.cache.clones().get(&name).unwrap()).await;
    let again = rig.cache.clones().enter(number).unwrap();
    again.write(0, Bytes::from(vec![9; 4096])).await.unwrap();
    written.next(4096).unwrap_err();
}

/// What a clone is for outlives the daemon; an older icbd finds it kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_clone_is_remembered() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let disk = open(&rig, &content(&[1, 2])).await;
    let name = disk.name().clone();
    drop(disk);
    for fate in [Fate::Edited, Fate::Kept, Fate::Reset] {
        rig.cache.clones().set_fate(&name, fate).await.unwrap();
        rig.restart_on(rig.disk.clone()).await;
        let found = rig.cache.clones().get(&name).unwrap();
        assert_eq!((found.fate(), found.is_kept()), (fate, fate != Fate::Reset));
    }
}
