//! Real Debian machine images, and what one reads when it boots, counted without icbd.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Lab, Vm, run_bounded, vm};

/// A machine boots in 20 to 60 s where the CPU is emulated and shared.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(300);
/// Building takes one or two minutes on an idle machine, most of it downloads.
const BUILD_DEADLINE: Duration = Duration::from_secs(900);
const BLOCK_BYTES: u64 = 64 * 1024;

/// The folder with `v1` and `v2` of the image, each a `disk.raw`, a `vmlinuz` and an `initrd.img`. Built on first
/// use, kept in `target/lab`.
pub fn debian_image() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = tests.parent().context("the tests lie in a workspace")?.join("target/lab/image");
    let mut build = Command::new(tests.join("lab/build-image.sh"));
    build.arg(&image);
    run_bounded(build, BUILD_DEADLINE)?.ok()?;
    Ok(image)
}

/// The folder with a Debian that boots without a disk of its own, as `tree` and as `disk.raw`. Built like [`debian_image`].
pub fn netboot_image() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = tests.parent().context("the tests lie in a workspace")?.join("target/lab/netboot");
    let mut build = Command::new(tests.join("lab/build-netboot-image.sh"));
    build.arg(&image);
    run_bounded(build, BUILD_DEADLINE)?.ok()?;
    Ok(image)
}

/// The folder with `disk.raw` of the next version, after an upgrade to the next release. Built like [`debian_image`].
pub fn upgraded_image() -> Result<PathBuf> {
    let (tests, image) = (Path::new(env!("CARGO_MANIFEST_DIR")), debian_image()?);
    let upgraded = image.with_file_name("upgraded");
    let mut build = Command::new(tests.join("lab/upgrade-image.sh"));
    build.arg(&image).arg(&upgraded);
    run_bounded(build, BUILD_DEADLINE)?.ok()?;
    Ok(upgraded)
}

/// One read of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootRead {
    /// Time since the answer to the read before; nothing while another read was under way.
    pub think: Duration,
    pub offset: u64,
    pub bytes: u64,
}

/// Boots `disk` to its login prompt behind nbdkit, which logs every read. Returns the numbers of the 64 KiB blocks
/// that were read.
pub fn touched_blocks(lab: &Lab, disk: &Path) -> Result<BTreeSet<u64>> {
    let reads = recorded_boot(lab, disk)?;
    let blocks = |read: BootRead| read.offset / BLOCK_BYTES..(read.offset + read.bytes).div_ceil(BLOCK_BYTES);
    Ok(reads.into_iter().flat_map(blocks).collect())
}

/// Boots `disk` to its login prompt behind nbdkit. Returns every read, in the order in which they were asked for.
pub fn recorded_boot(lab: &Lab, disk: &Path) -> Result<Vec<BootRead>> {
    let log = lab.unique("nbdkit.log");
    let quoted: Vec<String> =
        vm::arguments("nbd:unix:'$unixsocket'").into_iter().map(|arg| format!("'{arg}'")).collect();
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--readonly", "--unix", "-", "--filter=log", "file"]).arg(disk);
    command.arg(format!("logfile={}", log.display()));
    command.arg("--run").arg(format!("exec qemu-system-x86_64 {}", quoted.join(" ")));
    Vm::spawn(lab, command)?.wait_for("login:", BOOT_DEADLINE)?;
    let log = std::fs::read_to_string(&log).context("reading nbdkit's log")?;
    let reads = parse_log(&log);
    ensure!(!reads.is_empty(), "nbdkit logged no read");
    Ok(reads)
}

/// The reads of a log, with the time between them.
fn parse_log(log: &str) -> Vec<BootRead> {
    let mut reads = Vec::new();
    let (mut under_way, mut answered) = (0u32, None);
    for line in log.lines() {
        let at = time_of_day(line);
        if let Some((offset, bytes)) = parse_read(line) {
            let since = at.zip(answered).map_or(Duration::ZERO, |(at, answered)| at.saturating_sub(answered));
            reads.push(BootRead { think: if under_way == 0 { since } else { Duration::ZERO }, offset, bytes });
            under_way += 1;
        } else if line.contains(" ...Read id=") {
            under_way = under_way.saturating_sub(1);
            answered = at;
        }
    }
    reads
}

/// The time in a line such as `2026-01-01 00:00:01.250000 …`; a boot at midnight loses one thought.
fn time_of_day(line: &str) -> Option<Duration> {
    let mut parts = line.split_whitespace().nth(1)?.split([':', '.']).map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    let seconds = (next()? * 60 + next()?) * 60 + next()?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(next()?))
}

/// Offset and count of a line such as `… Read id=1 offset=0x200 count=0x10 ...`; the end of a read is logged too,
/// as `...Read id=1 return=0`.
fn parse_read(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once(" Read id=")?;
    let number = |name: &str| {
        let (_, digits) = rest.split_once(name)?;
        u64::from_str_radix(digits.split_whitespace().next()?, 16).ok()
    };
    Some((number("offset=0x")?, number("count=0x")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_found_in_the_log() {
        let line = "2026-01-01 00:00:00.000 connection=1 Read id=3 offset=0x100000 count=0x2000 ...";
        assert_eq!(parse_read(line), Some((0x10_0000, 0x2000)));
        assert_eq!(parse_read("2026-01-01 00:00:00.000 connection=1 ...Read id=3 return=0 (Success)"), None);
    }

    #[test]
    fn thought_is_the_time_in_which_nothing_was_read() {
        let log = "2026-01-01 00:00:01.000000 connection=1 Read id=1 offset=0x0 count=0x200 ...
2026-01-01 00:00:01.000300 connection=1 ...Read id=1 return=0
2026-01-01 00:01:01.250300 connection=1 Read id=2 offset=0x200 count=0x200 ...
2026-01-01 00:01:01.250400 connection=1 Read id=3 offset=0x400 count=0x200 ...
2026-01-01 00:01:01.250500 connection=1 ...Read id=2 return=0";
        let thoughts: Vec<_> = parse_log(log).iter().map(|read| read.think.as_micros()).collect();
        assert_eq!(thoughts, [0, 60_250_000, 0]);
    }
}
