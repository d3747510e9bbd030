//! Files that somebody takes out of the store by hand: noticed, made anew, fetched again, and no hole is read as data.

use std::path::PathBuf;

use bytes::Bytes;
use icbd_image::VersionRecord;

use super::rig::{BLOCK, PATIENCE, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{Order, OrderState, StoreState, What, layout};

const BLOCKS: u64 = 24;

/// What somebody does to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Delete,
    Cut,
    DeleteTree,
    DeleteBitmap,
    DeleteImage,
}

const DEEDS: [Deed; 5] = [Deed::Delete, Deed::Cut, Deed::DeleteTree, Deed::DeleteBitmap, Deed::DeleteImage];

impl Deed {
    fn is_done_to(self, rig: &Rig, record: &VersionRecord) {
        let id = record.statement.statement().version();
        let file: PathBuf = layout::tree(&id).join("disk.raw");
        match self {
            Deed::Delete => rig.disk.lose(&file),
            Deed::Cut => rig.disk.cut(&file, 3 * BLOCK),
            Deed::DeleteTree => rig.disk.lose(&layout::tree(&id)),
            Deed::DeleteBitmap => rig.disk.lose(&layout::bitmap(&id)),
            Deed::DeleteImage => rig.disk.lose(&layout::image(&id.image)),
        }
    }
}

fn disk_content() -> Bytes {
    content(&(0..BLOCKS).map(|block| if block % 6 == 5 { 0 } else { block + 1 }).collect::<Vec<u64>>())
}

/// A version of two files, all of it here.
async fn filled(rig: &Rig) -> VersionRecord {
    let record = rig.publish(&[("disk.raw", disk_content()), ("kernel", content(&[70, 71]))]).await;
    for name in ["disk.raw", "kernel"] {
        rig.file(&record, name).await.read(0, usize::MAX).await.unwrap();
    }
    rig.cache.flush().await;
    assert!(rig.version(&record).await.is_complete());
    rig.asked();
    record
}

async fn order_all(rig: &Rig, record: &VersionRecord) {
    let order = Order::of_version(&record.statement.statement().version(), What::All);
    let id = rig.cache.prefetch_add(order).await.unwrap();
    let status = tokio::time::timeout(PATIENCE, rig.cache.prefetch_wait(id)).await.expect("the order ends").unwrap();
    assert_eq!(status.state, OrderState::Done);
}

async fn check_whole(rig: &Rig, record: &VersionRecord, why: &str) {
    let id = record.statement.statement().version();
    assert!(rig.version(record).await.is_complete(), "{why}");
    assert_eq!(rig.file(record, "disk.raw").await.read(0, usize::MAX).await.unwrap(), disk_content(), "{why}");
    let status = rig.cache.status();
    assert_eq!((status.store, status.warnings), (StoreState::Ok, Vec::new()), "{why}");
    assert!(rig.cache.verify(&id, |_| {}).await.unwrap().bad.is_empty(), "{why}");
    let state = rig.disk_file(&layout::tree(&id).join("disk.raw"));
    assert_eq!(state, disk_content(), "{why}: what is in the store under its name");
}

impl Rig {
    fn disk_file(&self, path: &std::path::Path) -> Bytes {
        use crate::disk::{Disk, Missing, Wait};
        let file = self.disk.open(path, Missing::Fail).unwrap();
        let mut bytes = vec![0; file.state().unwrap().bytes as usize];
        file.read(0, &mut bytes, Wait::Yes).unwrap();
        bytes.into()
    }
}

/// A file, a tree or a bitmap that is taken out of the store by hand is made anew, by the next order at the latest, and
/// each block is fetched again once; a power cut afterwards takes nothing back.
///
/// An order on such a version fetched without end, and the store stayed suspect.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_mends_what_was_taken_out_of_the_store() {
    for deed in DEEDS {
        for is_stopped in [false, true] {
            let why = format!("{deed:?} {is_stopped}");
            let mut rig = Rig::new(MemoryDisk::new(1)).await;
            let record = filled(&rig).await;
            deed.is_done_to(&rig, &record);
            if is_stopped {
                let disk = rig.disk.clone();
                rig.restart_on(disk).await;
            }
            order_all(&rig, &record).await;
            let asked: u64 = rig.asked().iter().map(|(_, count)| u64::from(*count)).sum();
            let most = if matches!(deed, Deed::Delete | Deed::Cut) { 20 } else { 22 };
            assert!(asked <= most, "{why}: {asked} blocks were asked for");
            assert!(asked == most || deed == Deed::DeleteBitmap, "{why}: {asked}");
            // A bitmap is written anew with the next bits.
            check_whole(&rig, &record, &why).await;
            let disk = rig.disk.crash();
            rig.restart_on(disk).await;
            if deed != Deed::DeleteBitmap || is_stopped {
                rig.offline();
            }
            let file = rig.file(&record, "disk.raw").await;
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{why}");
            drop(file);
            rig.cache.close().await;
        }
    }
}

