//! Readers: sequential and random, alone and many at once, with checks that they read something.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pattern {
    /// From start to end in pieces of 1 MiB.
    Sequential,
    /// `reads` random 4 KiB pieces, by `depth` readers at once.
    Random { depth: u64, reads: u64 },
}

const SEQUENTIAL_BYTES: usize = 1 << 20;
const RANDOM_BYTES: usize = 4096;

/// Reads `path` as `pattern` says; how many bytes, in how long.
pub(crate) fn read(path: &Path, pattern: Pattern, seed: u64) -> io::Result<(u64, Duration)> {
    let file = File::open(path)?;
    let start = Instant::now();
    let bytes = match pattern {
        Pattern::Sequential => sequential(&file)?,
        Pattern::Random { depth, reads } => {
            let size = file.metadata()?.len();
            let file = &file;
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..depth)
                    .map(|reader| scope.spawn(move || random(file, size, reads / depth, seed ^ reader << 32)))
                    .collect();
                readers.into_iter().map(|reader| reader.join().expect("a reader panicked")).sum::<io::Result<u64>>()
            })?
        }
    };
    Ok((bytes, start.elapsed()))
}

fn sequential(file: &File) -> io::Result<u64> {
    let mut buffer = vec![0; SEQUENTIAL_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(offset),
            read => offset += read as u64,
        }
    }
}

fn random(file: &File, size: u64, reads: u64, seed: u64) -> io::Result<u64> {
    let mut buffer = [0; RANDOM_BYTES];
    let mut numbers = Numbers(seed | 1);
    for _ in 0..reads {
        let piece = numbers.next() % (size / RANDOM_BYTES as u64);
        file.read_exact_at(&mut buffer, piece * RANDOM_BYTES as u64)?;
    }
    Ok(reads * RANDOM_BYTES as u64)
}

/// Repeatable pseudo-random numbers (xorshift64*): the same offsets for both sides of a comparison.
#[derive(Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Drops clean pages, dentries and inodes, so that the next read is from the disk.
pub(crate) fn drop_caches() -> io::Result<()> {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Writes `bytes` of data that shrinks to about 60 %, as an operating system's files do, with no zero block.
pub(crate) fn write_sample(path: &Path, bytes: u64) -> io::Result<()> {
    use std::io::Write;
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut numbers = Numbers(0x1cbd);
    let mut piece = [0u8; 4096];
    for _ in 0..bytes / piece.len() as u64 {
        // 2.4 KiB of noise and 1.6 KiB of repetition.
        let (noise, rest) = piece.split_at_mut(2400);
        noise.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = numbers.next().to_le_bytes());
        rest.fill(noise[0] | 1);
        out.write_all(&piece)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// What all processors did in a stretch of time.
#[derive(Debug)]
pub(crate) struct Work {
    since: Instant,
    ticks: f64,
}

/// Linux counts CPU time in hundredths of a second.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

impl Work {
    pub(crate) fn begin() -> io::Result<Work> {
        Ok(Work { since: Instant::now(), ticks: busy_ticks()? })
    }

    /// How many processors were at work on average since it began.
    pub(crate) fn cores(&self) -> io::Result<f64> {
        Ok((busy_ticks()? - self.ticks) / TICKS_PER_SECOND / self.since.elapsed().as_secs_f64())
    }
}

/// Ticks in user, nice, system, interrupts; neither idle nor stolen by other machines on the same hardware.
fn busy_ticks() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    Ok([0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum())
}
