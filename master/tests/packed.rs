//! What is packed ahead of its use is what was published, keeps to its room, and goes when nobody needs it.

mod common;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use common::{Area, publish};
use icbd_image::{BLOCK_BYTES, FileIndex, Force, Root, Run};
use icbd_master::{MasterError, Repository, Retention};
use icbd_wire::{Base, BlockPlace, Check, Codec, FrameDecoder};

const MIB: u64 = 1 << 20;
const ROOM: u64 = 64 * MIB;
/// How the first frame of an answer is packed, by FORMAT.md.
const LZ4: u8 = 2;
const ZSTD: u8 = 3;
const ZLIB: u8 = 4;

fn noise(seed: u64, bytes: &mut [u8]) {
    let mut state = seed;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

/// Text in the first 2 MiB, then noise, then zeros, then text.
fn content(version: u8) -> Vec<u8> {
    let text = |at: usize| b'a' + ((at / 7) % 20) as u8;
    let mut content: Vec<u8> = (0..6 * MIB as usize + 999).map(text).collect();
    noise(88_172_645_463_325_252, &mut content[2 * MIB as usize..4 * MIB as usize]);
    content[4 * MIB as usize..5 * MIB as usize].fill(0);
    // The third block.
    content[2 * BLOCK_BYTES as usize] = version;
    content
}

fn publish_version(area: &Area, repository: &Repository, version: u8) -> Root {
    std::fs::write(area.source().join("disk.raw"), content(version)).unwrap();
    publish(repository, "lab", &area.source()).unwrap().record.root()
}

fn pack(repository: &Repository, bytes_max: u64) {
    repository.pack(bytes_max, &AtomicBool::new(false)).unwrap();
}

fn run(root: Root, first: u64, count: u32) -> Run {
    Run { root, file: FileIndex::new(1).unwrap(), first, count }
}

fn frames(repository: &Repository, run: Run, codec: Codec) -> Bytes {
    repository.encoded_run(run, codec, Check::Receiver).unwrap()
}

/// How it is packed, which is not as it is asked for where it was packed before.
fn packing(repository: &Repository, run: Run) -> u8 {
    frames(repository, run, Codec::Lz4)[1]
}

fn assert_is(frames: Bytes, run: Run, content: &[u8]) {
    let mut decoder = FrameDecoder::new(run.first, run.count, content.len() as u64);
    decoder.push(frames);
    let mut at = (run.first * BLOCK_BYTES) as usize;
    while let Some((_, block)) = decoder.next().unwrap() {
        assert!(content[at..at + block.len()] == block[..], "at {at}");
        at += block.len();
    }
    decoder.finish().unwrap();
    assert_eq!(at, content.len().min(((run.first + u64::from(run.count)) * BLOCK_BYTES) as usize));
}

fn files(area: &Area) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(area.repository().join("packed")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What was packed once answers whoever takes Zstandard, and nobody else, also after a restart, and whatever became of the tree since.
#[test]
fn what_is_packed_ahead_is_what_was_published() {
    let area = Area::new();
    let repository = area.open();
    let root = publish_version(&area, &repository, 1);
    assert_eq!((packing(&repository, run(root, 16, 16)), repository.packed_bytes()), (LZ4, 0));
    pack(&repository, ROOM);
    drop(repository);
    let repository = area.open();
    let bytes = repository.packed_bytes();
    assert!((1000..MIB).contains(&bytes), "{bytes}: noise is not packed");
    // The last is a block and a little.
    for (first, count) in [(0, 16), (16, 16), (32, 16), (80, 16), (96, 1)] {
        for codec in Codec::ALL {
            let run = run(root, first, count);
            assert_is(frames(&repository, run, codec), run, &content(1));
        }
    }
    assert_eq!([0, 16, 80].map(|first| packing(&repository, run(root, first, 16))), [ZSTD; 3]);
    assert_eq!(frames(&repository, run(root, 16, 16), Codec::Zlib)[1], ZLIB);
    assert_eq!(packing(&repository, run(root, 1, 15)), LZ4, "nobody packs every part of a run");
    assert!(frames(&repository, run(root, 32, 16), Codec::Zstd).len() as u64 > MIB, "noise travels as it is");
    let stored = area.repository().join("versions/lab/1/disk.raw");
    std::fs::OpenOptions::new().write(true).open(stored).unwrap().write_all_at(b"!", 16 * BLOCK_BYTES + 5).unwrap();
    let whole = run(root, 16, 16);
    assert_is(frames(&repository, whole, Codec::Zstd), whole, &content(1));
}

/// Who has the version before gets what differs from it, packed when it was published, and by itself what is no smaller so.
#[test]
fn what_differs_is_packed_ahead_as_well() {
    let area = Area::new();
    let repository = area.open();
    // Noise that the next version has elsewhere, with a few bytes changed, and a block of text that nobody has seen.
    let disk = |seed: u64, moved_by: usize| {
        let mut bytes = vec![0; 3 * MIB as usize];
        noise(7, &mut bytes[moved_by..][..MIB as usize]);
        (0..MIB as usize).step_by(20_000).for_each(|at| bytes[moved_by + at] = seed as u8);
        for (at, byte) in bytes[2 * MIB as usize..][..BLOCK_BYTES as usize].iter_mut().enumerate() {
            *byte = seed as u8 + (at / 9 % 20) as u8;
        }
        bytes
    };
    let [old, new] = [(1, 0), (2, 300 * 1024)].map(|(seed, moved_by)| {
        let bytes = disk(seed, moved_by);
        std::fs::write(area.source().join("disk.raw"), &bytes).unwrap();
        (publish(&repository, "lab", &area.source()).unwrap().record.root(), bytes)
    });
    let (moved, unseen) = (run(new.0, 4, 12), run(new.0, 32, 1));
    pack(&repository, ROOM);
    // It is not looked at any more.
    let stored = area.repository().join("versions/lab/2/disk.raw");
    let stored = std::fs::OpenOptions::new().write(true).open(stored).unwrap();
    [6, 32].iter().for_each(|block| stored.write_all_at(b"!", block * BLOCK_BYTES + 5).unwrap());
    let repository = {
        drop(repository);
        area.open()
    };
    let frames = repository.matched_run(moved, old.0).unwrap();
    assert!(frames.len() < 100_000, "{} bytes of {moved:?}", frames.len());
    assert_unpacks(frames, moved, (&old, &new));
    assert_is(repository.matched_run(unseen, old.0).unwrap(), unseen, &new.1);
}

/// Who has the first unpacks the second.
fn assert_unpacks(frames: Bytes, run: Run, (old, new): (&Content, &Content)) {
    let base = Arc::new(Old { root: old.0, bytes: old.1.clone() });
    let mut decoder = FrameDecoder::new(run.first, run.count, new.1.len() as u64).with_base(base);
    decoder.push(frames);
    let mut at = (run.first * BLOCK_BYTES) as usize;
    while let Some((_, block)) = decoder.next().unwrap() {
        assert!(new.1[at..at + block.len()] == block[..], "at {at}");
        at += block.len();
    }
    decoder.finish().unwrap();
    assert_eq!(at as u64, (run.first + u64::from(run.count)) * BLOCK_BYTES);
}

/// A version and its disk.
type Content = (Root, Vec<u8>);

/// A disk of noise that shrinks to half, with a byte changed in some blocks.
fn alike(area: &Area, repository: &Repository, changed: std::ops::Range<u64>) -> Content {
    let mut bytes = vec![0; 4 * MIB as usize];
    noise(7, &mut bytes);
    bytes.iter_mut().for_each(|byte| *byte &= 15);
    changed.for_each(|block| bytes[(block * BLOCK_BYTES) as usize + 5] ^= 1);
    std::fs::write(area.source().join("disk.raw"), &bytes).unwrap();
    (publish(repository, "lab", &area.source()).unwrap().record.root(), bytes)
}

/// What is stored is not what was published any more: no answer can be made of it.
fn damage(area: &Area, version: u32, blocks: impl Iterator<Item = u64>) {
    let stored = area.repository().join(format!("versions/lab/{version}/disk.raw"));
    let stored = std::fs::OpenOptions::new().write(true).open(stored).unwrap();
    blocks.for_each(|block| stored.write_all_at(b"damaged", block * BLOCK_BYTES + 100).unwrap());
}

/// Of the little that differs only what lay in its places is read, not all of the version before.
#[test]
fn a_small_difference_is_packed_against_its_places() {
    let area = Area::new();
    let repository = area.open();
    let (old, new) = (alike(&area, &repository, 0..0), alike(&area, &repository, 9..10));
    // Whoever read it all would see that.
    damage(&area, 1, 40..41);
    pack(&repository, ROOM);
    damage(&area, 2, 9..10);
    let repository = {
        drop(repository);
        area.open()
    };
    let run = run(new.0, 9, 1);
    let frames = repository.matched_run(run, old.0).unwrap();
    assert!(frames.len() < 1000, "{} bytes", frames.len());
    assert_unpacks(frames, run, (&old, &new));
}

/// As long as the version before cannot be read, what differs from it is not packed; then it is.
#[test]
fn what_cannot_be_compared_now_is_compared_later() {
    let area = Area::new();
    let repository = area.open();
    let (old, new) = (alike(&area, &repository, 0..0), alike(&area, &repository, 0..64));
    drop(repository);
    let manifest = |name: &str| area.repository().join("manifests").join(name);
    let (there, away) = (manifest(&format!("{}.head", old.0)), manifest("away"));
    std::fs::rename(&there, &away).unwrap();
    let repository = area.open();
    pack(&repository, ROOM);
    std::fs::rename(&away, &there).unwrap();
    pack(&repository, ROOM);
    damage(&area, 2, 0..64);
    let run = run(new.0, 16, 16);
    assert_unpacks(repository.matched_run(run, old.0).unwrap(), run, (&old, &new));
}

/// What a version takes that has none before it.
fn packed_bytes_of_one() -> u64 {
    let area = Area::new();
    let repository = area.open();
    alike(&area, &repository, 0..64);
    pack(&repository, ROOM);
    repository.packed_bytes()
}

/// Where there is no room for what differs, nothing is taken for packed that is not: with room it is packed.
#[test]
fn differences_that_find_no_room_come_later() {
    let area = Area::new();
    let repository = area.open();
    let (old, new) = (alike(&area, &repository, 0..0), alike(&area, &repository, 0..64));
    let (run, bytes) = (run(new.0, 16, 16), packed_bytes_of_one());
    // A run may take a mebibyte, and the last one before the differences takes a half.
    pack(&repository, bytes + MIB * 3 / 4);
    assert_eq!(packing(&repository, run), ZSTD, "by itself");
    pack(&repository, ROOM);
    damage(&area, 2, 0..64);
    assert_unpacks(repository.matched_run(run, old.0).unwrap(), run, (&old, &new));
}

/// A version that the receiver has.
#[derive(Debug)]
struct Old {
    root: Root,
    bytes: Vec<u8>,
}

impl Base for Old {
    fn root(&self) -> Root {
        self.root
    }

    fn block(&self, place: BlockPlace) -> Option<Bytes> {
        let at = (place.block * BLOCK_BYTES) as usize;
        Some(Bytes::copy_from_slice(&self.bytes[at..at + BLOCK_BYTES as usize]))
    }
}

/// Of the next version only what is new takes room: what one with the version before asks for.
#[test]
fn versions_share_what_is_packed() {
    let area = Area::new();
    let repository = area.open();
    let first = publish_version(&area, &repository, 1);
    pack(&repository, ROOM);
    let before = repository.packed_bytes();
    let second = publish_version(&area, &repository, 2);
    pack(&repository, ROOM);
    let more = repository.packed_bytes() - before;
    assert!(more < before / 3, "{more} beside {before}");
    assert_eq!(packing(&repository, run(second, 16, 16)), ZSTD, "the same as in the first");
    assert_eq!(packing(&repository, run(second, 2, 1)), ZSTD, "what is new");
    assert_eq!(packing(&repository, run(second, 0, 16)), LZ4);
    // The first one goes, and what the second had of it is packed for the second.
    repository.deploy(&"lab@2".parse().unwrap()).unwrap();
    repository.retire(&"lab@1".parse().unwrap(), Force::Yes).unwrap();
    repository.prune(&Retention { last: 0, younger_than: Duration::ZERO }, &[]).unwrap();
    assert!(repository.head(first).is_err(), "it was not pruned");
    assert_eq!(packing(&repository, run(second, 16, 16)), LZ4, "nothing is left of a version that is gone");
    let repository = {
        drop(repository);
        area.open()
    };
    pack(&repository, ROOM);
    assert_eq!(packing(&repository, run(second, 16, 16)), ZSTD);
}

/// What a disk made of what was packed is found out before it is sent, and packed anew.
#[test]
fn what_was_packed_and_is_damaged_is_packed_anew() {
    let area = Area::new();
    let repository = area.open();
    let root = publish_version(&area, &repository, 1);
    pack(&repository, ROOM);
    let path = &files(&area)[0];
    let whole = std::fs::read(path).unwrap();
    let all = |repository: &Repository| {
        for first in (0..97).step_by(16) {
            let run = run(root, first, 16.min(97 - first as u32));
            assert_is(frames(repository, run, Codec::Zstd), run, &content(1));
        }
    };
    drop(repository);
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(path, &damaged).unwrap();
        all(&area.open());
    }
    for len in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(path, &whole[..len]).unwrap();
        let repository = area.open();
        assert!(files(&area).is_empty(), "{len} bytes of it stayed");
        all(&repository);
    }
    std::fs::write(path.with_extension("new"), &whole).unwrap();
    let repository = area.open();
    assert!(files(&area).is_empty());
    pack(&repository, ROOM);
    assert_eq!(packing(&repository, run(root, 16, 16)), ZSTD);
}

