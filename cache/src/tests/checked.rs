//! What lies on the disk from before: compared with the manifest at its first read.

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{ReadNow, StoreState, layout};

/// What the disk gives back otherwise than it was written is not read through the daemon: the first read after a start takes it
/// from a source.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_spoilt_silently_is_never_read() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    // One whose hashes are in the head, one whose are in pages.
    let files = [("kernel", content(&[1, 2, 3])), ("disk.raw", content(&(0..40).collect::<Vec<u64>>()))];
    let record = rig.publish(&files).await;
    let tree = layout::tree(&record.statement.statement().version());
    for (name, _) in &files {
        rig.file(&record, name).await.read(0, usize::MAX).await.unwrap();
    }
    rig.cache.flush().await;
    let disk = rig.disk.crash();
    disk.corrupt(&tree.join("kernel"), BLOCK + 7);
    disk.corrupt(&tree.join("disk.raw"), 21 * BLOCK);
    // Also where nothing but zeros should be.
    disk.corrupt(&tree.join("disk.raw"), 5);
    rig.restart_on(disk).await;
    rig.asked();

    let mut now = Vec::new();
    for (name, bytes) in &files {
        let file = rig.file(&record, name).await;
        file.version().prepare().await.unwrap();
        for offset in (0..bytes.len()).step_by(BLOCK / 2) {
            let wanted = &bytes[offset..offset + 512];
            if file.read_now(offset as u64, 512, &mut now) == ReadNow::Done {
                assert_eq!(now, wanted, "{name} at {offset}");
            }
            assert_eq!(file.read(offset as u64, 512).await.unwrap(), wanted, "{name} at {offset}");
        }
    }
    let fetched: Vec<u64> = rig.asked().into_iter().map(|(first, _)| first).collect();
    assert_eq!(fetched, [1, 21], "only what was spoilt is fetched, and zeros never are");
    assert!(matches!(rig.cache.status().store, StoreState::Suspect { .. }), "the disk is to blame");

    // From here on the page cache is believed, and without a source as well.
    rig.cache.flush().await;
    rig.offline();
    for (name, bytes) in &files {
        let file = rig.file(&record, name).await;
        assert_eq!(file.read_now(0, usize::MAX, &mut now), ReadNow::Done, "{name}");
        assert_eq!(&now[..], &bytes[..]);
    }
    rig.cache.close().await;
}

/// Without its page of hashes and without a source nothing can be compared: what is resident is read all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_resident_is_read_though_nothing_tells_whether_it_is_right() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(1..=40).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    let disk = rig.disk.crash();
    disk.lose(&layout::pages(record.statement.statement().root));
    rig.restart_on(disk).await;
    rig.offline();
    assert_eq!(rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap(), bytes);
    rig.cache.close().await;
}
