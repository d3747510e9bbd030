//! Boots under way: what is known to come is fetched ahead of them, what may come only as far as that is cheap.

use std::time::Duration;

use icbd_fetch::testing::Fault;
use icbd_image::{BLOCK_BYTES, VersionRecord};

use super::rig::{BLOCK, PATIENCE, Rig, content};
use crate::disk::memory::MemoryDisk;

async fn read(rig: &Rig, record: &VersionRecord, block: u64) {
    let file = rig.file(record, "disk.raw").await;
    file.read(block * BLOCK_BYTES, BLOCK).await.unwrap();
}

/// Until so many bytes of the version's disk are here.
async fn until_resident(rig: &Rig, record: &VersionRecord, blocks: u64) {
    let file = rig.file(record, "disk.raw").await;
    let here = async {
        while file.resident_bytes() < blocks * BLOCK_BYTES {
            tokio::task::yield_now().await;
        }
    };
    let seen = || format!("{} of {blocks} blocks", file.resident_bytes() / BLOCK_BYTES);
    tokio::time::timeout(PATIENCE, here).await.unwrap_or_else(|_| panic!("{}", seen()));
}

/// A boot that is known, of this version or the one before, is fetched ahead of it from its first read on, and
/// nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_known_is_fetched_ahead_of_it() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("disk.raw", content(&(1..=300).collect::<Vec<u64>>()))]).await;
    let touched: Vec<u64> = (0..40).map(|step| step * 7).collect();
    for block in &touched {
        read(&rig, &v1, *block).await;
    }
    rig.cache.close().await;
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
    let v2 = rig.publish(&[("disk.raw", content(&(1001..=1300).collect::<Vec<u64>>()))]).await;
    rig.asked();
    read(&rig, &v2, touched[0]).await;
    until_resident(&rig, &v2, touched.len() as u64).await;
    let mut asked: Vec<u64> =
        rig.asked().into_iter().flat_map(|(first, count)| first..first + u64::from(count)).collect();
    asked.sort_unstable();
    assert_eq!(asked, touched);
    // Nothing is on its way any more, nor in memory.
    let version = rig.version(&v2).await;
    let at_rest = async {
        while version.core().sources.asked_blocks() > 0 || rig.cache.status().in_flight_bytes > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, at_rest).await.expect("all that was taken is given back");
    rig.cache.close().await;
}

/// What is guessed to be read is bounded by what was read, the tighter the shorter the way to the source.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_few_on_a_short_way_and_more_on_a_long_one() {
    let mut wrong = Vec::new();
    for way in [Duration::ZERO, Duration::from_millis(8)] {
        let rig = Rig::new(MemoryDisk::new(1)).await;
        let v1 = rig.publish(&[("disk.raw", content(&(1..=600).collect::<Vec<u64>>()))]).await;
        rig.line.set(Some(Fault::Delay(way)));
        rig.asked();
        for step in 0..50 {
            read(&rig, &v1, step * 12).await;
        }
        let asked: u64 = rig.asked().into_iter().map(|(_, count)| u64::from(count)).sum();
        wrong.push(asked - 50);
        rig.cache.close().await;
    }
    // One in fifty, and as many as were touched; a machine that is slow to answer makes any way longer.
    assert!(2 * wrong[0] < wrong[1] && wrong[1] > 10 && wrong[1] <= 50, "{wrong:?}");
}
