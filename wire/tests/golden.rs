//! Example files of every format of this crate: a format cannot change unnoticed.
//!
//! Each test writes a value and compares it with the file in `tests/golden`, then reads that file and
//! writes it again. Where they differ, the new bytes are kept and the failure says what to do.
//! The bytes that a codec packs to are its library's own affair and may change with them:
//! of those frames the kept file must be readable for ever, and only the headers must stay as they are.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use icbd_image::{
    BLOCK_BYTES, FileIndex, ImageRecord, Listing, RepositoryId, Root, Run, SecretKey, Serial, SignedStatement,
    Statement, Timestamp, VersionNumber, VersionRecord, VersionState, block_len, is_zero,
};
use icbd_wire::{Codec, FrameDecoder, FrameEncoder, Resource, encode_run, listing};

fn kept_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The bytes of golden file `name`, of which `now` must be another spelling at most.
fn golden(name: &str, now: &[u8], same: impl Fn(&[u8], &[u8]) -> bool) -> Vec<u8> {
    let bytes = std::fs::read(kept_path(name)).unwrap_or_default();
    if !same(&bytes, now) {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&new, now).unwrap();
        panic!(
            "{name} is written otherwise than before. Nodes of different age could no longer talk: if that is meant, \
             give the format a new number, describe it in FORMAT.md, and\n  cp {} {}",
            new.display(),
            kept_path(name).display()
        );
    }
    bytes
}

/// 22 blocks: text, two of zeros, 18 of text, a short one of numbers that no codec shrinks.
const FILE_BYTES: u64 = 21 * BLOCK_BYTES + 256;

