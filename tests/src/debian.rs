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

/// Boots `disk` to its login prompt behind nbdkit, which logs every read. Returns the numbers of the 64 KiB blocks
/// that were read.
pub fn touched_blocks(lab: &Lab, disk: &Path) -> Result<BTreeSet<u64>> {
    let log = lab.unique("nbdkit.log");
    let quoted: Vec<String> =
        vm::arguments("nbd:unix:'$unixsocket'").into_iter().map(|arg| format!("'{arg}'")).collect();
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--readonly", "--unix", "-", "--filter=log", "file"]).arg(disk);
    command.arg(format!("logfile={}", log.display()));
    command.arg("--run").arg(format!("exec qemu-system-x86_64 {}", quoted.join(" ")));
    Vm::spawn(lab, command)?.wait_for("login:", BOOT_DEADLINE)?;
    let log = std::fs::read_to_string(&log).context("reading nbdkit's log")?;
    let reads: Vec<(u64, u64)> = log.lines().filter_map(parse_read).collect();
    ensure!(!reads.is_empty(), "nbdkit logged no read");
    Ok(reads.iter().flat_map(|(offset, count)| offset / BLOCK_BYTES..(offset + count).div_ceil(BLOCK_BYTES)).collect())
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
}
