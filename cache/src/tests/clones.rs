//! Clones: what a client writes over a version, through kills of the daemon, power cuts, full and failing disks.

use std::sync::Arc;

use bytes::Bytes;
use icbd_image::VersionRecord;

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::{CacheError, CloneDisk, CloneName, CloneUse, Fate, Layers, ReadNow};

const SECTOR: usize = 512;
const DISK: &str = "disk.raw";
const BLOCKS: usize = 6;

fn name(version: &VersionRecord, client: &str) -> CloneName {
    CloneName { version: version.statement.statement().version(), client: client.parse().unwrap() }
}

/// A clone of the version's disk, open.
async fn open(rig: &Rig, version: &VersionRecord, client: &str) -> CloneUse {
    let file = rig.file(version, DISK).await;
    let disk = rig.cache.clones().prepare(&name(version, client), &file, DISK).await.unwrap();
    rig.cache.clones().enter(disk.number()).unwrap()
}

/// All of it, read in one of the two ways.
async fn read(disk: &Arc<CloneDisk>, offset: u64, len: usize) -> Bytes {
    let mut out = Vec::new();
    let waited = disk.read(offset, len).await.unwrap();
    if disk.read_now(offset, len, &mut out) == ReadNow::Done {
        assert!(out == waited, "the two ways to read differ");
    }
    waited
}

async fn write(disk: &Arc<CloneDisk>, offset: u64, bytes: &[u8]) -> Result<(), CacheError> {
    match disk.write_now(offset, bytes) {
        Some(done) => done,
        None => disk.write(offset, Bytes::copy_from_slice(bytes)).await,
    }
}

/// What a disk may hold.
struct Model {
    now: Vec<u8>,
    /// Each sector as it was at the last flush, and all that it was later.
    states: Vec<Vec<Vec<u8>>>,
}

impl Model {
    fn new(content: &[u8]) -> Model {
        let states = content.chunks(SECTOR).map(|sector| vec![sector.to_vec()]).collect();
        Model { now: content.to_vec(), states }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        for sector in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let end = self.now.len().min((sector + 1) * SECTOR);
            self.states[sector].push(self.now[sector * SECTOR..end].to_vec());
        }
    }

    fn flush(&mut self) {
        *self = Model::new(&self.now);
    }

    /// After a power cut: each sector is one of what it was since the last flush.
    fn settle(&mut self, found: &[u8]) {
        for (at, (sector, states)) in found.chunks(SECTOR).zip(&self.states).enumerate() {
            assert!(states.iter().any(|state| state == sector), "sector {at} is nothing that it ever was");
        }
        *self = Model::new(found);
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % sides
    }
}

