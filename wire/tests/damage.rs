//! The fuzz targets, run on damaged golden files for a bounded time.
//!
//! Everything is deterministic: a failure names the target and the case, and happens again.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "public in the crate that it is the root of")]
mod targets;

use std::path::Path;

/// How often each golden file is damaged: all targets together take about ten seconds on a slow core.
const CASES: u32 = 4000;

/// Numbers that look random and are not (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// Damages `bytes` once, in one of the ways in which formats break.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const NUMBERS: [u32; 8] = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x00ff_ffff, 0x0100_0000];
        let at = self.below(bytes.len());
        let to = at + self.below(40).min(bytes.len() - at);
        match self.below(8) {
            _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => bytes.extend_from_within(at..to),
            5 => drop(bytes.splice(at..at, (at..to).map(|i| i as u8).collect::<Vec<_>>())),
            // Counts, offsets and lengths are aligned to four bytes.
            _ => {
                let number = NUMBERS[self.below(NUMBERS.len())].wrapping_add(self.below(3) as u32);
                let field = bytes.as_chunks_mut::<4>().0.get_mut(at / 4);
                field.into_iter().for_each(|field| *field = number.to_le_bytes());
            }
        }
    }
}

/// Runs `target` on each of `seeds` as it is and damaged.
fn check(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>]) {
    for (index, seed) in seeds.iter().enumerate() {
        target(seed);
        for case in 0..CASES {
            let mut dice = Dice(u64::from(case) << 8 | index as u64 | 1 << 63);
            let mut bytes = seed.clone();
            for _ in 0..=dice.below(4) {
                dice.damage(&mut bytes);
            }
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                panic!("target {name}, seed {index}, case {case}: {}", bytes.escape_ascii());
            }
        }
    }
}

fn golden(package: &str, name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read(root.join(package).join("tests/golden").join(name)).unwrap()
}

#[test]
fn heads() {
    check("head", targets::head, &[golden("image", "tree.head")]);
}

#[test]
fn profiles() {
    check("profile", targets::profile, &[golden("image", "boot.profile")]);
}

#[test]
fn statements() {
    let seeds = ["signed.statement", "unsigned.statement"].map(|name| golden("image", name));
    check("statement", targets::statement, &seeds);
}

#[test]
fn keys() {
    check("keys", targets::keys, &["public.key", "secret.key"].map(|name| golden("image", name)));
}

#[test]
fn frames() {
    // How the golden answers were asked for: blocks but one, bytes in the last, and pieces of 640 bytes.
    let seed = |request: [u8; 4], name: &str| [request.as_slice(), &golden("wire", name)].concat();
    let seeds = [
        seed([21, 0, 1, 10], "lz4.frames"),
        seed([21, 0, 1, 255], "zstd.frames"),
        seed([21, 0, 1, 10], "zlib.frames"),
        seed([21, 0, 1, 40], "snappy.frames"),
        seed([0, 0, 1, 0], "none.frames"),
        seed([2, 0, 0, 0], "zero.frames"),
    ];
    check("frames", targets::frames, &seeds);
}

#[test]
fn urls() {
    let paths = String::from_utf8(golden("wire", "urls.txt")).unwrap();
    let seeds: Vec<_> = paths.lines().map(|line| line.as_bytes().to_vec()).collect();
    check("url", targets::url, &seeds);
}

#[test]
fn listings() {
    check("listing", targets::listing, &[golden("wire", "listing.json")]);
}
