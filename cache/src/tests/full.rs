//! Full disks: what could not be kept is said for as long as it cannot.

use std::time::Duration;

use super::rig::{BLOCK, PATIENCE, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{Cache, StoreState};

fn is_full(cache: &Cache) -> bool {
    matches!(cache.status().store, StoreState::Full { .. })
}

async fn soon(what: &str, is_so: impl AsyncFn() -> bool) {
    let seen = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A store is called full from the first block that could not be kept until there is room, whatever small things find
/// a place meanwhile.
///
/// What had been written before the disk was full, and was synced after, had it called well.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_full_until_there_is_room() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("disk.raw", content(&(1..=40).collect::<Vec<u64>>()))]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.version().prepare().await.unwrap();
    rig.disk.set_faults(|faults| faults.held_syncs = true);
    file.read(BLOCK as u64, 4 * BLOCK).await.unwrap();
    soon("they are written", async || file.resident_bytes() >= 4 * BLOCK as u64).await;
    rig.disk.set_faults(|faults| faults.no_room = true);
    file.read(20 * BLOCK as u64, BLOCK).await.unwrap();
    soon("a block has no room", async || is_full(&rig.cache)).await;
    let before = file.resident_bytes();
    rig.disk.set_faults(|faults| faults.held_syncs = false);
    rig.cache.flush().await;
    assert_eq!(file.resident_bytes(), before, "what was written before is kept");
    assert!(is_full(&rig.cache), "an older block that is durable now is no room for another");
    // A block finds a gap, and there is no other beside it.
    rig.disk.set_faults(|faults| (faults.no_room, faults.free_bytes) = (false, Some(BLOCK as u64)));
    let keep = async || {
        file.read(20 * BLOCK as u64, 4 * BLOCK).await.unwrap();
        rig.cache.flush().await;
        file.resident_bytes() > before
    };
    soon("a block is kept", keep).await;
    assert!(is_full(&rig.cache), "a gap is no room");
    // Nobody reads: the store itself finds out.
    rig.disk.set_faults(|faults| faults.free_bytes = None);
    soon("there is room", async || rig.cache.status().store == StoreState::Ok).await;
    rig.cache.close().await;
}

/// A suspect store that is full is called full, and suspect again when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_store_that_is_full_says_both() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("disk.raw", content(&(1..=40).collect::<Vec<u64>>()))]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.version().prepare().await.unwrap();
    rig.disk.set_faults(|faults| faults.failing_syncs = 1);
    file.read(0, BLOCK).await.unwrap();
    rig.cache.flush().await;
    assert!(matches!(rig.cache.status().store, StoreState::Suspect { .. }));
    rig.disk.set_faults(|faults| faults.no_room = true);
    file.read(20 * BLOCK as u64, BLOCK).await.unwrap();
    rig.cache.flush().await;
    let StoreState::Full { why } = rig.cache.status().store else { panic!("{:?}", rig.cache.status().store) };
    assert!(why.contains("free space") && why.contains("a sync failed"), "{why}");
    rig.disk.set_faults(|faults| faults.no_room = false);
    soon("there is room", async || matches!(rig.cache.status().store, StoreState::Suspect { .. })).await;
    rig.cache.close().await;
}
