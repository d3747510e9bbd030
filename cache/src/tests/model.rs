//! Random histories against a reference: whatever is read is right, and durable means durable.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use icbd_image::VersionRecord;
use proptest::prelude::*;

use super::rig::{BLOCK, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::file::File;
use crate::{Order, ReadNow, What};

const VERSIONS: usize = 4;
const BLOCKS: u64 = 24;

#[derive(Debug, Clone)]
enum Op {
    Read {
        version: usize,
        offset: u64,
        len: usize,
    },
    Flush,
    Crash,
    Restart,
    FailSync,
    FullDisk(bool),
    Offline(bool),
    /// The disk spoils a block, and it is found.
    Damage {
        version: usize,
        block: u64,
    },
    Prefetch {
        version: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (version, end) = (0..VERSIONS, BLOCKS * BLOCK as u64);
    prop_oneof![
        10 => (version.clone(), 0..end, 1..4 * BLOCK).prop_map(|(version, offset, len)| Op::Read { version, offset, len }),
        2 => Just(Op::Flush),
        2 => Just(Op::Crash),
        1 => Just(Op::Restart),
        1 => Just(Op::FailSync),
        1 => any::<bool>().prop_map(Op::FullDisk),
        1 => any::<bool>().prop_map(Op::Offline),
        1 => (version.clone(), 0..BLOCKS).prop_map(|(version, block)| Op::Damage { version, block }),
        1 => version.prop_map(|version| Op::Prefetch { version }),
    ]
}

/// Each version keeps some blocks of the one before, changes some, and makes some zero.
fn contents(seed: u64) -> Vec<Bytes> {
    let mut seeds: Vec<u64> = (1..=BLOCKS).collect();
    let mut dice = seed * 2 + 1;
    let mut all = Vec::new();
    for version in 0..VERSIONS as u64 {
        for (at, block) in seeds.iter_mut().enumerate() {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match dice >> 61 {
                0 | 1 => *block = 0,
                2 | 3 => *block = 1000 * (version + 1) + at as u64,
                _ => {}
            }
        }
        all.push(content(&seeds));
    }
    all
}

struct Model {
    rig: Rig,
    records: Vec<VersionRecord>,
    contents: Vec<Bytes>,
    online: bool,
    /// What the cache called durable and was not told to forget since: (version, block).
    durable: BTreeSet<(usize, u64)>,
}

impl Model {
    async fn file(&self, version: usize) -> Option<std::sync::Arc<File>> {
        // Without a master even the head may be missing.
        let opened = self.rig.cache.version(self.records[version].serial()).await.ok()?;
        let index = opened.head().resolve(b"disk.raw").unwrap();
        Some(opened.file(index).unwrap())
    }

    fn note_durable(&mut self, version: usize, file: &File) {
        let Some(filling) = file.version().filling() else { return };
        for block in 0..BLOCKS {
            let durable = filling.resident.is_durable(file.index(), block..block + 1);
            match durable {
                true => self.durable.insert((version, block)),
                false => self.durable.remove(&(version, block)),
            };
        }
    }

    async fn note_all(&mut self) {
        for version in 0..VERSIONS {
            if let Some(open) = self.rig.cache.opened(self.records[version].serial()) {
                let index = open.head().resolve(b"disk.raw").unwrap();
                let file = open.file(index).unwrap();
                drop(open);
                self.note_durable(version, &file);
            }
        }
    }

    async fn read(&mut self, version: usize, offset: u64, len: usize) {
        let bytes = &self.contents[version];
        let range = bytes.len().min(offset as usize)..bytes.len().min(offset as usize + len);
        let expected = bytes.slice(range.clone());
        let Some(file) = self.file(version).await else {
            assert!(!self.online && !self.durable.iter().any(|(of, _)| *of == version), "version {version} is lost");
            return;
        };
        let mut now = Vec::new();
        if file.read_now(offset, len, &mut now) == ReadNow::Done {
            assert!(now == expected, "wrong bytes at once");
        }
        match file.read(offset, len).await {
            Ok(read) => assert!(read == expected, "wrong bytes in version {version} at {offset}"),
            Err(error) => {
                let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
                let lost = blocks.into_iter().all(|block| self.durable.contains(&(version, block as u64)));
                assert!(!self.online && !lost, "a durable block is lost: {error}");
            }
        }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Read { version, offset, len } => self.read(version, offset, len).await,
            Op::Flush => self.rig.cache.flush().await,
            Op::Crash => {
                self.note_all().await;
                let crashed = self.rig.disk.crash();
                self.rig.restart_on(crashed).await;
                // What a version that was not open holds, nobody asked; what was open is checked.
                for version in 0..VERSIONS {
                    for (_, block) in self.durable.clone().range((version, 0)..(version + 1, 0)) {
                        self.read(version, block * BLOCK as u64, 1).await;
                    }
                }
            }
            Op::Restart => {
                self.rig.cache.close().await;
                self.note_all().await;
                let disk = self.rig.disk.clone();
                self.rig.restart_on(disk).await;
            }
            Op::FailSync => self.rig.disk.set_faults(|faults| faults.failing_syncs = 1),
            Op::FullDisk(full) => {
                self.rig.disk.set_faults(|faults| faults.writes = full.then_some(io::ErrorKind::StorageFull));
            }
            Op::Offline(true) => {
                self.online = false;
                self.rig.offline();
            }
            Op::Offline(false) => {
                self.rig.online().await;
                self.online = true;
            }
            Op::Damage { version, block } => {
                self.note_all().await;
                let Some(file) = self.file(version).await else { return };
                if file.is_readable(block..block + 1) {
                    let error = io::Error::other("bad sector");
                    tokio::task::spawn_blocking(move || file.damaged(block..block + 1, &error)).await.unwrap();
                    self.durable.remove(&(version, block));
                }
            }
            Op::Prefetch { version } => {
                let id = self.records[version].statement.statement().version();
                self.rig.cache.prefetch_add(Order::of_version(&id, What::All)).await.unwrap();
            }
        }
    }
}

async fn run(seed: u64, no_reflink: bool, ops: Vec<Op>) {
    let disk = MemoryDisk::new(seed);
    disk.set_faults(|faults| faults.no_reflink = no_reflink);
    let rig = Rig::new(disk).await;
    let contents = contents(seed);
    let mut records = Vec::new();
    for bytes in &contents {
        records.push(rig.publish(&[("disk.raw", bytes.clone())]).await);
    }
    let mut model = Model { rig, records, contents, online: true, durable: BTreeSet::new() };
    for op in ops {
        model.apply(op).await;
    }
    model.rig.disk.set_faults(|faults| (faults.writes, faults.failing_syncs) = (None, 0));
    model.apply(Op::Offline(false)).await;
    for version in 0..VERSIONS {
        model.read(version, 0, usize::MAX >> 1).await;
    }
    model.rig.cache.flush().await;
    model.rig.cache.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_give_no_wrong_byte(seed in 0u64..1000, no_reflink: bool, ops in proptest::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(seed, no_reflink, ops));
    }
}
