//! What is asked of the master, and what is not.

use std::time::Duration;

use bytes::Bytes;
use icbd_fetch::testing::{Asked, Fault};
use icbd_image::FileIndex;

use super::rig::{BLOCK, Rig, block_of, content};
use crate::disk::memory::MemoryDisk;
use crate::{CacheError, Order, OrderState, ReadNow, What};

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_fetched_once_and_zero_blocks_never() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&[0, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    let record = rig.publish(&[("disk.raw", bytes.clone()), ("zero", content(&[0; 3]))]).await;
    let file = rig.file(&record, "disk.raw").await;
    // Sixteen readers of the same blocks, of whom half go away before they are answered.
    let readers: Vec<_> = (0..16)
        .map(|reader| {
            let file = file.clone();
            let read = tokio::spawn(async move { file.read(0, 6 * BLOCK).await });
            if reader % 2 == 0 {
                read.abort();
            }
            read
        })
        .collect();
    for reader in readers {
        match reader.await {
            Ok(read) => assert_eq!(read.unwrap(), bytes.slice(..6 * BLOCK)),
            Err(error) => assert!(error.is_cancelled()),
        }
    }
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
    let mut asked = rig.asked();
    asked.sort();
    assert_eq!(asked, [(1, 2), (5, 1), (17, 1)]);
    assert_eq!(rig.file(&record, "zero").await.read(0, usize::MAX).await.unwrap(), content(&[0; 3]));
    rig.cache.flush().await;
    assert!(rig.version(&record).await.is_complete());
    assert_eq!((rig.asked(), rig.cache.status().in_flight_bytes), (vec![], 0));
    let mut now = Vec::new();
    assert_eq!(file.read_now(BLOCK as u64 - 5, 2 * BLOCK, &mut now), ReadNow::Done);
    assert_eq!(now, bytes[BLOCK - 5..3 * BLOCK - 5]);
    assert_eq!(file.read_now(bytes.len() as u64 - 7, 100, &mut now), ReadNow::Done);
    assert_eq!(now, bytes[bytes.len() - 7..]);
    assert_eq!(file.read_now(u64::MAX, 100, &mut now), ReadNow::Done);
    assert!(now.is_empty());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_fetched_of_the_next_version() {
    for no_reflink in [false, true] {
        let disk = MemoryDisk::new(1);
        disk.set_faults(|faults| faults.no_reflink = no_reflink);
        let rig = Rig::new(disk).await;
        let old: Vec<u64> = (1..=30).collect();
        let new: Vec<u64> = (1..=30)
            .map(|seed| {
                if seed % 10 == 4 {
                    seed + 100
                } else if seed % 10 == 5 {
                    0
                } else {
                    seed
                }
            })
            .collect();
        let v1 = rig.publish(&[("disk.raw", content(&old)), ("kernel", content(&[50, 51]))]).await;
        for name in ["disk.raw", "kernel"] {
            rig.file(&v1, name).await.read(0, usize::MAX).await.unwrap();
        }
        rig.cache.flush().await;
        rig.asked();
        let v2 = rig.publish(&[("disk.raw", content(&new)), ("kernel", content(&[50, 52]))]).await;
        assert_eq!(rig.file(&v2, "disk.raw").await.read(0, usize::MAX).await.unwrap(), content(&new));
        assert_eq!(rig.file(&v2, "kernel").await.read(0, usize::MAX).await.unwrap(), content(&[50, 52]));
        let mut asked = rig.asked();
        asked.sort();
        assert_eq!(asked, [(1, 1), (3, 1), (13, 1), (23, 1)], "reflinks: {}", !no_reflink);
        let reused = rig.cache.status().reused_bytes;
        assert_eq!(reused > 0, no_reflink, "{reused}");
        rig.cache.flush().await;
        assert!(rig.version(&v2).await.is_complete());
        rig.cache.close().await;
    }
}

/// What is taken from another version comes with its hashes: it can be verified and sealed while the sources are away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_another_version_comes_with_its_hashes() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let disk = ("disk.raw", content(&(1..=30).collect::<Vec<u64>>()));
    let v1 = rig.publish(&[disk.clone(), ("kernel", content(&[50]))]).await;
    for name in ["disk.raw", "kernel"] {
        rig.file(&v1, name).await.read(0, usize::MAX).await.unwrap();
    }
    rig.cache.flush().await;
    let v2 = rig.publish(&[disk, ("kernel", content(&[51]))]).await;
    rig.file(&v2, "kernel").await.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    assert!(rig.version(&v2).await.is_complete());
    rig.restart_on(rig.disk.clone()).await;
    let version = rig.version(&v2).await;
    let file = version.head().resolve(b"disk.raw").unwrap();
    assert!(version.page_here(file, 0).is_some(), "its hashes are to be fetched");
    rig.cache.close().await;
}

