//! Blocks of zeros: never fetched, resident once their hashes are known, and never what else was in their place.

use std::io;

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{ReadNow, layout};

/// A file whose zero blocks were only ever answered from its hashes becomes complete all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_read_is_complete_whoever_answered_its_zeros() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let seeds: Vec<u64> = (0..24).map(|block| if block % 3 == 0 { 0 } else { block }).collect();
    let record = rig.publish(&[("disk.raw", content(&seeds))]).await;
    let file = rig.file(&record, "disk.raw").await;
    // Its hashes are in memory before its tree is there: nothing can be marked then.
    file.version().page(file.index(), 0).await.unwrap();
    let mut now = Vec::new();
    for (block, seed) in (0..).zip(&seeds) {
        let offset = block * BLOCK as u64;
        match seed {
            0 => assert_eq!(file.read_now(offset, 512, &mut now), ReadNow::Done),
            _ => drop(file.read(offset, 512).await.unwrap()),
        }
    }
    rig.cache.flush().await;
    assert!(file.is_complete(), "{} of {} bytes", file.resident_bytes(), file.size());
    rig.cache.close().await;
}

/// What a zero block's place held before, and could not be punched when it was found spoilt, is never read.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_the_place_of_zeros_is_gone_before_they_count_as_resident() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(0..20).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let id = record.statement.statement().version();
    let file = rig.file(&record, "disk.raw").await;
    file.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    rig.disk.corrupt(&layout::tree(&id).join("disk.raw"), 5);
    rig.disk.set_faults(|faults| faults.writes = Some(io::ErrorKind::Other));
    assert_eq!(rig.cache.verify(&id, |_| {}).await.unwrap().bad.len(), 1);
    rig.disk.set_faults(|faults| faults.writes = None);
    for _ in 0..2 {
        assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
        rig.cache.flush().await;
    }
    assert!(rig.cache.verify(&id, |_| {}).await.unwrap().bad.is_empty());
    assert!(file.is_complete());
    drop(file);
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    rig.offline();
    assert_eq!(rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap(), bytes);
    rig.cache.close().await;
}