/// Writes, discards, flushes, kills, power cuts, resets and personal layers at random, against a model.
async fn live(seed: u64) {
    let mut dice = Dice(seed * 2 + 1);
    let mut rig = Rig::new(MemoryDisk::new(seed)).await;
    rig.settings.boot = [1; 16];
    rig.restart_on(rig.disk.clone()).await;
    let below = content(&(1..=BLOCKS as u64).collect::<Vec<_>>());
    let version = rig.publish(&[(DISK, below.clone())]).await;
    let mut disk = open(&rig, &version, "pc-1").await;
    let mut model = Model::new(&below);
    // What a session begins as.
    let mut personal = None;
    for step in 0..150 {
        let len_max = [100, 5000, BLOCK][dice.roll(3)];
        let (offset, len) = (dice.roll(below.len()), 1 + dice.roll(len_max));
        // A disk is written in sectors.
        let (offset, end) = (offset / SECTOR * SECTOR, (offset + len).next_multiple_of(SECTOR).min(below.len()));
        match dice.roll(20) {
            0..=9 => {
                let bytes: Vec<u8> = (offset..end).map(|at| (at as u64 * 31 + step + seed) as u8).collect();
                write(&disk, offset as u64, &bytes).await.unwrap();
                model.write(offset, &bytes);
            }
            10 | 11 => {
                disk.discard(offset as u64..end as u64).await.unwrap();
                model.write(offset, &vec![0; end - offset]);
            }
            12..=14 => {
                disk.flush().await.unwrap();
                model.flush();
            }
            15 => {
                // The daemon is killed, and closes nothing: what was written is there.
                std::mem::forget(disk);
                rig.restart_on(rig.disk.clone()).await;
                disk = open(&rig, &version, "pc-1").await;
            }
            16 => {
                // The power goes, maybe in the middle of a flush: the machine starts anew.
                let left = dice.roll(4) as u64;
                rig.disk.set_faults(|faults| faults.syncs_left = Some(left));
                if dice.roll(2) == 0 && disk.flush().await.is_ok() {
                    model.flush();
                }
                std::mem::forget(disk);
                rig.settings.boot[0] += 1;
                rig.restart_on(rig.disk.crash()).await;
                disk = open(&rig, &version, "pc-1").await;
                model.settle(&read(&disk, 0, below.len()).await);
            }
            17 if dice.roll(2) == 0 => {
                let name = disk.name().clone();
                rig.cache.clones().reset(&name, Layers::All).await.unwrap_err();
                rig.cache.clones().make_personal(&name).await.unwrap_err();
                let number = disk.number();
                drop(disk);
                rig.cache.clones().closed(&rig.cache.clones().get(&name).unwrap()).await;
                match dice.roll(3) {
                    0 if personal.is_none() => {
                        rig.cache.clones().begin_personal(&name).await.unwrap();
                        // Whatever ends the daemon, it is known to be nothing that anybody may use.
                        rig.restart_on(rig.disk.clone()).await;
                        assert!(rig.cache.clones().get(&name).unwrap().is_unfinished());
                        rig.cache.clones().set_fate(&name, Fate::Kept).await.unwrap_err();
                        rig.cache.clones().make_personal(&name).await.unwrap();
                        personal = Some(model.now.clone());
                    }
                    0 => {
                        rig.cache.clones().reset(&name, Layers::All).await.unwrap();
                        personal = None;
                    }
                    _ => rig.cache.clones().reset(&name, Layers::Session).await.unwrap(),
                }
                assert!(!rig.cache.clones().get(&name).unwrap().is_unfinished());
                assert!(rig.cache.clones().enter(number).is_none(), "an old number still means something");
                disk = open(&rig, &version, "pc-1").await;
                model = Model::new(personal.as_deref().unwrap_or(&below[..]));
            }
            _ => {
                let found = read(&disk, offset as u64, end - offset).await;
                assert!(found == model.now[offset..end], "step {step}: other bytes from {offset} on");
            }
        }
    }
    assert!(read(&disk, 0, below.len()).await == model.now, "other bytes at the end");
    let base = rig.file(&version, DISK).await;
    assert!(base.read(0, below.len()).await.unwrap() == below, "the version changed");
}

/// What a client wrote is there after a kill of the daemon, what it flushed after a power cut; every sector is what it was or
/// what was written later; the version never changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_what_its_client_wrote() {
    for seed in 1..=24 {
        live(seed).await;
    }
}

/// Two clients write over one version, and neither sees the other's.
#[tokio::test(flavor = "multi_thread")]
async fn clones_of_one_version_are_apart() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let below = content(&[1, 2, 3]);
    let version = rig.publish(&[(DISK, below.clone())]).await;
    let (one, other) = (open(&rig, &version, "pc-1").await, open(&rig, &version, "pc-2").await);
    write(&one, 4096, &[1; 8192]).await.unwrap();
    write(&other, 8192, &[2; 8192]).await.unwrap();
    assert_eq!(read(&one, 4096, 12288).await, [&[1; 8192][..], &below[12288..16384]].concat());
    assert_eq!(read(&other, 4096, 12288).await, [&below[4096..8192], &[2; 8192][..]].concat());
    let names: Vec<String> =
        rig.cache.clones().list().await.unwrap().iter().map(|clone| clone.name.to_string()).collect();
    assert_eq!(names, ["lab.1.pc-1", "lab.1.pc-2"]);
}

