//! The recorded boot: taken from `perf/traces/` if it is of this very image, else recorded anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use icbd_image::BLOCK_BYTES;
use icbd_storm::{Read, Trace};
use icbd_tests::{Lab, debian_image, recorded_boot};

/// The trace that lies with the source.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/debian-12.trace")
}

/// A trace of a boot from `disk`. The shipped one fits only the image it was recorded from: another build of the same
/// machine has its files elsewhere.
pub(crate) fn trace_of(disk: &Path) -> Result<Trace> {
    let hash = hash(disk)?;
    let kept = crate::kept::path("boot.trace");
    for path in [shipped(), kept.clone()] {
        if let Ok(trace) = Trace::load(&path)
            && trace.disk_blake3() == Some(&hash)
        {
            return Ok(trace);
        }
    }
    eprintln!("recording a boot of this build of the image (a minute)");
    let trace = recorded(disk, hash)?;
    std::fs::create_dir_all(crate::kept::path(""))?;
    std::fs::write(&kept, trace.to_string())?;
    Ok(trace)
}

/// Records a boot of the lab's image and puts it with the source.
pub(crate) fn record() -> Result<()> {
    let disk = debian_image()?.join("v1/disk.raw");
    let trace = recorded(&disk, hash(&disk)?)?;
    std::fs::write(shipped(), trace.to_string()).context("writing the trace")?;
    println!(
        "{}: {} reads, {:.1} MB, {:.1} s of thought",
        shipped().display(),
        trace.reads().len(),
        trace.bytes() as f64 / 1e6,
        trace.think().as_secs_f64()
    );
    Ok(())
}

fn recorded(disk: &Path, hash: String) -> Result<Trace> {
    let lab = Lab::new()?;
    let reads = recorded_boot(&lab, disk)?;
    let reads = reads.into_iter().map(|read| Read { think: read.think, offset: read.offset, bytes: read.bytes });
    Trace::new(disk.metadata()?.len(), Some(hash), reads.collect()).map_err(anyhow::Error::msg)
}

fn hash(disk: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(disk).with_context(|| format!("opening {}", disk.display()))?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What the blocks of a boot take in zstd clusters of 64 KiB, in bytes: what has to cross the line at least, for a
/// tool with blocks of this size.
pub(crate) fn compressed_bytes(disk: &Path, trace: &Trace) -> Result<u64> {
    let file = File::open(disk)?;
    let touched: BTreeSet<u64> = trace
        .reads()
        .iter()
        .flat_map(|read| read.offset / BLOCK_BYTES..(read.offset + read.bytes).div_ceil(BLOCK_BYTES))
        .collect();
    let (mut block, mut bytes) = (vec![0; BLOCK_BYTES as usize], 0);
    for index in touched {
        let at = index * BLOCK_BYTES;
        let count = BLOCK_BYTES.min(trace.disk_bytes() - at) as usize;
        file.read_exact_at(&mut block[..count], at)?;
        if block[..count].iter().any(|byte| *byte != 0) {
            bytes += zstd::bulk::compress(&block[..count], zstd::DEFAULT_COMPRESSION_LEVEL)?.len().min(count) as u64;
        }
    }
    Ok(bytes)
}