/// Readers get what was published whatever was done to the store, and what they read is kept again.
#[tokio::test(flavor = "multi_thread")]
async fn no_hole_of_a_file_that_was_taken_away_is_read_as_data() {
    for deed in DEEDS {
        for is_stopped in [false, true] {
            let why = format!("{deed:?} {is_stopped}");
            let mut rig = Rig::new(MemoryDisk::new(1)).await;
            let record = rig.publish(&[("disk.raw", disk_content()), ("kernel", content(&[70, 71]))]).await;
            let file = rig.file(&record, "disk.raw").await;
            file.read(0, 12 * BLOCK).await.unwrap();
            rig.cache.flush().await;
            deed.is_done_to(&rig, &record);
            let file = if is_stopped {
                drop(file);
                let disk = rig.disk.clone();
                rig.restart_on(disk).await;
                rig.file(&record, "disk.raw").await
            } else {
                file
            };
            // What is written now would make a file that was cut short long again.
            file.read(20 * BLOCK as u64, BLOCK).await.unwrap();
            rig.cache.flush().await;
            let mut now = Vec::new();
            let _ = file.read_now(0, 12 * BLOCK, &mut now);
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{why}");
            rig.cache.flush().await;
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{why}");
            assert_eq!(rig.cache.status().store, StoreState::Ok, "{why}");
            drop(file);
            order_all(&rig, &record).await;
            check_whole(&rig, &record, &why).await;
            rig.cache.close().await;
        }
    }
}

/// What is on its way to a file when that is deleted is not called durable.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_in_a_deleted_file_are_not_called_durable() {
    for deed in [Deed::Delete, Deed::Cut, Deed::DeleteTree] {
        let mut rig = Rig::new(MemoryDisk::new(1)).await;
        let record = rig.publish(&[("disk.raw", disk_content())]).await;
        let file = rig.file(&record, "disk.raw").await;
        file.version().prepare().await.unwrap();
        rig.disk.set_faults(|faults| faults.held_syncs = true);
        file.read(6 * BLOCK as u64, 4 * BLOCK).await.unwrap();
        while file.resident_bytes() < 4 * BLOCK as u64 {
            tokio::task::yield_now().await;
        }
        deed.is_done_to(&rig, &record);
        rig.disk.set_faults(|faults| faults.held_syncs = false);
        rig.cache.flush().await;
        drop(file);
        let disk = rig.disk.crash();
        rig.restart_on(disk).await;
        let file = rig.file(&record, "disk.raw").await;
        assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{deed:?}");
        drop(file);
        rig.cache.close().await;
    }
}

/// A power cut at any moment of the mending leaves no hole that is called data.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_a_file_is_made_anew() {
    for deed in DEEDS {
        for syncs in 0..9 {
            let mut rig = Rig::new(MemoryDisk::new(syncs)).await;
            let record = filled(&rig).await;
            deed.is_done_to(&rig, &record);
            rig.disk.set_faults(|faults| faults.syncs_left = Some(syncs));
            let file = rig.file(&record, "disk.raw").await;
            let _ = file.version().see_to_files([file.index()].into_iter());
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{deed:?} {syncs}");
            rig.cache.flush().await;
            drop(file);
            let disk = rig.disk.crash();
            rig.restart_on(disk).await;
            let file = rig.file(&record, "disk.raw").await;
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{deed:?} {syncs}, after a restart");
            drop(file);
            rig.cache.close().await;
        }
    }
}

/// A version that takes blocks from one whose file was taken away fetches them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_taken_away_gives_nothing_to_the_next_version() {
    for deed in DEEDS {
        for no_reflink in [false, true] {
            let rig = Rig::new(MemoryDisk::new(1)).await;
            rig.disk.set_faults(|faults| faults.no_reflink = no_reflink);
            let record = filled(&rig).await;
            deed.is_done_to(&rig, &record);
            let next = rig.publish(&[("disk.raw", disk_content()), ("kernel", content(&[70, 72]))]).await;
            let file = rig.file(&next, "disk.raw").await;
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), disk_content(), "{deed:?} {no_reflink}");
            rig.cache.flush().await;
            assert_eq!(rig.cache.status().store, StoreState::Ok, "{deed:?} {no_reflink}");
            assert!(file.is_complete(), "{deed:?} {no_reflink}");
            rig.cache.close().await;
        }
    }
}