fn block(index: u64) -> Bytes {
    let len = block_len(FILE_BYTES, index);
    match index {
        1 | 2 => vec![0; len].into(),
        21 => (0..64u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect(),
        _ => format!("block {index}\n").into_bytes().into_iter().cycle().take(len).collect(),
    }
}

fn run(first: u64, end: u64) -> Run {
    Run { root: Root::of(b""), file: FileIndex::ROOT, first, count: (end - first) as u32 }
}

fn encode(run: &Run, codec: Codec) -> Vec<u8> {
    let mut answer = Vec::new();
    let zero = |index| is_zero(&block(index));
    let read = |first: u64, bytes: &mut [u8]| {
        let count = bytes.len().div_ceil(BLOCK_BYTES as usize) as u64;
        bytes.copy_from_slice(&(first..first + count).map(block).collect::<Vec<_>>().concat());
        Ok::<_, Infallible>(())
    };
    let Ok(()) = encode_run(&mut FrameEncoder::new(), run, FILE_BYTES, codec, zero, read, &mut answer);
    answer
}

/// The headers of an answer's frames, without the lengths of what is packed.
fn headers(mut answer: &[u8]) -> Vec<[u8; 4]> {
    let mut headers = Vec::new();
    while let Some((header, rest)) = answer.split_first_chunk::<8>() {
        let [b, p, r, s, length @ ..] = *header;
        headers.push([b, p, r, s]);
        answer = rest.get(u32::from_le_bytes(length) as usize..).unwrap_or_default();
    }
    headers
}

fn check_frames(name: &str, run: Run, codec: Codec, expected: &[[u8; 4]]) {
    let now = encode(&run, codec);
    assert_eq!(headers(&now), expected, "{name}");
    let kept = golden(name, &now, |kept, now| match codec {
        Codec::None => kept == now,
        Codec::Lz4 | Codec::Zstd | Codec::Zstd6 | Codec::Zlib | Codec::Snappy => headers(kept) == headers(now),
    });
    let mut decoder = FrameDecoder::new(run.first, run.count, FILE_BYTES);
    decoder.push(kept.clone().into());
    for index in run.blocks() {
        assert_eq!(decoder.next().unwrap(), Some((index, block(index))), "{name}");
    }
    decoder.finish().unwrap();
}

#[test]
fn frames() {
    let packed = |packing| [[1, packing, 0, 0], [2, 0, 0, 0], [16, packing, 0, 0], [3, packing, 0, 0]];
    check_frames("none.frames", run(21, 22), Codec::None, &[[1, 1, 0, 0]]);
    check_frames("zero.frames", run(1, 3), Codec::None, &[[1, 0, 0, 0], [1, 0, 0, 0]]);
    check_frames("lz4.frames", run(0, 22), Codec::Lz4, &packed(2));
    check_frames("zstd.frames", run(0, 22), Codec::Zstd, &packed(3));
    check_frames("zlib.frames", run(0, 22), Codec::Zlib, &packed(4));
    check_frames("snappy.frames", run(0, 22), Codec::Snappy, &packed(5));
    check_frames("none.frames", run(21, 22), Codec::Zstd, &[[1, 1, 0, 0]]);
}

fn version(image: &str, number: u32, state: VersionState, key: Option<&SecretKey>) -> VersionRecord {
    let statement = SignedStatement::new(Statement {
        repository: RepositoryId::from_bytes([0xab; 16]),
        image: image.parse().unwrap(),
        number: VersionNumber::new(number).unwrap(),
        serial: Serial::new(1000 + u64::from(number)).unwrap(),
        root: Root::of(&number.to_le_bytes()),
        parent: (number > 1).then(|| Root::of(&(number - 1).to_le_bytes())),
        time: Timestamp { seconds: 1_790_000_000, nanoseconds: number },
    });
    let statement = key.into_iter().fold(statement, SignedStatement::sign);
    VersionRecord { state, data_bytes: 64 << 30, note: format!("say \"{number}\" \u{e4}\n"), statement }
}

#[test]
fn listings() {
    let key = SecretKey::from_random([1; 32], "");
    let versions = vec![
        version("debian-lab", 1, VersionState::Archived, None),
        version("debian-lab", 2, VersionState::Retiring, Some(&key)),
        version("debian-lab", 5, VersionState::Deployed, Some(&key)),
        version("debian-lab", 6, VersionState::Ready, Some(&key)),
    ];
    let image = |name: &str, serial, deployed, versions| ImageRecord {
        name: name.parse().unwrap(),
        serial: Serial::new(serial).unwrap(),
        changed: Timestamp { seconds: 1_790_000_000, nanoseconds: 1 },
        deployed: VersionNumber::new(deployed),
        fallback: None,
        versions,
        removed: Vec::new(),
    };
    let images = vec![image("debian-lab", 1000, 5, versions), image("win11-lab", 2000, 0, Vec::new())];
    let expected = Listing { repository: RepositoryId::from_bytes([0xab; 16]), images };
    let same = |kept: &[u8], now: &[u8]| kept == now;
    let kept = golden("listing.json", &listing::encode(&expected), same);
    let decoded = listing::decode(&kept).unwrap();
    assert_eq!((listing::encode(&decoded), decoded), (kept, expected.clone()));
    golden("version.json", &listing::encode_version(&expected.images[0].versions[2]), same);
}

#[test]
fn urls() {
    let root: Root = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".parse().unwrap();
    let file = FileIndex::new(FileIndex::MAX).unwrap();
    let image = || "win11-lab".parse().unwrap();
    let blocks = |first, count, codec| Resource::Blocks { run: Run { root, file, first, count }, codec };
    let path = |number, path: &[u8]| {
        let version = VersionNumber::new(number);
        Resource::File { image: image(), version, path: path.to_vec() }
    };
    let every_byte: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let resources = [
        Resource::Images,
        Resource::Version("win11-lab@4294967295".parse().unwrap()),
        Resource::Head(root),
        Resource::Profile(root),
        Resource::Page { root, file, page: (1 << 23) - 1 },
        blocks(0, 1, Codec::None),
        blocks(1024, 1024, Codec::Lz4),
        blocks((1 << 34) - 1, 1, Codec::Zstd),
        blocks(7, 2, Codec::Zlib),
        blocks(9, 3, Codec::Snappy),
        path(0, b"disk.raw"),
        path(3, b"usr/lib/a b/[c]"),
        path(1, &every_byte[..200]),
        path(1, &every_byte[200..]),
    ];
    let text: String = resources.iter().map(|resource| format!("{resource}\n")).collect();
    let kept = golden("urls.txt", text.as_bytes(), |kept, now| kept == now);
    let parsed = String::from_utf8(kept).unwrap();
    let parsed: Vec<_> = parsed.lines().map(|line| Resource::parse(line).unwrap()).collect();
    assert_eq!(parsed, resources);
}
