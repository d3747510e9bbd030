//! Sealing: what is sealed was verified, is read as before, and is either sealed or not, whenever the power goes.

use std::collections::BTreeMap;

use bytes::Bytes;
use icbd_image::{VersionId, VersionRecord};

use super::rig::{BLOCK, Rig, content};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::{CacheError, Pace, ReadNow, SealReport, layout};

fn files() -> [(&'static str, Bytes); 3] {
    let disk = (0..40).map(|block| if block % 6 == 5 { 0 } else { block + 1 });
    [("disk.raw", content(&disk.collect::<Vec<u64>>())), ("kernel", content(&[70, 71])), ("empty", Bytes::new())]
}

fn id(record: &VersionRecord) -> VersionId {
    record.statement.statement().version()
}

/// A version, all of it here.
async fn filled(rig: &Rig) -> VersionRecord {
    let record = rig.publish(&files()).await;
    for (name, _) in files() {
        rig.file(&record, name).await.read(0, usize::MAX).await.unwrap();
    }
    rig.cache.flush().await;
    assert!(rig.version(&record).await.is_complete());
    rig.asked();
    record
}

async fn seal(rig: &Rig, record: &VersionRecord) -> Result<SealReport, CacheError> {
    rig.cache.seal(&id(record), Pace::default(), |_| {}).await
}

fn is_sealed(rig: &Rig, record: &VersionRecord) -> bool {
    let status = rig.cache.status();
    let version = status.versions.iter().find(|version| version.id == id(record));
    version.is_some_and(|version| version.sealed_since.is_some())
}

async fn check_reads(rig: &Rig, record: &VersionRecord) {
    let mut now = Vec::new();
    for (name, bytes) in files() {
        let file = rig.file(record, name).await;
        for offset in (0..bytes.len()).step_by(BLOCK) {
            let expected = &bytes[offset..bytes.len().min(offset + BLOCK)];
            if file.read_now(offset as u64, BLOCK, &mut now) == ReadNow::Done {
                assert!(now == expected, "wrong bytes at once in {name} at {offset}");
            }
            let read = file.read(offset as u64, BLOCK).await;
            assert!(
                read.unwrap_or_else(|error| panic!("{name} at {offset}: {error}")) == expected,
                "{name} at {offset}"
            );
        }
    }
}

/// A sealed version is read as before by those who have it open and by those who open it, and without a master after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_is_read_as_before() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    let open = rig.file(&record, "disk.raw").await;
    let report = seal(&rig, &record).await.unwrap();
    assert_eq!((report.was_sealed, report.blocks_checked, report.mended), (false, 42, 0));
    assert!(is_sealed(&rig, &record));
    assert_eq!(open.read(0, usize::MAX).await.unwrap(), files()[0].1);
    drop(open);
    assert!(seal(&rig, &record).await.unwrap().was_sealed, "it is sealed already");
    for path in [layout::tree(&id(&record)), layout::sealing(&id(&record))] {
        assert!(rig.disk.xattr(&path, "user.icbd.incarnation").is_err(), "{} is left behind", path.display());
    }
    rig.offline();
    check_reads(&rig, &record).await;
    for lost in [false, true] {
        let disk = rig.disk.crash();
        if lost {
            // It is complete by construction.
            disk.lose(&layout::bitmap(&id(&record)));
        }
        rig.restart_on(disk).await;
        assert!(is_sealed(&rig, &record));
        check_reads(&rig, &record).await;
        assert!(rig.version(&record).await.is_complete());
    }
    rig.cache.close().await;
}

/// A kill or a power cut at any moment leaves a version either filling or sealed, and complete in both cases.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_a_version_filling_or_sealed() {
    let (mut sealed, mut filling) = (0, 0);
    for (syncs_left, seed) in (1..16).flat_map(|left| [(left, 2 * left), (left, 2 * left + 1)]) {
        let mut rig = Rig::new(MemoryDisk::new(seed)).await;
        let record = filled(&rig).await;
        rig.disk.set_faults(|faults| faults.syncs_left = Some(syncs_left));
        // Sealed, thawed by what is found spoilt, mended, and sealed once more.
        let outcome = seal(&rig, &record).await;
        if outcome.is_ok() {
            rig.disk.corrupt(&layout::sealed(&id(&record)).join("kernel"), 3);
            rig.cache.scrub(&id(&record), Pace::default(), |_| {}).await.unwrap();
            drop(seal(&rig, &record).await);
        }
        let disk = rig.disk.crash();
        rig.restart_on(disk).await;
        check_reads(&rig, &record).await;
        rig.cache.flush().await;
        match is_sealed(&rig, &record) {
            true => sealed += 1,
            false => filling += 1,
        }
        assert!(rig.version(&record).await.is_complete(), "after {syncs_left} syncs");
        let report = seal(&rig, &record).await.unwrap();
        assert_eq!(report.mended, 0);
        rig.offline();
        check_reads(&rig, &record).await;
        rig.cache.close().await;
    }
    assert!(sealed > 2 && filling > 2, "{sealed} {filling}");
}