/// Writers of neighbouring sectors of one piece, at once: none takes back what another wrote.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_piece_lose_nothing() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let below = content(&[1, 2]);
    let version = rig.publish(&[(DISK, below.clone())]).await;
    let disk = open(&rig, &version, "pc-1").await;
    for piece in 0..16u64 {
        let writers = (0..8u64).map(|sector| {
            let disk = Arc::clone(&disk);
            tokio::spawn(async move {
                write(&disk, piece * 4096 + sector * 512, &[sector as u8 + 1; 512]).await.unwrap();
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let expected: Vec<u8> = (0..4096).map(|at| (at / 512) as u8 + 1).collect();
        assert_eq!(read(&disk, piece * 4096, 4096).await, expected, "piece {piece}");
    }
}

/// Who wrote as much as a client may gets errors from then on, keeps what it wrote, and may write that anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_writes_as_much_as_it_may() {
    let rig = Rig::with(MemoryDisk::new(1), |settings| settings.clone_bytes_max = Some(16384)).await;
    let version = rig.publish(&[(DISK, content(&[1, 2, 3]))]).await;
    let disk = open(&rig, &version, "pc-1").await;
    write(&disk, 0, &[7; 16384]).await.unwrap();
    let error = write(&disk, 65536, &[7; 4096]).await.unwrap_err();
    assert!(error.is_full() && error.to_string().contains("clone.per_client"), "{error}");
    write(&disk, 4096, &[8; 4096]).await.unwrap();
    assert_eq!(read(&disk, 4096, 8192).await, [[8; 4096], [7; 4096]].concat());
    rig.cache.clones().set_limits(None, None);
    write(&disk, 65536, &[7; 4096]).await.unwrap();
    assert!(rig.cache.clones().refused().is_some_and(|refused| refused.is_limit));
}

/// A disk that fills refuses what comes then, once nobody can make room; what was written before stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_nothing_from_a_clone() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let version = rig.publish(&[(DISK, content(&[1, 2, 3]))]).await;
    let disk = open(&rig, &version, "pc-1").await;
    write(&disk, 0, &[7; 8192]).await.unwrap();
    disk.flush().await.unwrap();
    rig.disk.set_faults(|faults| faults.no_room = true);
    let clones = rig.cache.clones().clone();
    let (wanted, is_wanted) = tokio::sync::oneshot::channel();
    let maker = tokio::spawn(async move {
        clones.room_wanted().await;
        wanted.send(()).unwrap();
        loop {
            clones.room_made();
            clones.room_wanted().await;
        }
    });
    let error = disk.write(65536, vec![7; 8192].into()).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    is_wanted.await.unwrap();
    assert_eq!(read(&disk, 0, 8192).await, vec![7; 8192]);
    rig.disk.set_faults(|faults| faults.no_room = false);
    disk.write(65536, vec![7; 8192].into()).await.unwrap();
    maker.abort();
}

/// After a sync that failed nothing is called flushed, whatever later ones say: what was written may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_is_told_for_good() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let version = rig.publish(&[(DISK, content(&[1, 2]))]).await;
    let disk = open(&rig, &version, "pc-1").await;
    write(&disk, 0, &[7; 4096]).await.unwrap();
    rig.disk.set_faults(|faults| faults.failing_syncs = 1);
    disk.flush().await.unwrap_err();
    disk.flush().await.unwrap_err();
    assert!(disk.is_suspect());
    // Not by the next daemon either.
    std::mem::forget(disk);
    rig.restart_on(rig.disk.clone()).await;
    open(&rig, &version, "pc-1").await.flush().await.unwrap_err();
}

/// A clone whose files somebody changed is told and left alone; one that is kept is never reset; one that is removed is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_meddled_with_is_told() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let version = rig.publish(&[(DISK, content(&[1, 2]))]).await;
    for client in ["pc-1", "pc-2", "pc-3"] {
        let disk = open(&rig, &version, client).await;
        write(&disk, 0, &[7; 4096]).await.unwrap();
        disk.flush().await.unwrap();
    }
    let kept = name(&version, "pc-2");
    rig.cache.clones().set_fate(&kept, Fate::Kept).await.unwrap();
    let record = name(&version, "pc-1");
    let path = format!("clones/lab/1/{}/clone.json", record.client);
    rig.disk.cut(path.as_ref(), 10);
    rig.restart_on(rig.disk.clone()).await;
    let clones = rig.cache.clones();
    assert_eq!(clones.damaged().keys().collect::<Vec<_>>(), [&record]);
    assert!(clones.get(&record).is_none());
    let file = rig.file(&version, DISK).await;
    let refused = clones.prepare(&record, &file, DISK).await.unwrap_err();
    assert!(refused.to_string().contains("clone remove pc-1 lab@1"), "{refused}");
    let refused = clones.reset(&kept, Layers::Session).await.unwrap_err();
    assert!(refused.to_string().contains("is kept"), "{refused}");
    clones.remove(&record).await.unwrap();
    clones.prepare(&record, &file, DISK).await.unwrap();
    clones.remove(&record).await.unwrap();
    clones.remove(&name(&version, "pc-3")).await.unwrap();
    assert!(matches!(clones.remove(&name(&version, "pc-3")).await, Err(CacheError::UnknownClone(_))));
    let left: Vec<_> = clones.all().iter().map(|clone| clone.name().client.to_string()).collect();
    assert_eq!(left, ["pc-2"]);
    let disk = open(&rig, &version, "pc-2").await;
    assert_eq!(read(&disk, 0, 4096).await, vec![7; 4096]);
}
