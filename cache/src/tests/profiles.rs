//! What boots read is noted, kept, handed to the next version, and never in a reader's way.

use std::time::Duration;

use icbd_fetch::testing::Fault;
use icbd_image::{BLOCK_BYTES, BootRun, ImageRef, Observation, Origin, Profile, SiteId, Touch, VersionRecord};

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::layout;
use crate::{Order, What};

/// Reads these runs of `disk.raw`, one after the other.
async fn boot(rig: &Rig, record: &VersionRecord, runs: &[(u64, u32)]) {
    let file = rig.file(record, "disk.raw").await;
    for (first, count) in runs {
        file.read(first * BLOCK_BYTES, *count as usize * BLOCK).await.unwrap();
    }
}

async fn boot_set(rig: &Rig, record: &VersionRecord) -> Vec<(u64, u32)> {
    let runs = rig.cache.boot_set(record.serial()).await.unwrap();
    runs.iter().map(|BootRun { first, count, .. }| (*first, *count)).collect()
}

/// Ends the cache cleanly and opens it again.
async fn restart(rig: &mut Rig) {
    rig.cache.close().await;
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
}

const RUNS: [(u64, u32); 3] = [(40, 10), (3, 2), (70, 16)];

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_boot_is_the_boot_set_of_the_version_and_of_the_next() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let old: Vec<u64> = (1..=90).collect();
    let v1 = rig.publish(&[("disk.raw", content(&old))]).await;
    assert_eq!(boot_set(&rig, &v1).await, []);
    boot(&rig, &v1, &RUNS).await;
    // What was read before, is read again, or is fetched by a job is no part of it.
    boot(&rig, &v1, &RUNS).await;
    let job = rig.cache.prefetch_add(Order::of_version(&v1.statement.statement().version(), What::All)).await.unwrap();
    rig.cache.prefetch_wait(job).await.unwrap();
    restart(&mut rig).await;
    assert_eq!(boot_set(&rig, &v1).await, RUNS);
    // Complete by now: nothing is learned from who reads it.
    boot(&rig, &v1, &[(0, 60)]).await;
    restart(&mut rig).await;
    assert_eq!(boot_set(&rig, &v1).await, RUNS);

    // By position, whether a block changed or not; the file has another index, and its end is another one.
    let new: Vec<u64> = (1..=80).map(|seed| if seed % 5 == 0 { seed + 1000 } else { seed }).collect();
    let v2 = rig.publish(&[("a", content(&[7])), ("disk.raw", content(&new))]).await;
    assert_eq!(boot_set(&rig, &v2).await, [(40, 10), (3, 2), (70, 10)]);
    let profile = rig.cache.profile(v2.serial()).await.unwrap();
    assert_eq!((profile.own_count(), profile.observations().count()), (0, 1));
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_around_has_not_booted() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&[1; 40]))]).await;
    boot(&rig, &v1, &[(0, 15)]).await;
    restart(&mut rig).await;
    assert_eq!(boot_set(&rig, &v1).await, []);
    rig.cache.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_recording_ends_in_silence_and_the_next_begins_after_a_pause() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&[1; 200]))]).await;
    let seen = async || {
        let profile = rig.cache.profile(v1.serial()).await.unwrap();
        profile.observations().map(|seen| seen.blocks()).collect::<Vec<_>>()
    };
    let wait = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
    boot(&rig, &v1, &[(0, 20)]).await;
    wait(50).await;
    boot(&rig, &v1, &[(10, 20)]).await;
    wait(50).await;
    assert_eq!(seen().await, [0; 0]);
    wait(15).await;
    assert_eq!(seen().await, [30]);
    // Whoever goes on reading does not boot.
    for at in 0..11 {
        wait(59).await;
        boot(&rig, &v1, &[(50 + at * 5, 5)]).await;
    }
    assert_eq!(seen().await, [30]);
    wait(600).await;
    boot(&rig, &v1, &[(0, 40)]).await;
    wait(61).await;
    // If both began in the same second of the real clock, the greater stays.
    let all = seen().await;
    assert!(all == [40] || all == [30, 40], "{all:?}");
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_profile_is_as_good_as_none() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&[1; 90]))]).await;
    boot(&rig, &v1, &RUNS).await;
    restart(&mut rig).await;
    let path = rig.settings.store.join(layout::PROFILES).join(format!("{}.profile", v1.root()));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    restart(&mut rig).await;
    assert_eq!(boot_set(&rig, &v1).await, []);
    // And the next boot is learned all the same; a damaged identity is replaced.
    std::fs::write(rig.settings.store.join(layout::SITE), [0xff; 40]).unwrap();
    restart(&mut rig).await;
    boot(&rig, &v1, &RUNS).await;
    restart(&mut rig).await;
    assert_eq!(boot_set(&rig, &v1).await, RUNS);
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_learned_is_taken_over_once() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&[1; 90]))]).await;
    let disk = rig.file(&v1, "disk.raw").await.index();
    let mut told = Profile::new(v1.root());
    for started in 0..50 {
        let touch = Touch { after_ms: 0, file: disk, first: if started == 7 { 60 } else { 5 }, count: 20 };
        told.insert(Observation::new(SiteId::from_bytes([9; 16]), started, Origin::Own, [touch]));
    }
    assert!(rig.cache.import_profile(told.clone()).await.unwrap());
    assert!(!rig.cache.import_profile(told).await.unwrap());
    // One fill of fifty read the blocks from 60 on.
    assert_eq!(boot_set(&rig, &v1).await, [(5, 20)]);
    rig.cache.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_sources_know_is_asked_for_and_what_they_lack_is_offered() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&[1; 90]))]).await;
    let disk = rig.file(&v1, "disk.raw").await.index();
    let of_site = |site: u8, first| {
        let mut told = Profile::new(v1.root());
        let touch = Touch { after_ms: 0, file: disk, first, count: 20 };
        told.insert(Observation::new(SiteId::from_bytes([site; 16]), 7, Origin::Own, [touch]));
        told
    };
    // One that is damaged is ignored; what is known here is news to such a source.
    rig.master.set_profile(v1.root(), b"damaged".as_slice().into());
    assert_eq!(boot_set(&rig, &v1).await, []);
    assert_eq!(rig.cache.profile_news(), []);
    assert!(rig.cache.import_profile(of_site(1, 10)).await.unwrap());
    assert_eq!(rig.cache.profile_news(), [v1.root()]);
    let mut theirs = of_site(2, 50);
    rig.master.set_profile(v1.root(), theirs.encode().into());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(boot_set(&rig, &v1).await, [(10, 20), (50, 20)]);
    assert_eq!(rig.cache.profile_news(), [v1.root()], "it still lacks what was learned here");
    theirs.merge(&of_site(1, 10));
    rig.master.set_profile(v1.root(), theirs.encode().into());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(rig.cache.profile_news(), []);
    // A master that lost it learns it anew.
    rig.master.forget_profile(v1.root());
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(rig.cache.profile_news(), [v1.root()]);
    rig.cache.close().await;
}