/// What is found spoilt while a version is sealed is fetched again, and then it is sealed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoilt_is_mended_before_it_is_sealed() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    rig.disk.corrupt(&layout::tree(&id(&record)).join("disk.raw"), 8 * BLOCK);
    let report = seal(&rig, &record).await.unwrap();
    assert_eq!((report.was_sealed, report.mended), (false, 1));
    assert_eq!(rig.asked(), [(8, 1)]);
    rig.offline();
    check_reads(&rig, &record).await;
    rig.cache.close().await;
}

/// What a sealed version's disk spoilt is mended in a clone; what was sealed never changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_version_that_is_spoilt_is_mended_and_sealed_anew() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    seal(&rig, &record).await.unwrap();
    let disk = rig.disk.crash();
    disk.corrupt(&layout::sealed(&id(&record)).join("disk.raw"), 8 * BLOCK);
    rig.restart_on(disk).await;
    // Its first reader finds it.
    check_reads(&rig, &record).await;
    rig.cache.flush().await;
    assert_eq!(rig.asked(), [(8, 1)]);
    assert!(!is_sealed(&rig, &record));
    assert!(rig.version(&record).await.is_complete());
    seal(&rig, &record).await.unwrap();
    // And so does a scrub.
    rig.disk.corrupt(&layout::sealed(&id(&record)).join("kernel"), BLOCK);
    let (report, mended) = rig.cache.scrub(&id(&record), Pace::default(), |_| {}).await.unwrap();
    assert_eq!((report.bad.len(), mended), (1, 1));
    assert_eq!(rig.asked(), [(1, 1)]);
    seal(&rig, &record).await.unwrap();
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    rig.offline();
    check_reads(&rig, &record).await;
    rig.cache.close().await;
}

/// A sealed version that somebody deleted by hand is noticed, and fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_version_that_was_deleted_is_fetched_again() {
    for while_running in [false, true] {
        let mut rig = Rig::new(MemoryDisk::new(1)).await;
        let record = filled(&rig).await;
        seal(&rig, &record).await.unwrap();
        if while_running {
            rig.disk.lose(&layout::sealed(&id(&record)));
        } else {
            let disk = rig.disk.crash();
            disk.lose(&layout::sealed(&id(&record)));
            rig.restart_on(disk).await;
        }
        check_reads(&rig, &record).await;
        rig.cache.flush().await;
        assert!(!is_sealed(&rig, &record));
        assert!(!rig.asked().is_empty());
        check_reads(&rig, &record).await;
        rig.cache.close().await;
    }
}

/// Letting go of a sealed version leaves nothing of it, also after a restart; it is fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_version_is_let_go_of() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    seal(&rig, &record).await.unwrap();
    rig.cache.let_go(&id(&record), &BTreeMap::new()).await.unwrap();
    assert!(!is_sealed(&rig, &record));
    assert_eq!(rig.version(&record).await.residency().resident_bytes, 0);
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    assert!(!is_sealed(&rig, &record));
    check_reads(&rig, &record).await;
    rig.cache.close().await;
}

/// A version that is not complete, and one whose disk shares nothing, are refused with what to do.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sealed_says_why() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&files()).await;
    rig.file(&record, "kernel").await.read(0, 100).await.unwrap();
    let refused = seal(&rig, &record).await.unwrap_err().to_string();
    assert!(refused.contains("is not complete") && refused.contains("icbd prefetch add lab@1 --all"), "{refused}");
    rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap();
    rig.file(&record, "kernel").await.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    rig.disk.set_faults(|faults| faults.no_reflink = true);
    let refused = seal(&rig, &record).await.unwrap_err().to_string();
    assert!(refused.contains("put the store on btrfs"), "{refused}");
    check_reads(&rig, &record).await;
    rig.cache.close().await;
}

/// What is let go of while it is being sealed leaves no clone of it behind, and is not sealed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_meanwhile_is_not_sealed() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    let version = rig.version(&record).await;
    let filling = version.filling().unwrap();
    let draft = filling.draft(&version, std::time::SystemTime::now()).unwrap();
    rig.cache.let_go(&id(&record), &BTreeMap::new()).await.unwrap();
    assert!(
        rig.disk.xattr(&layout::sealing(&id(&record)), "user.icbd.incarnation").is_err(),
        "the clone holds all of it"
    );
    assert_eq!(filling.freeze(&version, draft).unwrap(), crate::filling::Frozen::Outdated);
    assert!(!is_sealed(&rig, &record));
    drop(version);
    rig.cache.close().await;
}

/// A sealed version that cannot be made to change is read right all the same, and mended once it can.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_is_read_from_a_source() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = filled(&rig).await;
    seal(&rig, &record).await.unwrap();
    let disk = rig.disk.crash();
    disk.corrupt(&layout::sealed(&id(&record)).join("disk.raw"), 8 * BLOCK);
    disk.set_faults(|faults| faults.no_reflink = true);
    rig.restart_on(disk).await;
    rig.disk.set_faults(|faults| faults.no_reflink = true);
    check_reads(&rig, &record).await;
    rig.cache.flush().await;
    assert!(!rig.version(&record).await.is_complete(), "what is spoilt counts as here");
    rig.disk.set_faults(|faults| faults.no_reflink = false);
    check_reads(&rig, &record).await;
    rig.cache.flush().await;
    assert!(rig.version(&record).await.is_complete() && !is_sealed(&rig, &record));
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    rig.offline();
    check_reads(&rig, &record).await;
    rig.cache.close().await;
}
