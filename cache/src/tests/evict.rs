//! Making room: what may go goes, what is needed stays, and nobody ever reads a wrong byte for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use icbd_image::{Serial, Timestamp, VersionId, VersionRecord};

use super::rig::{BLOCK, Rig, block_of, content};
use crate::disk::memory::MemoryDisk;
use crate::{CacheError, Order, Pin, Quota, ReadNow, Stay, What};

const BLOCKS: u64 = 24;

/// The disk of version `number`: a third as in all others, a sixth zeros.
fn disk(number: u64) -> Bytes {
    let seed = |block: u64| match block % 6 {
        5 => 0,
        0 | 3 => 900 + block,
        _ => number * 1000 + block,
    };
    content(&(0..BLOCKS).map(seed).collect::<Vec<u64>>())
}

fn id(record: &VersionRecord) -> VersionId {
    record.statement.statement().version()
}

fn nobody() -> BTreeMap<Serial, u64> {
    BTreeMap::new()
}

/// Version `number`, all of it here.
async fn filled(rig: &Rig, number: u64) -> VersionRecord {
    let record = rig.publish(&[("disk.raw", disk(number)), ("kernel", content(&[number]))]).await;
    for name in ["disk.raw", "kernel"] {
        rig.file(&record, name).await.read(0, usize::MAX).await.unwrap();
    }
    rig.cache.flush().await;
    assert!(rig.version(&record).await.is_complete());
    record
}

fn resident(rig: &Rig, record: &VersionRecord) -> u64 {
    let held = rig.cache.holdings(&nobody()).into_iter().find(|held| held.version == id(record));
    held.map_or(0, |held| held.resident_bytes)
}

async fn check_reads(rig: &Rig, record: &VersionRecord, number: u64) {
    let file = rig.file(record, "disk.raw").await;
    let mut now = Vec::new();
    for block in 0..BLOCKS {
        let (at, expected) = (block * BLOCK as u64, block_of(&disk(number), block));
        if file.read_now(at, BLOCK, &mut now) == ReadNow::Done {
            assert!(now == expected, "wrong bytes at once in block {block}");
        }
        assert!(file.read(at, BLOCK).await.unwrap() == expected, "wrong bytes in block {block}");
    }
}

/// What is let go of is gone from the store, also after a restart, and is fetched again when it is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_is_fetched_again() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let (old, new) = (filled(&rig, 1).await, filled(&rig, 2).await);
    rig.cache.let_go(&id(&old), &nobody()).await.unwrap();
    assert_eq!(resident(&rig, &old), 0);
    assert!(rig.version(&new).await.is_complete(), "another version lost something");
    let crashed = rig.disk.crash();
    rig.restart_on(crashed).await;
    rig.offline();
    check_reads(&rig, &new, 2).await;
    rig.online().await;
    assert_eq!(resident(&rig, &old), 0);
    check_reads(&rig, &old, 1).await;
    rig.cache.flush().await;
    assert!(rig.version(&old).await.file(rig.file(&old, "disk.raw").await.index()).unwrap().is_complete());
    rig.cache.close().await;
}

/// What is meant by a bare name, pinned, open or being fetched stays, and the refusal says which of these it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_stays() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let (first, second, third) = (filled(&rig, 1).await, filled(&rig, 2).await, filled(&rig, 3).await);
    rig.cache.roll_back(&id(&first).image, Some(id(&first).number), "anna").await.unwrap();
    let pin = Pin { by: "bert".to_owned(), since: Timestamp { seconds: 10, nanoseconds: 0 }, until: None };
    rig.cache.pin(&id(&second), pin.clone()).await.unwrap();
    let open = BTreeMap::from([(third.serial(), 2)]);
    let stays = |rig: &Rig, record: &VersionRecord, in_use: &BTreeMap<Serial, u64>| {
        rig.cache.holdings(in_use).into_iter().find(|held| held.version == id(record)).and_then(|held| held.stays)
    };
    assert_eq!(stays(&rig, &first, &open), Some(Stay::Deployed));
    assert_eq!(stays(&rig, &second, &open), Some(Stay::Pinned(pin.clone())));
    assert_eq!(stays(&rig, &third, &open), Some(Stay::InUse(2)));
    for (record, says) in [(&first, "is deployed"), (&second, "bert pinned it"), (&third, "2 of its files open")] {
        let before = resident(&rig, record);
        let refused = rig.cache.let_go(&id(record), &open).await.unwrap_err();
        assert!(matches!(&refused, CacheError::Refused(why) if why.contains(says)), "{refused}");
        assert_eq!(resident(&rig, record), before);
    }
    // What may go comes first.
    let in_order = rig.cache.holdings(&nobody());
    assert_eq!((&in_order[0].version, &in_order[0].stays), (&id(&third), &None));
    assert!(in_order[1..].iter().all(|held| held.stays.is_some()));

    // A pin outlives a restart, until its time is over or it is taken away.
    let same = rig.disk.clone();
    rig.cache.close().await;
    rig.restart_on(same).await;
    assert_eq!(stays(&rig, &second, &nobody()), Some(Stay::Pinned(pin)));
    rig.cache.unpin(&id(&second)).await.unwrap();
    assert_eq!(stays(&rig, &second, &nobody()), None);
    let past = Pin { by: "bert".to_owned(), since: Timestamp { seconds: 10, nanoseconds: 0 }, until: None };
    let past = Pin { until: Some(Timestamp { seconds: 11, nanoseconds: 0 }), ..past };
    rig.cache.pin(&id(&second), past).await.unwrap();
    assert_eq!(stays(&rig, &second, &nobody()), None, "its time is over");
    assert!(matches!(rig.cache.unpin(&id(&second)).await, Err(CacheError::Refused(_))));

    // What an order fetches.
    rig.cache.let_go(&id(&third), &nobody()).await.unwrap();
    rig.file(&third, "kernel").await.read(0, 1).await.unwrap();
    rig.cache.flush().await;
    rig.offline();
    let order = rig.cache.prefetch_add(Order::of_version(&id(&third), What::All)).await.unwrap();
    assert_eq!(stays(&rig, &third, &nobody()), Some(Stay::Ordered));
    rig.cache.prefetch_cancel(order).await.unwrap();
    assert_eq!(stays(&rig, &third, &nobody()), None);
    rig.cache.close().await;
}

