//! Making room in a version that is needed: what a scan left goes, what boots read stays, and no byte is ever wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use icbd_image::{Observation, Origin, Profile, SiteId, Timestamp, Touch, VersionRecord};

use super::rig::{BLOCK, Rig, block_of, content};
use crate::disk::memory::MemoryDisk;
use crate::file::SEGMENT_BLOCKS;
use crate::{Order, Pin, ReadNow, What};

/// Two segments and a bit, every seventh block zeros.
const BLOCKS: u64 = 2 * SEGMENT_BLOCKS + 20;
/// What boots read; the second run lies across a border.
const BOOT: [(u64, u32); 3] = [(3, 2), (SEGMENT_BLOCKS - 4, 9), (BLOCKS - 9, 3)];

fn disk() -> Bytes {
    content(&(0..BLOCKS).map(|block| if block % 7 == 6 { 0 } else { 1 + block }).collect::<Vec<u64>>())
}

fn is_boot(block: u64) -> bool {
    BOOT.iter().any(|(first, count)| (*first..first + u64::from(*count)).contains(&block))
}

/// A version of which all is here but its kernel, read so long ago that nobody knows when, and the boots of which are known.
async fn scanned(seed: u64) -> (Rig, VersionRecord) {
    let mut rig = Rig::new(MemoryDisk::new(seed)).await;
    let record = rig.publish(&[("disk.raw", disk()), ("kernel", content(&[1]))]).await;
    let file = rig.file(&record, "disk.raw").await;
    let touches = BOOT.map(|(first, count)| Touch { after_ms: 0, file: file.index(), first, count });
    let mut profile = Profile::new(record.root());
    profile.insert(Observation::new(SiteId::from_bytes([7; 16]), 1_790_000_000, Origin::Own, touches));
    rig.cache.import_profile(profile).await.unwrap();
    // Not by reading it: what the first fill reads is taken for a boot.
    let order = Order::of_version(&record.statement.statement().version(), What::File("disk.raw".to_owned()));
    let order = rig.cache.prefetch_add(order).await.unwrap();
    rig.cache.prefetch_wait(order).await.unwrap();
    drop(file);
    rig.cache.flush().await;
    rig.cache.close().await;
    let same = rig.disk.clone();
    rig.restart_on(same).await;
    (rig, record)
}

/// Which blocks can be read with no master, each of them compared.
async fn here(rig: &Rig, record: &VersionRecord) -> Vec<u64> {
    rig.offline();
    let file = rig.file(record, "disk.raw").await;
    let mut here = Vec::new();
    for block in 0..BLOCKS {
        if let Ok(read) = file.read(block * BLOCK as u64, BLOCK).await {
            assert!(read == block_of(&disk(), block), "wrong bytes in block {block}");
            here.push(block);
        }
    }
    rig.online().await;
    here
}

fn expected(stays: impl Fn(u64) -> bool) -> Vec<u64> {
    (0..BLOCKS).filter(|block| block % 7 == 6 || is_boot(*block) || stays(*block)).collect()
}

/// Of a version that is needed, what boots read stays when room is made, and so does what was read just now; the rest goes,
/// also from the disk.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_boot_reads_goes_first() {
    let (mut rig, record) = scanned(1).await;
    rig.file(&record, "disk.raw").await.read(SEGMENT_BLOCKS * BLOCK as u64, 1).await.unwrap();
    rig.cache.thin(u64::MAX).await.unwrap();
    let is_hot = |block: u64| block / SEGMENT_BLOCKS == 1;
    assert_eq!(here(&rig, &record).await, expected(is_hot));
    let crashed = rig.disk.crash();
    rig.restart_on(crashed).await;
    assert_eq!(here(&rig, &record).await, expected(is_hot), "after a power cut");
    rig.cache.close().await;
}

/// Nothing goes of a version that is pinned, or complete, or while there is room enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wants_whole_stays_whole() {
    let (rig, record) = scanned(1).await;
    let all: Vec<u64> = (0..BLOCKS).collect();
    rig.cache.thin(0).await.unwrap();
    assert_eq!(here(&rig, &record).await, all, "there was room");
    let id = record.statement.statement().version();
    let pin = Pin { by: "anna".to_owned(), since: Timestamp { seconds: 10, nanoseconds: 0 }, until: None };
    rig.cache.pin(&id, pin).await.unwrap();
    rig.cache.thin(u64::MAX).await.unwrap();
    assert_eq!(here(&rig, &record).await, all, "it was pinned");
    rig.cache.unpin(&id).await.unwrap();
    rig.file(&record, "kernel").await.read(0, BLOCK).await.unwrap();
    rig.cache.flush().await;
    rig.cache.thin(u64::MAX).await.unwrap();
    assert!(rig.version(&record).await.is_complete(), "it was complete");
    rig.cache.close().await;
}

/// The power goes at every sync of making room in a version: what is left reads right, and what boots read is all there.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_a_version_is_thinned_costs_no_boot_block() {
    for syncs_left in 0.. {
        assert!(syncs_left < 100, "it never ends");
        let (mut rig, record) = scanned(syncs_left + 1).await;
        rig.disk.set_faults(|faults| faults.syncs_left = Some(syncs_left));
        let went = rig.cache.thin(u64::MAX).await;
        let gone = rig.disk.faults().syncs_left == Some(0);
        let crashed = rig.disk.crash();
        rig.restart_on(crashed).await;
        let here = here(&rig, &record).await;
        assert!(expected(|_| false).iter().all(|block| here.contains(block)), "boots lost something: {here:?}");
        rig.cache.close().await;
        if !gone {
            went.unwrap();
            assert!(syncs_left >= 3, "only {syncs_left} sync points");
            break;
        }
    }
}

/// Readers of a version that is thinned again and again never see a wrong byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_a_thinned_version_notice_nothing() {
    let (rig, record) = scanned(1).await;
    let file = rig.file(&record, "disk.raw").await;
    let (stop, done, right) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(disk()));
    let readers: Vec<_> = (0..3u64)
        .map(|reader| {
            let (file, stop, done, right) = (file.clone(), stop.clone(), done.clone(), right.clone());
            tokio::spawn(async move {
                let (mut dice, mut now) = (reader + 1, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let block = (dice >> 33) % BLOCKS;
                    let (at, expected) = (block * BLOCK as u64, block_of(&right, block));
                    if file.read_now(at, BLOCK, &mut now) == ReadNow::Done {
                        assert!(now == expected, "wrong bytes at once in block {block}");
                    }
                    assert!(file.read(at, BLOCK).await.unwrap() == expected, "wrong bytes in block {block}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let everything = || [(0..SEGMENT_BLOCKS), (SEGMENT_BLOCKS..2 * SEGMENT_BLOCKS)];
    for round in 0..10 {
        // As hot as it is, `Cache::thin` would leave it.
        let (file, [first, second]) = (file.clone(), everything());
        tokio::task::spawn_blocking(move || file.let_runs_go(&[first], &[second])).await.unwrap().unwrap();
        while done.load(Ordering::Relaxed) < 100 * (round + 1) {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    rig.cache.close().await;
}