/// Also when the new version was looked at before the old one was here.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_the_same_is_taken_from_the_one_that_came_meanwhile() {
    let disk = MemoryDisk::new(1);
    disk.set_faults(|faults| faults.no_reflink = true);
    let mut rig = Rig::new(disk).await;
    let files = [("disk.raw", content(&(0..100).collect::<Vec<u64>>())), ("kernel", content(&[50, 51]))];
    let (v1, v2) = (rig.publish(&files).await, rig.publish(&files).await);
    let file = rig.file(&v2, "disk.raw").await;
    file.read(0, 1).await.unwrap();
    for (name, bytes) in &files {
        assert_eq!(rig.file(&v1, name).await.read(0, usize::MAX).await.unwrap(), *bytes);
    }
    rig.cache.flush().await;
    assert!(rig.version(&v1).await.is_complete());
    drop(file);
    let disk = rig.disk.clone();
    let prefetch = async |rig: &Rig| {
        rig.asked();
        let job =
            rig.cache.prefetch_add(Order::of_version(&v2.statement.statement().version(), What::All)).await.unwrap();
        assert_eq!(rig.cache.prefetch_wait(job).await.unwrap().state, OrderState::Done);
        assert_eq!(rig.asked(), []);
        assert!(rig.cache.status().reused_bytes > 90 * BLOCK as u64);
    };
    prefetch(&rig).await;
    // And from the disk as it was, right after a restart.
    rig.restart_on(disk.crash()).await;
    rig.online().await;
    assert_eq!(rig.file(&v2, "disk.raw").await.read(0, usize::MAX).await.unwrap(), files[0].1);
    assert_eq!(rig.asked(), []);
    rig.cache.close().await;
}

/// A read names a file and holds it only meanwhile: its backing file stays open for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_holds_is_read_at_once_again() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("disk.raw", content(&[1, 2, 3]))]).await;
    rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    // So that neither of the last batches holds it.
    let other = rig.publish(&[("disk.raw", content(&[4]))]).await;
    for block in 0..2 {
        rig.file(&other, "disk.raw").await.read(block, 1).await.unwrap();
        rig.cache.flush().await;
        rig.cache.flush().await;
    }
    let mut now = Vec::new();
    assert_eq!(rig.file(&record, "disk.raw").await.read_now(0, BLOCK, &mut now), ReadNow::Done);
    rig.cache.close().await;
}

