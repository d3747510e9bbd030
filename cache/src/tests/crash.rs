//! Power cuts at every sync point: never a wrong byte, and what was called durable is still there.

use bytes::Bytes;
use icbd_image::VersionRecord;

use super::rig::{BLOCK, Rig, block_of, content};
use crate::disk::memory::MemoryDisk;

/// v2, and v3 with unchanged, changed and new blocks, a third of the changed ones having become zero.
fn contents() -> [Vec<(&'static str, Bytes)>; 2] {
    let v2: Vec<u64> = (0..40).map(|block| if block % 7 == 3 { 0 } else { 100 + block }).collect();
    let v3: Vec<u64> = (0..44)
        .map(|block| match block % 4 {
            _ if block >= 40 => 900 + block,
            0 | 1 => v2[block as usize],
            _ if block % 3 == 0 => 0,
            _ => 500 + block,
        })
        .collect();
    let small = |seed| content(&[seed, 0, seed + 1]);
    [
        vec![("disk.raw", content(&v2)), ("small", small(1)), ("same", content(&[7; 5])), ("empty", Bytes::new())],
        vec![("disk.raw", content(&v3)), ("small", small(2)), ("same", content(&[7; 5])), ("new", content(&[8]))],
    ]
}

/// Everything a reader sees must be right; an error is none when nobody can give the block.
async fn check(rig: &Rig, record: &VersionRecord, files: &[(&str, Bytes)], durable: &[Vec<bool>], must_succeed: bool) {
    let mut now = Vec::new();
    for ((name, bytes), durable) in files.iter().zip(durable) {
        let file = rig.file(record, name).await;
        for (block, durable) in (0..).zip(durable) {
            let expected = block_of(bytes, block);
            let read = file.read(block * BLOCK as u64, BLOCK).await;
            match &read {
                Ok(read) => assert!(*read == expected, "wrong bytes in block {block} of {name}"),
                Err(error) => assert!(!must_succeed && !durable, "block {block} of {name} is lost: {error}"),
            }
            if file.read_now(block * BLOCK as u64, BLOCK, &mut now) == crate::ReadNow::Done {
                assert!(now == expected, "wrong bytes at once in block {block} of {name}");
            }
        }
    }
}

/// Which blocks the cache calls durable.
async fn durable(rig: &Rig, record: &VersionRecord, files: &[(&str, Bytes)]) -> Vec<Vec<bool>> {
    let version = rig.version(record).await;
    let mut all = Vec::new();
    for (name, bytes) in files {
        let index = version.head().resolve(name.as_bytes()).unwrap();
        let is_durable =
            |block| version.filling().is_some_and(|filling| filling.resident.is_durable(index, block..block + 1));
        all.push((0..(bytes.len().div_ceil(BLOCK)) as u64).map(is_durable).collect());
    }
    all
}

/// Fills v2, starts v3 from it and fills that, with the power going after `syncs_left` syncs; whether it went.
async fn run(seed: u64, syncs_left: u64, reflink: bool) -> bool {
    let disk = MemoryDisk::new(seed);
    disk.set_faults(|faults| (faults.no_reflink, faults.syncs_left) = (!reflink, Some(syncs_left)));
    let mut rig = Rig::new(disk).await;
    let files = contents();
    let mut records = Vec::new();
    for (round, files) in files.iter().enumerate() {
        records.push(rig.publish(files).await);
        for part in 0..3u64 {
            for (name, bytes) in files {
                let file = rig.file(&records[round], name).await;
                for block in (0..bytes.len().div_ceil(BLOCK) as u64).filter(|block| (block + seed) % 4 == part) {
                    // The power is gone for the disk only: readers are served from the master.
                    let read = file.read(block * BLOCK as u64, BLOCK).await.unwrap();
                    assert!(read == block_of(bytes, block), "wrong bytes in block {block} of {name}");
                }
            }
            rig.cache.flush().await;
        }
    }
    let gone = rig.disk.faults().syncs_left == Some(0);
    let mut before = Vec::new();
    for (record, files) in records.iter().zip(&files) {
        before.push(durable(&rig, record, files).await);
    }
    let held: usize = before.iter().flatten().flatten().filter(|durable| **durable).count();
    assert!(gone || held > 50, "only {held} blocks became durable");
    let crashed = rig.disk.crash();
    rig.restart_on(crashed).await;
    rig.offline();
    for ((record, files), before) in records.iter().zip(&files).zip(&before) {
        // A version of which nothing was durable may have lost its head.
        if before.iter().flatten().any(|durable| *durable) {
            check(&rig, record, files, before, false).await;
        }
    }
    rig.online().await;
    for ((record, files), before) in records.iter().zip(&files).zip(&before) {
        check(&rig, record, files, before, true).await;
        rig.cache.flush().await;
        assert!(rig.version(record).await.is_complete());
    }
    rig.cache.close().await;
    gone
}

/// The power goes at every sync of filling a version and the next one that starts from it, with and
/// without reflinks: after the restart no byte is wrong, and no durable block is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_sync_costs_no_durable_block_and_gives_no_wrong_byte() {
    for reflink in [true, false] {
        let mut points = 0;
        for syncs_left in 0.. {
            let mut gone = false;
            for seed in 1..=2 {
                gone |= run(seed + 10 * syncs_left, syncs_left, reflink).await;
            }
            if !gone {
                break;
            }
            points = syncs_left;
        }
        assert!(points > 10, "only {points} sync points");
    }
}

/// A manifest that was written and not synced yet was forgotten by the failed sync of another version's tree, while
/// its own blocks became durable: after a power cut nobody could read them without a master.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_costs_no_manifest() {
    for seed in 0..10 {
        let mut rig = Rig::new(MemoryDisk::new(seed)).await;
        let bytes = content(&[5, 6, 7]);
        let other = rig.publish(&[("disk.raw", content(&[1]))]).await;
        let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
        rig.version(&record).await;
        rig.disk.set_faults(|faults| faults.failing_syncs = 1);
        rig.file(&other, "disk.raw").await.read(0, 1).await.unwrap();
        assert_eq!(rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap(), bytes);
        rig.cache.flush().await;
        assert!(rig.version(&record).await.is_complete());
        let disk = rig.disk.crash();
        rig.restart_on(disk).await;
        rig.offline();
        assert_eq!(rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap(), bytes);
        rig.cache.close().await;
    }
}