/// A boot order fetches what was learned elsewhere as soon as that is known here, also in the middle of what it
/// guessed.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_order_fetches_what_others_learned_as_soon_as_that_is_known() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&(1..=400).collect::<Vec<u64>>()))]).await;
    let learned = |first, started| {
        let mut told = Profile::new(v1.root());
        let touch = Touch { after_ms: 0, file: rig.master.head_of(v1.root()).resolve(b"disk.raw")?, first, count: 20 };
        told.insert(Observation::new(SiteId::from_bytes([1; 16]), started, Origin::Own, [touch]));
        Some(told)
    };
    // Only the head comes: the guess has begun and cannot go on.
    rig.version(&v1).await;
    rig.line.set(Some(Fault::Held));
    let order = Order::new(ImageRef { image: "lab".parse().unwrap(), number: None }, What::Boot);
    let id = rig.cache.prefetch_add(order).await.unwrap();
    assert!(rig.cache.import_profile(learned(100, 1).unwrap()).await.unwrap());
    rig.line.set(None);
    let status = rig.until(id, |status| status.is_complete()).await;
    assert_eq!((status.note, status.total_bytes), (None, 20 * BLOCK as u64));
    assert!(rig.cache.import_profile(learned(200, 2).unwrap()).await.unwrap());
    let status = rig.until(id, |status| status.is_complete() && status.total_bytes > 20 * BLOCK as u64).await;
    assert_eq!(status.total_bytes, 40 * BLOCK as u64);
    assert!(rig.file(&v1, "disk.raw").await.is_readable(200..220));
    rig.cache.close().await;
}