/// A source that answers nothing of what prefetch asks still answers who waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_does_not_wait_behind_a_stalled_prefetch() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let names: Vec<String> = (0..40).map(|file| format!("f{file:02}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), content(&[9]))).collect();
    let (bulk, small) = (rig.publish(&files).await, rig.publish(&[("other", content(&[5]))]).await);
    for record in [&bulk, &small] {
        rig.version(record).await.prepare().await.unwrap();
    }
    rig.line.set(Some(Fault::Held));
    let before = rig.line.requests();
    let job =
        rig.cache.prefetch_add(Order::of_version(&bulk.statement.statement().version(), What::All)).await.unwrap();
    while rig.line.requests() < before + 8 {
        tokio::task::yield_now().await;
    }
    // One for the reader, and one for who asks what boots of the version read.
    rig.line.script([Some(Fault::Delay(Duration::ZERO)); 2]);
    let read = rig.file(&small, "other").await.read(0, usize::MAX).await.unwrap();
    assert_eq!(read, content(&[5]));
    rig.line.set(None);
    assert_eq!(rig.cache.prefetch_wait(job).await.unwrap().state, OrderState::Done);
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_prefetched_whole_also_across_a_restart() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(0..150).collect::<Vec<u64>>());
    let files: [(&str, Bytes); 3] = [("a", bytes.clone()), ("b", content(&[5])), ("c", Bytes::new())];
    let record = rig.publish(&files).await;
    let id = record.statement.statement().version();
    rig.line.set(Some(Fault::Held));
    let job = rig.cache.prefetch_add(Order::of_version(&id, What::All)).await.unwrap();
    assert_eq!(rig.cache.prefetch_add(Order::of_version(&id, What::All)).await.unwrap(), job);
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
    rig.online().await;
    let status = tokio::time::timeout(Duration::from_secs(20), rig.cache.prefetch_wait(job)).await.unwrap().unwrap();
    assert_eq!((status.state, status.done_bytes), (OrderState::Done, status.total_bytes));
    assert!(rig.version(&record).await.is_complete());
    rig.offline();
    assert_eq!(rig.file(&record, "a").await.read(0, usize::MAX).await.unwrap(), bytes);
    let other = rig.cache.prefetch_add(Order::of_version(&id, What::All)).await.unwrap();
    assert!(other > job);
    let cancelled = rig.cache.prefetch_cancel(other).await.unwrap();
    assert!(cancelled.state.is_ended());
    assert!(matches!(rig.cache.prefetch_cancel(99).await, Err(CacheError::UnknownOrder(99))));
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_a_source_and_the_status_says_for_what() {
    let rig = Rig::with(MemoryDisk::new(1), |settings| settings.offline_wait = Duration::from_secs(60)).await;
    let bytes = content(&[1, 2, 3]);
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let file = rig.file(&record, "disk.raw").await;
    assert_eq!(file.read(0, 10).await.unwrap(), bytes.slice(..10));
    rig.line.set(Some(Fault::WrongHash));
    let reader = tokio::spawn({
        let file = file.clone();
        async move { file.read(2 * BLOCK as u64, 10).await }
    });
    let waiting = loop {
        // The status is what is awaited: it shows who has waited for a second.
        if let Some(waiting) = rig.cache.status().waiting.first().filter(|waiting| waiting.why.is_some()).cloned() {
            break waiting;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (waiting.version.to_string().as_str(), waiting.path.as_str(), waiting.block),
        ("lab@1", "disk.raw", Some(2))
    );
    assert!(waiting.why.unwrap().contains("manifest says"));
    // Nobody else waits with it.
    assert_eq!(file.read(0, 10).await.unwrap(), bytes.slice(..10));
    rig.line.set(None);
    assert_eq!(reader.await.unwrap().unwrap(), bytes.slice(2 * BLOCK..2 * BLOCK + 10));
    assert!(rig.cache.status().waiting.is_empty());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_source_what_is_held_is_read_and_the_rest_fails_in_time() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(1..=40).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    rig.file(&record, "disk.raw").await.read(3 * BLOCK as u64, BLOCK).await.unwrap();
    rig.cache.flush().await;
    rig.offline();
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    let file = rig.file(&record, "disk.raw").await;
    assert_eq!(file.read(3 * BLOCK as u64, BLOCK).await.unwrap(), block_of(&bytes, 3));
    let error = file.read(30 * BLOCK as u64, 1).await.unwrap_err();
    assert!(error.to_string().contains("lab@1: disk.raw, block 30 could not be had"), "{error}");
    assert!(!error.is_permanent());
    assert!(rig.cache.refresh().await.is_err());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_holes_are_where_the_manifest_says() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let seeds: Vec<u64> = (0..20).map(|block| u64::from(block == 5 || block == 19)).collect();
    let record = rig.publish(&[("disk.raw", content(&seeds)), ("zero", content(&[0; 20]))]).await;
    let file = rig.file(&record, "disk.raw").await;
    let (block, end) = (BLOCK as u64, file.size());
    assert_eq!(file.seek_data(7).await.unwrap(), Some(5 * block));
    assert_eq!(file.seek_data(5 * block + 3).await.unwrap(), Some(5 * block + 3));
    assert_eq!(file.seek_hole(5 * block + 3).await.unwrap(), Some(6 * block));
    assert_eq!(file.seek_hole(9).await.unwrap(), Some(9));
    assert_eq!((file.seek_hole(19 * block).await.unwrap(), file.seek_data(end).await.unwrap()), (Some(end), None));
    let zero = rig.file(&record, "zero").await;
    assert_eq!((zero.seek_data(0).await.unwrap(), zero.seek_hole(1).await.unwrap()), (None, Some(1)));
    // One page of the first; the second is zero by its head.
    let pages = rig.master.take_asked().into_iter().filter(|asked| matches!(asked, Asked::Page(_, _, _)));
    assert_eq!(pages.count(), 1);
    assert!(rig.version(&record).await.file(FileIndex::ROOT).is_err());
    rig.cache.close().await;
}

/// Who asks again at once for what was given up had waited for it: the kernel reads ahead, and then asks for the part that a
/// program wants.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_given_up_is_not_waited_for_twice() {
    let wait = std::time::Duration::from_millis(400);
    let rig = Rig::with(MemoryDisk::new(1), |settings| settings.offline_wait = wait).await;
    let record = rig.publish(&[("disk.raw", content(&[1, 2, 3, 4, 5, 6, 7, 8]))]).await;
    let file = rig.file(&record, "disk.raw").await;
    rig.offline();
    let begun = std::time::Instant::now();
    file.read(0, 4 * BLOCK).await.unwrap_err();
    let first = begun.elapsed();
    let begun = std::time::Instant::now();
    file.read(2 * BLOCK as u64, 4096).await.unwrap_err();
    let second = begun.elapsed();
    assert!(first >= wait && second < wait, "{first:?}, {second:?}");
    assert_eq!(rig.cache.status().given_up.count, 2);
    // Later, or for something else, it is waited for as ever.
    let begun = std::time::Instant::now();
    file.read(6 * BLOCK as u64, 4096).await.unwrap_err();
    assert!(begun.elapsed() >= wait);
    rig.online().await;
    assert_eq!(file.read(2 * BLOCK as u64, 4096).await.unwrap().len(), 4096);
    rig.cache.close().await;
}