/// The power goes at every sync of letting a version go: what is left reads right, with a master and without.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_a_version_goes_gives_no_wrong_byte() {
    let mut points = 0;
    for (syncs_left, seed) in (0..).flat_map(|syncs_left| [(syncs_left, 1), (syncs_left, 2)]) {
        let mut rig = Rig::new(MemoryDisk::new(seed)).await;
        let (old, new) = (filled(&rig, 1).await, filled(&rig, 2).await);
        rig.disk.set_faults(|faults| faults.syncs_left = Some(syncs_left));
        let went = rig.cache.let_go(&id(&old), &nobody()).await;
        let gone = rig.disk.faults().syncs_left == Some(0);
        let crashed = rig.disk.crash();
        rig.restart_on(crashed).await;
        rig.offline();
        check_reads(&rig, &new, 2).await;
        let file = rig.file(&old, "disk.raw").await;
        for block in 0..BLOCKS {
            if let Ok(read) = file.read(block * BLOCK as u64, BLOCK).await {
                assert!(read == block_of(&disk(1), block), "wrong bytes in block {block} after {syncs_left} syncs");
            }
        }
        rig.online().await;
        check_reads(&rig, &old, 1).await;
        rig.cache.close().await;
        if !gone {
            went.unwrap();
            points = syncs_left;
            break;
        }
    }
    assert!(points >= 2, "only {points} sync points");
}

/// Readers of a version that is let go of again and again never see a wrong byte; neither does a version that starts
/// from it meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_notice_nothing() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let old = filled(&rig, 1).await;
    let file = rig.file(&old, "disk.raw").await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3u64)
        .map(|reader| {
            let (file, stop) = (file.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut dice, mut reads, mut now) = (reader + 1, 0u64, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let block = (dice >> 33) % BLOCKS;
                    let (at, expected) = (block * BLOCK as u64, block_of(&disk(1), block));
                    if file.read_now(at, BLOCK, &mut now) == ReadNow::Done {
                        assert!(now == expected, "wrong bytes at once in block {block}");
                    }
                    assert!(file.read(at, BLOCK).await.unwrap() == expected, "wrong bytes in block {block}");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for round in 2..12 {
        rig.cache.let_go(&id(&old), &nobody()).await.unwrap();
        let next = rig.publish(&[("disk.raw", disk(round))]).await;
        check_reads(&rig, &next, round).await;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 10, "a reader hardly read");
    }
    rig.cache.close().await;
}

/// What a quota leaves free is kept free, as much as the reserve at least.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_room_that_stays_free() {
    for (quota, reserve) in [
        (None, 7),
        (Some(Quota::Percent(75)), 1 << 38),
        (Some(Quota::Bytes(3 << 38)), 1 << 38),
        (Some(Quota::Bytes(u64::MAX)), 7),
        (Some(Quota::Percent(100)), 7),
    ] {
        let set = |settings: &mut crate::Settings| (settings.quota, settings.reserve_bytes) = (quota, Some(7));
        let rig = Rig::with(MemoryDisk::new(1), set).await;
        // The disk has 1 TiB.
        assert_eq!(rig.cache.room().await.unwrap().unwrap().reserve_bytes, reserve, "{quota:?}");
        rig.cache.close().await;
    }
}