/// It never takes more room than it was given: what is deployed and what is new comes first.
#[test]
fn what_is_packed_keeps_to_its_room() {
    let area = Area::new();
    let mut repository = area.open();
    let roots: Vec<Root> = (1..=3)
        .map(|version| {
            // It shrinks to half.
            let mut bytes = vec![0; 4 * MIB as usize];
            noise(version, &mut bytes);
            bytes.iter_mut().for_each(|byte| *byte &= 15);
            std::fs::write(area.source().join("disk.raw"), bytes).unwrap();
            publish(&repository, "lab", &area.source()).unwrap().record.root()
        })
        .collect();
    repository.deploy(&"lab@1".parse().unwrap()).unwrap();
    pack(&repository, ROOM);
    let all = repository.packed_bytes();
    let has = |repository: &Repository, at: usize| packing(repository, run(roots[at], 16, 16)) == ZSTD;
    assert_eq!([0, 1, 2].map(|at| has(&repository, at)), [true; 3]);
    assert!((5 * MIB..8 * MIB).contains(&all), "{all}");
    for (room, stay) in [(all / 3 * 2 + 4096, [true, false, true]), (all / 2, [true, false, false])] {
        drop(repository);
        repository = area.open();
        pack(&repository, room);
        assert!(repository.packed_bytes() <= room);
        assert_eq!([0, 1, 2].map(|at| has(&repository, at)), stay, "of {all} bytes {room}");
    }
    pack(&repository, 0);
    assert_eq!((repository.packed_bytes(), files(&area).len()), (0, 0));
    let cancelled = repository.pack(ROOM, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(MasterError::Cancelled)));
    assert_eq!(files(&area).len(), 0);
}
